"""SIGReg: slice, test, average."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from sigreg import collectives, directions, kernels, univariate
from sigreg.collectives import Group, Ranks
from sigreg.directions import Directions
from sigreg.kernels import BACKENDS
from sigreg.univariate import Choice
from sigreg.univariate.epps_pulley import epps_pulley, quadrature

SLICES = ("shared", "per_rank")
SEED_OF_RANK = 1_000_003  # apart enough that rank 1 of seed 0 is not rank 0 of seed 1


class SIGReg(nn.Module):
    """Sketched isotropic Gaussian regularization: the mean of a statistic over random slices.

        SIGReg(z) = mean_k statistic(z @ a_k),   a_k random unit vectors

    Args:
        statistic: the name of one in `sigreg.univariate`, any callable `(..., N, K) -> (..., K)`, or
            a dict of weights over these, e.g. `{"epps_pulley": 1.0, "vcreg": 0.1}`.
        num_slices: directions per call, K.
        directions: "gaussian" (independent, as everywhere), "orthogonal" (recommended: 1.8 times
            less variance or better from K = D on), "sobol", or a callable
            `(D, K, *, seed, step, device, dtype) -> (D, K)` with unit columns.
        seed: of the stream of directions; give different modules different seeds to decouple them.
        group: the processes that share a batch: "auto" (the default process group, once there is
            one), None (this process alone) or a process group.
        slices: "shared", the same directions on every rank, or "per_rank", each rank its own: as many
            times the slices as there are ranks, at the price of gathering the embeddings.
        unbiased: remove the O(1/N) minibatch bias (Epps-Pulley only).
        backend: how Epps-Pulley is computed (every other statistic is plain tensor operations).  "auto"
            is "eager"; printing the module shows it.  "inductor" compiles for a minute or two at the first
            call, and "triton" has run under Triton's interpreter only, so both wait to be named.
        **statistic_kwargs: passed on to the statistic, e.g. `t_max=5.0` or `grid="accurate"`.

    Shapes:
        `(..., N, D)`, any floating dtype -> scalar, float32 (float64 for float64).  Leading
        dimensions (views) are tested one by one and averaged.

    New directions are drawn at every call in training mode; in eval mode they stay, so that the
    value is deterministic.  Both follow from the buffers `seed` and `step`, which are all that
    `state_dict` holds: a resumed run continues its stream.

    Raises:
        TypeError: z is not a floating-point tensor, or the statistic does not know a keyword.
        ValueError: an unknown name, num_slices < 1, z with fewer than 2 dimensions, N < 2, or a rank
            with an empty batch (on every rank).
        RuntimeError: the ranks of `group` disagree on settings, shapes, seed or step (on every rank).

    Non-finite embeddings give a non-finite loss, so that a GradScaler can skip the step.

    Example:
        >>> sigreg = SIGReg(num_slices=256)
        >>> z = torch.randn(8, 128, 64, generator=torch.Generator().manual_seed(0))  # (V, N, D)
        >>> bool(0.9 < sigreg(z) < 1.2)  # a Gaussian's floor is 1.05
        True

    Source: LeJEPA, arXiv 2511.08544, section 4.
    """

    seed: Tensor
    step: Tensor

    def __init__(
        self,
        statistic: Choice = "epps_pulley",
        *,
        num_slices: int = 1024,
        directions: str | Directions = "gaussian",
        seed: int = 0,
        group: Group = "auto",
        slices: str = "shared",
        unbiased: bool = False,
        backend: str = "auto",
        **statistic_kwargs: Any,
    ) -> None:
        super().__init__()
        if num_slices < 1:
            raise ValueError(f"num_slices={num_slices} must be at least 1; the paper uses 1024")
        if backend not in BACKENDS:
            raise ValueError(f"backend={backend!r} is unknown; use one of {BACKENDS}")
        if slices not in SLICES:
            raise ValueError(f"slices={slices!r} is unknown; use one of {SLICES}")
        if unbiased:
            statistic_kwargs["unbiased"] = True
        self.statistic = univariate.bind(statistic, **statistic_kwargs)
        self._sums_over_ranks = univariate.takes_ranks(self.statistic)
        self._fused = _fused_settings(self.statistic)
        if self._fused is None and backend not in ("auto", "eager"):
            raise ValueError(
                f"backend={backend!r} computes epps_pulley alone, got statistic={statistic!r}; use 'auto'"
            )
        self.num_slices = num_slices
        self.directions = directions_by_name(directions)
        self.group = group
        self.slices = slices
        self._agreed = False
        collectives.resolve(group)  # an unknown name fails here rather than in training
        self.backend = backend
        self.register_buffer("seed", torch.tensor(seed))
        self.register_buffer("step", torch.tensor(0))

    def forward(self, z: Tensor) -> Tensor:
        """The regularizer of embeddings `(..., N, D)`; moves to new directions in training mode."""
        ranks = collectives.resolve(self.group)
        z = univariate.checked(z, ranks)
        with torch.autocast(z.device.type, enabled=False):
            z, ranks = self._meet(z, ranks)
            per_rank = self.slices == "per_rank" and ranks.size > 1
            seed = self.seed + SEED_OF_RANK * ranks.rank if per_rank else self.seed
            A = self.directions(
                z.shape[-1], self.num_slices, seed=seed, step=self.step, device=z.device, dtype=z.dtype
            )
            if self.training:
                self.step.add_(1)
            if per_rank:  # each rank tests everyone's embeddings along directions of its own
                z = ranks.gather(z, same_loss=False)
                return ranks.mean(self._mean(z, A, collectives.ALONE))
            return self._mean(z, A, ranks)

    def _meet(self, z: Tensor, ranks: Ranks) -> tuple[Tensor, Ranks]:
        """What the ranks bring to a shared batch, made sure to fit together."""
        if ranks.size == 1:
            return z, ranks
        if not self._agreed and not torch.compiler.is_compiling():  # once: it makes the host wait
            ranks.require_equal(
                seed=int(self.seed),
                step=int(self.step),
                dtype=z.dtype,
                shape=f"({', '.join(str(n) for n in (*z.shape[:-2], 'N', z.shape[-1]))})",
                settings=f"SIGReg({self._settings()})",
            )
            self._agreed = True
        present = z.shape[-2] > 0
        if not present:  # one row of zeros takes part and is reported there, so that nobody waits
            z = z.new_zeros(*z.shape[:-2], 1, z.shape[-1])
        stamp = directions.random_bits(1, self.seed, self.step, z.device)
        return z, Ranks(ranks.group, stamp=stamp, present=present)

    def _mean(self, z: Tensor, A: Tensor, ranks: Ranks) -> Tensor:
        """The mean statistic of z @ A over views and slices, over the samples of all ranks."""
        if self._fused is not None:
            z = z.reshape(-1, *z.shape[-2:])
            return kernels.sliced_epps_pulley(z, A, ranks=ranks, backend=self.backend, **self._fused)
        x = z @ A  # (..., N, K)
        if self._sums_over_ranks:
            return self.statistic(x, ranks=ranks).mean()  # type: ignore[call-arg]
        return self.statistic(ranks.gather(x)).mean()

    def extra_repr(self) -> str:
        backend = kernels.chosen(self.backend, self.step.device) if self._fused else "eager"
        auto = f"auto ({backend})" if self.backend == "auto" else backend
        return f"{self._settings()}, group={self.group}, backend={auto}"

    def _settings(self) -> str:
        statistic, directions = univariate.name_of(self.statistic), univariate.name_of(self.directions)
        slices = "" if self.slices == "shared" else f", slices={self.slices!r}"
        return f"{statistic}, num_slices={self.num_slices}, directions={directions}{slices}"

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing: list[str],
        *rest: Any,
    ) -> None:
        for name in ("seed", "step"):
            if prefix + name not in state_dict:
                state_dict[prefix + name] = getattr(self, name)
                warnings.warn(
                    f"the checkpoint has no {prefix}{name}; SIGReg's stream of directions goes on from "
                    f"{name}={int(getattr(self, name))} instead of where the checkpoint's run stopped",
                    stacklevel=2,
                )
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, *rest)


directions_by_name = directions.by_name  # inside SIGReg.__init__ an argument has the module's name


def _fused_settings(statistic: Any) -> dict[str, Any] | None:
    """The quadrature of a plain Epps-Pulley, as the kernels take it; None for any other statistic."""
    partial = statistic if isinstance(statistic, functools.partial) else functools.partial(statistic)
    keywords = dict(partial.keywords)
    unbiased = keywords.pop("unbiased", False)
    if partial.func is not epps_pulley or "ranks" in keywords:
        return None
    t_max, num_points = quadrature(**keywords)
    return {"t_max": t_max, "num_points": num_points, "unbiased": unbiased}
