"""A statistic with its settings, and how the choice that a user writes becomes a list of them."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, TypeAlias

from torch import Tensor, nn

from sigreg.sample import Sample, described
from sigreg.univariate.anderson_darling import anderson_darling
from sigreg.univariate.cramer_von_mises import cramer_von_mises
from sigreg.univariate.epps_pulley import epps_pulley
from sigreg.univariate.jarque_bera import extended_jarque_bera, jarque_bera
from sigreg.univariate.moments import moments
from sigreg.univariate.shapiro_francia import shapiro_francia
from sigreg.univariate.vasicek_entropy import vasicek_entropy
from sigreg.univariate.vcreg import vcreg
from sigreg.univariate.watson import watson

Function: TypeAlias = Callable[..., Tensor]
Choice: TypeAlias = "str | Function | Mapping[str | Function, float]"

STATISTICS: dict[str, Function] = {
    "anderson_darling": anderson_darling,
    "cramer_von_mises": cramer_von_mises,
    "epps_pulley": epps_pulley,
    "extended_jarque_bera": extended_jarque_bera,
    "jarque_bera": jarque_bera,
    "moments": moments,
    "shapiro_francia": shapiro_francia,
    "vasicek_entropy": vasicek_entropy,
    "vcreg": vcreg,
    "watson": watson,
}
WHOLE_EMBEDDINGS = ("bhep", "exact_sigreg", "henze_zirkler")  # of sigreg.multivariate


@dataclass(frozen=True)
class Statistic:
    """One member of a weighted sum of statistics: a function and the settings bound to it.

    `SIGReg` makes them from its argument `statistic`, and keeps them in a list of that name; there is no need
    to make one.  A keyword of `SIGReg` goes to every member that knows it.  Settings of a single member are
    bound by `functools.partial`, as in the example.

    Args:
        function: a statistic, `(..., N, K) -> (..., K)`.
        settings: keywords that it is called with.
        weight: of the member in the sum.

    Example:
        >>> from functools import partial
        >>> from sigreg import SIGReg
        >>> from sigreg.univariate import epps_pulley
        >>> SIGReg({partial(epps_pulley, t_max=5.0): 1.0, "vcreg": 0.1}).statistic[0].name
        'epps_pulley(t_max=5.0)'
    """

    function: Function
    settings: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0

    @property
    def name(self) -> str:
        """The function's name with its settings, for messages."""
        function = self.function
        name = str(getattr(function, "__name__", type(function).__name__))
        settings = ", ".join(f"{k}={v}" for k, v in self.settings.items())
        return f"{name}({settings})" if settings else name

    def __call__(self, sample: Sample) -> Tensor:
        """The statistic of each slice, `(..., N, K) -> (..., K)`, of all processes' rows together."""
        if self.function in STATISTICS.values():
            return self.function(sample, **self.settings)
        whole = sample.whole()  # a user's function is given tensors, and every row of the batch
        weights = {}
        if whole.weights is not None:
            if "weights" not in _parameters(self.function):
                raise TypeError(
                    f"{self.name} does not take weights, which a mask, weights= and memory= need; give it a "
                    "keyword weights (..., N) or leave them out"
                )
            weights["weights"] = whole.weights > 0 if whole.boolean else whole.weights
        values = self.function(whole.x, **weights, **self.settings)
        expected = (*whole.x.shape[:-2], whole.x.shape[-1])
        turn = f"{self.name} must turn (..., N, K) = {tuple(whole.x.shape)} into (..., K) = {expected}, got "
        if not isinstance(values, Tensor):
            raise TypeError(turn + described(values))
        if tuple(values.shape) != expected:
            raise ValueError(turn + str(tuple(values.shape)))
        return values


def parse(choice: Choice, settings: Mapping[str, Any]) -> list[Statistic]:
    """The members behind a name, a callable or a dict of weights; each gets the settings that it knows.

    Raises:
        TypeError: not a statistic, or a setting that it (or no member of the mix) knows.
        ValueError: an unknown name, an empty mix, a weight that is not finite, or a statistic named twice.

    Example:
        >>> [(s.name, s.weight) for s in parse({"epps_pulley": 1.0, "vcreg": 0.1}, {"t_max": 5.0})]
        [('epps_pulley(t_max=5.0)', 1.0), ('vcreg', 0.1)]
    """
    mix = list(choice.items()) if isinstance(choice, Mapping) else [(choice, 1.0)]
    if not mix:
        raise ValueError("a mix needs at least one statistic, e.g. {'epps_pulley': 1.0, 'vcreg': 0.1}")
    members = [_member(member, weight) for member, weight in mix]
    known = [_parameters(m.function) - {"x", "weights", "group"} for m in members]
    unknown = settings.keys() - set().union(*known)
    for m, its_own in zip(members, known, strict=True):
        if m.function in STATISTICS.values():
            unknown |= m.settings.keys() - its_own  # bound by functools.partial
    if unknown:
        names = " and ".join(m.name for m in members)
        takes = ", ".join(sorted(set().union(*known))) or "no setting"
        raise TypeError(
            f"{names} does not take {sorted(unknown)}, but {takes}; SIGReg itself takes num_slices, "
            "directions, seed, group, unbiased, backend and memory, and its call weights"
        )
    members = [
        Statistic(m.function, {**m.settings, **{k: v for k, v in settings.items() if k in takes}}, m.weight)
        for m, takes in zip(members, known, strict=True)
    ]
    for i, member in enumerate(members):
        if not isinstance(member.weight, Real) or isinstance(member.weight, bool):
            raise TypeError(f"the weight of {member.name} is {member.weight!r}; it must be a finite number")
        if not math.isfinite(member.weight):
            raise ValueError(f"the weight of {member.name} is {member.weight}; it must be a finite number")
        if any(member.function == m.function and member.settings == m.settings for m in members[:i]):
            raise ValueError(f"the mix names {member.name} twice; give it one weight")
    return members


def describe(members: list[Statistic]) -> str:
    """What the members are called in a message."""
    if len(members) == 1 and members[0].weight == 1:
        return members[0].name
    return "{" + ", ".join(f"{m.name}: {m.weight}" for m in members) + "}"


def _member(choice: str | Function, weight: float) -> Statistic:
    name = choice if isinstance(choice, str) else getattr(choice, "__name__", "")
    if name in WHOLE_EMBEDDINGS and (
        isinstance(choice, str) or choice.__module__.startswith("sigreg.multivariate")
    ):
        raise TypeError(
            f"{name} takes whole embeddings (..., N, D) instead of slices: add "
            f"sigreg.multivariate.{name}(z).mean() to the loss"
        )
    if isinstance(choice, str):
        if choice not in STATISTICS:
            known = sorted(STATISTICS)
            raise ValueError(f"statistic={choice!r} is unknown; use one of {known} or a callable")
        return Statistic(STATISTICS[choice], {}, weight)
    if isinstance(choice, functools.partial) and not choice.args:
        return Statistic(choice.func, dict(choice.keywords), weight)
    if not callable(choice):
        raise TypeError(
            "statistic must be a name, a callable (..., N, K) -> (..., K) or a dict of weights, "
            f"got {choice!r}"
        )
    return Statistic(choice, {}, weight)


def _parameters(function: Function) -> set[str]:
    function = function.forward if isinstance(function, nn.Module) else function
    try:
        return set(inspect.signature(function).parameters)
    except ValueError:  # some builtins have no signature
        return set()
