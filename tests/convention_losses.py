"""What the tests of `convert_lambda` compare: whole losses, of hosts and of stand-ins.

The stand-ins are written from the descriptions in `sigreg.conventions`, not from the projects' code, and
integrate the empirical characteristic function directly.  They stand for what no package index has: the
authors' minimal script, the paper's formula, eb_jepa and dl_techniques.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from sigreg import LeJEPALoss, SIGReg
from sigreg.conventions import convert_lambda
from sigreg_adapters.eb_jepa import STATISTIC
from tests.host_parity import embeddings, from_the_global_generator

LAMBDA, SLICES = 0.05, 64
Loss = Callable[[Tensor], Tensor]


def views(V: int, N: int = 64, D: int = 16) -> Tensor:
    """`(V, N, D)`: each view holds the same rows in another order.

    The views' samples are then the same one, so that the statistic of all V N rows together is exactly V
    times that of a view, while the distance between the views of a row is not zero.
    """
    rows = embeddings(N, D, scale=0.5)
    generator = torch.Generator().manual_seed(7)
    return torch.stack([rows[torch.randperm(N, generator=generator)] for _ in range(V)])


def ours(directions: Any = from_the_global_generator, num_global: int | None = None, **grid: Any) -> Loss:
    """LeJEPALoss at the weight `LAMBDA`."""
    criterion = LeJEPALoss(LAMBDA, SIGReg(num_slices=SLICES, directions=directions, **grid)).eval()
    return lambda z: criterion(z, num_global)


def converted(name: str, z: Tensor) -> float:
    """The lambda of a convention that balances the two terms as `LAMBDA` does here."""
    V, N, D = z.shape
    return convert_lambda(LAMBDA, "sigreg", name, V=V, N=N, D=D)


def assert_same_up_to_a_factor(theirs: Loss, ours: Loss, z: Tensor) -> float:
    """Both losses weigh their terms alike: parallel gradients, and values in the gradients' ratio, returned.

    In float32 the sums round differently, by a few eps of the largest entry.
    """
    results = []
    for loss in (theirs, ours):
        torch.manual_seed(3)  # the directions
        leaf = z.clone().requires_grad_()
        value = loss(leaf)
        value.backward()
        results.append((value.detach(), leaf.grad))
    (value, grad), (expected, expected_grad) = results
    factor = float(grad.norm() / expected_grad.norm())
    assert_close(grad / factor, expected_grad, rtol=0, atol=1e-5 * float(expected_grad.abs().max()))
    assert_close(value / factor, expected, rtol=1e-5, atol=0)
    return factor


def _directions(D: int) -> Tensor:
    A = torch.randn(D, SLICES)
    return A / A.norm(dim=0)


def _epps_pulley(x: Tensor, t: Tensor) -> Tensor:
    """The integral of exp(-t^2/2) |ecf(t) - exp(-t^2/2)|^2 over a grid: `(N, K)` -> mean over K."""
    phi = torch.exp(-t.square() / 2)
    xt = x[..., None] * t
    ecf = torch.complex(xt.cos(), xt.sin()).mean(-3)
    return torch.trapezoid(phi * (ecf - phi).abs().square(), t).mean()


def _per_view(z: Tensor, half_range: float, num_points: int) -> Tensor:
    """The mean over views of the statistic without the factor N, on a symmetric grid."""
    A, t = _directions(z.shape[-1]), torch.linspace(-half_range, half_range, num_points)
    return torch.stack([_epps_pulley(view @ A, t) for view in z]).mean()


def _to_the_mean(z: Tensor) -> Tensor:
    """The squared distance of each view to the mean over views, for every entry."""
    return (z - z.mean(0)).square()


def minimal(lambda_param: float, z: Tensor) -> Tensor:
    """Stand-in for the authors' minimal script."""
    return (1 - lambda_param) * _to_the_mean(z).mean() + lambda_param * z.shape[1] * _per_view(z, 3.0, 33)


def paper(lambda_param: float, z: Tensor) -> Tensor:
    """Stand-in for the paper's formula, whose prediction term sums over D; 17 points on [-5, 5]."""
    prediction = _to_the_mean(z).sum(-1).mean()
    return (1 - lambda_param) * prediction + lambda_param * z.shape[1] * _per_view(z, 5.0, 17)


def eb_jepa(lambda_param: float, z: Tensor) -> Tensor:
    """Stand-in for eb_jepa's loss of two views: 10 points on [-3, 3], not times N."""
    first, second = z
    return (first - second).square().mean() + lambda_param * _per_view(z, 3.0, 10)


def dl_techniques(lambda_param: float, z: Tensor) -> Tensor:
    """Stand-in for dl_techniques' loss, not times N."""
    return _to_the_mean(z).mean() + lambda_param * _per_view(z, 3.0, 33)


# name: (stand-in, number of views, our grid where it is not the customary one)
STAND_INS: dict[str, tuple[Callable[[float, Tensor], Tensor], int, dict[str, Any]]] = {
    "minimal": (minimal, 6, {}),
    "paper": (paper, 6, {"t_max": 5.0, "num_points": 9}),
    "eb_jepa": (eb_jepa, 2, {"statistic": STATISTIC}),
    "dl_techniques": (dl_techniques, 6, {}),
}
