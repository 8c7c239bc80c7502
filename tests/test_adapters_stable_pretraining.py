"""The stable-pretraining adapter beside stand-ins of the host; tests/hosts has the host itself."""

import inspect

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from sigreg import LeJEPALoss, SIGReg
from sigreg_adapters.stable_pretraining import SlicedEppsPulley, lejepa
from tests.host_parity import (
    assert_ranks_equal_one,
    assert_same_value_and_gradient,
    embeddings,
    seeded_by_step,
)
from tests.pool import on_ranks


class StandIn(nn.Module):
    """What the host's class computes on one process, written from its contract: (N, D), times N."""

    def __init__(self, num_slices: int = 1024, t_max: float = 3.0, n_points: int = 17) -> None:
        super().__init__()
        self.num_slices, self.ep = num_slices, nn.Module()
        t = torch.linspace(0, t_max, n_points)
        step = torch.full((n_points,), 2 * t_max / (n_points - 1))
        step[0] = step[-1] = t_max / (n_points - 1)
        self.ep.register_buffer("t", t)
        self.ep.register_buffer("phi", torch.exp(-t * t / 2))
        self.ep.register_buffer("weights", step * self.ep.phi)
        self.register_buffer("global_step", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        A = seeded_by_step(
            x.shape[-1], self.num_slices, seed=0, step=self.global_step, device=x.device, dtype=x.dtype
        )
        self.global_step += 1
        ecf = torch.polar(torch.ones(()), (x @ A)[..., None] * self.ep.t).mean(0)
        return len(x) * ((ecf - self.ep.phi).abs().square() * self.ep.weights).sum(-1).mean()


def build() -> SlicedEppsPulley:
    return SlicedEppsPulley(num_slices=16)


def pooled(criterion: nn.Module, z: Tensor) -> Tensor:
    return criterion(z)


@pytest.mark.parametrize("settings", [{}, {"num_slices": 67, "t_max": 5.0, "n_points": 21}])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_value_and_gradient_are_the_hosts(settings, scale):
    ours = SlicedEppsPulley(**settings, directions=seeded_by_step)
    assert_same_value_and_gradient(ours, StandIn(**settings), embeddings(66, 16, scale=scale))


def test_the_second_call_takes_the_hosts_next_directions():
    ours, theirs = SlicedEppsPulley(directions=seeded_by_step), StandIn()
    z = embeddings(40, 8)
    for step in range(3):
        assert int(ours.global_step) == int(theirs.global_step) == step
        assert_close(ours(z), theirs(z), rtol=1e-5, atol=0)


@pytest.mark.parametrize("split", [(8, 8), (11, 5)])
def test_two_ranks_equal_one(split):
    assert_ranks_equal_one(build, pooled, (16,), split, on_ranks)


def test_the_constructor_is_the_hosts():
    ours, theirs = (list(inspect.signature(c).parameters.values()) for c in (SlicedEppsPulley, StandIn))
    assert [(p.name, p.default) for p in ours[:3]] == [(p.name, p.default) for p in theirs]
    assert list(inspect.signature(SlicedEppsPulley.forward).parameters)[1] == "x"


def test_a_checkpoint_of_the_hosts_class_goes_on_at_its_step():
    theirs = nn.ModuleDict({"sigreg": StandIn(num_slices=8)})
    for _ in range(3):
        theirs["sigreg"](embeddings(9, 4))
    ours = nn.ModuleDict({"sigreg": SlicedEppsPulley(num_slices=8)})
    ours.load_state_dict(theirs.state_dict())
    assert int(ours["sigreg"].global_step) == 3


def test_a_checkpoint_of_the_hosts_class_loads_beside_any_seed():
    ours = SlicedEppsPulley(num_slices=8, seed=2**63 + 5)
    ours.load_state_dict(StandIn(num_slices=8).state_dict())
    z = embeddings(9, 4)
    assert ours(z) == SlicedEppsPulley(num_slices=8, seed=2**63 + 5)(z)


def test_a_checkpoint_of_ours_loads_as_it_was():
    first, second = SlicedEppsPulley(num_slices=8, seed=5), SlicedEppsPulley(num_slices=8)
    first(embeddings(9, 4))
    second.load_state_dict(first.state_dict())
    assert (second.seed, int(second.global_step)) == (5, 1)


def test_stacked_views_are_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match="pool views"):
        SlicedEppsPulley()(embeddings(2, 9, 4))
    with pytest.raises(TypeError, match=r"got list; pool views with torch\.cat\(views\)"):
        SlicedEppsPulley()(list(embeddings(2, 9, 4)))


class Module(nn.Module):
    """The host's Module as far as a forward function sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 8))
        self.projector = nn.Linear(8, 5)
        self.lejepa_loss = LeJEPALoss(0.1, SIGReg(num_slices=16))
        self.logged: dict[str, Tensor] = {}

    def log_dict(self, values, **how) -> None:
        assert how == {"on_step": True, "on_epoch": True, "sync_dist": True}
        self.logged |= values

    def forward(self, batch, stage):
        return lejepa(self, batch, stage)


def view(size: int, seed: int) -> dict[str, Tensor]:
    return {"image": embeddings(6, 3, size, size, seed=seed), "label": torch.arange(6)}


def expected(module: Module, views: list[dict[str, Tensor]], num_global: int) -> Tensor:
    z = torch.stack([module.projector(module.backbone(view["image"])) for view in views])
    return module.lejepa_loss.eval()(z, num_global)


def test_a_list_of_views_is_all_global():
    module, views = Module(), [view(8, 0), view(8, 1)]
    out = module({"views": views, "batch_idx": 0}, "fit")
    module.lejepa_loss.sigreg.reset_parameters()  # back to the directions of that call
    assert_close(out["loss"], expected(module, views, 2))
    assert out["embedding"].shape == (12, 8)
    assert out["label"].tolist() == [*range(6), *range(6)]
    assert set(module.logged) == {"fit/loss", "fit/prediction_loss", "fit/sigreg_loss"}


@pytest.mark.parametrize("nested", [False, True])
def test_named_views_are_global_or_local_by_their_names(nested):
    module = Module()
    named = {"local_1": view(4, 2), "global_1": view(8, 0), "global_2": view(8, 1)}
    batch = {"views": named} if nested else {**named, "batch_idx": 0}
    module.lejepa_loss.eval()
    out = module(batch, "fit")
    assert_close(out["loss"], expected(module, [view(8, 0), view(8, 1), view(4, 2)], 2))
    assert len(out["embedding"]) == len(out["label"]) == 12
    out["loss"].backward()
    assert module.projector.weight.grad is not None


def test_a_single_view_is_embedded_and_nothing_else():
    out = Module().eval()(view(8, 0), "validate")
    assert set(out) == {"embedding", "label"}


def test_evaluation_of_views_has_no_loss():
    assert "loss" not in Module().eval()({"views": [view(8, 0), view(8, 1)]}, "validate")


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        ({"views": list(embeddings(2, 6, 3))}, "a tensor"),
        ({"views": [{"label": torch.arange(6)}]}, "a dict as a view"),
        (embeddings(6, 3), "a tensor"),
    ],
)
def test_views_that_are_not_dicts_with_an_image_are_an_error_that_says_so(batch, got):
    with pytest.raises(TypeError, match=rf'each view a dict {{"image": \(N, C, H, W\)}}.*got {got}'):
        Module()(batch, "fit")


@pytest.mark.parametrize("views", [[], iter(())])
def test_no_views_are_an_error(views):
    with pytest.raises(ValueError, match=r'there are no views; expected \{"views": \[view, ...\]\}'):
        Module()({"views": views}, "fit")


def test_views_without_a_global_one_are_an_error():
    with pytest.raises(ValueError, match=r"no view is global.*local_1"):
        Module()({"local_1": view(4, 0), "batch_idx": 3}, "fit")


@pytest.mark.parametrize("nested", [False, True])
def test_views_that_are_neither_global_nor_local_by_their_names_are_an_error(nested):
    named = {"global_1": view(8, 0), "small_1": view(4, 1), "crop": view(4, 2)}
    with pytest.raises(ValueError, match=r"\['small_1', 'crop'\] are neither global nor local"):
        Module()({"views": named} if nested else {**named, "batch_idx": 0, "meta": {"epoch": 1}}, "fit")


def test_a_named_view_without_an_image_is_an_error():
    with pytest.raises(TypeError, match="got a dict as a view"):
        Module()({"global_1": view(8, 0), "local_1": {"label": torch.arange(6)}}, "fit")
