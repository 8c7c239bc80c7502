"""SIGReg for Lightning: watch whether the embeddings of a module are Gaussian, or collapse.

Tried with lightning 2.6.6 and pytorch-lightning 2.6.6, either of which may run it.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sigreg.diagnostics import uncalibrated

try:
    from lightning.pytorch import Callback
except ImportError:
    from pytorch_lightning import Callback  # type: ignore[assignment]


class GaussianityMonitor(Callback):
    """Logs how Gaussian the output of one submodule is, and warns when it collapses.

    Every `every_n_steps` training steps the submodule's output `(N, D)` is tested; the log receives
    `gaussianity/epps_pulley` (1.05 at a Gaussian), `gaussianity/effective_rank` and
    `gaussianity/covariance`.  Of a submodule that returns several tensors, the last is tested; outputs of
    several forward passes in a step (views passed one by one) are tested together.  It looks at
    `max_samples` samples of this rank.

    Args:
        module: dotted name of the submodule, such as "projection_head".
        every_n_steps: training steps between two looks.
        max_samples: samples looked at, at most.
        collapse: warn when the effective rank falls below this share of N D / (N + D), about what N
            samples of N(0, I) have.
        num_slices: random directions of the test.

    Raises:
        ValueError: at the start of training, when there is no such submodule.

    Example:
        >>> monitor = GaussianityMonitor("projection_head", every_n_steps=100)
        >>> monitor.last is None  # what was logged last, once training runs
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
        self.last: dict[str, float] | None = None
        self._seen: list[Tensor] = []
        self._handle: RemovableHandle | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        submodules = dict(pl_module.named_modules())
        if self.module not in submodules:
            names = ", ".join(name for name in submodules if name and "." not in name)
            raise ValueError(f"the module has no submodule {self.module!r}; it has {names}")

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if module.training and trainer.global_step % self.every_n_steps == 0:
                tensor = output[-1] if isinstance(output, (tuple, list)) else output
                self._seen.append(tensor.detach().reshape(-1, tensor.shape[-1]))

        self._handle = submodules[self.module].register_forward_hook(keep)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        seen, self._seen = self._seen, []
        if not seen:
            return
        share = -(-self.max_samples // len(seen))  # of each forward pass
        z = torch.cat([part[:share] for part in seen])
        if not torch.isfinite(z).all():
            warnings.warn(f"{self.module} gives inf or nan at step {trainer.global_step}", stacklevel=2)
            return
        found = uncalibrated(z, num_slices=self.num_slices)
        (N, D), rank = z.shape, found["effective rank"]
        self.last = {
            "gaussianity/epps_pulley": found["epps_pulley"],
            "gaussianity/covariance": found["covariance"],
            "gaussianity/effective_rank": rank,
        }
        pl_module.log_dict(self.last, batch_size=N)
        expected = N * D / (N + D)
        if rank < self.collapse * expected:
            warnings.warn(
                f"{self.module} collapses: effective rank {rank:.1f} where a Gaussian has about "
                f"{expected:.1f} of {D}, at step {trainer.global_step}; raise lambda_param, or look at the "
                "learning rate",
                stacklevel=2,
            )

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
