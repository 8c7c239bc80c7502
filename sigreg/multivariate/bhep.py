"""BHEP and Henze-Zirkler: characteristic functions compared in R^D itself, without slices."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sigreg.multivariate.pairs import Kernel, Rows, pair_mean, per_sample


def _gaussian(rate: float) -> Kernel:
    return Kernel(lambda r2: torch.exp(-rate * r2), lambda r2: -rate * torch.exp(-rate * r2))


def _bhep(s: Rows, beta: float) -> Tensor:
    N, D = s.N, s.x.shape[1]
    b2 = beta**2
    pairs = pair_mean(s, _gaussian(b2 / 2))
    singles = pair_mean(s, _gaussian(b2 / (2 * (1 + b2))), other=s.x.new_zeros(1, D))
    # the powers in log space: (1 + b2)^(-D/2) leaves float64 near D = 1024 when beta is large
    one, two = math.exp(-D / 2 * math.log1p(b2)), math.exp(-D / 2 * math.log1p(2 * b2))
    return N * (pairs - 2 * one * singles + two)


def bhep(z: Tensor, beta: float = 1.0, *, weights: Tensor | None = None) -> Tensor:
    r"""The BHEP statistic against N(0, I), without estimated parameters.

        T = N ∫ |phi_hat(t) - exp(-|t|^2/2)|^2 n(t) dt,   n the density of N(0, beta^2 I)
          = N [ mean_jk e^{-beta^2 |z_j - z_k|^2 / 2}
                - 2 (1 + beta^2)^{-D/2} mean_j e^{-beta^2 |z_j|^2 / (2 (1 + beta^2))}
                + (1 + 2 beta^2)^{-D/2} ]

    Standardisation: none.  The textbook statistic first whitens the sample; this one compares it with
    N(0, I) unchanged, so location and scale count, as they do for SIGReg.  In one dimension
    sqrt(2 pi) bhep(z, 1) is the Epps-Pulley integral.  With a normalised weight function all three terms lie
    in [0, 1] for every D.  At large D and beta = 1 nearly everything but the pairs (j, j) underflows
    and T is 1: distances concentrate, so choose beta of order 1/sqrt(D), where T still depends on the sample.

    Args:
        z: embeddings, `(..., N, D)`, any floating dtype; computed in float64.
        beta: width of the weight function in t, > 0; a small one compares low moments, a large one detail.
        weights: bool or non-negative floats that broadcast to `(..., N)`, as in `sigreg.functional.sigreg`.

    Returns:
        `(...)`, times N, never negative.

    Raises:
        TypeError: `z` is not a floating-point tensor.
        ValueError: beta <= 0, fewer than two dimensions or two samples.

    Example:
        >>> import torch
        >>> z = torch.zeros(8, 2)  # every term is known: N (1 - 2 / 2 + 1 / 3)
        >>> bhep(z).round(decimals=4)
        tensor(2.6667)

    Source: Baringhaus and Henze, Metrika 35 (1988); Henze and Wagner, J. Multivariate Analysis 62 (1997).
    """
    if not 0 < beta < math.inf:
        raise ValueError(f"beta={beta} must be a positive number; 1 is customary at small D")
    return per_sample(z, weights, lambda s: _bhep(s, beta))


def henze_zirkler(z: Tensor, *, weights: Tensor | None = None) -> Tensor:
    r"""Henze and Zirkler's statistic: BHEP of the whitened sample, with beta chosen for its N and D.

        HZ = BHEP_beta(y),   y_j = S^{-1/2} (z_j - mean)
        beta = ((2 D + 1) N / 4)^{1/(D+4)} / sqrt(2)

    Standardisation: by the sample's own (weighted) mean and covariance S (with the divisor N), so HZ tests
    normality with any location and covariance.  It is a test of embeddings and not a regularizer.

    Args:
        z: embeddings, `(..., N, D)`, any floating dtype; computed in float64.
        weights: bool or non-negative floats that broadcast to `(..., N)`, as in `sigreg.functional.sigreg`.

    Returns:
        `(...)`, times N.  By its authors' convention 4 N where S is singular, as it is for D or fewer rows.

    Raises:
        TypeError: `z` is not a floating-point tensor.
        ValueError: fewer than two dimensions or two samples, unusable weights.

    Example:
        >>> import torch
        >>> z = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
        >>> mixing = torch.tensor([[2.0, 0, 0, 0], [1, 1, 0, 0], [0, 3, 1, 0], [1, 1, 1, 1]])
        >>> bool(torch.isclose(henze_zirkler(z), henze_zirkler(z @ mixing + 5)))
        True

    Source: Henze and Zirkler, Communications in Statistics 19 (1990).
    """
    return per_sample(z, weights, _henze_zirkler)


def _henze_zirkler(s: Rows) -> Tensor:
    z, D, N = s.x, s.x.shape[1], float(s.N)
    nothing = 0 * z.sum()  # so that the value stays a function of z, with gradient 0
    if int((s.p > 0).sum()) <= D:
        return 4 * N + nothing
    y = z - s.p @ z
    S = y.T @ (s.p[:, None] * y)
    L, failed = torch.linalg.cholesky_ex(S.detach())
    pivots = L.diagonal()
    singular = (failed > 0) | (pivots.min() <= 1e-7 * pivots.max())  # float64's noise in the covariance
    S = torch.where(singular, torch.eye(D, dtype=z.dtype, device=z.device), S)  # no nan in the gradient
    L = torch.linalg.cholesky(S)
    whitened = torch.linalg.solve_triangular(L, y.T, upper=False).T
    beta = math.exp(math.log((2 * D + 1) * N / 4) / (D + 4)) / math.sqrt(2)
    return torch.where(singular, 4 * N + nothing, _bhep(Rows(whitened, s.p, N), beta))
