# mypy: disable-error-code="import-not-found,import-untyped,misc"
"""LeJEPA as a solo-learn method, and SIGReg beside the loss of any other."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from solo.methods.base import BaseMethod
from torch import Tensor

from sigreg import LeJEPALoss, SIGReg
from sigreg_adapters.lightning import GaussianityMonitor
from sigreg_adapters.projector import projector

Batch = list[Any]  # [indexes, [crops], targets]

OF_SIGREG = {
    "num_slices": 1024,
    "statistic": "epps_pulley",
    "directions": "gaussian",
    "seed": 0,
    "unbiased": False,
    "statistic_kwargs": {},
}
LEJEPA_DEFAULTS = {"proj_hidden_dim": 2048, "proj_output_dim": 128, "lambda_param": 0.05, **OF_SIGREG}
SIGREG_DEFAULTS = {"weight": 0.05, **OF_SIGREG}
OF_MONITOR = {name: p.default for name, p in inspect.signature(GaussianityMonitor).parameters.items()}
MONITOR_DEFAULTS = {"enabled": False, **OF_MONITOR}


class Monitored(BaseMethod):
    """A method whose SIGReg is watched if the config says `gaussianity.enabled: true`.

    The section's other keys are the settings of `sigreg_adapters.lightning.GaussianityMonitor`.
    """

    @staticmethod
    def add_and_assert_gaussianity(cfg: DictConfig) -> None:
        """Fill the defaults of `gaussianity` and check them before a model is built."""
        _fill(cfg, "gaussianity", MONITOR_DEFAULTS)
        _monitor(cfg.gaussianity)

    def configure_callbacks(self) -> list[Any]:
        """The method's own callbacks, and the monitor."""
        return [*super().configure_callbacks(), *_monitor(self.cfg.gaussianity)]


class LeJEPA(Monitored):
    """LeJEPA (arXiv 2511.08544): no teacher, no predictor, no stop-gradient.

    The large crops are the global views, whose mean every crop predicts; SIGReg tests the projected
    crops of all ranks together.  Everything is set in `method_kwargs`:

        proj_hidden_dim, proj_output_dim   the projector: two hidden layers with BatchNorm
        lambda_param                       the weight of SIGReg, in [0, 1]
        num_slices, statistic, directions, seed, unbiased      as in sigreg.SIGReg
        statistic_kwargs                                       settings of the statistic

    Logs `train_prediction`, `train_sigreg` and `train_lejepa_loss`.

    Raises:
        TypeError: a setting that has the wrong type or that the statistic does not know.
        ValueError: an unknown key in `method_kwargs` or `gaussianity`, a section `sigreg`, a width of the
            projector that is no positive integer, a setting out of range, or a ViT that is built for one
            image size and gets more.
    """

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        settings = self.cfg.method_kwargs
        hidden, output = settings.proj_hidden_dim, settings.proj_output_dim
        self.projector = projector(self.features_dim, hidden, output)
        self.criterion = LeJEPALoss(settings.lambda_param, _sigreg(settings))

    @staticmethod
    def add_and_assert_specific_cfg(cfg: DictConfig) -> DictConfig:
        """Fill the defaults of `method_kwargs`, and check everything before a model is built."""
        if cfg.get("sigreg") is not None:
            raise ValueError(
                "the section `sigreg` is for methods such as byol+sigreg; lejepa takes the settings of "
                "SIGReg in method_kwargs, where its weight is named lambda_param"
            )
        cfg = BaseMethod.add_and_assert_specific_cfg(cfg)
        _fill(cfg, "method_kwargs", LEJEPA_DEFAULTS)
        settings = cfg.method_kwargs
        for name in ("proj_hidden_dim", "proj_output_dim"):
            if not isinstance(settings[name], int) or settings[name] < 1:
                raise ValueError(f"method_kwargs.{name} must be a positive integer, got {settings[name]!r}")
        LeJEPALoss(settings.lambda_param, _sigreg(settings))
        Monitored.add_and_assert_gaussianity(cfg)
        _assert_sizes_fit(cfg)
        return cfg

    @property
    def learnable_params(self) -> list[dict[str, Any]]:
        """The backbone's and classifier's, and the projector's."""
        projector = {"name": "projector", "params": self.projector.parameters()}
        return [*super().learnable_params, projector]

    def forward(self, X: Tensor) -> dict[str, Any]:
        """`logits`, `feats` and the projected `z` of one large crop `(N, C, H, W)`."""
        out = super().forward(X)
        return {**out, "z": self.projector(out["feats"])}

    def multicrop_forward(self, X: Tensor) -> dict[str, Any]:
        """`feats` and `z` of one small crop."""
        out = super().multicrop_forward(X)
        return {**out, "z": self.projector(out["feats"])}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The LeJEPA loss of all crops, plus the online classifier's."""
        out = super().training_step(batch, batch_idx)
        total, prediction, sigreg = self.criterion.components(out["z"], num_global=self.num_large_crops)
        parts = {"train_prediction": prediction, "train_sigreg": sigreg, "train_lejepa_loss": total}
        self.log_dict(parts, on_epoch=True, sync_dist=True)
        loss: Tensor = total + out["loss"]
        return loss


def with_sigreg(method: type[BaseMethod]) -> type[BaseMethod]:
    """`method`, with `cfg.sigreg.weight` times SIGReg of its projected crops `z` added to its loss.

    The settings are those of `sigreg: {weight: 0.05, num_slices: 1024, ...}` at the top of the
    config; the value is logged as `train_sigreg`.

    Raises:
        TypeError: when the config is checked, a setting that has the wrong type or that the statistic does
            not know.
        ValueError: likewise, an unknown key in `sigreg` or `gaussianity`, a setting of SIGReg in
            `method_kwargs`, a weight that is not positive, a setting out of range, or a ViT that is built for
            one image size and gets more.
    """

    class Regularized(Monitored, method):
        def __init__(self, cfg: DictConfig) -> None:
            super().__init__(cfg)
            self.sigreg = _sigreg(self.cfg.sigreg)
            self._z: list[Tensor] = []

        @staticmethod
        def add_and_assert_specific_cfg(cfg: DictConfig) -> DictConfig:
            misplaced = [
                name for name in cfg.get("method_kwargs") or {} if name in {"lambda_param", *OF_SIGREG}
            ]
            if misplaced:
                raise ValueError(
                    f"method_kwargs has {misplaced}; {cfg.method} takes the settings of SIGReg in the "
                    "section `sigreg`, where its weight is named weight"
                )
            cfg = method.add_and_assert_specific_cfg(cfg)
            _fill(cfg, "sigreg", SIGREG_DEFAULTS)
            if not cfg.sigreg.weight > 0:
                raise ValueError(f"sigreg.weight must be positive, got {cfg.sigreg.weight}")
            _sigreg(cfg.sigreg)
            Monitored.add_and_assert_gaussianity(cfg)
            _assert_sizes_fit(cfg)
            return cfg

        # The method returns its loss and keeps `out` to itself, so z is picked up where it is made.
        def base_training_step(self, X: Tensor, targets: Tensor) -> dict[str, Any]:
            return self._collected(super().base_training_step(X, targets))

        def multicrop_forward(self, X: Tensor) -> dict[str, Any]:
            return self._collected(super().multicrop_forward(X))

        def _collected(self, out: dict[str, Any]) -> dict[str, Any]:
            self._z.append(out["z"])
            return out

        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            self._z = []  # a step that raised may have left some
            loss: Tensor = super().training_step(batch, batch_idx)
            z, self._z = torch.stack(self._z), []  # (V, N, D)
            sigreg = self.sigreg(z)
            self.log("train_sigreg", sigreg, on_epoch=True, sync_dist=True)
            loss = loss + self.cfg.sigreg.weight * sigreg
            return loss

    Regularized.__name__ = Regularized.__qualname__ = f"{method.__name__}WithSIGReg"
    return Regularized


def assert_two_large_crops(cfg: DictConfig) -> None:
    """What main_pretrain.py demands of every method but two, in words."""
    size = cfg.augmentations[0].crop_size
    large = sum(a.num_crops for a in cfg.augmentations if a.crop_size == size)
    if large != 2:
        raise ValueError(
            f"{large} crops have the size {size} of the first, and main_pretrain.py takes 2: set num_crops "
            "so that 2 share it, and give the others another crop_size (they become small crops)"
        )


def _assert_sizes_fit(cfg: DictConfig) -> None:
    """A ViT takes one image size unless told otherwise; validation has a size of its own."""
    backbone = cfg.backbone
    if not backbone.name.startswith("vit") or backbone.kwargs.get("dynamic_img_size", False):
        return
    validation = 32 if cfg.data.dataset.startswith("cifar") else 96 if cfg.data.dataset == "stl10" else 224
    sizes = {a.crop_size for a in cfg.augmentations}
    if cfg.data.get("val_path") is not None:
        sizes.add(validation)
    if sizes != {backbone.kwargs.get("img_size", 224)}:
        raise ValueError(
            f"{backbone.name} meets images of {sorted(sizes)} pixels and is built for "
            f"{backbone.kwargs.get('img_size', 224)}: set backbone.kwargs.dynamic_img_size: true"
        )


def _fill(cfg: DictConfig, section: str, defaults: dict[str, Any]) -> None:
    given = cfg.get(section) or {}
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        raise ValueError(f"{section} has {unknown}, which means nothing here; it takes {sorted(defaults)}")
    cfg[section] = OmegaConf.merge(defaults, given)


def _monitor(settings: DictConfig) -> list[Any]:
    """The callback, if it is enabled."""
    if not settings.enabled:
        return []
    return [GaussianityMonitor(**{str(name): value for name, value in settings.items() if name != "enabled"})]


def _sigreg(settings: DictConfig) -> SIGReg:
    known = {"num_slices", "statistic", "directions", "seed", "unbiased", "group", "backend", "memory"}
    misplaced = sorted(known & set(settings.statistic_kwargs))
    if misplaced:
        raise ValueError(f"statistic_kwargs holds {misplaced}, which no statistic takes")
    return SIGReg(
        settings.statistic,
        num_slices=settings.num_slices,
        directions=settings.directions,
        seed=settings.seed,
        unbiased=settings.unbiased,
        **settings.statistic_kwargs,
    )
