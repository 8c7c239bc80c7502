"""Shapiro-Francia: the sorted sample against normal scores."""

from __future__ import annotations

import torch
from torch import Tensor

from sigreg.univariate.central import is_constant
from sigreg.univariate.order import ordered


def normal_scores(N: int, like: Tensor) -> Tensor:
    """Blom's m_i = F^{-1}((i - 3/8) / (N + 1/4)) as `(N, 1)`; exactly antisymmetric."""
    p = (torch.arange(1, N + 1, device=like.device, dtype=like.dtype) - 0.375) / (N + 0.25)
    lower: Tensor = torch.special.ndtri(
        p.clamp(max=0.5)
    )  # the upper half by symmetry: 1 - p has lost its digits
    return (lower - lower.flip(0)).unsqueeze(-1)


def shapiro_francia(x: Tensor, *, scale: bool = False) -> Tensor:
    r"""Shapiro-Francia's statistic: how straight is the normal Q-Q plot?

        scale=False:  N (1 - W'),   W' = corr(x_(i), m_i)^2
        scale=True:   sum_i (x_(i) - m_i)^2

    m_i are the normal scores F^{-1}((i - 3/8)/(N + 1/4)).  W' is blind to location and scale by
    definition: use it to judge shape, not as a regularizer, which it would let collapse.  `scale=True`
    keeps the Q-Q plot but asks for the line of N(0,1) itself: N times the squared 2-Wasserstein
    distance of the sample to the scores.  Its gradient, 2 (x_(i) - m_i), does not vanish at collapse.

    Args:
        x: samples, `(..., N, K)`, any floating dtype; computed in float32 at least.  Order needs the
            whole sample, so over several processes `SIGReg` gathers it.
        scale: see location and scale.

    Returns:
        `(..., K)`, smaller is more normal (W' itself is larger); a constant sample has W' = 0 and
        scores N.  Under N(0,1) both grow like log log N.

    Cost: a sort, as for `cramer_von_mises`.

    Raises:
        TypeError: `x` is not a floating-point tensor.
        ValueError: fewer than two dimensions or two samples.

    Example:
        >>> x = 7 * normal_scores(9, torch.empty(0)) + 3
        >>> bool(shapiro_francia(x) < 1e-5), bool(shapiro_francia(x, scale=True) > 100)
        (True, True)

    Source: Shapiro and Francia, Journal of the American Statistical Association 67 (1972).
    """
    x, _ = ordered(x)
    N = x.shape[-2]
    m = normal_scores(N, x)
    if scale:
        return (x - m).square().sum(-2)
    mean = x.mean(-2, keepdim=True)
    y = x - mean
    energy = y.square().sum(-2, keepdim=True)
    constant = is_constant(mean, energy / N)
    y = y.masked_fill(constant, 0.0) / energy.masked_fill(constant, 1.0).sqrt()
    m = m / torch.linalg.vector_norm(m)
    residual: Tensor = y - (y * m).sum(-2, keepdim=True) * m  # its energy is 1 - W', without cancellation
    return N * (residual.square().sum(-2) + constant.squeeze(-2))
