"""All harmonics from a few: sums of cosines and sines as sums of products.

In units of half a grid step the frequencies are the even numbers 2, 4, 6, ... 2P, and those are m - 3,
m - 1, m + 1, m + 3 for m = 5, 13, 21, ...  So with phi = x dt / 2, the rows e^{i phi} and e^{3i phi}, the
rows e^{im phi}, and the sum over n of each product of a short row with a long one give all 2P sums: one
multiplication and one addition for each, where a recurrence over the frequencies takes three of both.
The gradient is the same product read backwards.
"""

from __future__ import annotations

import torch
from torch import Tensor

# cos((m - 3) phi) = c_m c_3 + s_m s_3 and so on: products (c_m, s_m) x (c_1, s_1, c_3, s_3) in the rows,
# cosines of m - 3, m - 1, m + 1, m + 3 and then the sines of the same in the columns.
_IDENTITIES = [
    [0, 1, 1, 0, 0, 0, 0, 0],  # c_m c_1
    [0, 0, 0, 0, 0, -1, 1, 0],  # c_m s_1
    [1, 0, 0, 1, 0, 0, 0, 0],  # c_m c_3
    [0, 0, 0, 0, -1, 0, 0, 1],  # c_m s_3
    [0, 0, 0, 0, 0, 1, 1, 0],  # s_m c_1
    [0, 1, -1, 0, 0, 0, 0, 0],  # s_m s_1
    [0, 0, 0, 0, 1, 0, 0, 1],  # s_m c_3
    [1, 0, 0, -1, 0, 0, 0, 0],  # s_m s_3
]


def groups(P: int) -> int:
    """J, the number of long rows m = 5, 13, 21, ... that P frequencies need: four to each."""
    return -(-P // 4)


class Identities:
    """The table above, for every group: products to sums, and slopes of sums to weights of products."""

    def __init__(self, P: int, like: Tensor) -> None:
        table = torch.tensor(_IDENTITIES, dtype=like.dtype, device=like.device)
        every = torch.eye(groups(P), dtype=like.dtype, device=like.device)
        self.cosines, self.sines = (torch.kron(every, half)[:, :P] for half in (table[:, :4], table[:, 4:]))
        self.twice_k = torch.arange(2, 2 * P + 1, 2, dtype=like.dtype, device=like.device)

    def sums(self, products: Tensor) -> tuple[Tensor, Tensor]:
        """sum_n cos(2k phi_n) and sum_n sin(2k phi_n), k = 1...P: `(M, 8 J) -> (M, P)` twice."""
        return products @ self.cosines, products @ self.sines

    def weights(self, gC: Tensor, gS: Tensor) -> Tensor:
        """Of each product in d/dphi of sum_k (gC_k C_k + gS_k S_k): `(M, P)` twice `-> (M, 8 J)`."""
        return gS @ (self.twice_k * self.cosines).T - gC @ (self.twice_k * self.sines).T
