"""What does GaussianityMonitor cost in a training step?

`step` is the LeJEPA step of host_steps (augmentation, forward, backward and optimizer in lightly's pipeline);
steps without the monitor and steps with a look take turns in one process, and the extra time is the median
over rounds of the difference within a round.  The other cases are one look at embeddings of V views x N x D,
beside SIGReg's forward and backward pass with 1024 slices.  The share is that of the default settings: a look
every 100 steps, a figure every 1000, and what the hooks do in every step.  Without a GPU, times are processor
time of one thread, which other programs on the machine disturb less than they disturb wall time.
"""

from __future__ import annotations

import inspect
import io
import time
from collections.abc import Callable
from statistics import median
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor, nn

from benchmarks import picture
from benchmarks.questions.host_steps import OURS, _batch, _Stepper
from benchmarks.report import markdown
from sigreg import SIGReg
from sigreg.diagnostics import diagnose_batch
from sigreg.diagnostics.batch_figure import draw
from sigreg_adapters.lightning import GaussianityMonitor

DEFAULTS = {name: p.default for name, p in inspect.signature(GaussianityMonitor).parameters.items()}
measured_code = (
    "adapters/sigreg_adapters/lightning.py",
    "sigreg/diagnostics/batch.py",
    "sigreg/diagnostics/measured.py",
)
_IDLE = 1000  # steps without a look, whose hooks are timed together


def _trainer() -> Any:
    """What the callback asks of a trainer, with a logger that keeps what it gets."""
    logger = SimpleNamespace(log_metrics=lambda metrics, step: None)
    return SimpleNamespace(
        global_step=0,
        accumulate_grad_batches=1,
        is_global_zero=True,
        loggers=[logger],
        should_stop=False,
    )


def _seconds(do: Callable[[], Any]) -> float:
    """Wall time with a GPU, else processor time."""
    if not torch.cuda.is_available():
        start = time.process_time()
        do()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    do()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def _figure(calls: list[tuple[Tensor, None]]) -> None:
    """Drawn and encoded, as TensorBoard's writer does."""
    draw(diagnose_batch(calls, group=None)).savefig(io.BytesIO(), format="png")


def _of_step(cfg: DictConfig) -> dict[str, float]:
    stepper = _Stepper(OURS, cfg, _batch(cfg))
    module: Any = stepper.method
    module.log_dict = lambda values, **options: None
    monitor, trainer, seen = GaussianityMonitor(figure_every_n_steps=0), _trainer(), []

    def look() -> None:
        monitor.on_train_batch_start(trainer, module)
        stepper()
        seen[:] = monitor._calls
        monitor.on_train_batch_end(trainer, module)

    def watched() -> float:
        trainer.global_step += DEFAULTS["every_n_steps"]
        monitor.on_train_start(trainer, module)
        seconds = _seconds(look)
        monitor.on_train_end(trainer, module)
        return seconds

    rounds = [(_seconds(stepper), watched()) for _ in range(cfg.rounds + 2)][2:]
    _figure(seen)  # the first one looks for fonts
    figures = [_seconds(lambda: _figure(seen)) for _ in range(cfg.rounds)]
    return {
        "step_ms": 1e3 * median(plain for plain, _ in rounds),
        "look_ms": 1e3 * median(with_look - plain for plain, with_look in rounds),
        "figure_ms": 1e3 * median(figures),
        "idle_ms": 1e3 * _idle(monitor, trainer, module),
    }


def _idle(monitor: GaussianityMonitor, trainer: Any, module: nn.Module) -> float:
    """Seconds that a step without a look spends in the callback and in the hook."""
    monitor.on_train_start(trainer, module)
    (sigreg,) = (m for m in module.modules() if isinstance(m, SIGReg))
    (hook,) = sigreg._forward_hooks.values()
    z = torch.zeros(2, 2, 2)

    def steps() -> None:
        for _ in range(_IDLE):
            monitor.on_train_batch_start(trainer, module)
            hook(sigreg, (z,), {}, z)
            monitor.on_train_batch_end(trainer, module)

    seconds = _seconds(steps) / _IDLE
    monitor.on_train_end(trainer, module)
    return seconds


def _of_look(cfg: DictConfig) -> dict[str, float]:
    """A look, beside the SIGReg call whose input it looks at."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    z = torch.randn(*map(int, cfg.case.split("x")), device=device, requires_grad=True)
    sigreg, calls = SIGReg(group=None), [(z.detach(), None)]
    rounds = [
        (_seconds(lambda: sigreg(z).backward()), _seconds(lambda: diagnose_batch(calls, group=None)))
        for _ in range(cfg.rounds + 2)
    ][2:]
    return {
        "sigreg_ms": 1e3 * median(call for call, _ in rounds),
        "look_ms": 1e3 * median(look for _, look in rounds),
        "look_over_sigreg": median(look / call for call, look in rounds),
    }


def measure(cfg: DictConfig) -> dict[str, float]:
    """One row."""
    if cfg.case != "step":
        return _of_look(cfg)
    row = _of_step(cfg)
    extra = row["look_ms"] / DEFAULTS["every_n_steps"] + row["figure_ms"] / DEFAULTS["figure_every_n_steps"]
    return row | {"share_percent": 100 * (extra + row["idle_ms"]) / row["step_ms"]}


def table(frame: pd.DataFrame) -> str:
    """The newest row of each case."""
    newest = frame.sort_values("date").groupby("case", sort=False).tail(1).set_index("case")
    columns = {
        "step_ms": "step, ms",
        "look_ms": "one report adds, ms",
        "figure_ms": "one figure, ms",
        "idle_ms": "hooks without a report, ms",
        "share_percent": "% of the training at the defaults",
        "sigreg_ms": "SIGReg, ms",
        "look_over_sigreg": "report over SIGReg",
    }
    return markdown(newest.reindex(columns=list(columns)).rename(columns=columns))


def figure(frame: pd.DataFrame) -> Figure:
    """Milliseconds of a step, a report and a figure, and of reports on larger embeddings."""
    newest = frame.sort_values("date").groupby("case", sort=False).tail(1).set_index("case")
    first = newest.iloc[0]
    fig, axes = picture.panels(
        1,
        2,
        title="GaussianityMonitor: what a report costs",
        note=f"Medians over n = {first['rounds']:g} rounds, without an interval; {first.device}. The "
        f"defaults are a report every {DEFAULTS['every_n_steps']} steps and a figure every "
        f"{DEFAULTS['figure_every_n_steps']:,}.",
    )
    reports = newest.drop(index="step", errors="ignore")
    if "step" in newest.index:
        names = {"step_ms": "one step", "look_ms": "one report adds", "figure_ms": "one figure"}
        bars = axes[0].barh(list(names.values()), newest.loc["step", list(names)], color=picture.BLUE)
        axes[0].bar_label(bars, fmt="%.0f", padding=2)
        axes[0].invert_yaxis()
    picture.label(axes[0], "In a training step", "milliseconds", "")
    if len(reports):
        for shift, column, name, colour in (
            (-0.2, "sigreg_ms", "SIGReg, forward and backward", picture.GREY),
            (0.2, "look_ms", "one report", picture.BLUE),
        ):
            place = [p + shift for p in range(len(reports))]
            bars = axes[1].barh(place, reports[column], 0.4, color=colour, label=name)
            axes[1].bar_label(bars, fmt="%.0f", padding=2)
        axes[1].set_yticks(range(len(reports)), reports.index)
        axes[1].invert_yaxis()
        picture.legend(axes[1])
    picture.label(axes[1], "Of V x N x D embeddings", "milliseconds", "")
    for ax in axes:
        ax.grid(axis="y", visible=False)
        ax.margins(x=0.12)  # space for the values
    return fig
