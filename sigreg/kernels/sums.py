"""From the sums of cosines and sines to Epps-Pulley's value, and to its slope in each sum."""

from __future__ import annotations

import torch
from torch import Tensor


def window(t_max: float, num_points: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """phi(t_k) and the weights of the doubled trapezoid rule, window included: `(P,)` twice, k = 1...P."""
    P = num_points - 1
    dt = t_max / P
    t = torch.arange(1, P + 1, dtype=like.dtype, device=like.device) * dt
    phi = torch.exp(-t.square() / 2)
    w = 2 * dt * phi  # both half-lines; the point t = 0 contributes nothing
    return phi, torch.cat([w[:-1], w[-1:] / 2])


def epps_pulley_from_sums(
    C: Tensor, S: Tensor, N: Tensor | int, t_max: float, num_points: int, unbiased: bool = False
) -> Tensor:
    """The statistic from sum_n cos(t_k x_n) and sum_n sin(t_k x_n): `(..., P, K)` twice -> `(..., K)`."""
    phi, w = (v.unsqueeze(-1) for v in window(t_max, num_points, C))  # (P, 1)
    re, im = C / N, S / N
    if unbiased:
        modulus = (N * (re.square() + im.square()) - 1) / (N - 1)
        error = modulus - 2 * phi * re + phi.square()
    else:
        error = (re - phi).square() + im.square()
    return N * (w * error).sum(-2)


def slopes(C: Tensor, S: Tensor, N: int, phi: Tensor, w: Tensor, unbiased: bool) -> tuple[Tensor, Tensor]:
    """d statistic / dC and / dS, from sums `(K, P)` and `window`'s phi and w: `(K, P)` twice."""
    scale = 2 * w / ((N - 1) if unbiased else N)
    return torch.addcmul(-2 * w * phi, C, scale), S * scale
