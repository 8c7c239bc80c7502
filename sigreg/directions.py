"""Random unit directions as a pure function of (seed, step).

`torch.manual_seed` does not change them (see `sigreg.random_numbers`): every rank and every device derives
the same directions without a broadcast, and a resumed run continues its stream.

`gaussian`, `orthogonal` and `sobol` are unbiased: the mean over steps is the mean over all directions.
`subspaces` estimates the mean over the directions within its fixed subspaces instead, which is another
number unless a single subspace fills the whole space.

`orthogonal` estimates the value best: with K >= D slices its variance around
`exact_sigreg` is 1.4 to 3.0 times lower than with independent ones on
Gaussian embeddings and 4 to 11 times lower on anisotropic ones (D = 16...256, K up
to 4096, three seeds).  On a CPU its draw costs up to 3.3 times as much at D <= 64
and 3.0 to 4.3 times at D = 256, more for K < D, since a whole basis is drawn.  `sobol`
needs many more slices than dimensions: on anisotropic embeddings its variance is
that of `orthogonal` around K = 16 D and lower beyond, by a factor of 3 at D = 16,
K = 4096.  Below K = D neither gains much.  (`python -m benchmarks directions`)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from sigreg.arguments import assert_int
from sigreg.kernels import no_autocast
from sigreg.kernels.choice import takes_triton
from sigreg.random_numbers import integer, logical_shift, normal_numbers, random_bits

Directions: TypeAlias = Callable[..., Tensor]


def _unit(A: Tensor) -> Tensor:
    """Columns of length 1, in place.  (On a CPU vector_norm over columns takes six times as long.)"""
    return A.div_(A.square().sum(0, keepdim=True).sqrt_())


def gaussian(
    D: int,
    K: int,
    *,
    seed: int = 0,
    step: int | Tensor = 0,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """K independent directions, uniform on the unit sphere: `(D, K)`, unit columns.

    Args:
        D: width of the embeddings.
        K: number of directions.
        seed: of the stream; any integer, taken modulo 2^64.
        step: position in the stream, an integer or a tensor that holds one, which may lie on a GPU.
        device: of the result; None for torch's default device.
        dtype: of the result; the numbers are drawn in float32.

    Returns:
        `(D, K)`, the same numbers for the same seed and step.

    Raises:
        TypeError: seed or step is no integer.

    Example:
        >>> A = gaussian(64, 1024, seed=0, step=3)
        >>> A.shape, bool((A.norm(dim=0) - 1).abs().max() < 1e-6)
        (torch.Size([64, 1024]), True)

    Source: normal vectors, divided by their lengths: Muller, Communications of the ACM 2 (1959).
    """
    out = torch.empty(D, K, dtype=dtype, device=device)
    if takes_triton(out) and not (isinstance(step, Tensor) and step.device != out.device):
        from sigreg.kernels import triton_directions

        return triton_directions.gaussian(out, seed, step if isinstance(step, Tensor) else integer(step))
    A = normal_numbers(D * K, seed, step, device).to(dtype).reshape(D, K)
    return _unit(A)


def orthogonal(
    D: int,
    K: int,
    *,
    seed: int = 0,
    step: int | Tensor = 0,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """K directions in blocks of D orthonormal ones (Haar, by QR): `(D, K)`, unit columns.

    Each direction is uniform on the sphere as in `gaussian`, but those of a block
    cover the space evenly, which lowers the variance of the estimate.

    Args:
        D: width of the embeddings.
        K: number of directions; the last block is cut off where K is not a multiple of D.
        seed: of the stream; any integer, taken modulo 2^64.
        step: position in the stream, an integer or a tensor that holds one, which may lie on a GPU.
        device: of the result; None for torch's default device.
        dtype: of the result and of the factorisation, float32 or float64.

    Returns:
        `(D, K)`, the same numbers for the same seed and step.

    Raises:
        TypeError: seed or step is no integer.

    Example:
        >>> import torch
        >>> A = orthogonal(16, 16, seed=0, step=3)
        >>> bool((A.T @ A - torch.eye(16)).abs().max() < 1e-5)
        True

    Source: Mezzadri, Notices of the AMS 54 (2007), for the signs that make QR uniform.
    """
    blocks = -(-K // D)
    G = normal_numbers(blocks * D * D, seed, step, device).to(dtype).reshape(blocks, D, D)
    Q: Tensor
    Q, R = torch.linalg.qr(G)
    Q = Q * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)  # without this, QR is not Haar
    return Q.permute(1, 0, 2).reshape(D, blocks * D)[:, :K].contiguous()


_SOBOL_BITS = 23  # (integer + 1/2) / 2^23 is exact in float32 and never 0 or 1


@functools.lru_cache(maxsize=8)
def _cached_sobol_points(D: int, K: int, device: torch.device) -> Tensor:
    with torch.device("cpu"):  # the engine makes its tables on the default device
        points = torch.quasirandom.SobolEngine(D).draw(K, dtype=torch.float64)  # type: ignore[no-untyped-call]
    integers: Tensor = (points.T * 2**_SOBOL_BITS).long().contiguous().to(device)
    return integers


# An operator of its own, because torch.compile cannot trace the engine.  Under FakeTensorMode and on the
# meta device `_fake_sobol_points` runs in its place, so that the cache holds real tensors only.
@torch.library.custom_op("sigreg::sobol_points", mutates_args=())
def _sobol_points(D: int, K: int, device: torch.device) -> Tensor:
    """The first K points of Sobol's sequence in [0, 2^23)^D, unscrambled: `(D, K)` integers."""
    return _cached_sobol_points(D, K, device).clone()


@_sobol_points.register_fake
def _fake_sobol_points(D: int, K: int, device: torch.device) -> Tensor:
    return torch.empty(D, K, dtype=torch.int64, device=device)


def sobol(
    D: int,
    K: int,
    *,
    seed: int = 0,
    step: int | Tensor = 0,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """K quasi-random directions: Sobol points, shifted anew at every step: `(D, K)`, unit columns.

    The points are made once; (seed, step) only flips their binary digits, one hashed pattern for each
    coordinate (a digital shift), which keeps their low discrepancy and makes every direction uniform on the
    sphere.  Best with K a power of 2.

    Args:
        D: width of the embeddings, at most 21201.
        K: number of directions.
        seed: of the shift; any integer, taken modulo 2^64.
        step: position in the stream of shifts, an integer or a tensor that holds one.
        device: of the result; None for torch's default device.
        dtype: of the result; the numbers are computed in float32.

    Returns:
        `(D, K)`, the same numbers for the same seed and step.

    Raises:
        ValueError: D > 21201, for which torch has no Sobol numbers.

    Example:
        >>> A = sobol(16, 64, seed=0, step=3)
        >>> A.shape, bool((A.norm(dim=0) - 1).abs().max() < 1e-6)
        (torch.Size([16, 64]), True)

    Source: Sobol, USSR Computational Mathematics and Mathematical Physics 7 (1967), by
    `torch.quasirandom.SobolEngine`; L'Ecuyer and Lemieux, in Modeling Uncertainty (2002), for digital shifts.
    """
    shift = logical_shift(random_bits(D, seed, step, device), 64 - _SOBOL_BITS)
    points = _sobol_points(D, K, shift.device) ^ shift.unsqueeze(-1)
    u = points.to(torch.float32).add_(0.5).mul_(2.0**-_SOBOL_BITS)
    A = torch.special.ndtri(u).to(dtype)
    return _unit(A)


@dataclass(frozen=True)
class Subspaces:
    """Directions within fixed orthogonal subspaces, the same number in each (Sub-JEPA).

    SIGReg is then the mean over the subspaces.

        A_k = P_i b_k,   i = k mod number,   P_i (D, size) orthonormal, b_k unit vectors

    The subspaces depend on the seed alone; the directions within them are new at every step.

    Args:
        number: how many subspaces; `num_slices` must be a multiple of it.
        size: their dimension; None for D // number.

    Shapes:
        A call with the width D and the number of slices K -> `(D, K)`, unit columns; K must be a multiple of
        `number`.

    Raises:
        TypeError: number or size is not an int.
        ValueError: number or size < 1, subspaces that do not fit into D, or num_slices no multiple.

    Example:
        >>> Subspaces(4, 8)(32, 64, seed=0, step=3).shape
        torch.Size([32, 64])

    Source: Sub-JEPA, arXiv 2605.09241.
    """

    number: int = 4
    size: int | None = None

    def __post_init__(self) -> None:
        assert_int(1, number=self.number, size=1 if self.size is None else self.size)

    def basis(self, D: int, *, seed: int, device: torch.device | None, dtype: torch.dtype) -> Tensor:
        """The subspaces' orthonormal bases `(D, number, size)`, orthogonal to one another."""
        size = D // self.number if self.size is None else self.size
        if not 1 <= size * self.number <= D:
            raise ValueError(f"{self.number} orthogonal subspaces of size {size} do not fit into D = {D}")
        Q = orthogonal(D, self.number * size, seed=integer(seed) + 2**40, device=device, dtype=dtype)
        return Q.reshape(D, self.number, size)

    def __call__(
        self,
        D: int,
        K: int,
        *,
        seed: int = 0,
        step: int | Tensor = 0,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        if K % self.number:
            raise ValueError(f"num_slices={K} must be a multiple of the {self.number} subspaces")
        P = self.basis(D, seed=seed, device=device, dtype=dtype)
        b = gaussian(P.shape[-1], K, seed=seed, step=step, device=device, dtype=dtype)
        with no_autocast(b.device):
            return torch.einsum("dns,skn->dkn", P, b.reshape(-1, K // self.number, self.number)).flatten(1)


Name: TypeAlias = Literal["gaussian", "orthogonal", "sobol", "subspaces"]
DIRECTIONS: dict[str, Directions] = {"gaussian": gaussian, "orthogonal": orthogonal, "sobol": sobol}


def by_name(directions: Name | Directions) -> Directions:
    """The function behind a name; a callable `(D, K, *, seed, step, device, dtype) -> (D, K)` is itself.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> by_name("orthogonal")(32, 64, seed=0, step=3).shape
        torch.Size([32, 64])
        >>> by_name("subspaces")
        Subspaces(number=4, size=None)
    """
    if callable(directions):
        return directions
    if directions == "subspaces":
        return Subspaces()
    if not isinstance(directions, str) or directions not in DIRECTIONS:
        raise ValueError(
            f"directions={directions!r} is unknown; use one of {[*sorted(DIRECTIONS), 'subspaces']} "
            "or a callable"
        )
    return DIRECTIONS[directions]
