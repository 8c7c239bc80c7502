"""The Lightning callback's alarm: a collapse is said once, and can stop the run on every rank."""

import re
import types
import warnings

import pytest
import torch
import torch.distributed as dist

from sigreg import SIGReg
from sigreg.diagnostics import diagnose, diagnose_batch
from sigreg_adapters.lightning import GaussianityMonitor
from tests.monitored import VIEWS, Module, Trainer, fit, look
from tests.pool import on_ranks
from tests.samples import normal

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*workers.*"),
]


def test_a_collapse_raises_the_alarm_in_the_words_of_inspect(pl):
    z = normal(128, 8) * torch.tensor([1.0] + [1e-3] * 7)
    finding = next(f for f in diagnose(z[64:]).findings if f.name == "dimensionally collapsed")
    words = re.escape(f"criterion at step 1: {finding.name}: the effective rank is 1.0")
    with pytest.warns(UserWarning, match=words + f".*{re.escape(finding.advice)}"):
        fit(pl, GaussianityMonitor(every_n_steps=1, collapse=0.2, patience=2), scale=1e-3)


def test_a_healthy_run_and_one_of_moderate_rank_raise_no_alarm(lightning):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*criterion.*")
        for scale in (1.0, 0.2):
            trainer = fit(
                lightning, GaussianityMonitor(every_n_steps=1, patience=1, stop_on_collapse=True), scale=scale
            )
            assert not trainer.should_stop


def test_a_collapse_that_passes_within_patience_raises_no_alarm(recwarn):
    module, monitor = Module(criterion=SIGReg(num_slices=8)), GaussianityMonitor(every_n_steps=1, patience=2)
    trainer = types.SimpleNamespace(
        **{
            n: getattr(Trainer, n)
            for n in ("accumulate_grad_batches", "is_global_zero", "loggers", "strategy")
        }
    )
    for step, scale in enumerate((0, 1, 0, 1)):
        trainer.global_step = step
        look(monitor, module, lambda scale=scale: module.criterion(scale * normal(32, 8)), trainer)
    assert not recwarn.list
    trainer.global_step = 4
    look(monitor, module, lambda: module.criterion(0 * normal(32, 8)), trainer)
    trainer.global_step = 5
    with pytest.warns(UserWarning, match="criterion at step 5: collapsed: all rows are 0"):
        look(monitor, module, lambda: module.criterion(0 * normal(32, 8)), trainer)


def test_an_alarm_can_stop_the_run(pl):
    monitor = GaussianityMonitor(every_n_steps=1, patience=3, stop_on_collapse=True)
    with pytest.warns(UserWarning, match="criterion at step 2: collapsed"):
        trainer = fit(pl, monitor, z=torch.zeros(64 * 10, 8))
    assert trainer.global_step == 3


def test_a_second_fit_stops_with_a_warning_too(lightning):
    monitor = GaussianityMonitor(every_n_steps=1, patience=3, stop_on_collapse=True)
    for _ in range(2):
        with pytest.warns(UserWarning, match="criterion at step 2: collapsed"):
            assert fit(lightning, monitor, z=torch.zeros(64 * 10, 8)).global_step == 3


def test_a_run_resumed_after_a_stop_warns_when_it_stops_again(lightning, tmp_path):
    settings = {"z": torch.zeros(64 * 10, 8), "enable_checkpointing": True, "default_root_dir": tmp_path}
    for resumed in (False, True):
        monitor = GaussianityMonitor(every_n_steps=1, patience=3, stop_on_collapse=True)
        checkpoint = next(tmp_path.rglob("*.ckpt")) if resumed else None
        with pytest.warns(UserWarning, match=rf"criterion at step {2 + resumed}: collapsed") as caught:
            trainer = fit(lightning, monitor, **settings, max_epochs=2, ckpt_path=checkpoint)
        assert sum("criterion" in str(w.message) for w in caught) == 1
        assert trainer.global_step == 3 + resumed


def test_a_resumed_run_remembers_the_looks_before_it():
    monitor = GaussianityMonitor()
    monitor.load_state_dict({"looked": 100, "collapsed": 2})
    assert monitor.state_dict() == {"looked": 100, "collapsed": 2}
    monitor.on_train_batch_start(types.SimpleNamespace(global_step=199), None)
    assert not monitor._looking
    monitor.on_train_batch_start(types.SimpleNamespace(global_step=200), None)
    assert monitor._looking


def trained_on_rank():
    """Two ranks with different data: what each logged, warned of and decided."""
    rank = dist.get_rank()
    module = Module(criterion=SIGReg(num_slices=8))  # group="auto"

    def reduce_boolean_decision(decision, all):
        votes = torch.tensor(float(decision))
        dist.all_reduce(votes)
        return bool(votes > 0)

    trainer = Trainer()
    trainer.is_global_zero = rank == 0
    trainer.strategy = types.SimpleNamespace(reduce_boolean_decision=reduce_boolean_decision)
    monitor = GaussianityMonitor(patience=1, stop_on_collapse=True)
    z = VIEWS.split((40, 24), dim=1)[rank]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logged = look(monitor, module, lambda: module.criterion(z), trainer)
        healthy = trainer.should_stop
        trainer.global_step = 100
        look(monitor, module, lambda: module.criterion(0 * z), trainer)
        stopped = trainer.should_stop
        trainer.global_step = 200  # one rank does not call the criterion
        look(monitor, module, lambda: rank or SIGReg(group=None)(z), trainer)
        module.criterion.group = None
        trainer.global_step = 300
        look(monitor, module, lambda: rank and module.criterion(z), trainer)
    return logged, healthy, stopped, [str(w.message) for w in caught]


def test_two_ranks_log_the_whole_batch_warn_once_and_stop_together():
    (first, *_, said), (second, *_, silent) = results = on_ranks(2, trained_on_rank)
    expected = diagnose_batch([(VIEWS, None)]).diagnosis.measured
    assert first == second
    assert first["gaussianity/epps_pulley"] == pytest.approx(expected.value, rel=64 * 1.2e-7)
    assert [(healthy, stopped) for _, healthy, stopped, _ in results] == [(False, True)] * 2
    assert silent == []
    assert [line.split(":")[0] for line in said] == ["criterion at step 100", *["no report on criterion"] * 2]
    assert "calls is [] on rank 0, ['(2, N, 8)'] on rank 1" in said[-1]
