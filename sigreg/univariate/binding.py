"""From what a user writes, a name, a callable or a dict of weights, to a statistic with its settings."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any, TypeAlias

from sigreg.univariate.anderson_darling import anderson_darling
from sigreg.univariate.contract import Statistic
from sigreg.univariate.cramer_von_mises import cramer_von_mises
from sigreg.univariate.epps_pulley import epps_pulley
from sigreg.univariate.jarque_bera import extended_jarque_bera, jarque_bera
from sigreg.univariate.mixed import Mixed, name_of
from sigreg.univariate.moments import moments
from sigreg.univariate.shapiro_francia import shapiro_francia
from sigreg.univariate.vasicek_entropy import vasicek_entropy
from sigreg.univariate.vcreg import vcreg
from sigreg.univariate.watson import watson

STATISTICS: dict[str, Statistic] = {
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

Choice: TypeAlias = "str | Statistic | Mapping[Any, float]"


def bind(statistic: Choice, **settings: Any) -> Statistic:
    """The statistic behind a name, a callable or a dict of weights, with `settings` bound to it.

    In a mix every setting goes to each member that knows it.

    Raises:
        TypeError: not a statistic, or a setting that it (or no member of the mix) knows.
        ValueError: an unknown name or an empty mix.

    Example:
        >>> name_of(bind({"epps_pulley": 1.0, "vcreg": 0.1}, t_max=5.0))
        '{epps_pulley(t_max=5.0): 1.0, vcreg: 0.1}'
    """
    if isinstance(statistic, Mapping):
        members = {_resolve(member): weight for member, weight in statistic.items()}
        known = set[str]().union(*map(_parameters, members))
        _refuse(settings.keys() - known, "none of the mixed statistics takes")
        return Mixed({_with(f, settings): float(weight) for f, weight in members.items()})
    statistic = _resolve(statistic)
    _refuse(settings.keys() - _parameters(statistic), f"{name_of(statistic)} does not take")
    return _with(statistic, settings)


def _resolve(statistic: str | Statistic) -> Statistic:
    if isinstance(statistic, str):
        if statistic not in STATISTICS:
            known = sorted(STATISTICS)
            raise ValueError(f"statistic={statistic!r} is unknown; use one of {known} or a callable")
        return STATISTICS[statistic]
    if not callable(statistic):
        raise TypeError(
            "statistic must be a name, a callable (..., N, K) -> (..., K) or a dict of weights, "
            f"got {statistic!r}"
        )
    return statistic


def _parameters(statistic: Statistic) -> set[str]:
    return set(inspect.signature(statistic).parameters)


def _with(statistic: Statistic, settings: dict[str, Any]) -> Statistic:
    mine = {k: v for k, v in settings.items() if k in _parameters(statistic)}
    return functools.partial(statistic, **mine) if mine else statistic


def _refuse(unknown: set[str], problem: str) -> None:
    if unknown:
        raise TypeError(f"{problem} {sorted(unknown)}; see the statistic's docstring for its settings")
