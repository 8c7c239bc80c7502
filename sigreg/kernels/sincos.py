"""Cosine and sine in a dozen multiplications, for loops that keep their sums in registers.

A library's cosine is a function call, and a loop with a call in it cannot keep its sums in registers.
Here the formula is part of the loop: phi less the nearest multiple of pi, then two polynomials.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cos_sin(phi: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of phi up to a sign that both share: that of phi less the nearest multiple of pi.

    The sign cancels wherever an even number of them is multiplied.  The error is 3e-7 plus that of rounding
    phi to float32; for finite phi neither exceeds 1 by more than that; infinities and NaN become NaN.
    Other precisions and devices take the library's functions.
    """
    if phi.dtype != torch.float32 or phi.device.type != "cpu":
        return phi.cos(), phi.sin()
    # Literals, since torch.compile may take a named constant for an input; ** and clamp, since it writes out
    # a tensor's whole formula wherever the tensor is used.
    r = (phi - 3.14159265 * (0.318309886 * phi).round()).clamp(-1.6, 1.6)
    u = r**2
    # (cos r - 1) / u and (sin r / r - 1) / u of least maximal error on [-pi/2, pi/2]: 3e-10 and 5e-9
    cos = u * (2.47618862e-5 - 2.60771043e-7 * u) - 1.38884035e-3
    cos = u * (u * cos + 4.16666407e-2) - 4.99999995e-1
    sin = u * (2.60005456e-6 * u - 1.98066151e-4) + 8.33301729e-3
    sin = u * sin - 1.66666571e-1
    return 1 + u * cos, r + r * (u * sin)
