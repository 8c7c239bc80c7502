"""A weighted sample that several processes may share: what every statistic is computed from.

A sample of weights w_n has the total weight W = sum w and the effective sample size
N = (sum w)^2 / sum w^2, which is the number of rows where all weights are equal.  A mask is a weight of
0 or 1, and rows of weight 0 are replaced by zeros first, so that their contents (NaN included) affect
neither value nor gradient.  W and N are those of the whole batch: over several processes they are summed in
the first message that a statistic sends.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from sigreg.collectives import SINGLE_PROCESS, BatchGroup, Group, resolve

Number: TypeAlias = "Tensor | float"


def transformed() -> bool:
    """Whether a `torch.func` transform (grad, vmap, jvp, ...) is running."""
    active = getattr(torch._C, "_are_functorch_transforms_active", None)
    return active is not None and bool(active())


class Sample:
    """Rows `(..., N, C)` in float32 or float64 with weights `(..., N)` or None, shared by `group`.

    Args:
        x: any floating-point tensor `(..., N, C)`; N may be 0 where weights or other ranks hold rows.
        weights: bool or non-negative floats that broadcast to `(..., N)`; treated as constants.
        group: the processes that share the sample.

    Raises:
        TypeError: x is not a floating-point tensor, or weights are neither bool nor floating-point.
        ValueError: fewer than two dimensions, fewer than two rows, weights of another shape, negative or
            non-finite weights (on a GPU: a device-side assertion, so that the host need not wait).
    """

    def __init__(self, x: Tensor, weights: Tensor | None = None, group: Group = None) -> None:
        self.group = resolve(group)
        x = checked(x, self.group, weights)
        if weights is None:
            self.x, self.weights, self.boolean = x, None, False
        else:
            self.weights = _checked_weights(weights, x)
            self.boolean = weights.dtype == torch.bool
            counts = weights_of_rows(weights, x) if self.boolean else self.weights > 0
            self.x = torch.where(counts.unsqueeze(-1), x, 0.0)
        self._totals: tuple[Number, Number] | None = None
        self._whole: Sample | None = None  # gathered once, for all the statistics that need it
        if self.group.size == 1:
            self._totals = self._totals_alone()

    @classmethod
    def of(cls, x: Tensor | Sample, weights: Tensor | None = None, group: Group = None) -> Sample:
        """A sample from tensors; a `Sample` is returned as it is."""
        return x if isinstance(x, Sample) else cls(x, weights, group)

    def replaced(self, x: Tensor, group: BatchGroup | None = None) -> Sample:
        """The same rows and weights with other columns `(..., N, C)`."""
        new = object.__new__(Sample)
        new.__dict__.update(self.__dict__)
        new.x, new.group, new._whole = x, self.group if group is None else group, None
        return new

    @property
    def W(self) -> Number:
        """The total weight of the whole batch, 1 where it is 0: a number or `(..., 1)`."""
        return self._known()[0]

    @property
    def N(self) -> Number:
        """The effective sample size of the whole batch: a number or `(..., 1)`."""
        return self._known()[1]

    def _known(self) -> tuple[Number, Number]:
        if self._totals is None:
            self.all_reduce()
        assert self._totals is not None
        return self._totals

    def _totals_alone(self) -> tuple[Number, Number]:
        """W and N where this process holds the whole batch; of a mask both are a count."""
        if self.weights is None or not self.boolean:
            return _totals(*self._local_sums())
        count = self.weights.sum(-1, keepdim=True)
        return count.clamp(min=1), count

    def _local_sums(self) -> tuple[Number, Number]:
        """sum w and sum w^2 of this process's rows: numbers or `(..., 1)`."""
        if self.weights is None:
            return self.x.shape[-2], self.x.shape[-2]
        return self.weights.sum(-1, keepdim=True), self.weights.square().sum(-1, keepdim=True)

    def sum(self, values: Tensor) -> Tensor:
        """The weighted sum over this process's rows: `(..., N, C) -> (..., C)`."""
        return (values if self.weights is None else self.weights.unsqueeze(-1) * values).sum(-2)

    def all_reduce(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Sums over the processes; the first call also computes W and N, in the same message."""
        if self.group.size == 1:
            return parts
        if self._totals is not None:
            return self.group.all_reduce(*parts)
        w1, w2 = (
            s if isinstance(s, Tensor) else self.x.new_full((1,), s)  # new_full copies nothing from the host
            for s in self._local_sums()
        )
        *sums, w1, w2 = self.group.all_reduce(*parts, w1, w2)
        self._totals = _totals(w1, w2)
        return tuple(sums)

    def whole(self) -> Sample:
        """The sample of all processes, gathered on each of them."""
        if self.group.size == 1:
            return self
        if self._whole is not None:
            return self._whole
        gathered = self.replaced(self.x, SINGLE_PROCESS)
        if self.weights is None:
            (gathered.x,) = self.group.all_gather(self.x)
        else:
            gathered.x, w = self.group.all_gather(self.x, self.weights.unsqueeze(-1))
            gathered.weights = w.squeeze(-1)
        gathered._totals = self._totals = _totals(*gathered._local_sums())
        self._whole = gathered
        return gathered

    def mean_over_views(self, values: Tensor) -> Tensor:
        """The mean of `(...)` values over the leading dimensions, without those that hold no valid row."""
        if not isinstance(self.N, Tensor):
            return values.mean()
        valid = (self.N != 0).squeeze(-1).expand(values.shape)  # NaN stays in the mean
        return torch.where(valid, values, 0.0).sum() / valid.sum().clamp(min=1)


def widest(device: torch.device) -> torch.dtype:
    """The dtype for sums that need more digits than float32 has; Apple's MPS has no other."""
    return torch.float32 if device.type == "mps" else torch.float64


def _totals(w1: Number, w2: Number) -> tuple[Number, Number]:
    """W and N from sum w and sum w^2; W is 1 and N is 0 for an empty sample, so that nothing divides by 0."""
    if not isinstance(w1, Tensor) or not isinstance(w2, Tensor):
        return max(w1, 1), w1
    some, finfo = w1 > 0, torch.finfo(w2.dtype)
    N = w1 * (w1 / torch.where(some, w2, 1.0))
    in_range = (w2 >= finfo.tiny / finfo.eps) & w2.isfinite()  # smaller squares have lost digits
    N = torch.where(in_range, N, torch.nan)
    return torch.where(some, w1, 1.0), torch.where(some, N, 0.0)


def checked(x: Tensor, group: BatchGroup = SINGLE_PROCESS, weights: Tensor | None = None) -> Tensor:
    """`x` in float32 or float64, or an error that says what is wrong with it."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"expected a floating-point tensor (..., N, D), got {described(x)}{_conversion(x)}")
    if x.ndim < 2:
        raise ValueError(f"expected (..., N, D), got shape {tuple(x.shape)}; one sample of N is x[:, None]")
    if 0 in (*x.shape[:-2], x.shape[-1]):
        raise ValueError(f"expected (..., N, D) with at least one view and one column, got {tuple(x.shape)}")
    if group.size == 1 and weights is None and x.shape[-2] < 2:
        raise ValueError(
            f"a statistic needs N >= 2 samples in dimension -2, got shape {tuple(x.shape)}; a data loader's "
            "last batch may be that small: use drop_last=True"
        )
    return x if x.dtype == torch.float64 else x.float()


def described(x: object) -> str:
    """What an argument is, for a message: a short value, the dtype of a tensor, or the type."""
    if isinstance(x, Tensor):
        return f"a tensor of {x.dtype}"
    return repr(x) if x is None or isinstance(x, str | int | float | type) else f"a {type(x).__name__}"


def _conversion(x: object) -> str:
    """How to convert an argument that is no tensor of floating-point embeddings, for a message."""
    if isinstance(x, Tensor):
        return "" if x.is_complex() else "; convert it with .float()"
    if isinstance(x, list | tuple):
        return "; views of equal shape become one tensor by torch.stack"
    return "; convert it with torch.as_tensor" if hasattr(x, "__array__") else ""


def weights_of_rows(weights: Tensor, x: Tensor) -> Tensor:
    """Weights `(..., N)` for the rows of x `(..., N, D)`, constants in their own dtype, or an error."""
    if not isinstance(weights, Tensor) or not (weights.is_floating_point() or weights.dtype == torch.bool):
        raise TypeError(
            f"weights must be a bool or floating-point tensor, got {described(weights)}; use weights.bool()"
        )
    try:
        return weights.detach().expand(x.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"weights of shape {tuple(weights.shape)} do not broadcast to {tuple(x.shape[:-1])}, one weight "
            f"for each row of the embeddings {tuple(x.shape)}"
        ) from None


def _checked_weights(weights: Tensor, x: Tensor) -> Tensor:
    """Weights `(..., N)` in x's dtype, finite and not negative."""
    w = weights_of_rows(weights, x).to(x.dtype)
    if weights.dtype != torch.bool and not transformed():
        usable = (w >= 0).all() & w.isfinite().all()
        message = "weights must be finite and not negative; use 0 for a row that does not count"
        if type(weights) is Tensor and weights.device.type == "cpu" and not torch.compiler.is_compiling():
            if not usable:
                raise ValueError(f"{message}, got values from {float(w.min())} to {float(w.max())}")
        elif not weights.is_meta:
            torch._assert_async(usable, message)
    return w
