"""The objectives: LeJEPA's here, that of world models in `sigreg.next_embedding`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sigreg.arguments import assert_number
from sigreg.collectives import resolve
from sigreg.next_embedding import NextEmbeddingComponents, NextEmbeddingLoss
from sigreg.regularizer import SampleAxisWarning, SIGReg, regularizer
from sigreg.sample import Sample, described

__all__ = [
    "LeJEPAComponents",
    "LeJEPALoss",
    "NextEmbeddingComponents",
    "NextEmbeddingLoss",
    "prediction_loss",
    "stacked",
]


class LeJEPAComponents(NamedTuple):
    """The loss and its two unweighted parts, each a scalar, float32 (float64 for float64 embeddings).

    Example:
        >>> import torch
        >>> found = LeJEPALoss().components(torch.zeros(2, 100, 16))
        >>> found.prediction, found.sigreg / 100
        (tensor(0.), tensor(0.4020))
    """

    total: Tensor
    """`(1 - lambda_param) * prediction + lambda_param * sigreg`."""
    prediction: Tensor
    """At least 0: a squared distance, averaged over views, samples and dimensions."""
    sigreg: Tensor
    """By default 1.05 on average under N(0, I), at any N, and 0.402 N where all embeddings are 0."""


class LeJEPALoss(nn.Module):
    r"""LeJEPA: `(1 - lambda_param) * prediction + lambda_param * sigreg`.

    The prediction term is the squared distance of every view to the mean of the global views,
    averaged over views, samples and dimensions; gradients flow through that mean.  No teacher, no
    stop-gradient, no predictor.

    Args:
        lambda_param: the weight of SIGReg, in [0, 1].  It does not carry over between
            implementations; `sigreg.conventions.convert_lambda` converts it.
        sigreg: a `SIGReg` with settings of your own; the default one otherwise.

    Shapes:
        views: a list of V tensors `(N, D)` or one tensor `(V, N, D)`, global views first -> scalar.
        weights: bool or non-negative floats that broadcast to `(V, N)`.  They weigh both terms: the mean of
            the global views and the mean over views and samples are weighted ones, and rows of weight 0 (or
            without a global view of positive weight) do not count.
        The result is float32, also under autocast (float64 for float64 views).

    The prediction term is at least 0 and does not grow with N or D.  SIGReg is 1.05 on average under N(0, I),
    at any N, and 0.402 N where all embeddings are 0.

    Raises:
        TypeError: views that are not floating-point tensors, weights that are neither bool nor
            floating-point, num_global that is not an int, or sigreg that is not a module such as `SIGReg`.
        ValueError: lambda outside [0, 1], views that differ in shape, N < 2, num_global outside 1...V, or
            weights that do not fit or are negative.
        RuntimeError: the ranks of the batch disagree (see `SIGReg`).

    Example:
        >>> import torch
        >>> criterion = LeJEPALoss()
        >>> views = torch.randn(2, 32, 16, generator=torch.Generator().manual_seed(0))
        >>> total, prediction, sigreg = criterion.components(views)
        >>> bool(torch.isclose(total, 0.95 * prediction + 0.05 * sigreg))
        True

    Source: LeJEPA, arXiv 2511.08544, section 5.
    """

    def __init__(self, lambda_param: float = 0.05, sigreg: SIGReg | None = None) -> None:
        super().__init__()
        assert_number(lambda_param=lambda_param)
        if not 0.0 <= lambda_param <= 1.0:
            raise ValueError(f"lambda_param={lambda_param} must lie in [0, 1]; the paper's default is 0.05")
        self.lambda_param = lambda_param
        self.sigreg = regularizer(sigreg)
        self._axis_warned = False

    def forward(
        self,
        views: Sequence[Tensor] | Tensor,
        num_global: int | None = None,
        weights: Tensor | None = None,
        *,
        step: int | Tensor | None = None,
    ) -> Tensor:
        """The loss of V views, the first `num_global` of which are global (None: all of them).

        `step` as in `SIGReg.forward`: with it, the directions of that step are used.
        """
        return self.components(views, num_global, weights, step=step).total

    def components(
        self,
        views: Sequence[Tensor] | Tensor,
        num_global: int | None = None,
        weights: Tensor | None = None,
        *,
        step: int | Tensor | None = None,
    ) -> LeJEPAComponents:
        """The loss and its two parts, differentiable, for logging or weighting of one's own."""
        z = stacked(views)
        V = z.shape[0]
        num_global = V if num_global is None else num_global
        if not isinstance(num_global, Integral) or isinstance(num_global, bool):
            raise TypeError(
                f"num_global must be an int, or None for all views, got {described(num_global)}; views are "
                "one argument, a list"
            )
        if not 1 <= num_global <= V:
            raise ValueError(
                f"num_global={num_global} must lie in 1...{V}, the number of views; None means all"
            )
        sigreg = self.sigreg(z, weights, step=step)
        self._warn_about_view_axis(z, views)
        prediction = prediction_loss(Sample(z, weights, self.sigreg.group), num_global)
        total = (1 - self.lambda_param) * prediction + self.lambda_param * sigreg
        return LeJEPAComponents(total, prediction, sigreg)

    def _warn_about_view_axis(self, z: Tensor, views: object) -> None:
        """Warn once of more views than samples in one tensor, as when (N, V, D) was not transposed."""
        if self._axis_warned or views is not z or torch.compiler.is_compiling():  # a list was stacked here
            return
        V, N = z.shape[:2]
        if N < V and resolve(self.sigreg.group).size == 1:  # other ranks may hold more
            self._axis_warned = True
            warnings.warn(
                f"LeJEPALoss was given {V} views of {N} samples; if the tensor is (N, V, D), pass "
                "z.transpose(0, 1)",
                SampleAxisWarning,
                stacklevel=3,
            )

    def extra_repr(self) -> str:
        return f"lambda_param={self.lambda_param}"


def prediction_loss(views: Sample, num_global: int) -> Tensor:
    """The mean squared distance of the views `(V, N, D)` to the (weighted) mean of the first `num_global`."""
    z, w = views.x, views.weights
    if w is None:
        center = z[:num_global].mean(0)  # (N, D)
        distance = (z - center).square().mean((0, 2)).sum()  # sum over N
        count = z.new_full((), z.shape[1])
    else:
        of_sample = w[:num_global].sum(0)  # (N,)
        some = of_sample > 0
        total = (w[:num_global].unsqueeze(-1) * z[:num_global]).sum(0)
        center = total / torch.where(some, of_sample, 1.0).unsqueeze(-1)
        w = w * some
        distance, count = (w * (z - center).square().mean(-1)).sum(), w.sum()
    distance, count = views.group.all_reduce(distance, count)
    return distance / torch.where(count > 0, count, 1.0)


def stacked(views: Sequence[Tensor] | Tensor) -> Tensor:
    """Views as one `(V, N, D)` tensor, or an error that says which view differs."""
    if isinstance(views, Tensor):
        if views.ndim != 3:
            raise ValueError(
                f"expected a list of views (N, D) or one tensor (V, N, D), got shape {tuple(views.shape)}; "
                "two views are passed as [z1, z2]"
            )
        return views
    if not isinstance(views, Sequence) or isinstance(views, str):
        raise TypeError(f"expected a list of views (N, D) or one tensor (V, N, D), got {described(views)}")
    if not views:
        raise ValueError("expected a list of at least one view (N, D), got none")
    for i, view in enumerate(views):
        if not isinstance(view, Tensor):
            raise TypeError(f"view {i} is a {type(view).__name__}; expected tensors (N, D)")
        if view.ndim != 2 or view.shape != views[0].shape:
            raise ValueError(
                f"every view must have the shape (N, D) of the first, {tuple(views[0].shape)}; "
                f"view {i} has {tuple(view.shape)}"
            )
    return torch.stack(list(views))
