"""`SIGReg` and `LeJEPALoss` with the signatures of lightly's classes of these names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

import sigreg
from sigreg.objective import LeJEPAComponents, stacked
from sigreg_adapters.last_batch import weights_of_one_row
from sigreg_adapters.renamed import POINTS, SLICES, T_MAX, accept_constants, rename


class SIGReg(sigreg.SIGReg):
    """`sigreg.SIGReg` under lightly's names.

    Args:
        knots: quadrature points on the half-line (`num_points`); left out, `grid` may replace it.
        t_max: half-range of the integral; left out, `grid` may replace it.
        num_vectors: random slices per call (`num_slices`).
        gather_distributed: use the global batch of the default process group; exact in value and
            gradient, also for batches that differ in size.
        **settings: anything else `sigreg.SIGReg` takes, e.g. `statistic="cramer_von_mises"`.

    Shapes:
        proj `(..., N, D)`, any floating dtype, and weights that broadcast to `(..., N)` -> scalar, float32
        (float64 for float64).  Leading dimensions (views) are tested one by one and averaged.

    Raises:
        TypeError: knots or t_max for a statistic that has no quadrature.
        ValueError: knots < 2, t_max <= 0 or num_vectors < 1; a setting under lightly's name and ours at once.

    Example:
        >>> import torch
        >>> SIGReg(num_vectors=64)(torch.zeros(2, 100, 16))  # collapsed: 0.402 per sample
        tensor(40.2048)
    """

    def __init__(
        self,
        *,
        knots: int = POINTS,
        t_max: float = T_MAX,
        num_vectors: int = SLICES,
        gather_distributed: bool = False,
        **settings: Any,
    ) -> None:
        vectors = ("num_slices", num_vectors)
        rename(settings, knots=("num_points", knots), t_max=("t_max", t_max), num_vectors=vectors)
        if gather_distributed:
            rename(settings, gather_distributed=("group", "auto"))
        super().__init__(**{"group": None} | settings)
        self.num_vectors, self.gather_distributed = self.num_slices, gather_distributed

    def forward(
        self, proj: Tensor, weights: Tensor | None = None, *, step: int | Tensor | None = None
    ) -> Tensor:
        """The regularizer of projections `(..., N, D)`; `weights` and `step` as in `sigreg.SIGReg`."""
        return super().forward(proj, weights_of_one_row(proj, weights, self.group), step=step)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        accept_constants(self, state_dict, prefix, "lightly")
        super()._load_from_state_dict(state_dict, prefix, *rest)


class LeJEPALoss(sigreg.LeJEPALoss):
    """`sigreg.LeJEPALoss` under lightly's names, for the projections of lightly's views.

    Args:
        lambda_param: the weight of SIGReg, in [0, 1].
        gather_distributed: use the global batch of the default process group.
        sigreg_knots: quadrature points on the half-line.
        sigreg_t_max: half-range of the integral.
        sigreg_num_vectors: random slices per call (`num_slices`).
        **settings: anything else `sigreg.SIGReg` takes, e.g. `statistic="cramer_von_mises"`.

    Call it with a list of views, globals first, or with lightly's keywords:

        criterion(views)                     # list of (N, D), all global
        criterion(views, num_global=2)       # the first two global
        criterion(local_proj=(Vl, N, D), global_proj=(Vg, N, D))

    Shapes:
        views: a list of V tensors `(N, D)` or one tensor `(V, N, D)`, global views first -> scalar.
        local_proj, global_proj: `(Vl, N, D)` and `(Vg, N, D)` in the place of views -> scalar.
        weights: bool or non-negative floats that broadcast to `(V, N)`, as in `sigreg.LeJEPALoss`.

    Raises:
        TypeError, ValueError: as `SIGReg`; lambda outside [0, 1], views or projections of differing shape,
            both call styles, or a setting under lightly's name and ours at once.

    Example:
        >>> import torch
        >>> views = list(torch.randn(4, 32, 16, generator=torch.Generator().manual_seed(0)))
        >>> criterion = LeJEPALoss().eval()
        >>> a = criterion(views, num_global=2)
        >>> b = criterion(global_proj=torch.stack(views[:2]), local_proj=torch.stack(views[2:]))
        >>> bool(a == b)
        True
    """

    def __init__(
        self,
        lambda_param: float = 0.05,
        gather_distributed: bool = False,
        sigreg_knots: int = POINTS,
        sigreg_t_max: float = T_MAX,
        sigreg_num_vectors: int = SLICES,
        **settings: Any,
    ) -> None:
        rename(
            settings,
            sigreg_knots=("num_points", sigreg_knots),
            sigreg_t_max=("t_max", sigreg_t_max),
            sigreg_num_vectors=("num_slices", sigreg_num_vectors),
        )
        super().__init__(lambda_param, SIGReg(gather_distributed=gather_distributed, **settings))

    def forward(
        self,
        views: Sequence[Tensor] | Tensor | None = None,
        num_global: int | None = None,
        weights: Tensor | None = None,
        *,
        local_proj: Tensor | None = None,
        global_proj: Tensor | None = None,
        step: int | Tensor | None = None,
    ) -> Tensor:
        """The loss of V views, given as `views` or by lightly's two keywords.

        Args:
            views: a list of tensors `(N, D)` or one tensor `(V, N, D)`, global views first.
            num_global: how many of `views` are global; None for all of them.
            weights: bool or non-negative floats that broadcast to `(V, N)`, global views first.
            local_proj: the local views `(Vl, N, D)`, if there are any; goes with `global_proj`.
            global_proj: the global views `(Vg, N, D)`, in the place of `views` and `num_global`.
            step: as in `sigreg.SIGReg`.
        """
        return self.components(
            views, num_global, weights, local_proj=local_proj, global_proj=global_proj, step=step
        ).total

    def components(
        self,
        views: Sequence[Tensor] | Tensor | None = None,
        num_global: int | None = None,
        weights: Tensor | None = None,
        *,
        local_proj: Tensor | None = None,
        global_proj: Tensor | None = None,
        step: int | Tensor | None = None,
    ) -> LeJEPAComponents:
        """The loss and its unweighted parts, `total, prediction, sigreg`; arguments as of `forward`."""
        views, num_global = _views(views, num_global, local_proj, global_proj)
        first = next(iter(views), None) if isinstance(views, Sequence) else views
        weights = weights_of_one_row(first, weights, self.sigreg.group)
        return super().components(views, num_global, weights, step=step)

    forward_components = components  # an older name


def _views(
    views: Sequence[Tensor] | Tensor | None,
    num_global: int | None,
    local_proj: Tensor | None,
    global_proj: Tensor | None,
) -> tuple[Sequence[Tensor] | Tensor, int | None]:
    """Either call style as (views, num_global)."""
    if (views is None) == (global_proj is None) or (views is not None and local_proj is not None):
        raise ValueError("give either views or global_proj= (with local_proj=, if there are local views)")
    if global_proj is not None and num_global is not None:
        raise ValueError("num_global= goes with views; global_proj= already says which views are global")
    if global_proj is None:
        assert views is not None
        return views, num_global
    projections = [stacked(global_proj)] + ([] if local_proj is None else [stacked(local_proj)])
    return [view for projection in projections for view in projection], len(global_proj)
