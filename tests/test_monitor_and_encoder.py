"""The Lightning callback and the timm encoder, in real training steps."""

import copy
import dataclasses
import importlib
import math
import re
import sys
import types
import warnings

import pytest
import torch
import torch.distributed as dist
from pool import on_ranks
from torch.utils.checkpoint import checkpoint

from sigreg import LeJEPALoss, SIGReg
from sigreg.diagnostics import diagnose, diagnose_batch
from sigreg.diagnostics.batch import SEED
from sigreg.microbatches import backward
from sigreg.univariate import epps_pulley
from sigreg_adapters.lightning import GaussianityMonitor
from sigreg_adapters.timm import Encoder

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*workers.*"),
]
EPS = torch.finfo(torch.float64).eps


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def numbers(found):
    """Every number of a report."""
    m = found.diagnosis.measured
    fields = {f.name: getattr(m, f.name) for f in dataclasses.fields(m)}
    scalars = [float(v) for v in fields.values() if isinstance(v, int | float)]
    rest = [found.spectrum, found.slice_histogram, found.norm_histogram, found.worst_slice]
    return torch.cat([torch.tensor([*scalars, found.covariance, found.worst_value]).double(), *rest])


# --- the report, from sums ---

DEFECTS = {
    "none": lambda z: z,
    "scale": lambda z: 0.3 * z,
    "mean": lambda z: z + 1,
    "uneven": lambda z: z * torch.linspace(0.1, 2, z.shape[1]),
    "rank": lambda z: z[:, :3] @ normal(3, z.shape[1], seed=1),
    "dead units": lambda z: z * (torch.arange(z.shape[1]) < 11),
    "one point": lambda z: 0 * z + 0.3,
    "origin": lambda z: 0 * z,
    "tails": lambda z: z / normal(len(z), 1, seed=2).abs().sqrt(),
    "unit norm": lambda z: torch.nn.functional.normalize(z),
    "LayerNorm": lambda z: torch.nn.functional.layer_norm(z, z.shape[1:]),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_one_view_is_diagnosed_in_the_words_and_numbers_of_inspect(defect):
    z = DEFECTS[defect](normal(256, 16))
    whole, sums = diagnose(z, seed=SEED), diagnose_batch([(z, None)]).diagnosis
    assert [f.name for f in sums.findings] == [f.name for f in whole.findings]
    assert (defect == "none") == sums.healthy
    rows_only = ("direction", "persistence", "smoothness", "constant_units", "expected_sds")
    # Sums of squares lose half of the digits of what nearly cancels: variations of constant lengths.
    small = 8 * math.sqrt(EPS)
    for field in dataclasses.fields(whole.measured):
        if not field.name.startswith(rows_only):
            one, other = (float(getattr(d.measured, field.name)) for d in (whole, sums))
            # float32 slices on both sides: N eps of it for the sums of the characteristic function
            assert one == pytest.approx(other, rel=256 * 1.2e-7, abs=max(small, 1e-6)), field.name


def test_views_are_tested_one_by_one_and_averaged_however_they_are_given():
    views = normal(3, 64, 8) * torch.tensor([1.0, 0.5, 2.0])[:, None, None] + 0.2
    stacked = diagnose_batch([(views, None)])
    calls = diagnose_batch([(views[:1], None), (views[1], None), (views[2], None)])
    torch.testing.assert_close(numbers(stacked), numbers(calls), rtol=64 * EPS, atol=64 * EPS)
    covariance = torch.stack([v.double().T.cov() for v in views]).mean(0)
    torch.testing.assert_close(
        stacked.spectrum, torch.linalg.eigvalsh(covariance).flip(0), rtol=1e4 * EPS, atol=0
    )
    A = torch.cat([stacked.worst_slice[:, None], torch.eye(8)], 1)
    value = epps_pulley(views @ A).mean(0)  # over views
    assert stacked.worst_value == pytest.approx(float(value[0]), rel=1e-5)
    assert stacked.worst_value >= float(value.max()) * (1 - 1e-5)


def test_rows_of_weight_zero_do_not_count_whatever_they_hold():
    z = normal(2, 64, 8)
    padded = torch.cat([z, torch.full((2, 9, 8), torch.nan)], dim=1)
    mask = torch.arange(73) < 64
    expected = numbers(diagnose_batch([(z, None)]))
    for weights in (mask, mask.double(), 0.5 * mask.float().expand(2, 73)):
        found = numbers(diagnose_batch([(padded, weights)]))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # float32 weights in the statistic


def test_a_view_without_rows_does_not_count():
    z, mask = normal(2, 64, 8), torch.tensor([[True], [False]]).expand(2, 64)
    found, expected = (numbers(diagnose_batch([call])) for call in ((z, mask), (z[:1], None)))
    torch.testing.assert_close(found, expected, rtol=64 * EPS, atol=64 * EPS)


def test_histograms_hold_every_row_once():
    found = diagnose_batch([(100 * normal(4, 50, 8), None)])
    for histogram in (found.slice_histogram, found.norm_histogram):
        assert float(histogram.sum()) == pytest.approx(1.0, abs=80 * EPS)
    assert float(found.norm_histogram[-1]) == 1.0  # the last bin is open


@pytest.mark.parametrize(
    ("calls", "says"),
    [
        ([], "got no call"),
        ([(normal(8, 4), None), (normal(8, 5), None)], r"one width, got \[4, 5\]"),
        ([(normal(8, 4).log(), None)], "hold inf or nan"),
        ([(normal(8, 4), torch.zeros(8))], "no view has two rows"),
    ],
)
def test_what_cannot_be_diagnosed_is_named(calls, says):
    with pytest.raises(ValueError, match=says):
        diagnose_batch(calls)


SPLITS = ((40, 24), (64, 0), (1, 63))
VIEWS = normal(2, 64, 8) * torch.linspace(0.2, 1.5, 8) + 0.1
WEIGHTS = torch.rand(2, 64, generator=torch.Generator().manual_seed(3)).round(decimals=1)


def report_of_rank(split, weighted):
    rank = dist.get_rank()
    z, w = (t.split(split, dim=1)[rank] for t in (VIEWS, WEIGHTS))
    return numbers(
        diagnose_batch([(z[:1], w[:1] if weighted else None), (z[1:], w[1:] if weighted else None)])
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("split", SPLITS)
def test_two_ranks_report_what_one_process_reports_of_the_concatenated_batch(split, weighted):
    expected = numbers(diagnose_batch([(VIEWS, WEIGHTS if weighted else None)]))
    for found in on_ranks(2, report_of_rank, split, weighted):
        # the statistic is float32: its sums over 64 rows are added in another order
        torch.testing.assert_close(found, expected, rtol=64 * 1.2e-7, atol=64 * 1.2e-7)


def only_one_rank_is_not_finite():
    z = normal(16, 4) if dist.get_rank() else normal(16, 4).log()
    try:
        diagnose_batch([(z, None)])
    except ValueError as error:
        return str(error)


def test_embeddings_that_are_not_finite_on_one_rank_are_an_error_on_all():
    first, second = on_ranks(2, only_one_rank_is_not_finite)
    assert first == second
    assert "hold inf or nan" in first


# --- the callback ---


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def pl(request):
    return importlib.import_module(request.param)


@pytest.fixture
def lightning():
    return importlib.import_module("lightning.pytorch")


def method(pl, **changes):
    """A LightningModule with a linear head and a criterion; `changes` replace its methods."""

    class Method(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(8, 8, bias=False)
            torch.nn.init.eye_(self.head.weight)
            self.criterion = SIGReg(num_slices=8)

        def training_step(self, batch, _):
            return self.criterion(self.head(batch))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-4)

    for name, change in changes.items():
        setattr(Method, name, change)
    return Method()


def fit(pl, monitor, model=None, *, scale=1.0, z=None, epochs=1, **trainer):
    """Trains on batches of 64 of which all columns but the first are multiplied by `scale`."""
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    settings |= {"enable_model_summary": False, "accelerator": "cpu", "max_epochs": epochs}
    trainer = pl.Trainer(callbacks=[monitor], **settings | trainer)
    z = normal(128, 8) * torch.tensor([1.0] + [scale] * 7) if z is None else z
    trainer.fit(method(pl) if model is None else model, torch.utils.data.DataLoader(z, batch_size=64))
    return trainer


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


class Trainer:
    """What the callback asks of a trainer."""

    global_step, is_global_zero, loggers, should_stop = 0, True, (), False
    strategy = types.SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)


class Module(torch.nn.Module):
    def __init__(self, **modules):
        super().__init__()
        self.logged = {}
        for name, module in modules.items():
            setattr(self, name, module)

    def log_dict(self, values, **options):
        self.logged = values


def look(monitor, module, step, trainer=Trainer):
    """One training step of a module that is no LightningModule."""
    monitor.on_train_start(trainer, module)
    monitor.on_train_batch_start(trainer, module)
    step()
    monitor.on_train_batch_end(trainer, module)
    monitor.on_train_end(trainer, module)
    return module.logged


def watched(calls, **settings):
    """The log of one step in which a SIGReg, found automatically, had these calls."""
    module = Module(criterion=LeJEPALoss(sigreg=SIGReg(num_slices=8)))
    sigreg = module.criterion.sigreg
    return look(GaussianityMonitor(**settings), module, lambda: [sigreg(z, w) for z, w in calls])


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


@pytest.mark.parametrize("name", ["every_n_steps", "patience", "num_slices"])
def test_a_setting_out_of_range_is_named(name):
    with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
        GaussianityMonitor(**{name: 0})


# --- the alarm ---


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
        **{n: getattr(Trainer, n) for n in ("is_global_zero", "loggers", "strategy")}
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

    trainer = types.SimpleNamespace(global_step=0, is_global_zero=rank == 0, loggers=(), should_stop=False)
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


# --- loggers ---


class Board:
    """A fake of TensorBoard's SummaryWriter, which is not installed where these tests run."""

    def __init__(self):
        self.figures, self.texts = [], []

    def add_figure(self, tag, figure, global_step):
        self.figures.append((tag, figure, global_step))

    def add_text(self, tag, text, global_step):
        self.texts.append((tag, text, global_step))


def loggers(pl, tmp_path):
    module = importlib.import_module(f"{pl.__name__}.loggers")

    class BoardLogger(module.Logger):
        name, version = "board", 0

        def __init__(self):
            super().__init__()
            self.experiment, self.metrics = Board(), []

        def log_metrics(self, metrics, step=None):
            self.metrics.append((step, metrics))

        def log_hyperparams(self, *args, **kwargs): ...

    return module.CSVLogger(tmp_path, name="log"), BoardLogger()


def test_every_logger_gets_the_numbers_at_the_step_of_the_look_and_tensorboard_the_picture(pl, tmp_path):
    csv_logger, board_logger = loggers(pl, tmp_path)
    monitor = GaussianityMonitor(every_n_steps=2, figure_every_n_steps=4)
    fit(pl, monitor, z=normal(64 * 7, 8), logger=[csv_logger, board_logger], log_every_n_steps=50)
    from sigreg.selection import read_csv

    rows = [r for r in read_csv(csv_logger.experiment.metrics_file_path) if r["gaussianity/sd"] is not None]
    ours = [(step, m) for step, m in board_logger.metrics if "gaussianity/sd" in m]
    assert [r["step"] for r in rows] == [step for step, _ in ours] == [0, 2, 4, 6]
    assert ours[-1][1] == monitor.last
    assert {name: rows[-1][name] for name in monitor.last} == pytest.approx(monitor.last)
    board = board_logger.experiment
    assert board.texts[-1] == ("gaussianity", str(monitor.diagnosis), 6)
    assert [(tag, step) for tag, _, step in board.figures] == [("gaussianity", 0), ("gaussianity", 4)]
    figure = board.figures[0][1]
    titles = [ax.get_title().split(":")[0] for ax in figure.axes]
    assert titles == ["spectrum", "worst slice", "lengths"]
    figure.savefig(tmp_path / "figure.png")


def test_the_densities_of_the_picture_integrate_to_one():
    from sigreg.diagnostics.batch_figure import draw

    figure = draw(diagnose_batch([(normal(500, 8), None)]), "criterion")
    assert figure.get_suptitle() == "criterion: healthy (N = 500, D = 8)"
    for ax in figure.axes[1:]:
        (line,) = ax.lines
        assert torch.trapezoid(*map(torch.as_tensor, (line.get_ydata(), line.get_xdata()))) == pytest.approx(
            1.0, abs=1e-3
        )
        data = ax.patches[0].get_data()
        widths = torch.as_tensor(data.edges).diff()
        assert float((torch.as_tensor(data.values) * widths).sum()) == pytest.approx(1.0, abs=1e-5)


def test_without_matplotlib_there_is_no_figure_and_no_error(lightning, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    _, board_logger = loggers(lightning, tmp_path)
    fit(lightning, GaussianityMonitor(), logger=board_logger)
    assert len(board_logger.experiment.texts) == 1
    assert board_logger.experiment.figures == []


# --- the timm encoder ---


def test_an_encoder_of_any_timm_model_trains_under_lejepa():
    encoder = Encoder("test_vit", projection_dim=8, hidden_dim=32, dynamic_img_size=True)
    crops = [torch.randn(4, 3, size, size) for size in (160, 160, 96)]
    LeJEPALoss(sigreg=SIGReg(num_slices=16))([encoder(x)[1] for x in crops], num_global=2).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_an_unknown_backbone_is_named_with_close_ones():
    with pytest.raises(ValueError, match="resnet"):
        Encoder("resnet_of_nobody")
