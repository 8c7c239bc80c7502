"""Univariate goodness-of-fit statistics against N(0,1): pure functions `(..., N, K) -> (..., K)`."""

from sigreg.univariate.contract import Statistic as Statistic
from sigreg.univariate.contract import checked as checked
from sigreg.univariate.epps_pulley import epps_pulley as epps_pulley

STATISTICS: dict[str, Statistic] = {"epps_pulley": epps_pulley}

__all__ = ["STATISTICS", "Statistic", "checked", "epps_pulley"]
