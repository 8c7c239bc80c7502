"""The first k_max moments at once, through Hermite polynomials."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sigreg.arguments import assert_int
from sigreg.collectives import Group
from sigreg.sample import Sample


def moments(
    x: Tensor | Sample, *, weights: Tensor | None = None, group: Group = None, k_max: int = 4
) -> Tensor:
    r"""Distance of the first `k_max` moments to those of N(0,1).

        M(x) = N sum_{k=1}^{k_max} mean_n(He_k(x_n))^2 / k!

    He_k is the probabilists' Hermite polynomial.  All k_max means are zero exactly when all moments
    up to k_max are those of N(0,1), but unlike raw moments they are uncorrelated there and of
    variance k!, so every term has mean 1.  No k_max distinguishes every distribution from N(0,1).  The
    gradient on one far sample x grows like |x|^(2 k_max - 1) / N.  The tests show both.

    Args:
        x: samples, `(..., N, K)`, any floating dtype; computed in float32 at least.
        weights: bool or non-negative floats that broadcast to `(..., N)`; rows of weight 0 do not count.
        group: the processes that share the sample: None (this one alone), "auto" or a process group;
            one message.
        k_max: the highest moment; 4 stays within float32 up to |x| = 1e4, 6 up to about 1,000.

    Returns:
        `(..., K)`, times N; tends to chi-squared with k_max degrees of freedom under N(0,1).

    Raises:
        TypeError: `x` is not a floating-point tensor, or k_max not an int.
        ValueError: k_max < 1, fewer than two dimensions or two samples, unusable weights.

    Example:
        >>> import torch
        >>> x = torch.tensor([[-1.0], [1.0]])  # mean 0, variance 1, He_3 = 0, He_4 = -2
        >>> moments(x, k_max=2), moments(x, k_max=4)
        (tensor([0.]), tensor([0.3333]))

    Source: Neyman, Skandinavisk Aktuarietidskrift 20 (1937), for the smooth test of this form.
    """
    assert_int(1, k_max=k_max)
    sample = Sample.of(x, weights, group)
    x = sample.x
    below, he, parts = torch.ones_like(x), x, [sample.sum(x)]
    for k in range(1, k_max):
        below, he = he, x * he - k * below
        parts.append(sample.sum(he))
    means = [s / sample.W for s in sample.all_reduce(*parts)]
    terms = (m.square() / math.factorial(k) for k, m in enumerate(means, 1))
    return sample.N * sum(terms, torch.zeros_like(means[0]))
