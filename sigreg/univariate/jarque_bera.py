"""Jarque-Bera: skewness and kurtosis; extended by mean and standard deviation."""

from __future__ import annotations

from torch import Tensor

from sigreg.collectives import Group
from sigreg.sample import Number, Sample
from sigreg.univariate.central import central_moments, is_constant
from sigreg.univariate.vcreg import location_and_scale


def _shape(N: Number, mean: Tensor, m2: Tensor, m3: Tensor, m4: Tensor) -> Tensor:
    m2 = m2.masked_fill(is_constant(mean, m2), 1.0)
    skewness, kurtosis = m3 / m2.pow(1.5), m4 / m2.square()
    return N / 6 * (skewness.square() + (kurtosis - 3).square() / 4)


def jarque_bera(x: Tensor | Sample, *, weights: Tensor | None = None, group: Group = None) -> Tensor:
    r"""Jarque-Bera's statistic: is the shape that of any normal distribution?

        JB(x) = N/6 [ skewness^2 + (kurtosis - 3)^2 / 4 ]

    It ignores location and scale, so it cannot prevent a collapse; `extended_jarque_bera` can.
    Its gradient is of order 1/sd and grows without bound as the sample shrinks.

    Args:
        x: samples, `(..., N, K)`, any floating dtype; computed in float32 at least.
        weights: bool or non-negative floats that broadcast to `(..., N)`; rows of weight 0 do not count.
        group: the processes that share the sample: None (this one alone), "auto" or a process group;
            two messages, mean first.

    Returns:
        `(..., K)`, equal to `scipy.stats.jarque_bera(x).statistic`; tends to chi-squared with 2
        degrees of freedom under any normal.  A constant sample counts as skewness 0 and kurtosis 0
        (SciPy: nan) and scores 3 N / 8.

    Raises:
        TypeError: `x` is not a floating-point tensor.
        ValueError: fewer than two dimensions or two samples, unusable weights.

    Example:
        >>> import torch
        >>> x = torch.tensor([[-1.0], [1.0]]).repeat(12, 1)  # kurtosis 1
        >>> jarque_bera(x)
        tensor([4.])

    Source: Jarque and Bera, Economics Letters 6 (1980).
    """
    sample = Sample.of(x, weights, group)
    mean, (m2, m3, m4) = central_moments(sample, 4)
    return _shape(sample.N, mean, m2, m3, m4)


def extended_jarque_bera(x: Tensor | Sample, *, weights: Tensor | None = None, group: Group = None) -> Tensor:
    r"""Jarque-Bera plus mean and standard deviation: 0 only if the first four moments are those of N(0,1).

        EJB(x) = N/6 [ skewness^2 + (kurtosis - 3)^2 / 4 ] + N [ mean^2 + 2 (sd - 1)^2 ]

    which is `jarque_bera(x) + vcreg(x)` from one pass over the sample.

    Args:
        x: samples, `(..., N, K)`, any floating dtype; computed in float32 at least.
        weights: bool or non-negative floats that broadcast to `(..., N)`; rows of weight 0 do not count.
        group: the processes that share the sample: None (this one alone), "auto" or a process group;
            two messages, mean first.

    Returns:
        `(..., K)`, times N; tends to chi-squared with 4 degrees of freedom under N(0,1).

    Raises:
        TypeError: `x` is not a floating-point tensor.
        ValueError: fewer than two dimensions or two samples, unusable weights.

    Example:
        >>> import torch
        >>> from sigreg.univariate import jarque_bera
        >>> x = torch.tensor([[-2.0], [2.0]]).repeat(12, 1)
        >>> extended_jarque_bera(x) - jarque_bera(x)
        tensor([48.])

    Source: Jarque and Bera, Economics Letters 6 (1980); LeJEPA, arXiv 2511.08544, section 4.
    """
    sample = Sample.of(x, weights, group)
    mean, (m2, m3, m4) = central_moments(sample, 4)
    return _shape(sample.N, mean, m2, m3, m4) + location_and_scale(sample.N, mean, m2)
