"""SIGReg for Lightning: watch whether the embeddings of a module are Gaussian, or collapse.

Tried with lightning 2.6.6 and pytorch-lightning 2.6.6, either of which may run it.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sigreg.diagnostics import Gaussianity, gaussianity

try:
    from lightning.pytorch import Callback
except ImportError:
    from pytorch_lightning import Callback  # type: ignore[assignment]


class GaussianityMonitor(Callback):
    """Logs how Gaussian the output of one submodule is, and warns when it collapses.

    Every `every_n_steps` training steps the submodule's output `(N, D)` is tested; the log receives
    `gaussianity/epps_pulley` (1.05 at a Gaussian), `gaussianity/p_value`, `gaussianity/effective_rank`
    and `gaussianity/covariance`.  It looks at the first `max_samples` samples of this rank.

    Args:
        module: dotted name of the submodule, such as "projection_head".
        every_n_steps: training steps between two looks; each costs about one SIGReg call.
        max_samples: samples looked at, at most.
        collapse: warn when the effective rank falls below this share of a Gaussian's.
        num_slices: random directions of the test.

    Raises:
        ValueError: at the start of training, when there is no such submodule.

    Example:
        >>> monitor = GaussianityMonitor("projection_head", every_n_steps=100)
        >>> monitor.last is None  # a `sigreg.diagnostics.Gaussianity` once training runs
        True
    """

    def __init__(
        self,
        module: str,
        *,
        every_n_steps: int = 100,
        max_samples: int = 512,
        collapse: float = 0.1,
        num_slices: int = 128,
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps} must be at least 1")
        self.module, self.every_n_steps, self.max_samples = module, every_n_steps, max_samples
        self.collapse, self.num_slices = collapse, num_slices
        self.last: Gaussianity | None = None
        self._seen: Tensor | None = None
        self._handle: RemovableHandle | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        submodules = dict(pl_module.named_modules())
        if self.module not in submodules:
            names = ", ".join(name for name in submodules if name and "." not in name)
            raise ValueError(f"the module has no submodule {self.module!r}; it has {names}")

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if trainer.global_step % self.every_n_steps == 0:
                self._seen = output.detach().reshape(-1, output.shape[-1])[: self.max_samples]

        self._handle = submodules[self.module].register_forward_hook(keep)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        z, self._seen = self._seen, None
        if z is None:
            return
        if not torch.isfinite(z).all():
            warnings.warn(f"{self.module} gives inf or nan at step {trainer.global_step}", stacklevel=2)
            return
        self.last = found = gaussianity(z, num_slices=self.num_slices)
        pl_module.log_dict(
            {
                "gaussianity/epps_pulley": found.measures["epps_pulley"].value,
                "gaussianity/covariance": found.measures["covariance"].value,
                "gaussianity/effective_rank": found.effective_rank,
                "gaussianity/p_value": found.p_value,
            },
            batch_size=len(z),
        )
        if found.effective_rank < self.collapse * found.null_effective_rank:
            warnings.warn(
                f"{self.module} collapses: effective rank {found.effective_rank:.1f} where a Gaussian has "
                f"{found.null_effective_rank:.1f} of {found.D}, at step {trainer.global_step}; raise "
                "lambda_param, or look at the learning rate",
                stacklevel=2,
            )

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
