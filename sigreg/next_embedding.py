"""The objective of a world model: predict the next embedding and keep all embeddings Gaussian."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sigreg.arguments import assert_int, assert_number
from sigreg.collectives import resolve
from sigreg.regularizer import SIGReg, regularizer
from sigreg.sample import described, weights_of_rows


class NextEmbeddingComponents(NamedTuple):
    """The loss and its two unweighted parts, each a scalar, float32 (float64 for float64 embeddings)."""

    total: Tensor
    """`prediction + lambda_param * sigreg`."""
    prediction: Tensor
    """At least 0: a squared error, averaged over sequences, predicted steps and dimensions."""
    sigreg: Tensor
    """By default 1.05 on average under N(0, I), at any B, and 0.402 B where all embeddings are 0."""


class NextEmbeddingLoss(nn.Module):
    r"""`mean |predictor(z_{<=t}, a_t) - z_{t+1}|^2 + lambda_param * sigreg`.

    SIGReg takes each time step as a sample of its own, over the batch, and averages over steps.
    The gradient flows into the predictions and into the embeddings that they are compared with: no teacher
    and no stop-gradient.  With the default settings this is LeWM's loss.

    Args:
        lambda_param: the weight of SIGReg, at least 0.  It is LeWM's and multiplies SIGReg with its factor N;
            `convert_lambda(..., target="le-wm")` of `sigreg.conventions` converts others to it.
        sigreg: a `SIGReg` with settings of your own; the default one otherwise.
        rollout: the number of steps predicted, at least 1.  The second and later steps take the
            predictions of the step before as their context; the prediction term is the mean over these steps.

    Shapes:
        z `(B, T, D)`: B sequences of T embeddings, T > rollout.
        predictor: a causal function `(B, t, D)` (and actions `(B, t, ...)`, if any) -> `(B, t, D)`,
            whose output at position i predicts the embedding that follows position i.
        actions `(B, T, ...)` or `(B, T - 1, ...)`: action t leads from embedding t to t + 1.
        weights: bool or non-negative floats that broadcast to `(B, T)`.  The prediction of step i + h from
            step i has the smallest weight among the steps i, ..., i + h.  The predictor is given zeros for
            rows of weight 0 and for actions that lead from or to one.
        The result is a scalar.

    Raises:
        TypeError: z, the actions or what the predictor returns is not a tensor, sigreg is not a module such
            as `SIGReg`, or lambda or rollout is no number.
        ValueError: a negative lambda, rollout < 1, another number of axes, T <= rollout, a predictor that
            returns another shape than that of its context, actions or weights that do not fit.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> z = torch.randn(32, 5, 16, generator=torch.Generator().manual_seed(0))
        >>> total, prediction, sigreg = NextEmbeddingLoss().components(z, nn.Linear(16, 16))
        >>> bool(torch.isclose(total, prediction + 0.09 * sigreg))
        True

    Source: LeWorldModel (LeWM), arXiv 2603.19312.
    """

    def __init__(self, lambda_param: float = 0.09, sigreg: SIGReg | None = None, *, rollout: int = 1) -> None:
        super().__init__()
        assert_number(0, lambda_param=lambda_param)
        assert_int(1, rollout=rollout)
        self.lambda_param = lambda_param
        self.sigreg = regularizer(sigreg)
        self.rollout = rollout

    def forward(
        self,
        z: Tensor,
        predictor: Callable[..., Tensor],
        actions: Tensor | None = None,
        weights: Tensor | None = None,
        *,
        step: int | Tensor | None = None,
    ) -> Tensor:
        """The loss of the embeddings `(B, T, D)`; `step` as in `SIGReg.forward`."""
        return self.components(z, predictor, actions, weights, step=step).total

    def components(
        self,
        z: Tensor,
        predictor: Callable[..., Tensor],
        actions: Tensor | None = None,
        weights: Tensor | None = None,
        *,
        step: int | Tensor | None = None,
    ) -> NextEmbeddingComponents:
        """The loss and its two parts, differentiable, for logging or weighting of one's own."""
        if not isinstance(z, Tensor):
            raise TypeError(f"expected one tensor (B, T, D) of embeddings, got {described(z)}")
        if z.ndim != 3 or z.shape[1] <= self.rollout:
            raise ValueError(
                f"expected embeddings (B, T, D) with T > rollout={self.rollout}, got shape {tuple(z.shape)}"
            )
        B, T = z.shape[:2]
        if actions is not None and not isinstance(actions, Tensor):
            raise TypeError(
                f"actions must be a tensor (B, T, ...) or (B, T - 1, ...), got {described(actions)}"
            )
        if actions is not None and tuple(actions.shape[:2]) not in ((B, T), (B, T - 1)):
            raise ValueError(
                f"actions {tuple(actions.shape)} do not fit embeddings {tuple(z.shape)}; expected "
                f"({B}, {T}, ...) or ({B}, {T - 1}, ...)"
            )
        w = None if weights is None else weights_of_rows(weights, z)
        sigreg = self.sigreg(z.transpose(0, 1), None if w is None else w.T, step=step)
        prediction = self._prediction(z, predictor, actions, w)
        return NextEmbeddingComponents(prediction + self.lambda_param * sigreg, prediction, sigreg)

    def _prediction(
        self, z: Tensor, predictor: Callable[..., Tensor], actions: Tensor | None, w: Tensor | None
    ) -> Tensor:
        """The mean over roll-out steps of the weighted mean squared error."""
        T = z.shape[1]
        if w is not None:
            z = torch.where(w.unsqueeze(-1) > 0, z, 0)
            w = w.to(torch.promote_types(z.dtype, torch.float32))
            if actions is not None:
                actions = actions[:, : T - 1]
                unknown = torch.minimum(w[:, :-1], w[:, 1:]) == 0
                actions = actions.masked_fill(unknown.reshape(*unknown.shape, *[1] * (actions.ndim - 2)), 0)
        context, path, distances, counts = z, w, [], []
        for h in range(1, self.rollout + 1):
            context = context[:, :-1]
            given = () if actions is None else (actions[:, h - 1 : T - 1],)
            predicted = predictor(context, *given)
            if not isinstance(predicted, Tensor):
                raise TypeError(
                    f"the predictor returned {described(predicted)} for a context {tuple(context.shape)}; "
                    "expected one tensor, which is out[0] of the output of nn.GRU"
                )
            if predicted.shape != context.shape:
                raise ValueError(
                    f"the predictor returned {tuple(predicted.shape)} for a context {tuple(context.shape)}; "
                    "it must return one embedding for each position"
                )
            context = predicted
            target = z[:, h:]
            wide = torch.promote_types(z.dtype, torch.float32)
            error = predicted.to(wide) - target.to(wide)
            if path is None or w is None:
                distances.append(error.square().mean(-1).sum())
                counts.append(error.new_full((), error[..., 0].numel()))
            else:
                path = torch.minimum(path[:, :-1], w[:, h:])  # (B, T - h)
                error = torch.where(path.unsqueeze(-1) > 0, error, 0)  # not after the square: 0 times NaN
                distances.append((path * error.square().mean(-1)).sum())
                counts.append(path.sum())
        group = resolve(self.sigreg.group)
        distance, count = group.all_reduce(torch.stack(distances), torch.stack(counts))
        return (distance / torch.where(count > 0, count, 1.0)).mean()

    def extra_repr(self) -> str:
        return f"lambda_param={self.lambda_param}, rollout={self.rollout}"
