"""A stand-in for solo-learn: what our adapter relies on, and nothing more.

Written from the contract, so that the adapter is tested where no clone can be had.  Where one can,
`hosts/test_solo_learn_real.py` holds the adapter to the real thing.
"""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

if TYPE_CHECKING:
    import pytest

PLAIN = ("barlow_twins", "byol", "nnbyol", "simclr", "simsiam", "supcon", "vibcreg", "vicreg")


class BaseMethod(nn.Module):
    """Crops in, one dict per crop out; a training step turns the dicts into lists, large crops first."""

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__()
        self.cfg = self.add_and_assert_specific_cfg(cfg)
        self.features_dim = 12
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 12, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.classifier = nn.Linear(self.features_dim, cfg.data.num_classes)
        self.num_large_crops: int = cfg.data.num_large_crops
        self.num_small_crops: int = cfg.data.num_small_crops
        self.logged: dict[str, Tensor] = {}

    @staticmethod
    def add_and_assert_specific_cfg(cfg: DictConfig) -> DictConfig:
        cfg.backbone.kwargs = cfg.backbone.get("kwargs", {})
        cfg.method_kwargs = cfg.get("method_kwargs", {})
        return cfg

    @property
    def learnable_params(self) -> list[dict[str, Any]]:
        return [
            {"name": "backbone", "params": self.backbone.parameters()},
            {"name": "classifier", "params": self.classifier.parameters(), "lr": 0.1, "weight_decay": 0},
        ]

    def configure_callbacks(self) -> list[Any]:
        return []

    def log(self, name: str, value: Tensor, **_: Any) -> None:
        self.logged[name] = value.detach()

    def log_dict(self, values: dict[str, Tensor], **options: Any) -> None:
        for name, value in values.items():
            self.log(name, value, **options)

    def forward(self, X: Tensor) -> dict[str, Any]:
        feats = self.backbone(X)
        return {"feats": feats, "logits": self.classifier(feats.detach())}

    def multicrop_forward(self, X: Tensor) -> dict[str, Any]:
        return {"feats": self.backbone(X)}

    def base_training_step(self, X: Tensor, targets: Tensor) -> dict[str, Any]:
        out = self(X)
        return {**out, "loss": nn.functional.cross_entropy(out["logits"], targets)}

    def training_step(self, batch: list[Any], batch_idx: int) -> Any:
        _, X, targets = batch
        assert len(X) == self.num_large_crops + self.num_small_crops
        large = [self.base_training_step(x, targets) for x in X[: self.num_large_crops]]
        small = [self.multicrop_forward(x) for x in X[self.num_large_crops :]]
        outs: dict[str, Any] = {key: [out[key] for out in large] for key in large[0]}
        for key in small[0] if small else ():
            outs[key] += [out[key] for out in small]
        outs["loss"] = sum(outs["loss"]) / self.num_large_crops
        return outs


class Plain(BaseMethod):
    """A method as the host's are: it has a `z`, and its training step returns nothing but the loss."""

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg)
        self.projector = nn.Linear(self.features_dim, 6)

    @staticmethod
    def add_and_assert_specific_cfg(cfg: DictConfig) -> DictConfig:
        cfg = BaseMethod.add_and_assert_specific_cfg(cfg)
        cfg.method_kwargs.temperature = cfg.method_kwargs.get("temperature", 2.0)
        return cfg

    def forward(self, X: Tensor) -> dict[str, Any]:
        out = super().forward(X)
        return {**out, "z": self.projector(out["feats"])}

    def multicrop_forward(self, X: Tensor) -> dict[str, Any]:
        out = super().multicrop_forward(X)
        return {**out, "z": self.projector(out["feats"])}

    def training_step(self, batch: list[Any], batch_idx: int) -> Any:
        out = super().training_step(batch, batch_idx)
        z = torch.stack(out["z"])
        return (z - z[:1]).square().mean() / self.cfg.method_kwargs.temperature + out["loss"]


class ArgparseBaseMethod(nn.Module):
    """The base class of 2021 and 2022: settings by argparse, no config."""

    @staticmethod
    def add_model_specific_args(parent_parser: Any) -> Any: ...


def modules(base: type = BaseMethod) -> dict[str, types.ModuleType]:
    """Fresh modules to be put under their names into `sys.modules`."""
    names = ("solo", "solo.methods", "solo.methods.base", "solo.utils", "solo.utils.checkpointer")
    made = {name: types.ModuleType(name) for name in names}

    class Checkpointer:
        @staticmethod
        def add_and_assert_specific_cfg(cfg: DictConfig) -> DictConfig:
            cfg.checkpoint = cfg.get("checkpoint", {"enabled": False})
            return cfg

    vars(made["solo.methods.base"])["BaseMethod"] = base
    vars(made["solo.methods"])["METHODS"] = {"base": base} | dict.fromkeys(PLAIN, Plain)
    vars(made["solo.utils.checkpointer"])["Checkpointer"] = Checkpointer
    return made


def install(base: type = BaseMethod) -> None:
    """Make `import solo` find the stand-in, for programs in a process of their own."""
    sys.modules.update(modules(base))


def config(method: str = "lejepa", small: int = 0, **sections: Any) -> DictConfig:
    """A config as main_pretrain.py has it when it builds the method; `sections` are put over it."""
    crops = [{"crop_size": 32, "num_crops": 2}]
    if small:
        crops.append({"crop_size": 16, "num_crops": small})
    return OmegaConf.merge(
        {
            "method": method,
            "backbone": {"name": "resnet18"},
            "data": {
                "dataset": "custom",
                "num_classes": 5,
                "num_large_crops": 2,
                "num_small_crops": small,
                "val_path": None,
            },
            "augmentations": crops,
        },
        sections,
    )


def batch(small: int = 0, N: int = 24) -> list[Any]:
    """[indexes, crops, targets], always the same."""
    g = torch.Generator().manual_seed(0)
    sizes = [32, 32] + [16] * small
    crops = [torch.randn(N, 3, size, size, generator=g).requires_grad_() for size in sizes]
    return [torch.arange(N), crops, torch.arange(N) % 5]


def adapter(monkeypatch: pytest.MonkeyPatch, base: type | None) -> types.ModuleType:
    """Our module, imported afresh, with the stand-in as `solo`; without solo-learn where `base` is None."""
    for name in [n for n in sys.modules if n.split(".")[0] == "solo" or n.endswith(".solo_learn.methods")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "sigreg_adapters.solo_learn", raising=False)
    if base is None:
        monkeypatch.setitem(sys.modules, "solo", None)
    else:
        for name, module in modules(base).items():
            monkeypatch.setitem(sys.modules, name, module)
    import sigreg_adapters.solo_learn as adapter

    monkeypatch.setitem(sys.modules, "sigreg_adapters.solo_learn", adapter)
    return adapter
