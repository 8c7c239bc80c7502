"""From a map over patches to a mask without labels, and how well it fits.

The threshold is Otsu's, which parts a map's values into two groups of least variance within.  Which side is
the object is not in a principal component: by the border rule, it is the side that covers less of the image's
border.  Both are fixed here and never chosen by a mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def otsu(values: Tensor) -> Tensor:
    """The threshold `(n,)` of each row of values `(n, P)`: halfway between the two groups that it makes.

    Of all P - 1 ways to part the sorted values it takes the one of greatest variance between the groups.
    """
    ordered = values.double().sort(dim=1).values
    P = ordered.shape[1]
    count = torch.arange(1, P, dtype=torch.float64)
    below = ordered.cumsum(1)[:, :-1]
    above = ordered.sum(1, keepdim=True) - below
    between = count * (P - count) * (below / count - above / (P - count)).square()
    at = between.argmax(1, keepdim=True)
    return (ordered.gather(1, at) + ordered.gather(1, at + 1))[:, 0].div(2).to(values.dtype)


def above(maps: Tensor) -> Tensor:
    """Masks `(n, h, w)` of what lies above the threshold of each map `(n, h, w)`."""
    return maps > otsu(maps.flatten(1))[:, None, None]


def oriented(maps: Tensor) -> Tensor:
    """Each map `(n, h, w)` or its negative: the one whose mask covers less of the border.

    On a tie, the one whose mask is smaller.
    """
    border = torch.ones(maps.shape[1:], dtype=torch.bool)
    border[1:-1, 1:-1] = False
    masks = above(maps)
    share, area = masks[:, border].float().mean(1), masks.float().mean((1, 2))
    turned = (share > 0.5) | ((share == 0.5) & (area > 0.5))
    return torch.where(turned[:, None, None], -maps, maps)


def first_component(tokens: Tensor) -> Tensor:
    """Maps `(n, h, w)` of the first principal component of each image's tokens `(n, h, w, C)`; any sign."""
    x = tokens.flatten(1, 2).double()
    x = x - x.mean(1, keepdim=True)
    u, s, _ = torch.linalg.svd(x, full_matrices=False)  # (n, P, r)
    return (u[..., 0] * s[:, :1]).reshape(tokens.shape[:3]).to(tokens.dtype)


def shared_component(tokens: Tensor, of: Tensor) -> Tensor:
    """Maps `(n, h, w)` of tokens `(n, h, w, C)` along the first principal component of the tokens `of`.

    One direction for all images, as a network has it, where `first_component` is each image's own.
    """
    x = of.flatten(0, 2).double()
    mean = x.mean(0)
    direction = torch.linalg.eigh((x - mean).mT @ (x - mean)).eigenvectors[:, -1]
    return ((tokens.double() - mean) @ direction).to(tokens.dtype)


def iou(found: Tensor, masks: Tensor) -> Tensor:
    """Intersection over union `(n,)` of masks `(n, h, w)`; 0 where both are empty."""
    both = (found & masks).flatten(1).sum(1)
    either = (found | masks).flatten(1).sum(1)
    return both / either.clamp(min=1)


def on_patches(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Masks of pixels `(n, H, W)` as masks of patches `(n, h, w)`: a patch is in if half of it is covered."""
    return F.adaptive_avg_pool2d(masks.float()[:, None], grid)[:, 0] >= 0.5
