"""A problem for every kernel, its value and gradient in float64, and the fixture that runs them all."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from sigreg import kernels
from sigreg.collectives import BatchGroup
from sigreg.kernels import eager, inductor, sincos
from sigreg.sample import Sample

GRID = {"t_max": 3.0, "num_points": 17}
VALUE, GRADIENT = 1e-5, 1e-4  # relative


def reference(z: Tensor, A: Tensor, t_max=3.0, num_points=17, unbiased=False) -> tuple[Tensor, Tensor]:
    """Epps-Pulley knot by knot in float64, with the (V, N, K, points) tensor that the library avoids."""
    z = z.detach().double().requires_grad_()
    x, N = z @ A.double(), z.shape[-2]
    t = torch.linspace(0, t_max, num_points, dtype=torch.float64)
    phi = torch.exp(-(t**2) / 2)
    xt = x[..., None] * t
    re, im = xt.cos().mean(-3), xt.sin().mean(-3)
    modulus = re**2 + im**2
    if unbiased:
        modulus = (N * modulus - 1) / (N - 1)
    error = modulus - 2 * re * phi + phi**2
    value = N * 2 * torch.trapezoid(error * phi, t).mean()
    (grad,) = torch.autograd.grad(value, z)
    return value.detach(), grad


def problem(V=3, N=41, D=7, K=401, scale=1.0, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(V * N + D * K)
    z = torch.randn(V, N, D, generator=generator, dtype=torch.float64) * scale
    A = torch.nn.functional.normalize(torch.randn(D, K, generator=generator, dtype=torch.float64), dim=0)
    return z.to(dtype).requires_grad_(), A.to(dtype)


class AnotherRank(BatchGroup):
    """Two ranks in one process: adds the sums of `other`, a sample that only it can see."""

    def __init__(self, other: Tensor, A: Tensor) -> None:
        self.group, self.size, self.other, self.A = None, 2, other, A

    def all_reduce(self, *parts: Tensor) -> tuple[Tensor, ...]:
        count = torch.tensor([float(self.other.shape[-2])])
        theirs = (*kernels.ecf_sums(self.other, self.A, None, 3.0 / 16, 16), count, count)
        return tuple(a + b for a, b in zip(parts, theirs, strict=True))


def empty_rank(z: Tensor, A: Tensor) -> AnotherRank:
    return AnotherRank(z.new_zeros(*z.shape[:-2], 0, z.shape[-1]), A)


COMPILED = pytest.param("inductor", marks=pytest.mark.long)


@pytest.fixture(params=["reference", "eager", "eager of a GPU", "two-phase", "formula", COMPILED])
def backend(request, monkeypatch):
    """ "two-phase" is eager over ranks, "formula" is what inductor compiles, as it stands."""
    name = request.param
    if name == "formula":
        name = "inductor"
        monkeypatch.setattr(inductor, "_PART", 200)  # so that small problems have several parts too
        monkeypatch.setattr(inductor, "_run", lambda formula, *x, J: formula(*x, J, sincos.cos_sin))
    if name == "eager of a GPU":
        name = "eager"
        monkeypatch.setitem(eager._TILE, "cpu", eager._TILE["other"])

    def compute(z: Tensor, A: Tensor, *, weights: Tensor | None = None, group=None, **settings) -> Tensor:
        backend = "eager" if name == "two-phase" else name
        if name == "two-phase" and group is None and settings.get("num_points", 17) == 17:
            group = empty_rank(z.detach(), A.detach()) if settings.get("t_max", 3.0) == 3.0 else None
        sample = Sample(z, weights, group)
        return sample.mean_over_views(
            kernels.sliced_epps_pulley(sample, A, backend=backend, **(GRID | settings))
        )

    return compute


def assert_near(value: Tensor, grad: Tensor, expected: tuple[Tensor, Tensor], scale: float | None = None):
    """Within the promised distance; `scale` replaces the value where that may be near zero."""
    assert_close(value.double(), expected[0], rtol=VALUE, atol=VALUE * (scale or 0.0))
    assert (grad.double() - expected[1]).norm() <= GRADIENT * expected[1].norm()
