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


class SIGReg(sigreg.SIGReg):
    """`sigreg.SIGReg` under stable-worldmodel's names: of every time step, over the batch of all ranks.

    stable-worldmodel's class tests each rank's own batch, and draws its directions from torch's global
    generator at every call.  Here they follow from `seed` and the number of calls, so that all ranks share
    them, a resumed run continues where it stopped, and evaluation is deterministic.

    Args:
        knots: quadrature points on the half-line [0, 3] (`num_points`).
        num_proj: random slices per call (`num_slices`).
        **settings: anything else `sigreg.SIGReg` takes, e.g. `directions="orthogonal"` or `group=None`.

    Shapes:
        proj `(T, B, D)` -> scalar: the sample axis is -2, so transpose embeddings `(B, T, D)`, as
        stable-worldmodel's training script does.  weights (optional) broadcast to `(T, B)`: 0 leaves out a
        padded step.

    Raises:
        ValueError: knots < 2 or num_proj < 1, or knots given with another statistic.

    Example:
        >>> import torch
        >>> emb = torch.zeros(64, 5, 16)  # (B, T, D), collapsed: 0.402 per sample
        >>> round(float(SIGReg(num_proj=128)(emb.transpose(0, 1))), 3)
        25.731
    """

    def __init__(self, knots: int = 17, num_proj: int = 1024, **settings: Any) -> None:
        if settings.get("statistic", "epps_pulley") == "epps_pulley":
            settings = {"t_max": 3.0, "num_points": knots} | settings
        elif knots != 17:
            raise ValueError(f"knots={knots} belongs to epps_pulley, but statistic={settings['statistic']!r}")
        super().__init__(num_slices=num_proj, **settings)
        self.num_proj = num_proj

    def forward(
        self, proj: Tensor, weights: Tensor | None = None, *, step: int | Tensor | None = None
    ) -> Tensor:
        """The regularizer of embeddings `(T, B, D)`, averaged over time."""
        return super().forward(proj, weights_of_one_row(proj, weights, self.group), step=step)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if prefix + "_extra_state" not in state_dict:  # a checkpoint of stable-worldmodel's class
            for constant in ("t", "phi", "weights"):
                state_dict.pop(prefix + constant, None)
            state_dict[prefix + "_extra_state"] = self.get_extra_state()
        super()._load_from_state_dict(state_dict, prefix, *rest)
