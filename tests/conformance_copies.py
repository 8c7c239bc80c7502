"""Copies of SIGReg, one right and the others broken in the ways that were seen in the wild."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = torch.linspace(0, 3, 17)
WEIGHTS = torch.full((17,), 6 / 16)
WEIGHTS[[0, -1]] = 3 / 16
PHI = torch.exp(-T.square() / 2)


class Right(nn.Module):
    """The usual twenty lines, with each step in a method that a broken copy replaces."""

    num_slices = 64

    def directions(self, D: int) -> Tensor:
        A = torch.randn(D, self.num_slices, generator=torch.Generator().manual_seed(0))
        return A / A.norm(dim=0)

    def prepared(self, x: Tensor) -> Tensor:
        return x

    def mean(self, values: Tensor) -> Tensor:
        """Over the samples of every rank; the backward pass of DDP averages, hence the world size."""
        values = values.mean(-3)
        return _reduced(values) if dist.is_initialized() else values

    def distance(self, cosine: Tensor, sine: Tensor) -> Tensor:
        return ((cosine - PHI).square() + sine.square()) @ (WEIGHTS * PHI)

    def count(self, x: Tensor) -> int:
        return x.shape[-2] * (dist.get_world_size() if dist.is_initialized() else 1)

    def forward(self, z: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            x = self.prepared(z.float() @ self.directions(z.shape[-1]))
            tx = x.unsqueeze(-1) * T
            return self.distance(self.mean(tx.cos()), self.mean(tx.sin())).mean() * self.count(x)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad):
        total = grad.clone()
        dist.all_reduce(total)
        return total


def _reduced(values: Tensor) -> Tensor:
    return _Sum.apply(values) / dist.get_world_size()


class NoCount(Right):
    def count(self, x: Tensor) -> int:
        return 1


class SingleProcess(Right):
    def mean(self, values: Tensor) -> Tensor:
        return values.mean(-3)

    def count(self, x: Tensor) -> int:
        return x.shape[-2]


class DroppedReduce(Right):
    def mean(self, values: Tensor) -> Tensor:
        values = values.mean(-3)
        if dist.is_initialized():
            _reduced(values)  # the result is not used
        return values


class ReducedInPlace(Right):
    def mean(self, values: Tensor) -> Tensor:
        values = values.mean(-3)
        if dist.is_initialized():
            dist.all_reduce(values)
            values = values / dist.get_world_size()
        return values


class DirectionsOfEachRank(Right):
    def directions(self, D: int) -> Tensor:
        A = torch.randn(D, self.num_slices)
        return A / A.norm(dim=0)


class Standardised(Right):
    def prepared(self, x: Tensor) -> Tensor:
        return (x - x.mean(-2, keepdim=True)) / (x.std(-2, keepdim=True) + 1e-6)


class Centred(Right):
    def prepared(self, x: Tensor) -> Tensor:
        return x - x.mean(-2, keepdim=True)


class SwappedExponents(Right):
    """exp(-t^2/2) of the target exchanged with the window's reciprocal: it likes collapse."""

    def distance(self, cosine: Tensor, sine: Tensor) -> Tensor:
        target = torch.exp(-T.square() / 2e3)
        return ((cosine - target).square() + sine.square()) @ (WEIGHTS * PHI)


class WrongAxis(Right):
    def mean(self, values: Tensor) -> Tensor:
        return values.mean(0)

    def count(self, x: Tensor) -> int:
        return x.shape[0]


class NotDoubled(Right):
    def distance(self, cosine: Tensor, sine: Tensor) -> Tensor:
        return super().distance(cosine, sine) / 2


class LongDirections(Right):
    def directions(self, D: int) -> Tensor:
        return torch.randn(D, self.num_slices)


class PositiveDirections(Right):
    def directions(self, D: int) -> Tensor:
        return super().directions(D).abs()


class DetachedMean(Right):
    def mean(self, values: Tensor) -> Tensor:
        return values.mean(-3).detach()


class HalfTheGradient(Right):
    def forward(self, z: Tensor) -> Tensor:
        value = super().forward(z)
        return value / 2 + value.detach() / 2


class CountInHalf(Right):
    def forward(self, z: Tensor) -> Tensor:
        N = torch.tensor(z.shape[-2]).to(z.dtype)
        return super().forward(z) / self.count(z) * N


class Masked(Right):
    def forward(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(z if mask is None else z[mask])


class Strict(Right):
    """Checks what it is given, and has weights that are none of rows."""

    def forward(self, z: Tensor, weights: tuple[float, float] = (1.0, 0.0)) -> Tensor:
        if z.dtype != torch.float32:
            raise ValueError("expected float32")
        first, second = weights if isinstance(weights, tuple) else weights.tolist()
        return first * super().forward(z) + second


class MaskedByZeros(Right):
    def forward(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(z if mask is None else z * mask[:, None])


class Additive(Right):
    """A whole loss of two views: P + 0.5 S, with the squared distance between them for P."""

    def forward(self, z1: Tensor, z2: Tensor) -> dict[str, Tensor]:
        value = (super().forward(z1) + super().forward(z2)) / 2
        return {"loss": (z1 - z2).square().mean() + 0.5 * value}


class Pooled(Right):
    """A whole loss of stacked views (V, N, D), pooled: 0.98 P + 0.02 S, P summed over D."""

    def forward(self, views: Tensor) -> Tensor:
        _V, _N, D = views.shape  # takes nothing else
        P = (views - views.mean(0)).square().sum(-1).mean()
        return 0.98 * P + 0.02 * super().forward(views.reshape(-1, D))


def right(z: Tensor, num_slices: int = 64) -> Tensor:
    """A function instead of a class."""
    return Right()(z)


def nothing(z: Tensor) -> Tensor:
    """0, whatever it is given."""
    return 0 * z.sum()


def takes_nothing() -> None:
    """No embeddings at all."""
