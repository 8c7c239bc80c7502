"""Epps-Pulley in tiles of plain tensor operations, for a CPU and for a GPU.

A tile needs one cosine, one sine, a few complex products and one small matrix product per slice
(`sigreg.kernels.products`); nothing of size (N, K, P) ever exists.  On a CPU a tile fits its cache; on a
GPU it is large, so that few kernels are launched.  Where the whole batch is on this process the gradient
is taken together with the value, and the projections are never stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sigreg.kernels import products
from sigreg.kernels.quadrature import epps_pulley_from_sums, points, slopes
from sigreg.sample import Number

_TILE = {"cpu": 1 << 16, "other": 1 << 23}  # numbers
_MIN_SLICES = 64  # fewer would leave the projection, a matrix product, too thin


class _Complex(NamedTuple):
    """Views of complex numbers, made once: creating a view costs as much as filling a small tensor."""

    both: Tensor  # (K, V, 2, N): real and imaginary part
    first: Tensor  # (K, V, 1, N): the real part
    real: Tensor  # (K, V, N)
    imag: Tensor  # (K, V, N)


def _pairs(rows: Tensor) -> list[_Complex]:
    """`(K, V, 2J, N)` as J complex tensors."""
    pairs = [rows[:, :, j : j + 2] for j in range(0, rows.shape[2], 2)]
    return [_Complex(z, z[:, :, :1], z[:, :, 0], z[:, :, 1]) for z in pairs]


def _multiply(a: _Complex, b: _Complex, out: _Complex) -> None:
    """The complex product."""
    torch.mul(a.first, b.both, out=out.both)
    out.real.addcmul_(a.imag, b.imag, value=-1)
    out.imag.addcmul_(a.imag, b.real)


class _Tile:
    """Buffers for K slices of V views of N numbers phi = x dt / 2: sums out, gradient back."""

    def __init__(self, V: int, N: int, K: int, P: int, like: Tensor) -> None:
        self.P, self.J = P, products.groups(P)
        self.buffers = [like.new_empty(K, V, rows, N) for rows in (1, 4, 4, 2 * self.J)]
        self._arrange(self.buffers)

    def _arrange(self, parts: list[Tensor]) -> None:
        """Create all views of the buffers that a pass needs."""
        phi, self.short, scratch, long = parts
        self.phi = phi[:, :, 0]
        self.e3, self.e1 = _pairs(self.short)
        self.e2, self.e8 = _pairs(scratch)
        self.long = _pairs(long)
        self.rows, self.of_rows = self.short.unbind(2), scratch.unbind(2)
        self.flat_short, self.flat_scratch, self.flat_long = (
            t.flatten(0, 1) for t in (self.short, scratch, long)
        )

    def narrow(self, K: int, V: int) -> Tensor:
        """The buffer `(K, V, N)` for the phi of the next slices and views."""
        if self.phi.shape[:2] != (K, V):  # the last tile of a row or column may be smaller
            K0, V0, _, N = self.buffers[0].shape
            self._arrange([b.view(K0 * V0, -1)[: K * V].view(K, V, b.shape[2], N) for b in self.buffers])
        return self.phi

    def sums(self, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """sum_n w_n cos(2k phi_n) and sum_n w_n sin(2k phi_n), k = 1...P: `(K, V, P)` each."""
        e1, e2, e3, e8, long = self.e1, self.e2, self.e3, self.e8, self.long
        e1.real.copy_(self.phi.cos())  # cos(out=) into strided rows takes twice as long
        e1.imag.copy_(self.phi.sin())
        _multiply(e1, e1, out=e2)
        _multiply(e1, e2, out=e3)
        _multiply(e2, e3, out=long[0])
        if self.J > 1:
            _multiply(e3, long[0], out=e8)
        for j in range(1, self.J):
            _multiply(long[j - 1], e8, out=long[j])
        if weights is not None:
            self.short.mul_(weights)  # (K, V, 4, N) by (V, 1, N)
        of_rows = torch.bmm(self.flat_long, self.flat_short.mT)  # (K V, 2J, 4)
        return products.sums(of_rows.view(*self.phi.shape[:2], self.J, 2, 2, 2), self.P)

    def gradient(self, gC: Tensor, gS: Tensor) -> Tensor:
        """Of sum (gC C + gS S) in phi: `(K, V, N)`, in phi's buffer, after `sums` filled the others."""
        of_rows = products.weights(gC, gS).view(-1, 2 * self.J, 4)
        torch.bmm(of_rows.mT, self.flat_long, out=self.flat_scratch)
        torch.mul(self.rows[0], self.of_rows[0], out=self.phi)
        for row, of_row in zip(self.rows[1:], self.of_rows[1:], strict=True):
            self.phi.addcmul_(row, of_row)
        return self.phi


def _tiles(V: int, N: int, K: int, P: int, like: Tensor) -> Iterator[tuple[_Tile, Tensor, slice, slice]]:
    """Pieces of `(K, V, N)`: the tile, its buffer for phi, the views and the slices."""
    size = _TILE.get(like.device.type, _TILE["other"])
    height = min(V, max(1, size // max(1, N * K)))
    width = min(K, max(_MIN_SLICES, size // max(1, N * height)))
    tile = _Tile(height, N, width, P, like)
    for v in range(0, V, height):
        views = slice(v, min(V, v + height))
        for k in range(0, K, width):
            columns = slice(k, min(K, k + width))
            yield tile, tile.narrow(columns.stop - k, views.stop - v), views, columns


def ecf_sums(
    z: Tensor, A: Tensor | None, weights: Tensor | None, dt: float, P: int
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """C and S `(V, K, P)` of x = z A, or of z where A is None, and x `(V, N, K)` for the backward pass."""
    x = z if A is None else z @ A
    V, N, K = x.shape
    C, S = x.new_empty(V, K, P), x.new_empty(V, K, P)
    for tile, phi, views, columns in _tiles(V, N, K, P, x):
        torch.mul(x[views, :, columns].permute(2, 0, 1), dt / 2, out=phi)
        for total, part in zip((C, S), tile.sums(_rows(weights, views)), strict=True):
            total[views, columns] = part.transpose(0, 1)
    return (C, S), x


def ecf_sums_backward(
    z: Tensor,
    A: Tensor | None,
    weights: Tensor | None,
    x: Tensor,
    dt: float,
    P: int,
    gC: Tensor,
    gS: Tensor,
    need_z: bool,
    need_A: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradient of sum (gC C + gS S) in z and in A.  The rows are computed again, not stored."""
    grad = torch.empty_like(x)
    V, N, K = x.shape
    for tile, phi, views, columns in _tiles(V, N, K, P, x):
        torch.mul(x[views, :, columns].permute(2, 0, 1), dt / 2, out=phi)
        tile.sums(_rows(weights, views))
        g = tile.gradient(gC[views, columns].transpose(0, 1), gS[views, columns].transpose(0, 1))
        torch.mul(g.permute(1, 2, 0), dt / 2, out=grad[views, :, columns])
    if A is None:
        return grad, None
    gz = grad @ A.T if need_z else None
    return gz, z.flatten(0, 1).T @ grad.flatten(0, 1) if need_A else None


def _rows(weights: Tensor | None, views: slice) -> Tensor | None:
    return None if weights is None else weights[views, None]  # (V, 1, N)


def value_and_gradient(
    z: Tensor,
    A: Tensor,
    weights: Tensor | None,
    W: Number,
    N: Number,
    grid: tuple[float, int, bool],
    with_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """The mean over slices `(V,)`, and its gradient in z, tile by tile; see `sigreg.kernels`."""
    (V, rows, D), K, (t_max, num_points, unbiased) = z.shape, A.shape[1], grid
    P = num_points - 1
    a = A.T * (t_max / P / 2)  # (K, D): a @ z.T is phi
    C, S = z.new_empty(V, K, P), z.new_empty(V, K, P)
    phi_t, w = points(t_max, num_points, z)
    grad = torch.zeros_like(z, memory_format=torch.contiguous_format) if with_gradient else None
    for tile, phi, views, columns in _tiles(V, rows, K, P, z):
        flat = z[views].reshape(-1, D)
        torch.mm(a[columns], flat.T, out=phi.view(phi.shape[0], -1))
        C_k, S_k = tile.sums(_rows(weights, views))  # (K, V, P)
        C[views, columns], S[views, columns] = C_k.transpose(0, 1), S_k.transpose(0, 1)
        if grad is not None:
            W_v, N_v = (n[views, 0] if isinstance(n, Tensor) else n for n in (W, N))  # (V,)
            g = tile.gradient(*slopes(C_k, S_k, W_v, N_v, phi_t, w / K, unbiased))
            grad[views].view(-1, D).addmm_(g.view(g.shape[0], -1).T, a[columns])
    return epps_pulley_from_sums(C, S, W, N, phi_t, w, unbiased).mean(-1), grad
