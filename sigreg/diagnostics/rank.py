"""The effective rank of a sample, what N(0, I) would show, and the rank of the distribution behind it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def effective_rank(spectrum: Tensor) -> Tensor:
    """exp(entropy of the normalised spectrum), a number in 1...D; 1 where all of it is 0."""
    spectrum = spectrum.clamp(min=0)  # rounding
    share = spectrum / spectrum.sum().clamp(min=1e-300)
    rank: Tensor = torch.special.entr(share).sum().exp()
    return rank


def expected_effective_rank(N: float, D: float) -> float:
    """About the effective rank of the covariance of N samples of N(0, I) in D dimensions.

    With m = min(D, N - 1) and M = max(D, N - 1): m exp(-(m + 2)(m - 1) / (2 m M)), the entropy expanded to
    the second order in the spread of a Wishart matrix's spectrum.
    """
    m, M = min(D, N - 1), max(D, N - 1)
    return 1.0 if m <= 1 else m * math.exp(-(m + 2) * (m - 1) / (2 * m * M))


def rank_behind(effective: float, N: float, D: int) -> float:
    """The r in 1...D for which N samples of a Gaussian of rank r show this effective rank, by bisection.

    Effective ranks are below D because N is finite: N(0, I) shows 91 at N = 128 and D = 192.
    """
    low, high = 1.0, float(D)
    if expected_effective_rank(N, high) <= effective:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        if expected_effective_rank(N, middle) < effective:
            low = middle
        else:
            high = middle
    return low
