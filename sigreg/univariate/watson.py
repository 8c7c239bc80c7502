"""Watson: Cramér-von Mises without the shift of the distribution function."""

from __future__ import annotations

import torch
from torch import Tensor

from sigreg.collectives import Group
from sigreg.sample import Sample
from sigreg.univariate.order import ordered


def watson(x: Tensor | Sample, *, weights: Tensor | None = None, group: Group = None) -> Tensor:
    r"""Watson's statistic against N(0,1).

        U^2(x) = W^2(x) - N (mean_i F(x_i) - 1/2)^2

    It takes the probabilities F(x_i) as points on a circle and does not depend on the choice of its origin.
    Computed as 1/(12 N) + sum_i (e_i - mean e)^2 with e_i = F(x_(i)) - (2i - 1)/(2N), where nothing
    cancels; with weights as in `cramer_von_mises`.

    Args:
        x: samples, `(..., N, K)`, any floating dtype; computed in float32 at least.
        weights: bool or non-negative floats that broadcast to `(..., N)`; rows of weight 0 do not count.
        group: the processes that share the sample: None (this one alone), "auto" or a process group,
            which gathers the sample.

    Returns:
        `(..., K)`; 1/12 on average at N(0,1) and about N/12 for a
        sample collapsed anywhere.

    Cost: a sort, as for `cramer_von_mises`.

    Raises:
        TypeError: `x` is not a floating-point tensor.
        ValueError: fewer than two dimensions or two samples, unusable weights.

    Example:
        >>> import torch
        >>> x = torch.full((12, 1), 3.0)
        >>> watson(x).round(decimals=4)
        tensor([1.])

    Source: Watson, Biometrika 48 (1961).
    """
    s = ordered(Sample.of(x, weights, group))
    e = torch.special.ndtr(s.x) - s.u
    mean = (s.p * e).sum(-2, keepdim=True)
    distance: Tensor = (s.p * (e - mean).square()).sum(-2) + s.p.pow(3).sum(-2) / 12
    return distance * s.N + s.nan_guard
