"""SIGReg for stable-worldmodel (and le-wm): the class of the same name, also on several GPUs.

Change the import and nothing else:

    - from stable_worldmodel.wm.loss import SIGReg
    + from sigreg_adapters.stable_worldmodel import SIGReg

Tried with stable-worldmodel 0.1.1.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

import sigreg
from sigreg_adapters.last_batch import weights_of_one_row
from sigreg_adapters.renamed import POINTS, SLICES, accept_constants, rename


class SIGReg(sigreg.SIGReg):
    """`sigreg.SIGReg` under stable-worldmodel's names: of every time step, over the batch of all ranks.

    stable-worldmodel's class tests each rank's own batch, and draws its directions from torch's global
    generator at every call.  Here they follow from `seed` and the number of calls, so that all ranks share
    them, a resumed run continues where it stopped, and evaluation is deterministic.

    Args:
        knots: quadrature points on the half-line [0, 3] (`num_points`); left out, `grid` may replace it.
        num_proj: random slices per call (`num_slices`).
        **settings: anything else `sigreg.SIGReg` takes, e.g. `directions="orthogonal"` or `group=None`.

    Shapes:
        proj `(T, B, D)` -> scalar: the sample axis is -2, so transpose embeddings `(B, T, D)`, as
        stable-worldmodel's training script does.  weights (optional) broadcast to `(T, B)`: 0 leaves out a
        padded step.

    Raises:
        TypeError: knots given for a statistic that has no quadrature.
        ValueError: knots < 2 or num_proj < 1; a setting under stable-worldmodel's name and ours at once.

    Example:
        >>> import torch
        >>> emb = torch.zeros(64, 5, 16)  # (B, T, D), collapsed: 0.402 per sample
        >>> round(float(SIGReg(num_proj=128)(emb.transpose(0, 1))), 3)
        25.731
    """

    def __init__(self, knots: int = POINTS, num_proj: int = SLICES, **settings: Any) -> None:
        rename(settings, knots=("num_points", knots), num_proj=("num_slices", num_proj))
        super().__init__(**settings)
        self.num_proj = self.num_slices

    def forward(
        self, proj: Tensor, weights: Tensor | None = None, *, step: int | Tensor | None = None
    ) -> Tensor:
        """The regularizer of embeddings `(T, B, D)`, averaged over time."""
        return super().forward(proj, weights_of_one_row(proj, weights, self.group), step=step)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        accept_constants(self, state_dict, prefix, "stable-worldmodel")
        super()._load_from_state_dict(state_dict, prefix, *rest)
