"""Epps-Pulley's statistic from the sums of the empirical characteristic function (ECF).

The sums of a sample x_n with weights w_n are C_p = sum_n w_n cos(t_p x_n) and S_p = sum_n w_n sin(t_p x_n)
at the points t_p = p t_max / P, p = 1...P, of the half-line.  The point t = 0 contributes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sigreg.sample import Number


def points(t_max: float, num_points: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """phi(t) = exp(-t^2/2) and the doubled trapezoid rule's weights times phi, two tensors of shape (P,)."""
    P = num_points - 1
    phi = torch.exp(torch.linspace(t_max / P, t_max, P, dtype=like.dtype, device=like.device).square() / -2)
    w = phi * (2 * t_max / P)
    w[-1:] /= 2  # as the trapezoid rule does with its last point
    return phi, w


def epps_pulley_from_sums(
    C: Tensor, S: Tensor, W: Number, N: Number, phi: Tensor, w: Tensor, unbiased: bool
) -> Tensor:
    """The statistic from the sums `(..., K, P)`, the total weight and the effective sample size: `(..., K)`.

    phi and w are those of `points`.

        e_p = |phi_hat(t_p) - phi(t_p)|^2,   phi_hat = (C + i S) / W
        biased:    N sum_p w_p e_p
        unbiased:  N/(N - 1) sum_p w_p [ N e_p - (1 - 2 phi_p Re phi_hat_p + phi_p^2) ]

    The second is N sum_p w_p [ (N |phi_hat|^2 - 1)/(N - 1) - 2 phi Re phi_hat + phi^2 ], arranged so that
    no two numbers of order N are subtracted.
    """
    W, N = _column(W), _column(N)
    re = C / W
    error = (re - phi).square() + (S / W).square()
    if not unbiased:
        return ((N * w) * error).sum(-1)
    expectation = 1 - 2 * phi * re + phi.square()  # of N e under any distribution, times (N - 1)/N
    return (_correction(N) * w * (N * error - expectation)).sum(-1)


def slopes(
    C: Tensor, S: Tensor, W: Number, N: Number, phi: Tensor, w: Tensor, unbiased: bool
) -> tuple[Tensor, Tensor]:
    """d statistic / dC and / dS, in the shape of the sums, for `points`' phi and w."""
    W, N = _column(W), _column(N)
    f: Number = 1.0
    scale = (2 * N / W) * w
    if unbiased:
        f = _correction(N)
        scale = scale * (f > 0)  # a single row has no gradient either
    return scale * (C * (f / W) - phi), scale * (S * (f / W))


def _column(number: Number) -> Number:
    """A number, or `(..., 1) -> (..., 1, 1)`, to stand beside `(..., K, P)`."""
    return number.unsqueeze(-1) if isinstance(number, Tensor) else number


def _correction(N: Number) -> Number:
    """N / (N - 1), and 0 where a single row leaves nothing to estimate."""
    if isinstance(N, Tensor):
        beyond_one = N - 1
        several = beyond_one > 8 * torch.finfo(N.dtype).eps  # the N of one row of any weight is rounded
        return torch.where(several, N / torch.where(several, beyond_one, 1.0), 0.0)
    return N / (N - 1) if N > 1 else 0.0
