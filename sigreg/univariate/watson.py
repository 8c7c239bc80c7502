"""Watson: Cramér-von Mises without the shift of the distribution function."""

from __future__ import annotations

import torch
from torch import Tensor

from sigreg.univariate.order import ordered, zero_if_finite


def watson(x: Tensor) -> Tensor:
    r"""Watson's statistic against N(0,1).

        U^2(x) = W^2(x) - N (mean_i F(x_i) - 1/2)^2

    It reads the probabilities F(x_i) as points of a circle and does not depend on where that is cut.
    Computed as 1/(12 N) + sum_i (e_i - mean e)^2 with e_i = F(x_(i)) - (2i - 1)/(2N), where nothing
    cancels.

    Args:
        x: samples, `(..., N, K)`, any floating dtype; computed in float32 at least.  Order needs the
            whole sample, so over several processes `SIGReg` gathers it.

    Returns:
        `(..., K)`; 1/12 on average at N(0,1) and about N/12 for a
        sample collapsed anywhere.

    Cost: a sort, as for `cramer_von_mises`.

    Raises:
        TypeError: `x` is not a floating-point tensor.
        ValueError: fewer than two dimensions or two samples.

    Example:
        >>> x = torch.full((12, 1), 3.0)
        >>> watson(x).round(decimals=4)
        tensor([1.])

    Source: Watson, Biometrika 48 (1961).
    """
    x, u = ordered(x)
    e = torch.special.ndtr(x) - u
    distance: Tensor = (e - e.mean(-2, keepdim=True)).square().sum(-2)
    return 1 / (12 * x.shape[-2]) + distance + zero_if_finite(x)
