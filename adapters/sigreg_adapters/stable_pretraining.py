"""SIGReg for stable-pretraining: `SlicedEppsPulley` that is right on several GPUs, and a `forward`.

    - from stable_pretraining.methods.lejepa import SlicedEppsPulley
    + from sigreg_adapters.stable_pretraining import SlicedEppsPulley

stable-pretraining's class discards the result of its all_reduce, so that each rank has the value of its own
batch, times the world size.  `lejepa` is for `stable_pretraining.Module(forward=lejepa, ...)`.

Tried with stable-pretraining 0.1.8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

import sigreg
from sigreg.sample import described
from sigreg_adapters.last_batch import weights_of_one_row
from sigreg_adapters.renamed import POINTS, SLICES, T_MAX, rename


class SlicedEppsPulley(sigreg.SIGReg):
    """`sigreg.SIGReg` under stable-pretraining's names: one sample `(N, D)`, over the batch of all ranks.

    stable-pretraining's LeJEPA pools its views into that sample, which multiplies the value by their number
    V: `sigreg.conventions.convert_lambda(..., "stable-pretraining", "sigreg", V=V)` converts the weight.
    The directions differ from those of stable-pretraining's class, and stay the same in eval mode.

    Args:
        num_slices: random slices per call.
        t_max: half-range of the integral; left out, `grid` may replace it.
        n_points: quadrature points on the half-line (`num_points`), an odd or an even number; left out,
            `grid` may replace it.
        **settings: anything else `sigreg.SIGReg` takes, e.g. `directions="orthogonal"` or `group=None`.

    Shapes:
        x `(N, D)`, weights (optional) `(N,)` -> scalar.

    Raises:
        TypeError: x is not a floating-point tensor, such as a list of views; t_max or n_points given for a
            statistic that has no quadrature.
        ValueError: x is not `(N, D)`; t_max, n_points or num_slices are out of range; n_points and
            num_points at once.

    Example:
        >>> import torch
        >>> round(float(SlicedEppsPulley(num_slices=128)(torch.zeros(64, 16))), 3)  # 0.402 per sample
        25.731
    """

    def __init__(
        self, num_slices: int = SLICES, t_max: float = T_MAX, n_points: int = POINTS, **settings: Any
    ) -> None:
        slices = ("num_slices", num_slices)
        rename(settings, num_slices=slices, t_max=("t_max", t_max), n_points=("num_points", n_points))
        super().__init__(**settings)

    def forward(
        self, x: Tensor, weights: Tensor | None = None, *, step: int | Tensor | None = None
    ) -> Tensor:
        """The regularizer of one sample `(N, D)`."""
        if not isinstance(x, Tensor):
            raise TypeError(
                f"expected a tensor (N, D), got {type(x).__name__}; pool views with torch.cat(views)"
            )
        if x.ndim != 2:
            raise ValueError(
                f"expected (N, D), got shape {tuple(x.shape)}; pool views with x.flatten(0, -2), or test "
                "each by itself with sigreg.SIGReg"
            )
        return super().forward(x, weights_of_one_row(x, weights, self.group), step=step)

    @property
    def global_step(self) -> Tensor:
        """The number of calls in training mode, under stable-pretraining's name."""
        return self.step

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if prefix + "global_step" in state_dict:  # a checkpoint of stable-pretraining's class
            for constant in ("ep.t", "ep.phi", "ep.weights"):
                state_dict.pop(prefix + constant, None)
            step = state_dict.pop(prefix + "global_step")
            state_dict[prefix + "_extra_state"] = torch.stack([self.get_extra_state()[0], step.to(self.step)])
        super()._load_from_state_dict(state_dict, prefix, *rest)


def lejepa(self: Any, batch: dict[str, Any], stage: str) -> dict[str, Tensor]:
    """A forward function of stable-pretraining: LeJEPA with `sigreg.LeJEPALoss`.

        stable_pretraining.Module(
            forward=lejepa, backbone=..., projector=..., lejepa_loss=sigreg.LeJEPALoss(0.05), optim=...
        )

    Args:
        self: stable-pretraining's `Module`, with `backbone`, `projector` and `lejepa_loss`.
        batch: `{"views": [view, ...]}` (all global) or named views, here or under "views", whose names begin
            with "global" or "local"; each view a dict with "image" and perhaps "label".  A batch
            that has an "image" itself is a single view: its embedding is all that is computed.
        stage: "fit", "validate", ..., which the names of the logged values begin with.

    Returns:
        "embedding" (of the global views in training), "label" if there is one, and in training "loss",
        "prediction_loss" and "sigreg_loss".

    Raises:
        TypeError: a batch or a view that is not a dict, or a view without "image".
        ValueError: no views, or named views of which none is global, or one is neither global nor local.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from sigreg import LeJEPALoss
        >>> module = nn.Module()  # stands for stable_pretraining.Module
        >>> module.backbone, module.projector = nn.Flatten(), nn.Linear(12, 4)
        >>> module.lejepa_loss, module.log_dict = LeJEPALoss(), lambda values, **_: None
        >>> views = [{"image": torch.randn(8, 3, 2, 2)} for _ in range(2)]
        >>> sorted(lejepa(module, {"views": views}, "fit"))
        ['embedding', 'loss', 'prediction_loss', 'sigreg_loss']
    """
    if isinstance(batch, (Tensor, list, tuple)):
        raise TypeError(f"expected a dict as batch, {_BATCH}; got {described(batch)}")
    if "image" in batch:
        label = {"label": batch["label"]} if "label" in batch else {}
        return {"embedding": self.backbone(batch["image"]), **label}
    views, num_global = _views(batch.get("views", batch))
    crops = [self.backbone(view["image"]) for view in views]  # global and local ones differ in size
    out = {"embedding": torch.cat(crops[:num_global])}
    if "label" in views[0]:
        out["label"] = torch.cat([view["label"] for view in views[:num_global]])
    if self.training:
        projections = self.projector(torch.cat(crops)).split([len(crop) for crop in crops])  # V of (N, D)
        weights = weights_of_one_row(projections[0], None, self.lejepa_loss.sigreg.group)
        loss, prediction, regularizer = self.lejepa_loss.components(projections, num_global, weights)
        out |= {"loss": loss, "prediction_loss": prediction, "sigreg_loss": regularizer}
        logged = {f"{stage}/{name}": value.detach() for name, value in out.items() if "loss" in name}
        self.log_dict(logged, on_step=True, on_epoch=True, sync_dist=True)
    return out


_BATCH = (
    '{"views": [view, ...]} or views named "global..." and "local...", each view a dict '
    '{"image": (N, C, H, W)}, with "label": (N,) if there are labels'
)


def _views(views: Any) -> tuple[list[Any], int]:
    """The views, global ones first, and how many those are."""
    if not isinstance(views, Mapping):
        views = _with_images(views)
        return views, len(views)
    named = {name: view for name, view in views.items() if isinstance(view, Mapping)}  # not batch_idx
    others = [n for n, view in named.items() if "image" in view and not n.startswith(("global", "local"))]
    if others:
        raise ValueError(f"{others} are neither global nor local; expected {_BATCH}")
    groups = [[named[name] for name in named if name.startswith(kind)] for kind in ("global", "local")]
    if not groups[0]:
        given = {name: type(view).__name__ for name, view in views.items()}
        raise ValueError(f"no view is global; expected {_BATCH}; got {given}")
    return _with_images(groups[0] + groups[1]), len(groups[0])


def _with_images(views: Iterable[Any]) -> list[Any]:
    """The views, each a dict with an "image"."""
    views = list(views)
    if not views:
        raise ValueError(f"there are no views; expected {_BATCH}")
    for view in views:
        if not isinstance(view, Mapping) or "image" not in view:
            raise TypeError(f"expected {_BATCH}; got {described(view)} as a view")
    return views
