"""What SIGReg can reach: the expected value of a Gaussian that fills r of D dimensions.

1.05 is the expected value under N(0, I).  Embeddings that vary in r < D directions only cannot have it;
`reachable_value` computes what they can have at the best scale.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from sigreg.arguments import assert_number
from sigreg.kernels.quadrature import points
from sigreg.univariate.epps_pulley import quadrature

_SCALES = 33  # of each of the rounds of the search, which narrow the interval by a factor of 16
_ROUNDS = 4


def expected_value(grid: str = "reference") -> float:
    """The mean of Epps-Pulley under N(0, I), at every N: sum_p w_p (1 - phi_p^2).

    It holds for `epps_pulley` as `SIGReg` computes it by default, with its O(1/N) bias.  With `unbiased=True`
    the mean is 0; other statistics have other means (docs/mathematics.md).

    Args:
        grid: of `epps_pulley`, "reference" or "accurate".

    Returns:
        1.0525 for the reference grid.

    Raises:
        ValueError: an unknown grid.

    Example:
        >>> round(expected_value(), 4)
        1.0525
    """
    phi, w = reference_points(grid)
    return float((w * (1 - phi.square())).sum())


def collapsed_value(N: float, grid: str = "reference") -> float:
    """Epps-Pulley of N embeddings that are all 0: N sum_p w_p (1 - phi_p)^2.

    It holds for `epps_pulley` as `SIGReg` computes it by default, not with `unbiased=True`.

    Args:
        N: the number of rows tested together, or their effective sample size.
        grid: of `epps_pulley`, "reference" or "accurate".

    Returns:
        0.40205 N for the reference grid.

    Raises:
        TypeError: N is no number.
        ValueError: N < 1, or an unknown grid.

    Example:
        >>> [round(collapsed_value(N), 4) for N in (16, 128)]
        [6.4328, 51.4621]
    """
    assert_number(1, N=N)
    phi, w = reference_points(grid)
    return float(N * (w * (1 - phi).square()).sum())


@functools.lru_cache(maxsize=256)
def reachable_value(rank: float, N: float, D: int, grid: str = "reference") -> float:
    """The lowest expected Epps-Pulley value of a Gaussian with equal variance in `rank` of D dimensions.

    Let its standard deviation be s in each of r = `rank` directions, and P the projection on them.  Along a
    random unit vector a the slice is normal with the variance s^2 |P a|^2, which is not the same for every a.
    The value is the minimum over s of the expected statistic:

        R(r, N, D) = min_s N sum_p w_p [ (1 - 1/N) M(s^2 t_p^2) + 1/N - 2 phi_p M(s^2 t_p^2 / 2) + phi_p^2 ],

        M(c) = E exp(-c b),   b = |P a|^2 ~ Beta(r/2, (D - r)/2),

    with the grid t_p and the weights w_p of the statistic, and phi_p = exp(-t_p^2 / 2).

    Args:
        rank: 1...D, not necessarily a whole number.
        N: the number of rows tested together, or their effective sample size.
        D: embedding width.
        grid: of `epps_pulley`.

    Returns:
        The minimum over the scale of the Gaussian.  At full rank it is below `expected_value()`, by at most
        2 % at N = 32, because for a finite N the minimum is at a smaller scale.

    Raises:
        TypeError: N is no number.
        ValueError: a rank outside 1...D, N < 1, or an unknown grid.

    Example:
        >>> [round(reachable_value(9, N, 192), 1) for N in (128, 256, 1024)]
        [4.2, 7.5, 26.9]
        >>> round(reachable_value(192, 1024, 192), 2)
        1.05
    """
    assert_number(1, N=N)
    if not 1 <= rank <= D:
        raise ValueError(f"rank={rank} must lie in 1...D; D={D}, N={N}")
    phi, w = reference_points(grid)
    t2 = -2 * phi.log()
    low, high = math.log(0.5 if N >= 4 else 1e-6), math.log(4 * D / rank)  # of one row the best scale is 0
    best = math.inf
    for _ in range(_ROUNDS):
        log_scale = torch.linspace(low, high, _SCALES, dtype=torch.float64, device=phi.device)
        c = log_scale.exp()[:, None] * t2  # (scales, points)
        modulus, real = _beta_mean(c, rank, D), _beta_mean(c / 2, rank, D)
        values = N * (w * ((1 - 1 / N) * modulus + 1 / N - 2 * phi * real + phi.square())).sum(1)
        i = int(values.argmin())
        best = float(values[i])
        low, high = float(log_scale[max(i - 1, 0)]), float(log_scale[min(i + 1, _SCALES - 1)])
    return best


def reference_points(grid: str = "reference") -> tuple[Tensor, Tensor]:
    """phi and w of a grid in float64: `(P,)` each."""
    t_max, num_points = quadrature(grid)
    return points(t_max, num_points, torch.empty(0, dtype=torch.float64, device="cpu"))


def _beta_mean(c: Tensor, rank: float, D: int) -> Tensor:
    """E exp(-c b) for b ~ Beta(rank/2, (D - rank)/2), elementwise.

    Kummer's transformation makes every term positive: with k ~ Poisson(c),

        E exp(-c b) = 1F1(rank/2; D/2; -c) = E_k [ (D - rank)/2 ]_k / [ D/2 ]_k,

    where [a]_k = a (a + 1) ... (a + k - 1).  At most 200 terms are summed for each c, whatever its size.  The
    ratio lies in [0, 1], so that the k further from c than 9 standard deviations sqrt(c) and 60 add less than
    exp(-40) (Chernoff's bound).  Of the others every s-th is taken, s times, with s <= sqrt(c) / 3: by
    Poisson's summation formula the difference is of the order of |E exp(2 pi i k / s)| =
    exp(-c (1 - cos(2 pi / s))) <= exp(-72).  What remains is rounding in the exponents, eps times 5 c.
    """
    radius, stride = 9 * c.sqrt() + 60, (c.sqrt() / 3).long().clamp(min=1)
    k = torch.arange(int((c + radius).max()) + 1, dtype=torch.float64, device=c.device)
    ratio = (((D - rank) / 2 + k[:-1]) / (D / 2 + k[:-1])).log().cumsum(0)  # -inf at full rank
    log_terms = torch.cat([ratio.new_zeros(1), ratio]) - torch.lgamma(k + 1)
    first = (c - radius).clamp(min=0).long()
    most = int((((c + radius).long() - first) // stride).max()) + 1
    chosen = first.unsqueeze(-1) + stride.unsqueeze(-1) * torch.arange(most, device=c.device)
    inside, chosen = chosen < len(k), chosen.clamp(max=len(k) - 1)
    c = c.unsqueeze(-1)
    terms = (log_terms[chosen] + chosen * c.log() - c).exp()
    return stride * torch.where(inside, terms, 0.0).sum(-1)
