"""The lightly adapter beside lightly 1.6.0's own classes, with the same directions.

Older versions lack some of these classes or compute something else; such tests are skipped there.
LIGHTLY_SOURCE names a clone of lightly, whose tests of its LeJEPALoss are then run against ours.
"""

import inspect
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import lightly
import lightly.loss
import pytest
import torch
from lightly.models import modules as heads
from torch import Tensor

import sigreg_adapters.lightly as ours
from sigreg_adapters.lightly import LeJEPALoss, LeJEPAProjectionHead, LeJEPATransform, SIGReg
from tests.host_parity import assert_same_value_and_gradient
from tests.samples import normal

ROOT = Path(__file__).resolve().parent.parent
SHAPES = [(2, 32, 16), (8, 41, 7), (1, 64, 33)]
needs_lightlys_loss = pytest.mark.skipif(
    not hasattr(lightly.loss, "LeJEPALoss"), reason=f"lightly {lightly.__version__} has no LeJEPALoss"
)
needs_lightlys_values = pytest.mark.skipif(
    int(lightly.__version__.split(".")[1]) < 6,
    reason=f"lightly {lightly.__version__} has no LeJEPALoss that looks at the global views",
)


def with_our_directions(theirs: lightly.loss.SIGReg, ours: SIGReg) -> None:
    def directions(device: torch.device, dtype: torch.dtype, num_features: int) -> Tensor:
        return ours.directions(
            num_features, ours.num_slices, seed=ours.seed, step=ours.step, device=device, dtype=dtype
        )

    theirs._generate_unit_vectors = directions


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grid", [(17, 3.0), (9, 4.0), (33, 5.0)])
@pytest.mark.parametrize("scale", [0.05, 1.0, 4.0])
def test_sigreg_equals_lightlys(shape, grid, scale):
    knots, t_max = grid
    ours = SIGReg(knots=knots, t_max=t_max, num_vectors=67).eval()
    theirs = lightly.loss.SIGReg(knots=knots, t_max=t_max, num_vectors=67)
    with_our_directions(theirs, ours)
    assert_same_value_and_gradient(ours, theirs, normal(*shape) * scale)


@needs_lightlys_values
def test_the_loss_equals_lightlys():
    ours, theirs = LeJEPALoss(0.1).eval(), lightly.loss.LeJEPALoss(0.1)
    with_our_directions(theirs.sigreg, ours.sigreg)
    assert_same_value_and_gradient(
        lambda z: ours(global_proj=z[:2], local_proj=z[2:]),
        lambda z: theirs(global_proj=z[:2], local_proj=z[2:]),
        normal(6, 24, 16),
    )


@needs_lightlys_values
def test_the_prediction_equals_lightlys_invariance():
    from lightly.loss.lejepa_loss import lejepa_invariance_loss

    z = normal(6, 24, 16)
    ours = LeJEPALoss().forward_components(global_proj=z[:2], local_proj=z[2:])
    torch.testing.assert_close(ours.prediction, lejepa_invariance_loss(all_proj=z, global_proj=z[:2]))


def test_what_lightly_refuses_works():
    z = normal(2, 24, 16)
    criterion = LeJEPALoss().eval()
    torch.testing.assert_close(criterion(list(z)), criterion(global_proj=z))
    torch.testing.assert_close(criterion(global_proj=z, local_proj=None), criterion(z, num_global=2))
    assert criterion.train()(z, step=0) == criterion.forward_components(global_proj=z, step=0).total


def test_both_call_styles_at_once_or_none_is_an_error():
    z = normal(2, 24, 16)
    for arguments in ({"views": z, "global_proj": z}, {"views": z, "local_proj": z}, {"local_proj": z}, {}):
        with pytest.raises(ValueError, match="global_proj"):
            LeJEPALoss()(**arguments)


@needs_lightlys_loss
def test_a_checkpoint_of_lightlys_loss_loads():
    ours = LeJEPALoss()
    with pytest.warns(UserWarning, match=r"lightly's class and has no sigreg\._extra_state"):
        ours.load_state_dict(lightly.loss.LeJEPALoss().state_dict())


def test_any_statistic_takes_the_place_of_epps_pulley():
    assert LeJEPALoss(statistic="cramer_von_mises")(normal(2, 24, 16)).isfinite()


@needs_lightlys_loss
@pytest.mark.parametrize("name", ["LeJEPALoss", "SIGReg"])
def test_arguments_are_lightlys_by_name_order_and_default(name):
    def arguments(cls):
        parameters = list(inspect.signature(cls).parameters.values())
        return [(p.name, p.default, p.kind) for p in parameters if p.kind is not p.VAR_KEYWORD]

    assert arguments(getattr(ours, name)) == arguments(getattr(lightly.loss, name))


@needs_lightlys_loss
@pytest.mark.parametrize("name", ["LeJEPALoss", "SIGReg"])
def test_calls_take_lightlys_keywords(name):
    theirs = inspect.signature(getattr(lightly.loss, name).forward).parameters
    z = {
        "proj": normal(2, 24, 16),
        "local_proj": normal(3, 24, 16),
        "global_proj": normal(2, 24, 16),
    }
    assert getattr(ours, name)()(**{argument: z[argument] for argument in list(theirs)[1:]}).isfinite()


GRID = {"t", "phi", "weights"}  # lightly's buffers of constants, which ours does not keep


@needs_lightlys_loss
@pytest.mark.parametrize("name", ["LeJEPALoss", "SIGReg"])
def test_settings_read_as_lightlys(name):
    def attributes(module):
        return {k: v for k, v in vars(module).items() if k[0] != "_" and k != "training"}

    mine, theirs = (getattr(library, name)() for library in (ours, lightly.loss))
    assert attributes(mine).items() >= attributes(theirs).items()
    mine_too = {k for k, _ in mine.named_children()} | {k for k, _ in mine.named_buffers(recurse=False)}
    theirs_too = {k for k, _ in theirs.named_children()} | {k for k, _ in theirs.named_buffers(recurse=False)}
    assert theirs_too - mine_too <= GRID


@pytest.mark.parametrize("arguments", [{"knots": 1}, {"t_max": 0.0}, {"num_vectors": 0}])
def test_sigreg_refuses_what_lightlys_refuses(arguments):
    for library in (ours, lightly.loss):
        with pytest.raises(ValueError, match=r"must|at least"):
            library.SIGReg(**arguments)


@pytest.mark.skipif(not hasattr(heads, "LeJEPAProjectionHead"), reason="this lightly has no such head")
@pytest.mark.parametrize("arguments", [{}, {"hidden_dim": 24, "output_dim": 7, "num_layers": 2}])
def test_the_head_is_lightlys_layer_for_layer(arguments):
    mine, theirs = (head(10, **arguments) for head in (LeJEPAProjectionHead, heads.LeJEPAProjectionHead))
    mine.load_state_dict(theirs.state_dict())
    x = torch.randn(12, 10)
    torch.testing.assert_close(mine(x), theirs(x))
    assert [type(layer) for layer in mine.layers] == [type(layer) for layer in theirs.layers]


def test_a_head_of_one_layer_is_an_error():
    with pytest.raises(ValueError, match="at least two"):
        LeJEPAProjectionHead(10, num_layers=1)


# What lightly's tests ask of lightly alone.
NOT_OURS = {
    "TestSIGReg.test_forward_gather_distributed_world_size_gt_one": "counts mocked collectives",
    "TestSIGReg.test_forward_gather_distributed_matches_non_distributed": "mocks _generate_unit_vectors",
    "TestSIGReg.test_gather_distributed_gradient_matches_non_distributed": "mocks _generate_unit_vectors",
    "TestLeJEPALoss.test_forward_gather_distributed_world_size_gt_one": "counts mocked collectives",
    "TestLeJEPALoss.test_validates_projection_shapes[local_shape4-global_shape4]": "refuses zero local views",
}


@needs_lightlys_values
def test_lightlys_own_tests_pass_against_ours(tmp_path):
    """Their file, unchanged, with our classes in the place of theirs."""
    source = os.environ.get("LIGHTLY_SOURCE")
    if not source:
        pytest.skip("LIGHTLY_SOURCE names no clone of lightly")
    shutil.copy(Path(source, "tests/loss/test_lejepa_loss.py"), tmp_path)
    (tmp_path / "conftest.py").write_text(
        "import lightly.loss, sigreg_adapters.lightly as ours\n"
        "lightly.loss.LeJEPALoss, lightly.loss.SIGReg = ours.LeJEPALoss, ours.SIGReg\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir=.", "--junitxml=report.xml"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "adapters"), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [*command, "-p", "no:cacheprovider", "test_lejepa_loss.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    cases = list(ElementTree.parse(tmp_path / "report.xml").iter("testcase"))
    names = {f"{case.get('classname').split('.')[-1]}.{case.get('name')}": list(case) for case in cases}
    assert len(names) >= 20, run.stdout
    assert {name for name, problems in names.items() if problems} == set(NOT_OURS), run.stdout


def test_the_transform_gives_globals_first():
    from PIL import Image

    views = LeJEPATransform(3, 2, global_crop_size=24, local_crop_size=12)(Image.new("RGB", (40, 40)))
    assert [view.shape[-1] for view in views] == [24, 24, 24, 12, 12]
    with pytest.raises(ValueError, match="global view"):
        LeJEPATransform(0, 2)


def test_a_group_beside_gather_distributed_is_refused():
    with pytest.raises(ValueError, match="gather_distributed= or group="):
        SIGReg(gather_distributed=True, group=None)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sigreg_num_vectors": 8, "num_slices": 9}, "sigreg_num_vectors= or num_slices="),
        ({"sigreg_num_vectors": 1024, "num_slices": 9}, "sigreg_num_vectors= or num_slices="),
        ({"sigreg_t_max": 5.0, "t_max": 4.0}, "sigreg_t_max= or t_max="),
        ({"gather_distributed": True, "group": None}, "gather_distributed= or group="),
    ],
)
def test_conflicting_settings_of_the_loss_are_refused(settings, says):
    with pytest.raises(ValueError, match=f"give {says}, which is sigreg's name for it, not both"):
        LeJEPALoss(**settings)


def test_settings_of_sigreg_are_keywords_under_its_own_names():
    z = normal(2, 24, 16)
    own = SIGReg(num_slices=8, num_points=9, t_max=4.0)
    assert own.num_vectors == own.num_slices == 8
    loss = LeJEPALoss(num_slices=8, num_points=9, t_max=4.0).eval()
    theirs = LeJEPALoss(sigreg_num_vectors=8, sigreg_knots=9, sigreg_t_max=4.0).eval()
    torch.testing.assert_close(loss(z), theirs(z), rtol=0, atol=0)
    assert loss.sigreg.num_vectors == 8
    assert LeJEPALoss().sigreg.num_vectors == SIGReg().num_vectors == 1024


def test_num_global_beside_global_projections_is_refused():
    with pytest.raises(ValueError, match="num_global= goes with views"):
        LeJEPALoss()(num_global=1, global_proj=normal(2, 24, 16))


def test_a_scalar_in_the_place_of_views_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"one tensor \(V, N, D\), got shape \(\)"):
        LeJEPALoss()(torch.tensor(1.0))
