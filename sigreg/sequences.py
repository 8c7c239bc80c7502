"""What the samples of a batch of sequences `(B, T, D)` are."""

from __future__ import annotations

from numbers import Integral
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from sigreg.kernels import no_autocast
from sigreg.regularizer import SIGReg, regularizer
from sigreg.sample import described, weights_of_rows

Samples: TypeAlias = Literal["per_step", "pooled", "both"]


class SequenceSIGReg(nn.Module):
    """SIGReg of sequences: says by name which rows form a sample.

        per_step: mean_t SIGReg(z[:, t])    each time step is a sample over the batch, as in LeWM
        pooled:   SIGReg(z.flatten(0, 1))   one sample of all B T rows
        both:     the mean of the two, on the same directions

    Args:
        sigreg: the regularizer; None for `SIGReg()`.
        samples: "per_step", "pooled" or "both".
        window: an odd number of steps.  First, from each step the mean of its sequence over the window that
            is centred on it is subtracted (temporal centring).  The window is cut off at the ends of the
            sequence; 2 T - 1 steps cover the whole sequence.  None subtracts nothing.

    Shapes:
        z `(B, T, D)`, weights `(B, T)` (bool or non-negative, 0 for a padded step) -> scalar.  Padded steps
        enter neither the sample nor the mean over a window.

    The statistic is multiplied by the size of its sample, without padded steps: B for "per_step", B T for
    "pooled".  Under N(0, I) the default statistic is 1.05 on average for each; where all embeddings are 0 it
    is 0.402 B and 0.402 B T.

    Raises:
        TypeError: z is not a floating-point tensor, weights are neither bool nor floating-point, or sigreg is
            not a module such as `SIGReg`.
        ValueError: an unknown name, a window that is not odd and at least 3, "both" with a memory, z that is
            not `(B, T, D)`, or weights that do not fit or are negative.

    Under activation checkpointing "both" needs `step=`.

    Example:
        >>> import torch
        >>> from sigreg import SIGReg
        >>> z = torch.zeros(64, 5, 16)  # collapsed: 0.402 for each row of a sample
        >>> for samples in ("per_step", "pooled"):
        ...     print(round(float(SequenceSIGReg(SIGReg(num_slices=64), samples=samples)(z)), 2))
        25.73
        128.66

    Source: LeWM, arXiv 2603.19312, for "per_step".
    """

    def __init__(
        self, sigreg: SIGReg | None = None, *, samples: Samples = "per_step", window: int | None = None
    ) -> None:
        super().__init__()
        if samples not in get_args(Samples):
            raise ValueError(f"samples={samples!r} is unknown; use one of {get_args(Samples)}")
        if window is not None and (not isinstance(window, Integral) or window < 3 or window % 2 == 0):
            raise ValueError(f"window={window} must be an odd number of steps, at least 3, or None")
        self.sigreg = regularizer(sigreg)
        if samples == "both" and self.sigreg.memory is not None:
            raise ValueError("a memory holds samples of one shape; use two modules in the place of 'both'")
        self.samples, self.window = samples, window

    def forward(
        self, z: Tensor, weights: Tensor | None = None, *, step: int | Tensor | None = None
    ) -> Tensor:
        """The regularizer of sequences `(B, T, D)`; `step` as in `SIGReg.forward`."""
        if not isinstance(z, Tensor) or not z.is_floating_point():
            raise TypeError(f"expected one floating-point tensor (B, T, D) of sequences, got {described(z)}")
        if z.ndim != 3:
            raise ValueError(f"expected sequences (B, T, D), got shape {tuple(z.shape)}")
        if weights is not None:
            weights = weights_of_rows(weights, z)
        if self.window is not None:
            z = centred(z, weights, self.window)
        first = self.sigreg.step.clone() if step is None else step
        values = []
        if self.samples != "pooled":
            over_batch = None if weights is None else weights.transpose(0, 1)
            values.append(self.sigreg(z.transpose(0, 1), over_batch, step=step))
        if self.samples != "per_step":
            over_all = None if weights is None else weights.flatten()
            values.append(self.sigreg(z.flatten(0, 1), over_all, step=first if values else step))
        return torch.stack(values).mean()

    def extra_repr(self) -> str:
        return f"samples={self.samples!r}, window={self.window}"


def centred(z: Tensor, weights: Tensor | None, window: int) -> Tensor:
    """z `(B, T, D)` less the weighted mean over the steps at most `window // 2` away."""
    z = z if z.dtype == torch.float64 else z.float()
    w = z.new_ones(z.shape[:2]) if weights is None else weights.to(z.dtype)
    z = torch.where((w > 0).unsqueeze(-1), z, 0.0)
    t = torch.arange(z.shape[1], device=z.device)
    near = ((t - t[:, None]).abs() <= window // 2).to(z.dtype)  # (T, T)
    with no_autocast(z.device):
        total = near @ (w.unsqueeze(-1) * z)  # (B, T, D)
        size = (w @ near).unsqueeze(-1)
    return z - total / torch.where(size > 0, size, 1.0)
