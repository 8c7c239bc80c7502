"""What does sharing a batch over ranks cost: bytes and time of the collectives, against world size and N?

Four ways to the same regularizer: `sums` (ours), `sums_more` (ours with as many times the slices as there
are ranks), `lightly` (its gather_distributed=True) and `gather` (gather the embeddings, test them all on
every rank).

Bytes are those a rank sends under the bandwidth-optimal algorithms: an all-reduce of B bytes over p ranks
sends 2 B (p-1)/p, an all-gather of B from each rank B (p-1), a reduce-scatter of B in all B (p-1)/p, a
broadcast B.  The model adds a latency: T = hops * ALPHA + bytes / BETA, an all-reduce taking 2 ceil(log2 p)
hops and the others ceil(log2 p).  ALPHA and BETA are assumptions (one 400 Gb/s link a GPU), not measurements.
"""

import json
import math
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import picture
from benchmarks.report import markdown
from sigreg import SIGReg
from sigreg.collectives import resolve

ALPHA, BETA = 10e-6, 50e9  # seconds a hop, bytes a second
POINTS = 16  # of the 17-point grid; the one at 0 contributes nothing
TAIL = 3  # numbers behind the sums: the weights, their squares, the fingerprint
METHODS = ("sums", "sums_more", "lightly", "gather")
MODELLED = (8, 256, 64, 1024)  # V, N of a rank, D and K of the model
End = tuple[float, float, str, str]  # of a line: x, y, its name and colour
SHAPE = "V = {}, N = {} a rank, D = {}, K = {}".format(*MODELLED)


def calls(method, p, V, N, D, K):
    """The collectives of one step, forward and backward, as (operation, bytes handed in by a rank)."""
    if p == 1:
        return []
    gathered = [("all_gather", 16), ("all_gather", 4 * V * N * D)]  # the sizes, the embeddings
    if method in ("sums", "sums_more"):
        K = K * p if method == "sums_more" else K
        return [("all_reduce", 4 * (2 * V * K * POINTS + TAIL))]
    if method == "gather":
        return gathered
    sums = ("all_reduce", 4 * V * K * (POINTS + 1))  # cosines and sines apart, and again in the backward pass
    return [("all_reduce", 4), ("broadcast", 4 * D * K), *[sums] * 4]


def sent(operation, B, p):
    """Bytes a rank sends."""
    factor = {
        "all_reduce": 2 * (p - 1) / p,
        "all_gather": p - 1,
        "reduce_scatter": (p - 1) / p,
        "broadcast": 1,
    }
    return factor[operation] * B


def seconds(operation, B, p):
    """The alpha-beta model."""
    hops = math.ceil(math.log2(p)) * (2 if operation == "all_reduce" else 1)
    return hops * ALPHA + sent(operation, B, p) / BETA


class Log:
    """Times and weighs the collectives that anybody calls."""

    def __init__(self):
        self.calls, self.seconds = [], 0.0

    def __enter__(self):
        self.originals = {
            name: getattr(dist, name) for name in ("all_reduce", "all_gather", "reduce_scatter", "broadcast")
        }
        for name, function in self.originals.items():
            setattr(dist, name, self._logged(name, function))
        return self

    def __exit__(self, *exception):
        for name, function in self.originals.items():
            setattr(dist, name, function)

    def _logged(self, name, function):
        def call(*args, **kwargs):
            handed_in = args[1] if name in ("all_gather", "reduce_scatter") else args[0]
            tensors = handed_in if isinstance(handed_in, (list, tuple)) else [handed_in]
            self.calls.append((name, sum(t.nbytes for t in tensors)))
            start = time.perf_counter()
            done = function(*args, **kwargs)
            self.seconds += time.perf_counter() - start
            return done

        return call


def loss_function(method, world, K, seed):
    """The regularizer of one method, a module or a function of the embeddings."""
    if method == "lightly":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from lightly.loss.lejepa_loss import SIGReg as Lightly
        return Lightly(num_vectors=K, gather_distributed=world > 1)
    if method == "gather":
        local = SIGReg(num_slices=K, seed=seed, group=None)
        return lambda z: local(*resolve("auto").all_gather(z))
    return SIGReg(num_slices=K * world if method == "sums_more" else K, seed=seed)


def work(rank, world, folder, cfg):
    """One rank: every method at every N; rank 0 writes what it saw."""
    warnings.simplefilter("ignore")  # torch deprecates what lightly calls
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world)
    V, D, K = cfg["views"], cfg["width"], cfg["slices"]
    rows = []
    for N in cfg["samples"]:
        generator = torch.Generator().manual_seed(1000 * cfg["seed"] + rank)
        z = torch.randn(V, N, D, generator=generator) * torch.linspace(0.5, 1.5, D)
        for method in METHODS:
            torch.manual_seed(cfg["seed"])
            loss = loss_function(method, world, K, cfg["seed"])
            z.requires_grad_().grad = None
            loss(z).backward()  # warms up, and compares the settings of the ranks
            times, waits, values = [], [], []
            for _ in range(cfg["steps"]):
                dist.barrier()
                with Log() as log:
                    start = time.perf_counter()
                    value = loss(z)
                    value.backward()
                    times.append(time.perf_counter() - start)
                waits.append(log.seconds)
                values.append(value.item())
            expected = calls(method, world, V, N, D, K)
            if sorted(log.calls) != sorted(expected):
                raise AssertionError(f"{method}: the model says {expected}, the step sent {log.calls}")
            rows.append(
                {
                    "method": method,
                    "N": N,
                    "collectives": len(log.calls),
                    "sent_bytes": sum(sent(*call, world) for call in log.calls),
                    "step_ms": 1e3 * statistics.median(times),
                    "collectives_ms": 1e3 * statistics.median(waits),
                    "value": statistics.mean(values),
                    "sd": statistics.stdev(values),
                }
            )
    if rank == 0:
        Path(folder, "rows.json").write_text(json.dumps(rows))
    dist.destroy_process_group()


def measure(cfg):
    """A row for each method and number of samples, seen by rank 0 of as many processes."""
    plain = {key: cfg[key] for key in ("views", "width", "slices", "steps", "seed")}
    plain["samples"] = [int(N) for N in str(cfg.samples).split()]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (cfg.world, folder, plain), nprocs=cfg.world)
        return json.loads(Path(folder, "rows.json").read_text())


def newest(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last sweep's settings: others have other numbers of samples."""
    return frame[frame.samples == frame.sort_values("date").samples.iloc[-1]]


def table(frame: pd.DataFrame) -> str:
    """What was counted and timed at every world size, then the model."""
    frame = newest(frame)
    mean = frame.groupby(["world", "N", "method"], sort=False)[
        ["collectives", "sent_bytes", "step_ms", "collectives_ms", "sd"]
    ].mean()
    mean["sent_bytes"] /= 2**20
    measured = mean.rename(columns={"sent_bytes": "sent MiB", "sd": "sd over directions"})
    return "\n\n".join(
        [
            markdown(measured),
            f"The model, for {SHAPE}; alpha {ALPHA * 1e6:.0f} µs, beta "
            f"{BETA / 1e9:.0f} GB/s: milliseconds of collectives a step (sent MiB).",
            markdown(modelled()),
        ]
    )


def modelled() -> pd.DataFrame:
    """The model at 8...1024 GPUs."""
    rows = {}
    for p in (8, 32, 128, 512, 1024):
        costs = {method: calls(method, p, *MODELLED) for method in METHODS}
        rows[p] = {
            method: f"{1e3 * sum(seconds(*call, p) for call in made):.3g} "
            f"({sum(sent(*call, p) for call in made) / 2**20:.3g})"
            for method, made in costs.items()
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("GPUs")


def _looks(world: str) -> dict[str, tuple[str, str, str]]:
    """Name, colour and marker of each method at a number of ranks."""
    return {
        "sums": ("ours", picture.BLUE, "o"),
        "sums_more": (f"ours, {world} times the slices", picture.SKY, "s"),
        "lightly": ("lightly", picture.RED, "^"),
        "gather": ("gather everything", picture.ORANGE, "D"),
    }


def figure(frame: pd.DataFrame) -> Figure:
    """Bytes that were sent and counted, and times on gloo, a row for each world size; then the model."""
    frame = newest(frame)
    worlds = [int(world) for world in sorted(frame.world.unique()) if world > 1]
    with mpl.rc_context(picture.STYLE):
        fig = Figure(figsize=(16, 3.9 * len(worlds) + 1.0), layout="constrained")
        axes = fig.subplot_mosaic([[f"sent {world}", f"time {world}", "model"] for world in worlds])
    picture.heading(
        fig,
        "Sharing a batch over ranks",
        "Bytes: counted in calls, equal to a formula. Times: processes that share a few CPU cores, mean and "
        f"range over {frame.seed.nunique()} seeds; read them as ratios. The model assumes alpha = "
        f"{ALPHA * 1e6:.0f} µs a hop and beta = {BETA / 1e9:.0f} GB/s, {SHAPE}; it was never run on GPUs.",
    )
    ends = {}
    for world in worlds:
        sent_ax, time_ax = axes[f"sent {world}"], axes[f"time {world}"]
        ends[sent_ax], ends[time_ax] = _measured(sent_ax, time_ax, frame[frame.world == world], world)
        picture.label(sent_ax, f"Counted: sent by a rank of {world}", "N of a rank", "MiB a step")
        picture.label(time_ax, f"Measured: a step of {world} gloo processes", "N of a rank", "ms")
    for kind in ("sent", "time"):
        picture.same_height([axes[f"{kind} {world}"] for world in worlds])
    ends[axes["model"]] = _model(axes["model"])
    for ax, found in ends.items():
        picture.plain_log(ax.yaxis)
        ax.grid(axis="y", color=picture.PALE, linewidth=0.6)
        picture.name_ends(ax, found, gap=0.035 if ax is axes["model"] else 0.07)
    return fig


def _measured(sent_ax: Axes, time_ax: Axes, frame: pd.DataFrame, world: int) -> tuple[list[End], list[End]]:
    """Bytes and times against N at one world size; the ends of both panels' lines."""
    ends: tuple[list[End], list[End]] = ([], [])
    for method, (name, colour, marker) in _looks(str(world)).items():
        rows = frame[frame.method == method].groupby("N")
        mib = rows.sent_bytes.mean() / 2**20
        sent_ax.plot(mib.index, mib, marker=marker, color=colour)
        times = rows.step_ms.agg(["mean", "min", "max"])
        bars = {"yerr": picture.ranges(times), "capsize": 2.5, "elinewidth": 1}
        time_ax.errorbar(times.index, times["mean"], marker=marker, color=colour, **bars)
        for found, line in zip(ends, (mib, times["mean"]), strict=True):
            found.append((line.index[-1], line.iloc[-1], name, colour))
    for ax in (sent_ax, time_ax):
        ax.set_yscale("log")
        picture.log_ticks(ax, frame.N.unique(), base=2)
    return ends


def _model(ax: Axes) -> list[End]:
    """Seconds of collectives by the formula, dashed; the lines' ends."""
    ranks, ends = [2**i for i in range(3, 11)], []
    for method, (name, colour, marker) in _looks("p").items():
        cost = [1e3 * sum(seconds(*c, p) for c in calls(method, p, *MODELLED)) for p in ranks]
        ax.plot(ranks, cost, "--", marker=marker, ms=3, color=colour)
        ends.append((ranks[-1], cost[-1], name, colour))
    ax.set_yscale("log")
    picture.log_ticks(ax, [8, 32, 128, 512], base=2)
    picture.label(ax, "MODEL, NOT MEASURED: time a step waits", "GPUs p", "ms of collectives")
    return ends
