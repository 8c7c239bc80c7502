"""The Lightning callback in training steps: what it watches, when, and what it leaves behind."""

import copy
import importlib
import subprocess
import sys
import types

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from sigreg import LeJEPALoss, SIGReg
from sigreg.diagnostics import diagnose_batch
from sigreg.microbatches import backward
from sigreg_adapters.lightning import GaussianityMonitor
from sigreg_adapters.timm import Encoder
from tests.monitored import Module, Trainer, fit, look, method, watched
from tests.samples import normal

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*workers.*"),
]


def test_what_sigreg_was_given_is_reported(pl):
    monitor = GaussianityMonitor(every_n_steps=1, num_slices=16)
    trainer = fit(pl, monitor)
    expected = diagnose_batch([(normal(128, 8)[64:], None)], num_slices=16)
    m = expected.diagnosis.measured
    wanted = {
        "epps_pulley": m.value,
        "reachable": m.reachable,
        "worst_slice": expected.worst_value,
        "effective_rank": m.effective_rank,
        "covariance": expected.covariance,
        "sd": m.sd,
    }
    logged = {name.removeprefix("gaussianity/"): float(v) for name, v in trainer.callback_metrics.items()}
    assert logged == pytest.approx(wanted, rel=0.01)  # one small step of training lies between the two
    assert monitor.last["gaussianity/effective_rank"] > 6
    assert monitor.diagnosis.healthy


@pytest.mark.parametrize("kind", [list, tuple, torch.stack])
def test_views_given_to_lejepa_as_a_list_a_tuple_or_stacked_are_all_seen(kind):
    views = list(normal(3, 32, 8))
    module = Module(criterion=LeJEPALoss())
    logged = look(GaussianityMonitor(), module, lambda: module.criterion(kind(views), num_global=2))
    expected = diagnose_batch([(torch.stack(views), None)]).diagnosis.measured
    assert logged["gaussianity/epps_pulley"] == expected.value


def test_calls_and_weights_of_one_step_enter_one_report():
    z, mask = normal(2, 32, 8), torch.arange(32) < 20
    logged = watched([(z[0], None), (z[1], mask)])
    expected = diagnose_batch([(z[0], None), (z[1], mask)])
    assert logged["gaussianity/epps_pulley"] == expected.diagnosis.measured.value
    assert logged["gaussianity/worst_slice"] == expected.worst_value


def test_lightlys_loss_is_watched_under_its_own_names_for_things():
    lightly = pytest.importorskip("sigreg_adapters.lightly")
    views = normal(3, 32, 8)
    module = Module(criterion=lightly.LeJEPALoss())
    calls = {"global_proj": views[:2], "local_proj": views[2:]}
    logged = look(GaussianityMonitor(), module, lambda: module.criterion(**calls))
    assert logged["gaussianity/epps_pulley"] == diagnose_batch([(views, None)]).diagnosis.measured.value
    sigreg = Module(criterion=lightly.SIGReg())
    assert look(GaussianityMonitor(), sigreg, lambda: sigreg.criterion(proj=views)) == logged


def test_half_precision_under_autocast_is_reported_as_float32_would_be():
    z = normal(2, 64, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        logged = watched([(z, None)])
    assert logged == watched([(z.float(), None)])


def test_without_sigreg_the_output_of_a_named_module_is_watched():
    """Two views, one forward pass each, through an encoder that returns (embedding, projection)."""
    module = Module(encoder=Encoder("test_resnet", projection_dim=8, hidden_dim=32))
    views, projections = [torch.randn(6, 3, 64, 64) for _ in range(2)], []
    logged = look(
        GaussianityMonitor("encoder"),
        module,
        lambda: projections.extend(module.encoder(view)[1].detach() for view in views),
    )
    expected = diagnose_batch([(p, None) for p in projections]).diagnosis.measured
    assert logged["gaussianity/epps_pulley"] == expected.value


def test_it_looks_every_n_optimizer_steps_once_whatever_the_accumulation():
    looks = []

    class Spy(GaussianityMonitor):
        def _log(self, trainer, pl_module, found):
            looks.append(trainer.global_step)

    pl = importlib.import_module("lightning.pytorch")
    fit(pl, Spy(every_n_steps=2), z=normal(64 * 8, 8))
    assert looks == [1, 3, 5, 7]  # at the end of steps 0, 2, 4, 6
    looks.clear()
    with pytest.warns(UserWarning, match="accumulate_grad_batches=2 averages criterion over microbatches"):
        fit(pl, Spy(every_n_steps=2), z=normal(64 * 8, 8), accumulate_grad_batches=2)
    assert looks == [0, 2]  # in the first batch of optimizer steps 0 and 2


def test_between_two_looks_nothing_is_kept_and_nothing_computed(monkeypatch):
    module, monitor = Module(criterion=SIGReg(num_slices=8)), GaussianityMonitor(every_n_steps=10)
    monitor.on_train_start(Trainer, module)
    monkeypatch.setattr("sigreg_adapters.lightning.diagnose_batch", None)  # a call of it is an error
    monitor.load_state_dict({"looked": 10, "collapsed": 0})
    trainer = types.SimpleNamespace(global_step=11)
    monitor.on_train_batch_start(trainer, module)
    module.criterion(normal(8, 4))
    assert monitor._calls == []
    monitor.on_train_batch_end(trainer, module)
    module.criterion(normal(8, 4))  # outside of a step, as in validation
    assert monitor._calls == []


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_the_forward_pass_that_checkpointing_repeats_is_not_a_second_call(use_reentrant):
    x = normal(32, 8).requires_grad_()
    module = Module(criterion=SIGReg(num_slices=8))
    calls = []

    class Spy(GaussianityMonitor):
        def on_train_batch_end(self, *args):
            calls.extend(self._calls)
            super().on_train_batch_end(*args)

    def step():
        checkpoint(lambda z: module.criterion(2 * z), x, use_reentrant=use_reentrant).backward()

    logged = look(Spy(), module, step)
    assert len(calls) == 1
    assert logged["gaussianity/sd"] == pytest.approx(float((2 * x.detach()).var(0).mean().sqrt()), rel=1e-5)


def test_microbatches_are_reported_as_their_whole_batch():
    x = normal(64, 8)
    module = Module(head=torch.nn.Linear(8, 8), criterion=SIGReg(num_slices=8))
    logged = look(GaussianityMonitor(), module, lambda: backward(module.criterion, module.head, x.split(16)))
    expected = diagnose_batch([(module.head(x), None)]).diagnosis.measured
    assert logged["gaussianity/epps_pulley"] == pytest.approx(expected.value, rel=1e-5)


def test_a_copy_of_the_module_is_not_watched():
    module, monitor = Module(criterion=SIGReg(num_slices=8)), GaussianityMonitor()

    def step():
        module.criterion(normal(32, 8))
        copy.deepcopy(module).criterion(100 * normal(32, 8))

    assert look(monitor, module, step)["gaussianity/sd"] < 2


def test_a_module_that_is_watched_can_be_saved_and_its_copy_is_not_watched(lightning, tmp_path):
    """As in a checkpoint whose hyperparameters contain the criterion."""
    saved = tmp_path / "criterion.pt"

    def training_step(self, batch, _):
        torch.save(self.criterion, saved)
        torch.load(saved, weights_only=False)(100 * self.head(batch))
        return self.criterion(self.head(batch))

    monitor = GaussianityMonitor(every_n_steps=1)
    fit(lightning, monitor, method(lightning, training_step=training_step))
    assert monitor.last["gaussianity/sd"] < 2


def test_a_step_that_raised_leaves_neither_hook_nor_tensors(lightning):
    def training_step(self, batch, _):
        self.criterion(self.head(batch))
        raise RuntimeError("out of memory")

    monitor, model = GaussianityMonitor(), method(lightning, training_step=training_step)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(lightning, monitor, model)
    assert not model.criterion._forward_hooks
    assert monitor._calls == []


def test_a_criterion_that_was_not_called_is_said_once_and_training_goes_on(lightning):
    model = method(lightning, training_step=lambda self, batch, _: self.head(batch).square().mean())
    with pytest.warns(UserWarning, match="no report on criterion: it was not called") as caught:
        trainer = fit(lightning, GaussianityMonitor(every_n_steps=1), model)
    assert len({str(w.message) for w in caught if "no report" in str(w.message)}) == 1
    assert trainer.global_step == 2


def test_embeddings_that_are_not_finite_are_said_and_training_goes_on(lightning):
    with pytest.warns(UserWarning, match="no report on criterion: .*inf or nan"):
        assert fit(lightning, GaussianityMonitor(), z=torch.full((128, 8), torch.inf)).global_step == 2


@pytest.mark.parametrize(
    ("modules", "name", "says"),
    [
        ({"head": torch.nn.Linear(2, 2)}, None, r"holds no SIGReg; .*module='projector'"),
        ({"head": torch.nn.Linear(2, 2)}, "neck", "no submodule 'neck'; it has head"),
        ({"a": LeJEPALoss(), "b": SIGReg()}, None, "several SIGReg; .* module='a.sigreg, b'"),
    ],
)
def test_what_cannot_be_watched_is_named_at_the_start(modules, name, says):
    with pytest.raises(ValueError, match=says):
        GaussianityMonitor(name).on_train_start(Trainer, Module(**modules))


def test_of_several_criteria_the_named_one_is_watched():
    module = Module(a=LeJEPALoss(), b=SIGReg())
    logged = look(
        GaussianityMonitor("a"), module, lambda: (module.a(normal(2, 32, 8)), module.b(9 * normal(32, 8)))
    )
    assert logged["gaussianity/sd"] < 2


def test_two_monitors_report_under_prefixes_of_their_own(pl, tmp_path):
    monitors = [GaussianityMonitor("criterion"), GaussianityMonitor("head", prefix="head/gaussianity")]
    trainer = fit(pl, monitors, enable_checkpointing=True, default_root_dir=tmp_path)
    for monitor, prefix in zip(monitors, ("gaussianity", "head/gaussianity"), strict=True):
        assert {name.rsplit("/", 1)[0] for name in monitor.last} == {prefix}
        assert trainer.callback_metrics.items() >= monitor.last.items()
    saved = torch.load(next(tmp_path.rglob("*.ckpt")), weights_only=True)["callbacks"]
    assert [saved[monitor.state_key] for monitor in monitors] == [{"looked": 0, "collapsed": 0}] * 2


def test_two_monitors_of_one_prefix_are_refused(lightning):
    with pytest.raises(RuntimeError, match=r"state_key.*unique"):
        fit(lightning, [GaussianityMonitor("criterion"), GaussianityMonitor("head")])


def test_a_second_fit_starts_anew(lightning):
    monitor = GaussianityMonitor(every_n_steps=10)
    fit(lightning, monitor)
    fit(lightning, monitor, z=100 * normal(128, 8))
    assert monitor.last["gaussianity/sd"] > 50


@pytest.mark.parametrize("first", ["pytorch_lightning", "lightning.pytorch", None])
def test_the_callback_is_that_of_the_package_in_use(first):
    """The other package is not imported: it would configure the logging of the program again."""
    program = f"""
import sys
{f"import {first}" if first else ""}
import sigreg_adapters.lightning
print(sigreg_adapters.lightning.GaussianityMonitor.__mro__[1].__module__, "lightning.pytorch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    package = first or "lightning.pytorch"
    assert done.stdout.split() == [f"{package}.callbacks.callback", str(package == "lightning.pytorch")]


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"prefix": None}, TypeError, "prefix must be a string.*got NoneType"),
        ({"every_n_steps": 0}, ValueError, "every_n_steps=0 must be at least 1"),
        ({"every_n_steps": 2.5}, TypeError, r"every_n_steps=2\.5 must be an int"),
        ({"patience": 0}, ValueError, "patience=0 must be at least 1"),
        ({"patience": True}, TypeError, "patience=True must be an int"),
        ({"num_slices": 0}, ValueError, "num_slices=0 must be at least 1"),
        ({"num_slices": "8"}, TypeError, "num_slices='8' must be an int"),
        ({"figure_every_n_steps": -1}, ValueError, "figure_every_n_steps=-1 must be at least 0"),
        ({"collapse": 0}, ValueError, r"collapse=0 must lie in \(0, 1\]"),
        ({"collapse": 1.5}, ValueError, r"collapse=1\.5 must lie in \(0, 1\]"),
        ({"collapse": "0.1"}, TypeError, "collapse='0.1' must be a number"),
        ({"module": 100}, TypeError, "module must be the name of a submodule.*got int"),
        ({"module": SIGReg()}, TypeError, "module must be the name of a submodule.*got SIGReg"),
    ],
)
def test_a_setting_of_the_wrong_type_or_out_of_range_is_named(settings, error, says):
    with pytest.raises(error, match=says):
        GaussianityMonitor(**settings)


def test_settings_at_the_ends_of_their_ranges_are_taken():
    monitor = GaussianityMonitor(None, collapse=1, every_n_steps=1, patience=1, figure_every_n_steps=0)
    assert (monitor.collapse, monitor.figure_every_n_steps) == (1, 0)
