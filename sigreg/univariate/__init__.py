"""Univariate goodness-of-fit statistics against N(0,1): pure functions `(..., N, K) -> (..., K)`.

Made of sums, hence a small message over several processes: `epps_pulley`, `jarque_bera`,
`extended_jarque_bera`, `vcreg`, `moments`.  Made of order, hence a sort and a gather:
`cramer_von_mises`, `anderson_darling`, `watson`, `shapiro_francia`, `vasicek_entropy`.
"""

from sigreg.univariate.anderson_darling import anderson_darling as anderson_darling
from sigreg.univariate.binding import STATISTICS as STATISTICS
from sigreg.univariate.binding import Choice as Choice
from sigreg.univariate.binding import bind as bind
from sigreg.univariate.contract import Statistic as Statistic
from sigreg.univariate.contract import checked as checked
from sigreg.univariate.contract import takes_ranks as takes_ranks
from sigreg.univariate.cramer_von_mises import cramer_von_mises as cramer_von_mises
from sigreg.univariate.epps_pulley import epps_pulley as epps_pulley
from sigreg.univariate.jarque_bera import extended_jarque_bera as extended_jarque_bera
from sigreg.univariate.jarque_bera import jarque_bera as jarque_bera
from sigreg.univariate.mixed import Mixed as Mixed
from sigreg.univariate.mixed import name_of as name_of
from sigreg.univariate.moments import moments as moments
from sigreg.univariate.shapiro_francia import shapiro_francia as shapiro_francia
from sigreg.univariate.vasicek_entropy import vasicek_entropy as vasicek_entropy
from sigreg.univariate.vcreg import vcreg as vcreg
from sigreg.univariate.watson import watson as watson

__all__ = [
    "STATISTICS",
    "Choice",
    "Mixed",
    "Statistic",
    "anderson_darling",
    "bind",
    "checked",
    "cramer_von_mises",
    "epps_pulley",
    "extended_jarque_bera",
    "jarque_bera",
    "moments",
    "name_of",
    "shapiro_francia",
    "takes_ranks",
    "vasicek_entropy",
    "vcreg",
    "watson",
]
