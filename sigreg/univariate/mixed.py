"""A weighted sum of statistics is a statistic."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sigreg.collectives import ALONE, Ranks
from sigreg.univariate.contract import Statistic, takes_ranks


class Mixed:
    """`sum_i weight_i * statistic_i(x)`; made by `sigreg.univariate.bind` from a dict.

    Members made of sums get the `ranks`; the sample is gathered once for all the others.

    Example:
        >>> import torch
        >>> from sigreg.univariate import epps_pulley, vcreg
        >>> x = torch.zeros(10, 1)
        >>> mixed = Mixed({epps_pulley: 1.0, vcreg: 0.1})
        >>> bool(torch.isclose(mixed(x), epps_pulley(x) + 0.1 * vcreg(x)))
        True
    """

    def __init__(self, weights: Mapping[Statistic, float]) -> None:
        if not weights:
            raise ValueError("a mix needs at least one statistic, e.g. {'epps_pulley': 1.0, 'vcreg': 0.1}")
        self.weights = dict(weights)
        described = (f"{name_of(f)}: {weight}" for f, weight in self.weights.items())
        self.__name__ = "{" + ", ".join(described) + "}"

    def __call__(self, x: Tensor, *, ranks: Ranks = ALONE) -> Tensor:
        whole = x if all(map(takes_ranks, self.weights)) else ranks.gather(x)
        terms = [
            weight * (f(x, ranks=ranks) if takes_ranks(f) else f(whole))  # type: ignore[call-arg]
            for f, weight in self.weights.items()
        ]
        return functools.reduce(lambda a, b: a + b, terms)


def name_of(function: Any) -> str:
    """What to call a statistic in a message: its name, and the settings bound to it."""
    if isinstance(function, functools.partial):
        settings = ", ".join(f"{k}={v}" for k, v in function.keywords.items())
        return f"{name_of(function.func)}({settings})"
    return str(getattr(function, "__name__", type(function).__name__))
