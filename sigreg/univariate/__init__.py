"""Univariate goodness-of-fit statistics against N(0,1): pure functions `(..., N, K) -> (..., K)`.

`epps_pulley`, `jarque_bera`, `extended_jarque_bera`, `vcreg` and `moments` depend on the sample through sums,
so that several processes exchange a small message.  `cramer_von_mises`, `anderson_darling`, `watson`,
`shapiro_francia` and `vasicek_entropy` sort the sample, and gather it over several processes.

All compute in float32 at least, take `weights` (a mask or non-negative numbers) and are smaller where the
sample is more normal.
"""

from sigreg.univariate.anderson_darling import anderson_darling as anderson_darling
from sigreg.univariate.cramer_von_mises import cramer_von_mises as cramer_von_mises
from sigreg.univariate.epps_pulley import epps_pulley as epps_pulley
from sigreg.univariate.jarque_bera import extended_jarque_bera as extended_jarque_bera
from sigreg.univariate.jarque_bera import jarque_bera as jarque_bera
from sigreg.univariate.moments import moments as moments
from sigreg.univariate.shapiro_francia import shapiro_francia as shapiro_francia
from sigreg.univariate.statistic import STATISTICS as STATISTICS
from sigreg.univariate.statistic import Statistic as Statistic
from sigreg.univariate.vasicek_entropy import vasicek_entropy as vasicek_entropy
from sigreg.univariate.vcreg import vcreg as vcreg
from sigreg.univariate.watson import watson as watson

__all__ = [
    "STATISTICS",
    "Statistic",
    "anderson_darling",
    "cramer_von_mises",
    "epps_pulley",
    "extended_jarque_bera",
    "jarque_bera",
    "moments",
    "shapiro_francia",
    "vasicek_entropy",
    "vcreg",
    "watson",
]
