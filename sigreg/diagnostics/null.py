"""How far a measured number lies from its distribution under N(0, I), in standard deviations, by formulas.

Each function transforms a number so that under N(0, I) it is close to a standard normal one; nothing is
simulated, so a diagnosis costs no more than its measurements.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from sigreg.diagnostics.reachable import reference_points

ENOUGH = 20  # rows below which the transformed skewness and kurtosis are not normal, and reported as 0


def chi_square_z(x: float, dof: float) -> float:
    """A chi-squared variable as a standard normal one (Wilson and Hilferty, PNAS 17, 1931)."""
    spread = 2 / (9 * dof)
    return float(((max(x, 0.0) / dof) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))


def f_z(x: float, dof1: float, dof2: float) -> float:
    """An F variable as a standard normal one (Paulson, Annals of Mathematical Statistics 13, 1942)."""
    a, b, root = 2 / (9 * dof1), 2 / (9 * dof2), max(x, 0.0) ** (1 / 3)
    return float(((1 - b) * root - (1 - a)) / math.sqrt(b * root**2 + a))


def skewness_z(skewness: Tensor, N: int) -> Tensor:
    """Sample skewness m3 / m2^1.5 of N normal numbers as a standard normal one (D'Agostino, 1970)."""
    if N < ENOUGH:
        return torch.zeros_like(skewness)
    y = skewness * math.sqrt((N + 1) * (N + 3) / (6 * (N - 2)))
    beta = 3 * (N**2 + 27 * N - 70) * (N + 1) * (N + 3) / ((N - 2) * (N + 5) * (N + 7) * (N + 9))
    w2 = math.sqrt(2 * (beta - 1)) - 1
    return torch.asinh(y / math.sqrt(2 / (w2 - 1))) / math.sqrt(math.log(w2) / 2)


def excess_kurtosis(kurtosis: Tensor, N: float) -> Tensor:
    """Sample kurtosis m4 / m2^2 without its mean for N normal numbers."""
    return kurtosis - 3 * (N - 1) / (N + 1)


def kurtosis_z(kurtosis: Tensor, N: float) -> Tensor:
    """Sample kurtosis m4 / m2^2 of N normal numbers as a standard normal one (Anscombe and Glynn)."""
    if N < ENOUGH:
        return torch.zeros_like(kurtosis)
    N = round(N)
    variance = 24 * N * (N - 2) * (N - 3) / ((N + 1) ** 2 * (N + 3) * (N + 5))
    root_beta = 6 * (N**2 - 5 * N + 2) / ((N + 7) * (N + 9))
    root_beta *= math.sqrt(6 * (N + 3) * (N + 5) / (N * (N - 2) * (N - 3)))
    A = 6 + 8 / root_beta * (2 / root_beta + math.sqrt(1 + 4 / root_beta**2))
    x = excess_kurtosis(kurtosis, N) / math.sqrt(variance)
    ratio = (1 - 2 / A) / (1 + x * math.sqrt(2 / (A - 4)))
    root = ratio.abs().pow(1 / 3).copysign(ratio)
    return (1 - 2 / (9 * A) - root) / math.sqrt(2 / (9 * A))


def kurtosis_of_slices_sd(K: int, D: int) -> float:
    """The sd of the mean of K standardised sample kurtoses, over independent random directions.

    Fourth moments along two directions with the cosine u have the correlation u^4, and E u^4 = 3/(D (D + 2)).
    """
    return math.sqrt(1 / K + (1 - 1 / K) * 3 / (D * (D + 2)))


@functools.lru_cache(maxsize=64)
def value_sd(K: int, D: int) -> float:
    """The standard deviation of SIGReg (the mean of Epps-Pulley over K random slices) under N(0, I), N large.

    sqrt(N) (phi_hat - phi) is a Gaussian process; along directions with the cosine u its cosine and sine
    parts have the covariances phi(s) phi(t) (cosh(u s t) - 1) and phi(s) phi(t) sinh(u s t), so that

        Cov(EP_a, EP_b) = 2 sum_pq w_p w_q phi_p^2 phi_q^2 [ (cosh(u t_p t_q) - 1)^2 + sinh(u t_p t_q)^2 ],

    here averaged over pairs of independent directions.
    """
    phi, w = reference_points()
    t = (-2 * phi.log()).sqrt()
    factor = 2 * (w * phi.square())[:, None] * (w * phi.square())

    def covariance(u: Tensor) -> Tensor:
        x = u[:, None, None] * t[:, None] * t
        return (factor * ((x.cosh() - 1).square() + x.sinh().square())).sum((1, 2))

    one = float(covariance(t.new_ones(1)))
    if D == 1:
        return math.sqrt(one)
    angle = (torch.arange(2000, dtype=torch.float64, device=t.device) + 0.5) * (math.pi / 2000)
    density = angle.sin().pow(D - 2)
    two = float((density * covariance(angle.cos())).sum() / density.sum())
    return math.sqrt(one / K + (1 - 1 / K) * two)


def value_z(value: float, K: int, D: int, mean: float) -> float:
    """SIGReg's value as a standard normal number, by the gamma distribution of its mean and variance."""
    dof = 2 * (mean / value_sd(K, D)) ** 2
    return chi_square_z(value * dof / mean, dof)
