"""From the sums of cosines and sines to Epps-Pulley's value, and to its slope in each sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


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
    value: Tensor = _EppsPulley.apply(C, S, N, t_max, num_points, unbiased)
    return value


class _EppsPulley(Function):
    """The formula and its slope, each written once: a chain of operations would store every step."""

    @staticmethod
    def forward(
        ctx: Any, C: Tensor, S: Tensor, N: Tensor | int, t_max: float, num_points: int, unbiased: bool
    ) -> Tensor:
        ctx.save_for_backward(C, S)
        ctx.arguments = N, t_max, num_points, unbiased
        phi, w = (v.unsqueeze(-1) for v in window(t_max, num_points, C))  # (P, 1)
        re, im = C / N, S / N
        if unbiased:
            modulus = (N * (re.square() + im.square()) - 1) / (N - 1)
            error = modulus - 2 * phi * re + phi.square()
        else:
            error = (re - phi).square() + im.square()
        return N * (w * error).sum(-2)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        C, S = ctx.saved_tensors
        N, t_max, num_points, unbiased = ctx.arguments
        phi, w = (v.unsqueeze(-1) for v in window(t_max, num_points, C))
        g = grad_output.unsqueeze(-2)
        gC, gS = (g * slope for slope in slopes(C, S, N, phi, w, unbiased))
        return gC, gS, None, None, None, None


def slopes(
    C: Tensor, S: Tensor, N: Tensor | int, phi: Tensor, w: Tensor, unbiased: bool
) -> tuple[Tensor, Tensor]:
    """d statistic / dC and / dS, in the shape of the sums, for `window`'s phi and w along their P."""
    scale = 2 * w / ((N - 1) if unbiased else N)
    return torch.addcmul(-2 * w * phi, C, scale), S * scale
