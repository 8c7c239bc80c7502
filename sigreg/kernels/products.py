"""All frequencies from a few: sums of cosines and sines as sums of products.

In units of half a grid step the frequencies are the even numbers 2, 4, 6, ... 2P, and those are m - 3,
m - 1, m + 1, m + 3 for m = 5, 13, 21, ...  With phi = x dt / 2, the "short" rows are cosine and sine of 3 phi
and of phi, the "long" rows those of m phi, and

    cos((m -+ j) phi) = cos(m phi) cos(j phi) +- sin(m phi) sin(j phi)
    sin((m -+ j) phi) = sin(m phi) cos(j phi) -+ cos(m phi) sin(j phi)

so the sum over n of each long row times each short one gives all 2P sums: one multiplication and one
addition for each, where a recurrence over the frequencies takes three of both.  The gradient is
the transposed product.

Products are laid out `(..., J, 2, 2, 2)`: the J long rows m, their cosine and sine, the short rows j = 3, 1,
their cosine and sine.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def groups(P: int) -> int:
    """J, the number of long rows m = 5, 13, 21, ... that P frequencies need: four to each."""
    return -(-P // 4)


def sums(products: Tensor, P: int) -> tuple[Tensor, Tensor]:
    """sum_n cos(2k phi_n) and sum_n sin(2k phi_n), k = 1...P: two tensors of shape (..., P)."""
    (cc, cs), (sc, ss) = (row.unbind(-1) for row in products.unbind(-3))  # (..., J, 2) each, j = 3, 1

    def ascending(minus: Tensor, plus: Tensor) -> Tensor:  # m - 3, m - 1, m + 1, m + 3
        return torch.cat([minus, plus.flip(-1)], dim=-1).flatten(-2)[..., :P]

    return ascending(cc + ss, cc - ss), ascending(sc - cs, sc + cs)


def weights(gC: Tensor, gS: Tensor) -> Tensor:
    """Each product's weight in d/dphi of sum_k (gC_k C_k + gS_k S_k): `(..., P) -> (..., J, 2, 2, 2)`."""
    P = gC.shape[-1]
    twice_k = torch.arange(2, 2 * P + 1, 2, dtype=gC.dtype, device=gC.device)

    def split(g: Tensor) -> tuple[Tensor, Tensor]:  # of m - j and of m + j, j = 3, 1: (..., J, 2) each
        g = pad(g, (0, -P % 4)) if P % 4 else g
        g = g.reshape(*g.shape[:-1], -1, 4)
        return g[..., :2], g[..., 2:].flip(-1)

    (a, A), (b, B) = split(gS * twice_k), split(gC * -twice_k)  # weights of the cosines and of the sines
    of_cosine = torch.stack([a + A, B - b], dim=-1)  # cos(m phi) times cos(j phi), sin(j phi)
    of_sine = torch.stack([b + B, a - A], dim=-1)
    return torch.stack([of_cosine, of_sine], dim=-3)
