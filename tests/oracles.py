"""Every statistic again, slow and obvious, on one float64 sample: by SciPy where it has one."""

import math
from collections.abc import Callable

import numpy as np
import scipy.special
import scipy.stats
from numpy.polynomial.hermite_e import hermeval
from numpy.typing import NDArray

Sample = NDArray[np.float64]


def grid(t_max: float = 3.0, num_points: int = 17) -> tuple[Sample, Sample, Sample]:
    """Points t, weights (window included, both half-lines) and the target phi(t) = exp(-t^2/2)."""
    t = np.linspace(0, t_max, num_points)
    dt = t[1] - t[0]
    w = np.full(num_points, 2 * dt)
    w[0] = w[-1] = dt
    phi = np.exp(-(t**2) / 2)
    return t, w * phi, phi


def epps_pulley(x: Sample, t_max: float = 3.0, num_points: int = 17) -> float:
    t, w, phi = grid(t_max, num_points)
    ecf = np.exp(1j * t[:, None] * x).mean(1)
    return float(len(x) * (w * np.abs(ecf - phi) ** 2).sum())


def epps_pulley_unbiased(x: Sample, t_max: float = 3.0, num_points: int = 17) -> float:
    """|phi_hat|^2 as the mean over pairs of different samples."""
    t, w, phi = grid(t_max, num_points)
    N = len(x)
    different = ~np.eye(N, dtype=bool)
    modulus = np.array([np.cos(s * (x[:, None] - x))[different].mean() for s in t])
    real = np.cos(t[:, None] * x).mean(1)
    return float(N * (w * (modulus - 2 * phi * real + phi**2)).sum())


def epps_pulley_integral(x: Sample) -> float:
    """Over the whole line, in closed form (BHEP with beta = 1)."""
    pairs = np.exp(-((x[:, None] - x) ** 2) / 2).mean()
    singles = np.exp(-(x**2) / 4).mean()
    return float(len(x) * math.sqrt(2 * math.pi) * (pairs - math.sqrt(2) * singles + 1 / math.sqrt(3)))


def vcreg(x: Sample) -> float:
    return float(len(x) * (x.mean() ** 2 + 2 * (x.std() - 1) ** 2))


def jarque_bera(x: Sample) -> float:
    if np.ptp(x) == 0:  # SciPy: nan; ours counts skewness and kurtosis as 0
        return 3 * len(x) / 8
    return float(scipy.stats.jarque_bera(x).statistic)


def extended_jarque_bera(x: Sample) -> float:
    return jarque_bera(x) + vcreg(x)


def moments(x: Sample, k_max: int = 4) -> float:
    means = [hermeval(x, np.eye(k + 1)[k]).mean() for k in range(1, k_max + 1)]
    return float(len(x) * sum(m**2 / math.factorial(k) for k, m in enumerate(means, 1)))


def cramer_von_mises(x: Sample) -> float:
    return float(scipy.stats.cramervonmises(x, "norm").statistic)


def watson(x: Sample) -> float:
    return cramer_von_mises(x) - len(x) * (scipy.special.ndtr(x).mean() - 0.5) ** 2


def anderson_darling(x: Sample) -> float:
    x = np.sort(x)
    i = np.arange(1, len(x) + 1)
    logs = scipy.special.log_ndtr(x) + scipy.special.log_ndtr(-x[::-1])
    return float(-len(x) - ((2 * i - 1) / len(x) * logs).sum())


def normal_scores(N: int) -> Sample:
    """Blom's, as the order statistics of a normal sample are approximated."""
    return scipy.stats.norm.ppf((np.arange(1, N + 1) - 0.375) / (N + 0.25))


def shapiro_francia(x: Sample) -> float:
    if np.ptp(x) == 0:
        return float(len(x))
    r = np.corrcoef(np.sort(x), normal_scores(len(x)))[0, 1]
    return float(len(x) * (1 - r**2))


def shapiro_francia_scale(x: Sample) -> float:
    return float(((np.sort(x) - normal_scores(len(x))) ** 2).sum())


def window(N: int) -> int:
    return max(1, min(math.floor(math.sqrt(N) + 0.5), (N - 1) // 2))


def vasicek_entropy(x: Sample) -> float:
    N, x = len(x), np.sort(x)
    m = window(N)
    spacings = np.array([x[min(i + m, N - 1)] - x[max(i - m, 0)] for i in range(N)])
    if N > 2 and spacings.min() > 1e-8:
        entropy = float(scipy.stats.differential_entropy(x, window_length=m, method="vasicek"))
    else:
        entropy = float(np.log(N / (2 * m) * np.maximum(spacings, 1e-8)).mean())
    return N * (0.5 * math.log(2 * math.pi) + 0.5 * float((x**2).mean()) - entropy)


def mixed(x: Sample) -> float:
    return epps_pulley(x) + 0.1 * vcreg(x) + 2.0 * cramer_von_mises(x)


Oracle = Callable[[Sample], float]
