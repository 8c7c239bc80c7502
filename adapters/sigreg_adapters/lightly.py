"""SIGReg for lightly: `LeJEPALoss` and `SIGReg` with lightly's signatures, and the transform it lacks.

Change the import and nothing else:

    - from lightly.loss import LeJEPALoss
    + from sigreg_adapters.lightly import LeJEPALoss

Signatures and values are those of lightly 1.6.0 under every version: 1.5.23 has no `LeJEPALoss` and no
`LeJEPAProjectionHead`, and the loss of 1.5.24 to 1.5.26 leaves the global views out.

Tried with lightly 1.5.23, 1.5.26 and 1.6.0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from lightly.transforms.dino_transform import DINOViewTransform
from lightly.transforms.multi_view_transform import MultiViewTransform
from torch import Tensor, nn

import sigreg
from sigreg.objective import LeJEPAComponents, stacked


class SIGReg(sigreg.SIGReg):
    """`sigreg.SIGReg` under lightly's names.

    Args:
        knots: quadrature points on the half-line (`num_points`).
        t_max: half-range of the integral.
        num_vectors: random slices per call (`num_slices`).
        gather_distributed: use the global batch of the default process group; exact in value and
            gradient, also for batches that differ in size.
        **settings: anything else `sigreg.SIGReg` takes, e.g. `statistic="cramer_von_mises"`.

    Raises:
        ValueError: knots < 2, t_max <= 0 or num_vectors < 1.

    Example:
        >>> import torch
        >>> SIGReg(num_vectors=64)(torch.zeros(2, 100, 16))  # collapsed: 0.402 per sample
        tensor(40.2048)
    """

    def __init__(
        self,
        *,
        knots: int = 17,
        t_max: float = 3.0,
        num_vectors: int = 1024,
        gather_distributed: bool = False,
        **settings: Any,
    ) -> None:
        group = settings.pop("group", "auto" if gather_distributed else None)
        if settings.get("statistic", "epps_pulley") == "epps_pulley":
            settings = {"t_max": t_max, "num_points": knots} | settings
        super().__init__(num_slices=num_vectors, group=group, **settings)
        self.num_vectors, self.gather_distributed = num_vectors, gather_distributed

    def forward(self, proj: Tensor) -> Tensor:
        """The regularizer of projections `(..., N, D)`."""
        return super().forward(proj)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for grid in ("t", "phi", "weights"):  # the buffers of lightly's class: constants, not state
            state_dict.pop(prefix + grid, None)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class LeJEPALoss(sigreg.LeJEPALoss):
    """`sigreg.LeJEPALoss` under lightly's names, for lightly's `batch[0]` as it comes.

    Args:
        lambda_param: the weight of SIGReg, in [0, 1].
        gather_distributed: use the global batch of the default process group.
        sigreg_knots: quadrature points on the half-line.
        sigreg_t_max: half-range of the integral.
        sigreg_num_vectors: random slices per call.
        **settings: anything else `sigreg.SIGReg` takes, e.g. `statistic="cramer_von_mises"`.

    Call it with a list of views, globals first, or with lightly's keywords:

        criterion(views)                     # list of (N, D), all global
        criterion(views, num_global=2)       # the first two global
        criterion(local_proj=(Vl, N, D), global_proj=(Vg, N, D))

    Raises:
        ValueError: lambda outside [0, 1], views or projections of differing shape, or both call styles.

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
        sigreg_knots: int = 17,
        sigreg_t_max: float = 3.0,
        sigreg_num_vectors: int = 1024,
        **settings: Any,
    ) -> None:
        super().__init__(
            lambda_param,
            SIGReg(
                knots=sigreg_knots,
                t_max=sigreg_t_max,
                num_vectors=sigreg_num_vectors,
                gather_distributed=gather_distributed,
                **settings,
            ),
        )

    def forward(
        self,
        views: Sequence[Tensor] | Tensor | None = None,
        num_global: int | None = None,
        *,
        local_proj: Tensor | None = None,
        global_proj: Tensor | None = None,
    ) -> Tensor:
        """The scalar loss."""
        return self.components(*_views(views, num_global, local_proj, global_proj)).total

    def forward_components(
        self,
        views: Sequence[Tensor] | Tensor | None = None,
        num_global: int | None = None,
        *,
        local_proj: Tensor | None = None,
        global_proj: Tensor | None = None,
    ) -> LeJEPAComponents:
        """The loss and its unweighted parts: `total, prediction, sigreg`."""
        return self.components(*_views(views, num_global, local_proj, global_proj))


def _views(
    views: Sequence[Tensor] | Tensor | None,
    num_global: int | None,
    local_proj: Tensor | None,
    global_proj: Tensor | None,
) -> tuple[Sequence[Tensor] | Tensor, int | None]:
    """Either call style as (views, num_global)."""
    if (views is None) == (global_proj is None) or (views is not None and local_proj is not None):
        raise ValueError("give either views or global_proj= (with local_proj=, if there are local views)")
    if global_proj is None:
        assert views is not None
        return views, num_global
    projections = [stacked(global_proj)] + ([] if local_proj is None else [stacked(local_proj)])
    return [view for projection in projections for view in projection], len(global_proj)


class LeJEPAProjectionHead(nn.Module):
    """LeJEPA's projector, layer for layer lightly's class of this name, which 1.5.23 does not have.

    Linear layers with BatchNorm and ReLU between; the last is bare, so that its output can be Gaussian.

    Args:
        input_dim: width of the backbone's features.
        hidden_dim: width of the hidden layers.
        output_dim: width D of the projection.
        num_layers: number of linear layers.

    Raises:
        ValueError: fewer than two layers.

    Example:
        >>> import torch
        >>> LeJEPAProjectionHead(512)(torch.randn(4, 512)).shape
        torch.Size([4, 64])
    """

    def __init__(
        self, input_dim: int, hidden_dim: int = 2048, output_dim: int = 64, num_layers: int = 3
    ) -> None:
        if num_layers < 2:
            raise ValueError(f"got num_layers={num_layers}; a projector needs at least two, the default is 3")
        super().__init__()
        self.layers = nn.Sequential()
        for width, next_width in itertools.pairwise([input_dim] + [hidden_dim] * (num_layers - 1)):
            self.layers.extend(
                [nn.Linear(width, next_width, bias=False), nn.BatchNorm1d(next_width), nn.ReLU()]
            )
        self.layers.append(nn.Linear(hidden_dim, output_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Features `(N, input_dim)` -> projections `(N, output_dim)`."""
        projection: Tensor = self.layers(x)
        return projection


class LeJEPATransform(MultiViewTransform):
    """Global and local crops, any number of each, from lightly's building blocks: globals first.

    Every view has the same augmentations; only crop size and scale tell a local view from a global
    one.  (lightly's DINOTransform fixes two global views and ignores `cj_strength` for the second.)

    Args:
        n_global_views: number of global views.
        n_local_views: number of local views.
        global_crop_size: side of a global view in pixels.
        global_crop_scale: least and greatest share of the image's area in a global view.
        local_crop_size: side of a local view in pixels.
        local_crop_scale: least and greatest share of the image's area in a local view.
        **view: settings of lightly's DINOViewTransform for every view, e.g. `cj_strength=0.5`,
            `gaussian_blur=0.0`, `normalize=None`.

    Raises:
        ValueError: no global view, or a negative number of local ones.

    Example:
        >>> from PIL import Image
        >>> transform = LeJEPATransform(2, 4, global_crop_size=32, local_crop_size=16)
        >>> [tuple(view.shape) for view in transform(Image.new("RGB", (40, 40)))][1:3]
        [(3, 32, 32), (3, 16, 16)]
    """

    def __init__(
        self,
        n_global_views: int = 2,
        n_local_views: int = 6,
        *,
        global_crop_size: int = 224,
        global_crop_scale: tuple[float, float] = (0.3, 1.0),
        local_crop_size: int = 96,
        local_crop_scale: tuple[float, float] = (0.05, 0.3),
        **view: Any,
    ) -> None:
        if n_global_views < 1 or n_local_views < 0:
            raise ValueError(
                f"got {n_global_views} global and {n_local_views} local views; need at least one global view"
            )
        view = {"gaussian_blur": 0.5} | view
        global_view = DINOViewTransform(crop_size=global_crop_size, crop_scale=global_crop_scale, **view)
        local_view = DINOViewTransform(crop_size=local_crop_size, crop_scale=local_crop_scale, **view)
        super().__init__([global_view] * n_global_views + [local_view] * n_local_views)
