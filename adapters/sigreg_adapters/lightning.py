"""SIGReg for Lightning: report on the embeddings that the criterion is given, and warn when they collapse.

Tried with lightning 2.6.6 and pytorch-lightning 2.6.6, either of which may run it.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sigreg import SIGReg
from sigreg.arguments import assert_int, assert_number
from sigreg.collectives import resolve
from sigreg.diagnostics import BatchDiagnosis, Diagnosis, diagnose_batch
from sigreg.sample import described

# The package of the program: importing the other one as well would configure its logging a second time.
if find_spec("lightning") and ("lightning.pytorch" in sys.modules or "pytorch_lightning" not in sys.modules):
    from lightning.pytorch import Callback
else:
    from pytorch_lightning import Callback  # type: ignore[assignment]


class GaussianityMonitor(Callback):
    """Logs how Gaussian the embeddings are that SIGReg is given, and warns when they collapse.

    It also warns of `Trainer(accumulate_grad_batches=...)`, which averages SIGReg over microbatches.

    Every `every_n_steps` optimizer steps it takes what `SIGReg.forward` received in that step: all views, all
    calls, with their weights, on all ranks.  The ranks exchange sums, so that the report is that of the whole
    batch.  It is averaged over views, as the loss is, and uses other directions than the loss.

    Every logger receives `gaussianity/epps_pulley` (1.05 at a Gaussian), `gaussianity/reachable` (the lowest
    value that the measured rank allows), `gaussianity/worst_slice`, `gaussianity/effective_rank`,
    `gaussianity/covariance` (distance to I) and `gaussianity/sd`; TensorBoard also a figure, if matplotlib is
    installed, and the findings of `sigreg.diagnostics.diagnose` as text.

    Args:
        module: dotted name of a SIGReg or of a module that holds one, such as "criterion"; needed only if
            there are several.  If the module holds no SIGReg, as the projector of another method, its output
            is watched (the last tensor of a tuple), and each row is a sample.
        every_n_steps: optimizer steps between two reports.
        collapse: embeddings count as collapsed when all rows are equal or nearly so, or when the effective
            rank is below this share, in (0, 1], of what N(0, I) has with as many rows.
        patience: number of consecutive reports that must show a collapse before the warning, because a
            network may be collapsed at the start of training.
        stop_on_collapse: end the training with the warning, on all ranks.
        figure_every_n_steps: steps between two figures; 0 draws none.
        num_slices: random directions, tested besides the coordinates.
        prefix: the part before "/" in the names of what is logged.  Several monitors in one Trainer need
            different ones, which also distinguish their states in a checkpoint.

    Attributes:
        last: the numbers that were logged last, a dict by name; None before the first report.
        diagnosis: the `sigreg.diagnostics.Diagnosis` of the last report, or None.

    Raises:
        TypeError: a setting of the wrong type.
        ValueError: a setting out of range; at the start of training, when there is no SIGReg or no such
            module, or when there are several.
        RuntimeError: by Lightning, two monitors of the same prefix.

    Example:
        >>> monitor = GaussianityMonitor(every_n_steps=100, stop_on_collapse=True)
        >>> monitor.last is None  # training has not begun
        True
    """

    def __init__(
        self,
        module: str | None = None,
        *,
        every_n_steps: int = 100,
        collapse: float = 0.1,
        patience: int = 3,
        stop_on_collapse: bool = False,
        figure_every_n_steps: int = 1000,
        num_slices: int = 256,
        prefix: str = "gaussianity",
    ) -> None:
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a string, got {type(prefix).__name__}")
        if not isinstance(module, str | None):
            raise TypeError(
                "module must be the name of a submodule, such as 'criterion', or None; got "
                f"{type(module).__name__}"
            )
        assert_int(1, every_n_steps=every_n_steps, patience=patience, num_slices=num_slices)
        assert_int(0, figure_every_n_steps=figure_every_n_steps)
        assert_number(collapse=collapse)
        if not 0 < collapse <= 1:
            raise ValueError(f"collapse={collapse} must lie in (0, 1]: a share of the rank of N(0, I)")
        self.module, self.every_n_steps, self.collapse = module, every_n_steps, collapse
        self.patience, self.stop_on_collapse = patience, stop_on_collapse
        self.figure_every_n_steps, self.num_slices, self.prefix = figure_every_n_steps, num_slices, prefix
        self._forget()
        self._looking = False
        self._calls: list[tuple[Tensor, Tensor | None]] = []
        self._nothing = ""  # why there are none
        self._handle: RemovableHandle | None = None
        self._group: Any = "auto"
        self._name = ""

    @property
    def state_key(self) -> str:
        """The name of the state in a checkpoint, which contains the prefix."""
        return self._generate_state_key(prefix=self.prefix)

    def _forget(self) -> None:
        """The state before the first report."""
        self.last: dict[str, float] | None = None
        self.diagnosis: Diagnosis | None = None
        self._collapsed = 0  # looks in a row
        self._looked: int | None = None  # step of the last look

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self._looked is not None and self._looked >= trainer.global_step:  # another run
            self._forget()
        self._alarmed = False
        watched = _watched(pl_module, self.module)
        self._group = (
            getattr(watched, "group", None) or "auto"
        )  # a loss of one rank's batch is reported for all
        self._name = next(name for name, module in pl_module.named_modules() if module is watched)
        self._handle = watched.register_forward_hook(_Keep(self), with_kwargs=True)
        if isinstance(watched, SIGReg) and trainer.accumulate_grad_batches > 1:
            self._warn(
                trainer,
                f"accumulate_grad_batches={trainer.accumulate_grad_batches} averages {self._name} over "
                "microbatches, which is not its value on the whole batch; sigreg.microbatches.backward, with "
                "manual optimization, has that",
            )

    def _keep(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Keep what the criterion was given, or what a module without SIGReg returned."""
        # The forward pass that checkpointing repeats during backward is not another call.
        recomputed = torch._C._current_graph_task_id() != -1
        if not self._looking or recomputed or torch.compiler.is_compiling():
            return
        if isinstance(module, SIGReg):
            given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
            self._calls.append((next(iter(given.values())).detach(), given.get("weights")))
            return
        outputs = output if isinstance(output, (tuple, list)) else [output]
        z = next((z for z in reversed(outputs) if isinstance(z, Tensor)), None)
        if z is None or z.ndim < 2 or not z.is_floating_point():
            got = f"{tuple(z.shape)} of {z.dtype}" if isinstance(z, Tensor) else described(output)
            self._nothing = f"it returned {got}; expected a floating-point (..., N, D), of a tuple the last"
            return
        self._calls.append((z.detach().reshape(-1, z.shape[-1]), None))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        step, every = trainer.global_step, self.every_n_steps
        self._looking = self._looked is None or step // every != self._looked // every
        if self._looking:
            self._looked = step
            self._nothing = "it was not called in the training step, or only in what torch.compile compiled"

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        calls, self._calls = self._calls, []
        if not self._looking:
            return
        self._looking = False
        try:
            shapes = [f"({', '.join(map(str, (*z.shape[:-2], 'N', z.shape[-1])))})" for z, _ in calls]
            resolve(self._group).assert_equal(calls=shapes)
            if not calls:
                raise ValueError(self._nothing)
            found = diagnose_batch(calls, group=self._group, num_slices=self.num_slices)
        except (ValueError, RuntimeError) as reason:  # the same on every rank
            self._warn(trainer, f"no report on {self._name}: {reason}")
            return
        self._log(trainer, pl_module, found)
        self._raise_alarm(trainer, found.diagnosis)

    def _log(self, trainer: Any, pl_module: Any, found: BatchDiagnosis) -> None:
        self.diagnosis, m = found.diagnosis, found.diagnosis.measured
        self.last = {
            f"{self.prefix}/epps_pulley": m.value,
            f"{self.prefix}/reachable": m.reachable,
            f"{self.prefix}/worst_slice": found.worst_value,
            f"{self.prefix}/effective_rank": m.effective_rank,
            f"{self.prefix}/covariance": found.covariance,
            f"{self.prefix}/sd": m.sd,
        }
        pl_module.log_dict(self.last, logger=False, batch_size=m.N)  # for callbacks and the progress bar
        if not trainer.is_global_zero:
            return
        # Not by log_dict: Lightning writes what is logged in the steps of log_every_n_steps alone.
        step = self._looked or 0
        for logger in trainer.loggers:
            logger.log_metrics(self.last, step=step)
            board: Any = getattr(logger, "experiment", None)
            if not hasattr(board, "add_figure"):
                continue
            board.add_text(self.prefix, str(self.diagnosis).replace("\n", "\n\n"), step)  # Markdown
            every = self.figure_every_n_steps
            if every and step % every < self.every_n_steps and (figure := _figure(found, self._name)):
                board.add_figure(self.prefix, figure, step)

    def _raise_alarm(self, trainer: Any, diagnosis: Diagnosis) -> None:
        m = diagnosis.measured
        low = m.effective_rank < self.collapse * m.expected_effective_rank
        alarming = ("collapsed", "dimensionally collapsed") if low else ("collapsed",)
        found = [finding for finding in diagnosis.findings if finding.name in alarming]
        self._collapsed = self._collapsed + 1 if found else 0
        alarm = self._collapsed >= self.patience
        if alarm and not self._alarmed:
            self._warn(trainer, f"{self._name} at step {self._looked}: {found[0]}")
        self._alarmed = alarm
        if self.stop_on_collapse:
            stop = trainer.strategy.reduce_boolean_decision(alarm, all=False)
            trainer.should_stop = trainer.should_stop or stop

    def _warn(self, trainer: Any, message: str) -> None:
        if trainer.is_global_zero:
            warnings.warn(message, stacklevel=3)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._looking, self._calls = False, []
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def state_dict(self) -> dict[str, Any]:
        return {"looked": self._looked, "collapsed": self._collapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._looked, self._collapsed = state_dict["looked"], state_dict["collapsed"]


class _Keep:
    """The forward hook of a monitor; in a copy or a pickle of the module it does nothing."""

    def __init__(self, monitor: GaussianityMonitor | None = None) -> None:
        self.monitor = monitor

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self.monitor is not None:
            self.monitor._keep(module, args, kwargs, output)

    def __reduce__(self) -> tuple[type[_Keep], tuple[()]]:
        return _Keep, ()


def _watched(pl_module: nn.Module, name: str | None) -> nn.Module:
    """The SIGReg within the named module (None: within all), or the named module itself if it has none."""
    modules = dict(pl_module.named_modules())
    if name is not None and name not in modules:
        known = ", ".join(n for n in modules if n and "." not in n)
        raise ValueError(f"the module has no submodule {name!r}; it has {known}")
    root = modules[name or ""]
    found = {n: m for n, m in root.named_modules() if isinstance(m, SIGReg)}
    if len(found) > 1:
        names = ", ".join(f"{name}.{n}" if name else n for n in found)
        raise ValueError(f"there are several SIGReg; name the one to watch, as in module={names!r}")
    if not found and name is None:
        raise ValueError(
            "the module holds no SIGReg; make the criterion a submodule (self.criterion = LeJEPALoss()), or "
            "name a submodule whose output is to be watched, as in module='projector'"
        )
    return next(iter(found.values()), root)


def _figure(found: BatchDiagnosis, name: str) -> Any:
    """The picture, or None without matplotlib."""
    try:
        from sigreg.diagnostics.batch_figure import draw

        return draw(found, name)
    except ImportError:
        return None
