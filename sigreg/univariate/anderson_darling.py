"""Anderson-Darling: distribution functions compared with the tails in focus."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sigreg.collectives import Group
from sigreg.sample import Sample, widest
from sigreg.univariate.order import ordered


def log_cdf(x: Tensor) -> tuple[Tensor, Tensor]:
    """log F(x) and log(1 - F(x)), F the cdf of N(0,1); value and gradient keep their digits in both tails.

    (torch differentiates `log_ndtr` as exp(-x^2/2 - log F(x)), which cancels beyond |x| = 1000.)
    """
    left = x < 0
    distance = torch.where(left, -x, x)
    scaled = torch.special.erfcx(distance / math.sqrt(2))  # 2 (1 - F(distance)) exp(distance^2/2)
    far = (scaled / 2).log() - distance.square() / 2
    near = torch.log1p(-far.exp())
    return torch.where(left, far, near), torch.where(left, near, far)


def anderson_darling(x: Tensor | Sample, *, weights: Tensor | None = None, group: Group = None) -> Tensor:
    r"""Anderson-Darling's statistic against N(0,1), both parameters known.

        A^2(x) = -N - 1/N sum_i (2i - 1) [ log F(x_(i)) + log(1 - F(x_(N+1-i))) ]

    Computed as A^2_min + 2 N sum_i p_i KL(u_i || F(x_(i))) with p_i = 1/N and u_i = (2i - 1)/(2N), A^2_min
    being the value where F(x_(i)) = u_i.  The Kullback-Leibler divergences of Bernoulli variables are never
    negative, and small where the sample is normal; the textbook's form subtracts two numbers near N, which
    in float32 loses more digits the larger N is.
    With weights, p_i = w_i / sum w and u_i lies in the middle of the i-th step.  In the tails the
    statistic grows like x^2 and its gradient like x, so that far samples are pulled back.

    Args:
        x: samples, `(..., N, K)`, any floating dtype; computed in float32 at least.
        weights: bool or non-negative floats that broadcast to `(..., N)`; rows of weight 0 do not count.
        group: the processes that share the sample: None (this one alone), "auto" or a process group,
            which gathers the sample.

    Returns:
        `(..., K)`; 1 on average at N(0,1), at any N; (2 log 2 - 1) N for a sample collapsed onto 0.

    Cost: a sort, as for `cramer_von_mises`, and two log cdfs a sample: 3.0 to 3.8 times `epps_pulley`.

    Raises:
        TypeError: `x` is not a floating-point tensor.
        ValueError: fewer than two dimensions or two samples, unusable weights.

    Example:
        >>> import torch
        >>> x = torch.zeros(100, 1)
        >>> anderson_darling(x) / 100
        tensor([0.3863])

    Source: Anderson and Darling, Journal of the American Statistical Association 49 (1954).
    """
    s = ordered(Sample.of(x, weights, group))
    u, above = s.u, s.above
    log_F, log_1_F = log_cdf(s.x)
    kl = (torch.xlogy(u, u) - u * log_F) + (torch.xlogy(above, above) - above * log_1_F)
    # in float64: -1 + (about 1) would leave float32 no digits at large N
    p, low, high = (part.to(widest(part.device)) for part in (s.p, u, above))
    entropy = torch.special.entr(low) + torch.special.entr(high)
    least = (2 * (p * entropy).sum(-2) - 1).to(kl.dtype)
    distance: Tensor = least + 2 * (s.p * kl).sum(-2)
    return distance * s.N + s.nan_guard
