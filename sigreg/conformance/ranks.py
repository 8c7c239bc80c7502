"""Two processes, each with its part of a batch, against one process that holds it whole.

At D = 1 random directions make no difference, so the comparison is exact also for a copy that draws
them from a generator of its own.  Gradients are averaged over the ranks, as DistributedDataParallel does.
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sigreg.conformance.oracle import FIT, Convention
from sigreg.conformance.report import FAULT, NOTE, Row
from sigreg.conformance.target import Target

SPLITS = {"even": [24, 24], "uneven": [31, 17]}
Answer = dict[str, Any]
Run = Callable[..., list[Any]]  # run(2, function, *args) -> one answer of each rank


def batch() -> Tensor:
    """One sample `(48, 1)` whose two halves differ in mean and scale."""
    x = torch.randn(48, 1, generator=torch.Generator().manual_seed(11))
    return torch.cat([0.5 * x[:24] - 0.4, 1.5 * x[24:] + 0.6])


def on_this_rank(name: str, settings: Mapping[str, Any]) -> Answer:
    """Values and gradients of this rank's part, in a process group that exists already."""
    torch.manual_seed(1000 + dist.get_rank())  # what a copy draws from the global generator differs
    with warnings.catch_warnings():  # torch warns about a reduction without autograd, which is judged below
        warnings.simplefilter("ignore")
        return _answered(Target(name, settings))


def _answered(copy: Target) -> Answer:
    answer: Answer = {}
    for split, sizes in SPLITS.items():
        x = torch.split(batch(), sizes)[dist.get_rank()].clone().requires_grad_()
        loss = copy(x)
        loss.backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        answer[split] = float(loss.detach()), (x.grad / dist.get_world_size()).flatten().tolist()
    return answer


def judged(answers: list[Any], convention: Convention) -> Row:
    """The verdict on what two ranks answered, in words."""
    whole, uneven = (_words(answers, split, convention) for split in SPLITS)
    if whole != EXACT:
        return Row("two ranks", whole, FAULT)
    if uneven != EXACT:
        return Row("two ranks", f"{EXACT}, for parts of one size; for 31 and 17 rows: {uneven}", NOTE)
    return Row("two ranks", f"{EXACT}, parts of different size included")


EXACT = "value and gradient of one process"


def _words(answers: list[Any], split: str, convention: Convention) -> str:
    """What the two ranks computed of the batch that was split in this way; `EXACT` where it is right."""
    x = batch().double().flatten().requires_grad_()
    total = convention.value(x)
    (grad,) = torch.autograd.grad(total, x)
    expected = float(total.detach())
    parts = [float(convention.value(part)) for part in torch.split(x.detach(), SPLITS[split])]
    values = [answer[split][0] for answer in answers]
    found = torch.tensor([g for answer in answers for g in answer[split][1]], dtype=torch.float64)

    def near(ratios: list[float]) -> bool:
        return max(abs(ratio - 1) for ratio in ratios) < 3 * FIT

    if near([v / expected for v in values]):
        ratio = float((found * grad).sum() / grad.square().sum())
        if float((found - ratio * grad).abs().max() / grad.abs().max()) > 10 * FIT * abs(ratio):
            return f"value of one process, gradient in another direction (length {ratio:.3g})"
        if abs(ratio - 1) < 10 * FIT:
            return EXACT
        why = " = 1/world_size: reduced without autograd" if abs(ratio - 0.5) < 10 * FIT else ""
        return f"value of one process, gradient times {ratio:.3g}{why}"
    if near([v / part for v, part in zip(values, parts, strict=True)]):
        return "not reduced: each rank has the value of its own part"
    if near([v / (2 * part) for v, part in zip(values, parts, strict=True)]):
        return "not reduced, yet multiplied by the world size: twice the value of each rank's own part"
    if near([values[0] / values[1]]):  # a direction is +1 on one rank and -1 on the other
        return (
            f"{values[0] / expected:.3g} times the value of one process on both ranks: different directions"
        )
    ratios = ", ".join(f"{v / expected:.3g}" for v in values)
    return f"neither the whole batch nor the rank's part: {ratios} times the value of one process"


def _serve(rank: int, size: int, file: str, function: Any, args: tuple[Any, ...], answers: Any) -> None:
    torch.set_num_threads(1)
    if sys.platform == "linux":  # a machine's own name does not resolve everywhere
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    wait = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", f"file://{file}", rank=rank, world_size=size, timeout=wait)
    try:
        answers.put((rank, function(*args)))
    except Exception as error:
        answers.put((rank, error))
    dist.destroy_process_group()


def spawned(size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """`function(*args)` on `size` new gloo processes of this machine.

    Raises:
        RuntimeError: a rank raised, or gave no answer within two minutes.
    """
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (size, os.path.join(folder, "meeting"), function, args, answers)
        processes = [
            context.Process(target=_serve, args=(rank, *arguments), daemon=True) for rank in range(size)
        ]
        for process in processes:
            process.start()
        try:
            found = dict(answers.get(timeout=120) for _ in processes)
        except Exception as error:
            raise RuntimeError("a rank gave no answer within two minutes") from error
        finally:
            for process in processes:
                process.join(10)
                process.kill()
    for rank, answer in found.items():
        if isinstance(answer, Exception):
            raise RuntimeError(f"rank {rank}: {type(answer).__name__}: {answer}")
    return [found[rank] for rank in range(size)]
