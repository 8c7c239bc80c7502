"""The table of statistics and what each promises, which several files of tests go through."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from sigreg.collectives import BatchGroup
from sigreg.sample import Sample
from sigreg.univariate.statistic import parse
from tests import oracles
from tests.oracles import Oracle

MANY = 1e-10  # what float64 leaves of a promise, relative to numbers of order 1

BLIND = "blind to location and scale by definition"
SHAPELESS = "sees mean and standard deviation only, which this alternative shares with N(0,1)"
MOMENTS = "sees four moments only, which this alternative shares with N(0,1) (Theorem 3)"
CONVEX = "subtracts the pair (n, n), so its values scatter around 0 on normal samples by design"
SPACINGS = "an estimate of a divergence from random spacings; large normal samples fall slightly below 0"
OVERFLOW = "the sixth moment of 1e4, squared, is beyond float32 (the docstring says so)"


def bind(choice, **settings) -> Callable[..., Tensor]:
    """What SIGReg computes of each slice for a choice: the weighted sum of its members."""
    members = parse(choice, settings)

    def statistic(x: Tensor, weights: Tensor | None = None, group=None) -> Tensor:
        sample = Sample(x, weights, group)
        return functools.reduce(Tensor.add, [m.weight * m(sample) for m in members])

    return statistic


class Row(NamedTuple):
    statistic: Callable[..., Tensor]
    oracle: Oracle
    skips: dict[str, str] = {}  # noqa: RUF012 (never written to)


SHAPES = ("uniform", "Laplace", "bimodal", "heavy-tailed", "same first four moments")
TABLE = {
    "epps_pulley": Row(bind("epps_pulley"), oracles.epps_pulley),
    "epps_pulley unbiased": Row(
        bind("epps_pulley", unbiased=True), oracles.epps_pulley_unbiased, {"non-negative": CONVEX}
    ),
    "epps_pulley accurate": Row(
        bind("epps_pulley", grid="accurate"), functools.partial(oracles.epps_pulley, t_max=4.0, num_points=9)
    ),
    "jarque_bera": Row(
        bind("jarque_bera"),
        oracles.jarque_bera,
        {"shifted": BLIND, "scaled": BLIND, "same first four moments": MOMENTS},
    ),
    "extended_jarque_bera": Row(
        bind("extended_jarque_bera"), oracles.extended_jarque_bera, {"same first four moments": MOMENTS}
    ),
    "vcreg": Row(bind("vcreg"), oracles.vcreg, dict.fromkeys(SHAPES, SHAPELESS)),
    "moments": Row(bind("moments"), oracles.moments, {"same first four moments": MOMENTS}),
    "moments six": Row(
        bind("moments", k_max=6),
        functools.partial(oracles.moments, k_max=6),
        dict.fromkeys(("1e4 wide", "a large constant"), OVERFLOW),
    ),
    "cramer_von_mises": Row(bind("cramer_von_mises"), oracles.cramer_von_mises),
    "watson": Row(bind("watson"), oracles.watson),
    "anderson_darling": Row(bind("anderson_darling"), oracles.anderson_darling),
    "shapiro_francia": Row(
        bind("shapiro_francia"), oracles.shapiro_francia, {"shifted": BLIND, "scaled": BLIND}
    ),
    "shapiro_francia scale": Row(bind("shapiro_francia", scale=True), oracles.shapiro_francia_scale),
    "vasicek_entropy": Row(bind("vasicek_entropy"), oracles.vasicek_entropy, {"non-negative": SPACINGS}),
    "mixed": Row(bind({"epps_pulley": 1.0, "vcreg": 0.1, "cramer_von_mises": 2.0}), oracles.mixed),
}
MERGEABLE = ("epps_pulley", "jarque_bera", "extended_jarque_bera", "vcreg", "moments")
BY_SUMS = [key for key in TABLE if key.split()[0] in MERGEABLE]


def promise(name: str = "", rows: list[str] | None = None) -> pytest.MarkDecorator:
    """Run a test for every row, or skip the cell with the reason written in the table."""
    cells = []
    for key in rows or TABLE:
        reason = TABLE[key].skips.get(name)
        cells.append(pytest.param(key, marks=pytest.mark.skip(reason=reason) if reason else ()))
    return pytest.mark.parametrize("key", cells)


class Threads(BatchGroup):
    """Two ranks as two threads: sums and gathers meet at a barrier, and stay differentiable."""

    def __init__(self, rank: int, board: dict[int, list[Tensor]], barrier: threading.Barrier) -> None:
        self.group, self.size = None, 2
        self.rank, self.board, self.barrier = rank, board, barrier
        self.gathers = 0

    def _exchange(self, *mine: Tensor) -> list[list[Tensor]]:
        self.board[self.rank] = list(mine)
        self.barrier.wait()
        both = [self.board[0], self.board[1]]
        self.barrier.wait()
        return both

    def all_reduce(self, *parts: Tensor) -> tuple[Tensor, ...]:
        return tuple(a + b for a, b in zip(*self._exchange(*parts), strict=True))

    def all_gather(self, *parts: Tensor) -> tuple[Tensor, ...]:
        self.gathers += 1
        return tuple(torch.cat(both, dim=-2) for both in zip(*self._exchange(*parts), strict=True))


def over_two_ranks(
    statistic: Callable[..., Tensor], parts: list[Tensor], weights: list[Tensor | None] | None = None
) -> tuple[list[Tensor], list[Threads]]:
    barrier, board, values = threading.Barrier(2, timeout=20), {}, [torch.empty(0)] * 2
    ranks = [Threads(r, board, barrier) for r in range(2)]
    weights = [None, None] if weights is None else weights

    def work(r: int) -> None:
        values[r] = statistic(parts[r], weights=weights[r], group=ranks[r])

    threads = [threading.Thread(target=work, args=(r,)) for r in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return values, ranks
