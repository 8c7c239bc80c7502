"""The mean of exp(-s u^2) over the sphere, which a Gaussian kernel becomes with infinitely many slices.

u is one coordinate of a uniform unit vector in R^D, so u^2 is Beta(1/2, (D-1)/2) and

    E exp(-s u^2) = 1F1(1/2; D/2; -s)

torch has no 1F1, and neither its series nor its asymptotic expansion is accurate for moderate s.  But for a
fixed D this is one smooth curve.  With b = D/2 and y = s / (s + b), running over [0, 1] as s runs over
[0, inf), the product h(y) = sqrt(1 + s/b) 1F1 is nearly constant (it is 1 in the limit of large D),
so a table of it and of its slope, interpolated by cubics, serves every s: within 1e-12 for the value
and 1e-9 of itself for the derivative, from D = 1 to 4096.  The table comes from a quadrature over
the interval where the integrand is not negligible, in float64, once per D (20 ms).
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.nn.functional import embedding

_INTERVALS = 4096
_NODES = 96
_NEGLIGIBLE = 42.0  # exp(-42) is below float64's epsilon


def _gauss_legendre(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], by Golub and Welsch."""
    k = torch.arange(1, n, dtype=torch.float64)
    off = k / (4 * k.square() - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (nodes + 1) / 2, vectors[0].square()


@functools.lru_cache(maxsize=16)
def _cached_cubics(D: int, device: torch.device) -> Tensor:
    with torch.device("cpu"):
        return _computed_cubics(D).to(device)


# A custom operator, so that the cache holds real tensors only: under FakeTensorMode and on the meta
# device `_fake_cubics` runs in its place.
@torch.library.custom_op("sigreg::sphere_cubics", mutates_args=())
def _cubics(D: int, device: torch.device) -> Tensor:
    """The cubics of h on M equal intervals of [0, 1]: coefficients `(M, 4)`, float64."""
    return _cached_cubics(D, device).clone()


@_cubics.register_fake
def _fake_cubics(D: int, device: torch.device) -> Tensor:
    return torch.empty(_INTERVALS, 4, dtype=torch.float64, device=device)


def _computed_cubics(D: int) -> Tensor:
    b = D / 2
    y = torch.linspace(0, 1, _INTERVALS + 1, dtype=torch.float64)[:-1]
    s = b * y / (1 - y)
    if D == 1:
        value, moment = torch.exp(-s), torch.exp(-s)
    else:
        # u = sin(angle), density proportional to cos^(D-2); cut where both factors are negligible
        rate = s + (D - 2) / 2
        end = (_NEGLIGIBLE / rate.clamp(min=_NEGLIGIBLE)).sqrt().asin()
        nodes, weights = _gauss_legendre(_NODES)
        angle = end[:, None] * nodes
        u2 = angle.sin().square()
        density = angle.cos().pow(D - 2) * torch.exp(-s[:, None] * u2) * weights * end[:, None]
        norm = math.exp(math.lgamma(b) - math.lgamma(b - 0.5)) * 2 / math.sqrt(math.pi)
        value, moment = norm * density.sum(1), norm * (density * u2).sum(1)
    root = (1 / (1 - y)).sqrt()
    h = root * value
    # dh/dy with d(value)/ds = -moment, ds/dy = b / (1-y)^2
    slope = root * (value / (2 * (1 - y)) - moment * b / (1 - y).square())
    # y = 1, from 1F1 ~ G s^(-1/2) (1 + (3/2 - b) / (2 s)), G = Gamma(b) / Gamma(b - 1/2)
    limit = 0.0 if D == 1 else math.exp(math.lgamma(b) - math.lgamma(b - 0.5) - 0.5 * math.log(b))
    last = torch.tensor([[limit, -0.75 * limit / b]], dtype=torch.float64)
    h, slope = torch.cat([torch.stack([h, slope], dim=1), last]).unbind(1)
    h0, h1, d0, d1 = h[:-1], h[1:], slope[:-1] / _INTERVALS, slope[1:] / _INTERVALS
    return torch.stack([h0, d0, 3 * (h1 - h0) - 2 * d0 - d1, 2 * (h0 - h1) + d0 + d1], dim=1)


def _locate(s: Tensor, D: int) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """The position of s in its interval, the interval's cubic, and 1 - y to full precision."""
    rest = (D / 2) / (s + D / 2)
    position = (1 - rest) * _INTERVALS
    left = position.floor().nan_to_num().clamp(max=_INTERVALS - 1)
    return position - left, embedding(left.long(), _cubics(D, s.device)).unbind(-1), rest


def sphere_mean(s: Tensor, D: int) -> Tensor:
    """E exp(-s u^2), elementwise for s >= 0 in float64."""
    f, (c0, c1, c2, c3), rest = _locate(s, D)
    return (c0 + f * (c1 + f * (c2 + f * c3))) * rest.sqrt()


def sphere_mean_slope(s: Tensor, D: int) -> Tensor:
    """The derivative of `sphere_mean` in s."""
    f, (c0, c1, c2, c3), rest = _locate(s, D)
    h = c0 + f * (c1 + f * (c2 + f * c3))
    slope = (c1 + f * (2 * c2 + f * 3 * c3)) * _INTERVALS
    return rest.sqrt() * rest * (slope * rest - h / 2) * (2 / D)  # dy/ds = (1 - y)^2 / b
