"""LeJEPA's views."""

from __future__ import annotations

from typing import Any

from lightly.transforms.dino_transform import DINOViewTransform
from lightly.transforms.multi_view_transform import MultiViewTransform


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

    Shapes:
        An image -> a list of n_global_views + n_local_views tensors `(3, size, size)`, global ones first.

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
