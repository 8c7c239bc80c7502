"""Epps-Pulley in cache-sized tiles of plain tensor operations.

A tile needs one cosine, one sine, a few complex products and one small matrix product per slice
(`sigreg.kernels.harmonics`).  Nothing of size (N, K, P) ever exists, and where the whole sample is on
this process nothing of size (N, K) either: the gradient is taken at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function

from sigreg.collectives import ALONE, Ranks
from sigreg.kernels.harmonics import Identities, groups
from sigreg.kernels.sums import epps_pulley_from_sums, slopes, window

_TILE = 1 << 16
_MIN_SLICES = 64  # fewer would leave the projection, a matrix product, too thin


class _Tile:
    """Buffers for up to `K` slices of `N` numbers phi = x dt / 2: sums out, gradient back."""

    def __init__(self, N: int, K: int, P: int, like: Tensor) -> None:
        self.J, self.identities = groups(P), Identities(P, like)
        self.buffers = [like.new_empty(K, rows, N) for rows in (1, 4, 4, 2 * self.J)]

    def narrow(self, K: int) -> Tensor:
        """The buffer `(K, N)` for the phi of the tile's next K slices."""
        phi, self.short, self.scratch, self.long = (buffer[:K] for buffer in self.buffers)
        self.phi = phi[:, 0]
        return self.phi

    def sums(self) -> tuple[Tensor, Tensor]:
        """sum_n cos(2k phi_n) and sum_n sin(2k phi_n), k = 1...P: `(K, P)` twice."""
        (e1, e3), (e2, e8), long = _pairs(self.short), _pairs(self.scratch), _pairs(self.long)
        e1[0].copy_(self.phi.cos())  # writing into rows apart would take the cosine twice as long
        e1[1].copy_(self.phi.sin())
        _multiply(e1, e1, out=e2)
        _multiply(e1, e2, out=e3)
        _multiply(e2, e3, out=long[0])
        if self.J > 1:
            _multiply(e3, long[0], out=e8)
        for j in range(1, self.J):
            _multiply(long[j - 1], e8, out=long[j])
        products = torch.bmm(self.long, self.short.mT)  # (K, 2J, 4)
        return self.identities.sums(products.flatten(1))

    def gradient(self, gC: Tensor, gS: Tensor) -> Tensor:
        """Of sum (gC C + gS S) in phi: `(K, N)`, in phi's buffer, after `sums` filled the others."""
        weights = self.identities.weights(gC, gS).reshape(-1, 2 * self.J, 4)
        torch.bmm(weights.mT, self.long, out=self.scratch)
        torch.mul(self.short[:, 0], self.scratch[:, 0], out=self.phi)
        for i in range(1, 4):
            self.phi.addcmul_(self.short[:, i], self.scratch[:, i])
        return self.phi


_Complex: TypeAlias = tuple[Tensor, Tensor]  # (K, N) twice


def _pairs(rows: Tensor) -> list[_Complex]:
    """`(K, 2J, N)` as J complex tensors."""
    parts = rows.unbind(1)
    return list(zip(parts[::2], parts[1::2], strict=True))


def _multiply(a: _Complex, b: _Complex, out: _Complex) -> None:
    torch.mul(a[0], b[0], out=out[0]).addcmul_(a[1], b[1], value=-1)
    torch.mul(a[0], b[1], out=out[1]).addcmul_(a[1], b[0])


def _tiles(B: int, N: int, K: int, P: int, like: Tensor) -> Iterator[tuple[_Tile, Tensor, int, slice]]:
    """Pieces of `(B, K, N)`: the tile, its buffer for phi, the batch index and the slices."""
    width = min(K, max(_MIN_SLICES, _TILE // max(1, N)))
    tile = _Tile(N, width, P, like)
    for b in range(B):
        for start in range(0, K, width):
            columns = slice(start, min(K, start + width))
            yield tile, tile.narrow(columns.stop - start), b, columns


class CharacteristicSums(Function):
    """Sums of `(B, N, K)` samples; the backward pass recomputes instead of storing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dt: float, P: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.dt = dt
        B, N, K = x.shape
        C, S = x.new_empty(B, P, K), x.new_empty(B, P, K)
        for tile, phi, b, columns in _tiles(B, N, K, P, x):
            torch.mul(x[b, :, columns].T, dt / 2, out=phi)
            for total, part in zip((C, S), tile.sums(), strict=True):
                total[b, :, columns] = part.T
        return C, S

    @staticmethod
    def backward(ctx: Any, gC: Tensor, gS: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: a form that autograd can differentiate again
            return _gradient(x, gC, gS, ctx.dt), None, None
        grad = torch.empty_like(x)
        B, N, K = x.shape
        for tile, phi, b, columns in _tiles(B, N, K, gC.shape[1], x):
            torch.mul(x[b, :, columns].T, ctx.dt / 2, out=phi)
            tile.sums()
            with torch.autocast(x.device.type, enabled=False):  # for those who call backward() under it
                g = tile.gradient(gC[b, :, columns].T, gS[b, :, columns].T)
            torch.mul(g.T, ctx.dt / 2, out=grad[b, :, columns])
        return grad, None, None


def _gradient(x: Tensor, gC: Tensor, gS: Tensor, dt: float) -> Tensor:
    """`(B, N, K)`: sum_k k dt (gS_k cos(k dt x) - gC_k sin(k dt x)), in differentiable operations.

    With a_k = k dt (gS_k + i gC_k) this is the real part of sum_k a_k e^{ik dt x}; Horner's rule.
    """
    P = gC.shape[1]
    t = torch.arange(1, P + 1, dtype=x.dtype, device=x.device)[:, None] * dt
    re, im = t * gS, t * gC  # (B, P, K)
    c1, s1 = (x * dt).cos(), (x * dt).sin()
    u, v = re[:, P - 1, None], im[:, P - 1, None]
    for k in range(P - 2, -1, -1):
        u, v = u * c1 - v * s1 + re[:, k, None], u * s1 + v * c1 + im[:, k, None]
    return u * c1 - v * s1


def characteristic_sums(x: Tensor, dt: float, P: int) -> tuple[Tensor, Tensor]:
    """`(..., N, K) -> (..., P, K)` twice: sums over n of cos(k dt x_n) and sin(k dt x_n), k = 1...P."""
    C, S = CharacteristicSums.apply(x.reshape(-1, *x.shape[-2:]), dt, P)
    shape = (*x.shape[:-2], P, x.shape[-1])
    return C.reshape(shape), S.reshape(shape)


class _SlicedEppsPulley(Function):
    """The mean over views and slices, its gradient taken tile by tile during the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, A: Tensor, t_max: float, num_points: int, unbiased: bool, train: bool
    ) -> Tensor:
        (V, N, _), K, P = z.shape, A.shape[1], num_points - 1
        a = A.T * (t_max / P / 2)  # (K, D): z @ a.T is phi
        C, S = z.new_empty(V, P, K), z.new_empty(V, P, K)
        phi_t, w = window(t_max, num_points, z)
        w = w / (V * K)
        grad = torch.zeros_like(z) if train else None
        for tile, phi, v, columns in _tiles(V, N, K, P, z):
            torch.mm(a[columns], z[v].T, out=phi)
            C_k, S_k = tile.sums()
            C[v, :, columns], S[v, :, columns] = C_k.T, S_k.T
            if grad is not None:
                g = tile.gradient(*slopes(C_k, S_k, N, phi_t, w, unbiased))
                grad[v].addmm_(g.T, a[columns])
        ctx.arguments = t_max, num_points, unbiased
        ctx.save_for_backward(z, A, grad)
        return epps_pulley_from_sums(C, S, N, t_max, num_points, unbiased).mean()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        z, A, grad = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: by way of the projections, which are stored then
            t_max, num_points, unbiased = ctx.arguments
            value = _composed(z, A, t_max, num_points, unbiased, ALONE)
            (grad,) = torch.autograd.grad(value, z, grad_output, create_graph=True)
        else:
            grad = grad * grad_output
        return grad, None, None, None, None, None


def _composed(z: Tensor, A: Tensor, t_max: float, num_points: int, unbiased: bool, ranks: Ranks) -> Tensor:
    x = z @ A  # (V, N, K)
    C, S = characteristic_sums(x, t_max / (num_points - 1), num_points - 1)
    (C, S), N = ranks.sum(C, S, count=x.shape[-2])
    return epps_pulley_from_sums(C, S, N, t_max, num_points, unbiased).mean()


def sliced_epps_pulley(
    z: Tensor, A: Tensor, *, t_max: float, num_points: int, unbiased: bool, ranks: Ranks
) -> Tensor:
    """The mean of the statistic of z @ A over views and slices: `(V, N, D)`, `(D, K)` -> scalar.

    Alone, the gradient is taken during the forward pass; over ranks, the sums must meet in between.
    """
    if ranks.size > 1 or A.requires_grad:
        return _composed(z, A, t_max, num_points, unbiased, ranks)
    train = torch.is_grad_enabled() and z.requires_grad
    value: Tensor = _SlicedEppsPulley.apply(z, A, t_max, num_points, unbiased, train)
    return value
