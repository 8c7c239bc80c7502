"""SIGReg for eb_jepa: its `BCS` loss, with the right gradient on several GPUs.

    - from eb_jepa.losses import BCS
    + from sigreg_adapters.eb_jepa import BCS

eb_jepa's class sums over the ranks without autograd, so its gradient is 1/world_size of the right one, and
its checkpoints do not contain the step of its directions.  Here `state_dict()` contains it.  eb_jepa's
example saves no criterion, so pass the criterion to `save_checkpoint` and `load_checkpoint` beside the model.

Tried with eb_jepa 0.1.1 (git 966e61e).
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

import sigreg
from sigreg.arguments import assert_number
from sigreg.objective import prediction_loss, stacked
from sigreg.sample import Sample
from sigreg.univariate import epps_pulley
from sigreg_adapters.last_batch import weights_of_one_row

# eb_jepa's 10 points on [-3, 3] are the odd multiples of 1/3.  Twice the grid of all multiples up to 3, less
# that of the even ones up to 8/3, whose last point weighs half and is taken out by a third grid, gives them.
STATISTIC = {
    functools.partial(epps_pulley, t_max=3.0, num_points=10): 2.0,
    functools.partial(epps_pulley, t_max=8 / 3, num_points=5): -1.0,
    functools.partial(epps_pulley, t_max=8 / 3, num_points=2): -0.25,
}


class BCS(nn.Module):
    """`mse(z1, z2) + lmbd * SIGReg / N`: eb_jepa's loss of two views, over the batch of all ranks.

    Args:
        num_slices: random slices per call.
        lmbd: the weight of SIGReg.  eb_jepa does not multiply SIGReg by N, and its prediction term is 4 times
            that of `sigreg.LeJEPALoss`, whose ratio lambda_param / (1 - lambda_param) is lmbd / (4 N).
        **settings: anything else `sigreg.SIGReg` takes except `memory`.  The default is Epps-Pulley on
            eb_jepa's grid, which is fixed; with `statistic="epps_pulley"` the grid is this library's, and
            `t_max`, `num_points` and `grid` choose another.

    Shapes:
        z1, z2 `(N, D)` -> dict of scalars "loss", "bcs_loss" and "invariance_loss", as eb_jepa's.

    Raises:
        TypeError: lmbd is no number.
        ValueError: views of different shape, num_slices < 1, a negative lmbd, a memory, or a setting of
            the grid without a statistic.

    Example:
        >>> import torch
        >>> z = torch.zeros(64, 16)  # collapsed: 0.4 at any N
        >>> {name: round(float(value), 3) for name, value in BCS()(z, z).items()}
        {'loss': 4.0, 'bcs_loss': 0.4, 'invariance_loss': 0.0}
    """

    def __init__(self, num_slices: int = 256, lmbd: float = 10.0, **settings: Any) -> None:
        super().__init__()
        assert_number(0, lmbd=lmbd)
        self.num_slices, self.lmbd = num_slices, lmbd
        if settings.get("memory"):
            raise ValueError(
                f"memory={settings['memory']} changes the number of samples, by which BCS divides SIGReg; "
                "use sigreg.SIGReg"
            )
        grid = [name for name in ("t_max", "num_points", "grid") if name in settings]
        if grid and "statistic" not in settings:
            raise ValueError(
                f"{grid[0]}={settings[grid[0]]!r} would change eb_jepa's grid, which BCS reproduces; give "
                'statistic="epps_pulley" with it'
            )
        settings.setdefault("statistic", STATISTIC)
        self.sigreg = sigreg.SIGReg(num_slices=num_slices, **settings)

    @property
    def step(self) -> int:
        """The number of calls in training mode."""
        return int(self.sigreg.step)

    def forward(self, z1: Tensor, z2: Tensor) -> dict[str, Tensor]:
        """The loss of two views, and its two unweighted parts."""
        views = stacked([z1, z2])
        sample = Sample(views, weights_of_one_row(views, None, self.sigreg.group), self.sigreg.group)
        bcs = self.sigreg(views, sample.weights)
        (N,) = sample.group.all_reduce(bcs.new_full((), len(z1)))
        # the distance between two views is twice that to their mean, so its square is 4 times as large
        invariance = 4 * prediction_loss(sample, 2)
        return {
            "loss": invariance + self.lmbd * bcs / N,
            "bcs_loss": bcs / N,
            "invariance_loss": invariance,
        }
