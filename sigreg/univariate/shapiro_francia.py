"""Shapiro-Francia: the sorted sample against normal scores."""

from __future__ import annotations

import torch
from torch import Tensor

from sigreg.collectives import Group
from sigreg.sample import Sample
from sigreg.univariate.central import is_constant
from sigreg.univariate.order import Ordered, ordered


def normal_scores(s: Ordered) -> Tensor:
    """Blom's m_i = F^{-1}((i - 3/8) / (N + 1/4)) with i = N u_i + 1/2; exactly antisymmetric."""
    N = s.N.unsqueeze(-2) if isinstance(s.N, Tensor) else s.N
    lower, upper = ((N * u + 0.125) / (N + 0.25) for u in (s.u, s.above))
    scores: Tensor = torch.special.ndtri(lower.clamp(max=0.5)) - torch.special.ndtri(upper.clamp(max=0.5))
    return scores


def shapiro_francia(
    x: Tensor | Sample, *, weights: Tensor | None = None, group: Group = None, scale: bool = False
) -> Tensor:
    r"""Shapiro-Francia's statistic: how straight is the normal Q-Q plot?

        scale=False:  N (1 - W'),   W' = corr(x_(i), m_i)^2
        scale=True:   sum_i (x_(i) - m_i)^2

    m_i are the normal scores F^{-1}((i - 3/8)/(N + 1/4)); with weights F^{-1}((N u_i + 1/8)/(N + 1/4)), where
    u_i is the middle of the i-th step of the weighted distribution function.  W' is invariant to location and
    scale by definition: use it to judge shape, not as a regularizer, since it does not prevent collapse.
    `scale=True` keeps the Q-Q plot but asks for the line of N(0,1) itself: N times the squared
    2-Wasserstein distance of the sample to the scores.  Its gradient, 2 (x_(i) - m_i), does not vanish at
    collapse.

    Args:
        x: samples, `(..., N, K)`, any floating dtype; computed in float32 at least.
        weights: bool or non-negative floats that broadcast to `(..., N)`; rows of weight 0 do not count.
        group: the processes that share the sample: None (this one alone), "auto" or a process group,
            which gathers the sample.
        scale: whether location and scale count, as in the second formula.

    Returns:
        `(..., K)`, smaller is more normal (W' itself is larger); a constant sample has W' = 0 and
        scores N.  Under N(0,1) both grow like log log N.

    Cost: a sort, as for `cramer_von_mises`.

    Raises:
        TypeError: `x` is not a floating-point tensor.
        ValueError: fewer than two dimensions or two samples, unusable weights.

    Example:
        >>> import torch
        >>> x = 7 * torch.special.ndtri((torch.arange(1, 10) - 0.375) / 9.25).unsqueeze(-1) + 3
        >>> bool(shapiro_francia(x) < 1e-5), bool(shapiro_francia(x, scale=True) > 100)
        (True, True)

    Source: Shapiro and Francia, Journal of the American Statistical Association 67 (1972).
    """
    s = ordered(Sample.of(x, weights, group))
    p, m = s.p, normal_scores(s)
    if scale:
        return s.N * (p * (s.x - m).square()).sum(-2)
    mean = (p * s.x).sum(-2, keepdim=True)
    y, m = s.x - mean, m - (p * m).sum(-2, keepdim=True)
    variance = (p * y.square()).sum(-2, keepdim=True)
    constant = is_constant(mean, variance)
    y = y.masked_fill(constant, 0.0) / variance.masked_fill(constant, 1.0).sqrt()
    m = m / (p * m.square()).sum(-2, keepdim=True).clamp(min=torch.finfo(m.dtype).tiny).sqrt()
    residual = y - (p * y * m).sum(-2, keepdim=True) * m  # its variance is 1 - W', without cancellation
    return s.N * ((p * residual.square()).sum(-2) + constant.squeeze(-2))
