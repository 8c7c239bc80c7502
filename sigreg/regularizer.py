"""SIGReg as a module: the functional form plus a stream of directions."""

from __future__ import annotations

import copy
import warnings
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

from sigreg import collectives
from sigreg.arguments import assert_int
from sigreg.collectives import BatchGroup, Group
from sigreg.directions import Directions, Name, by_name
from sigreg.functional import mean_over_slices, members_of
from sigreg.kernels import Backend, no_autocast
from sigreg.kernels.choice import chosen
from sigreg.memory import Memory
from sigreg.random_numbers import as_int64, random_bits
from sigreg.sample import Sample, described, transformed, widest
from sigreg.univariate.epps_pulley import epps_pulley
from sigreg.univariate.statistic import Choice, describe

_REMEMBERED = 256  # calls whose step a recomputation during backward can find again
_FEW, _MANY = 16, 32  # warn of fewer samples beside so many leading indices; LeJEPA has up to 10 views


class SampleAxisWarning(UserWarning):
    """The sample axis (-2) is probably the time axis; silence it with `warnings.filterwarnings`."""


class SIGReg(nn.Module):
    """Sketched isotropic Gaussian regularization: the mean of a statistic over random slices.

        SIGReg(z) = mean_k statistic(z @ a_k),   a_k random unit vectors

    The directions follow from `seed` and from the number of calls in training mode (`step`), and from
    nothing else: `torch.manual_seed` does not change them, and two modules with the same seed share them.
    New ones are drawn at every call in training mode; in eval mode they stay, so that the value is
    deterministic.  The state_dict holds both, so that a resumed run continues its stream.

    Args:
        statistic: the name of one in `sigreg.univariate`, any callable `(..., N, K) -> (..., K)`, or
            a dict of weights over these, e.g. `{"epps_pulley": 1.0, "vcreg": 0.1}`.  Settings of one member
            are bound to it: `{functools.partial(epps_pulley, t_max=5.0): 1.0, "vcreg": 0.1}`.
        num_slices: directions per call, K.
        directions: "gaussian" (independent, as in other implementations), "orthogonal"
            (lower variance from K = D on), "sobol", "subspaces"
            (`sigreg.directions.Subspaces(number, size)`), or a callable
            `(D, K, *, seed, step, device, dtype) -> (D, K)` with unit columns.
        seed: of the stream of directions; use different seeds for different modules, and for runs that are
            repeated to measure a spread.
        group: the processes that share a batch: "auto" (the default process group, once there is
            one), None (this process alone) or a process group.
        unbiased: remove the O(1/N) minibatch bias (Epps-Pulley only).
        backend: how Epps-Pulley is computed; see `sigreg.kernels`.  "auto" suits the device.
        memory: test the last `memory` embeddings beside those of the call: detached, first in first out,
            empty at the start (`reset_memory` empties it again).  It can make training unstable.
        **statistic_kwargs: passed on to the statistic, e.g. `t_max=5.0` or `grid="accurate"`.

    Shapes:
        z `(..., N, D)`, any floating dtype, and weights that broadcast to `(..., N)` -> scalar, float32
        (float64 for float64).  Leading dimensions (views) are tested one by one and averaged.

    Raises:
        TypeError: z is not a floating-point tensor, weights are neither bool nor floating-point, the
            statistic does not know a keyword, or a setting has the wrong type.
        ValueError: an unknown name, num_slices < 1, memory < 0, z with fewer than 2 dimensions or N < 2,
            weights that do not fit, or that are negative or not finite (on a GPU a device-side assertion).
        RuntimeError: the ranks of `group` disagree on settings, shapes, seed or step (on every rank); in
            training mode without `step=`, a transform of `torch.func`, activation checkpointing together
            with `memory=`, or a module left on the CPU while a CUDA graph is captured; a module left on the
            meta device.

    Non-finite embeddings of positive weight give a non-finite loss, so that a GradScaler can skip the step.

    Example:
        >>> import torch
        >>> sigreg = SIGReg(num_slices=256)
        >>> z = torch.randn(8, 128, 64, generator=torch.Generator().manual_seed(0))  # (V, N, D)
        >>> bool(0.9 < sigreg(z) < 1.2)  # 1.05 is its expected value under N(0, I)
        True
        >>> padded = torch.cat([z, torch.full((8, 5, 64), torch.nan)], dim=1)
        >>> bool(torch.isclose(sigreg(padded, torch.arange(133) < 128, step=0), sigreg(z, step=0)))
        True

    Source: LeJEPA, arXiv 2511.08544, section 4.
    """

    step: Tensor

    def __init__(
        self,
        statistic: Choice = "epps_pulley",
        *,
        num_slices: int = 1024,
        directions: Name | Directions = "gaussian",
        seed: int = 0,
        group: Group = "auto",
        unbiased: bool = False,
        backend: Backend = "auto",
        memory: int = 0,
        **statistic_kwargs: Any,
    ) -> None:
        super().__init__()
        assert_int(1, num_slices=num_slices)
        assert_int(0, memory=memory)
        assert_int(seed=seed)
        if unbiased is not False:  # other statistics do not take it
            statistic_kwargs["unbiased"] = unbiased
        self.statistic = members_of(statistic, statistic_kwargs, backend)
        modules = [m.function for m in self.statistic if isinstance(m.function, nn.Module)]
        if modules:  # registers their parameters
            self.statistic_modules = nn.ModuleList(modules)
        self.num_slices = int(num_slices)
        self.directions = by_name(directions)
        self.seed = int(seed)
        self.group = group
        collectives.resolve(group)  # an unknown name fails here rather than in training
        self.backend = backend
        self.memory = Memory(int(memory)) if memory else None
        self._settings_agreed = self._axis_warned = False
        self._recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=_REMEMBERED)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(
        self, z: Tensor, weights: Tensor | None = None, *, step: int | Tensor | None = None
    ) -> Tensor:
        """The regularizer of embeddings `(..., N, D)`; moves to new directions in training mode.

        Args:
            z: embeddings.
            weights: bool (a mask) or non-negative floats that broadcast to `(..., N)`; see
                `sigreg.functional.sigreg`.
            step: use the directions of this step; nothing advances.  Needed under `torch.func` in training
                mode.
        """
        if isinstance(step, float | str | bool) or (isinstance(step, Tensor) and step.is_floating_point()):
            raise TypeError(f"step={step!r} must be an int or a tensor that holds one")
        group = collectives.resolve(self.group)
        if self.memory is not None and weights is None and isinstance(z, Tensor):
            weights = torch.ones(z.shape[:-1], dtype=torch.bool, device=z.device)
        sample = Sample(z, weights, group)
        if group.size > 1:
            self._assert_equal_on_ranks(sample, group)
        self._warn_about_sample_axis(z, group)
        advance = self.training and step is None
        joined = sample if self.memory is None else self.memory.joined(sample)
        if step is None:
            if self.step.is_meta and not sample.x.is_meta:  # every call would use step 0
                raise RuntimeError(
                    f"SIGReg is on the meta device, z on {z.device}; call to_empty(device=...) on the module"
                )
            step = self._step_of_call(sample.x) if advance else self.step
        with no_autocast(sample.x.device):
            D, device, dtype = z.shape[-1], sample.x.device, sample.x.dtype
            A = self.directions(D, self.num_slices, seed=self.seed, step=step, device=device, dtype=dtype)
            if group.size > 1:
                joined.group = group.with_fingerprint(random_bits(1, self.seed, step, device))
        value = mean_over_slices(joined, A, self.statistic, self.backend)
        if self.memory is not None and advance:
            self.memory.store(sample)
        return value

    def _warn_about_sample_axis(self, z: Tensor, group: BatchGroup) -> None:
        """Warn once of few samples and many leading indices: (B, T, D) or (N, V, D) was not transposed."""
        if torch.compiler.is_compiling() or self._axis_warned or self.memory is not None:
            return
        if z.shape[-2] * group.size < _FEW and max(z.shape[:-2], default=0) >= _MANY:
            self._axis_warned = True
            warnings.warn(
                f"SIGReg tests {z.shape[-2]} samples for each of {tuple(z.shape[:-2])} leading indices; if "
                "the batch is the first dimension, as in (B, T, D) or (N, V, D), pass z.transpose(0, 1), or "
                "use sigreg.sequences",
                SampleAxisWarning,
                stacklevel=4,
            )

    def _step_of_call(self, z: Tensor) -> Tensor:
        """The step of this call, after which the stream advances; or that of a recomputed forward pass.

        Activation checkpointing runs the forward pass a second time during backward.  Such a call is
        recognised by its input, whose sum is the same to the last bit.
        """
        if torch.compiler.is_compiling():
            step = self.step.clone()
            self.step.add_(1)
            return step
        if transformed():
            raise RuntimeError(
                "SIGReg in training mode moves to new directions, which torch.func cannot record; pass "
                "step=, use eval mode, or sigreg.functional.sigreg"
            )
        if z.is_cuda and not self.step.is_cuda and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "SIGReg is on the CPU, so that a CUDA graph would use the same directions in every replay; "
                "move it to the GPU before the capture"
            )
        key = z.detach().sum(dtype=widest(z.device))
        if torch._C._current_graph_task_id() != -1 and self._recent:  # called during a backward pass
            if self.memory is not None:
                raise RuntimeError(
                    "activation checkpointing computes SIGReg again after its memory has moved on; call "
                    "SIGReg outside the checkpointed function, or use memory=0"
                )
            keys, steps = (torch.stack(parts) for parts in zip(*self._recent, strict=True))
            found = (keys == key).int().argmax().reshape(1).to(steps.device)
            return steps.index_select(0, found).reshape(())  # an index would wait for the GPU
        step = self.step.clone()
        self._recent.appendleft((key, step))
        self.step.add_(1)
        return step

    def _assert_equal_on_ranks(self, sample: Sample, group: BatchGroup) -> None:
        """Check once that the ranks have equal settings; later calls send a fingerprint, without waiting."""
        if self._settings_agreed or torch.compiler.is_compiling():
            return
        z = sample.x
        group.assert_equal(
            seed=self.seed,
            step=int(self.step),
            dtype=z.dtype,
            shape=f"({', '.join(str(n) for n in (*z.shape[:-2], 'N', z.shape[-1]))})",
            weights="given" if sample.weights is not None else None,
            settings=f"SIGReg({self._settings()})",
        )
        self._settings_agreed = True

    def reset_memory(self) -> None:
        """Empty the memory, e.g. between training and another data set."""
        if self.memory is not None:
            self.memory.reset()

    def reset_parameters(self) -> None:
        """Back to step 0: for modules built on the meta device, after `to_empty`."""
        self.step.zero_()
        self._recent.clear()
        self.reset_memory()

    def _apply(self, fn: Any, recurse: bool = True) -> SIGReg:
        was_meta = self.step.is_meta
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._recent.clear()  # they may be on another device now
        if was_meta and not self.step.is_meta:  # after to_empty, which leaves values undefined
            self.step.zero_()
            self.reset_memory()
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> SIGReg:
        """A copy of all but the process group, which both share."""
        if isinstance(self.group, torch.distributed.ProcessGroup):
            memo[id(self.group)] = self.group
        new = self.__class__.__new__(self.__class__)
        memo[id(self)] = new
        new.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()})
        return new

    def get_extra_state(self) -> Tensor:
        """`[seed, step]`; not buffers, since averages of weights (EMA) average buffers too."""
        return torch.stack([torch.full_like(self.step, as_int64(self.seed)), self.step])

    def set_extra_state(self, state: Any) -> None:
        if not isinstance(state, Tensor) or state.shape != (2,):
            raise ValueError(f"SIGReg's state is a tensor [seed, step], got {state!r}")
        seed, step = state.unbind()
        self.seed = int(seed)
        if self.step.is_meta:
            self.step = step.clone()
        else:
            self.step.copy_(step)  # the tensor that a captured CUDA graph goes on with
        self._recent.clear()

    def extra_repr(self) -> str:
        fused = any(member.function is epps_pulley for member in self.statistic)
        backend = chosen(self.backend, self.step.float()) if fused else "eager"
        auto = f"auto ({backend})" if self.backend == "auto" else backend
        return f"{self._settings()}, seed={self.seed}, group={self.group}, backend={auto}"

    def _settings(self) -> str:
        directions = getattr(self.directions, "__name__", repr(self.directions))
        memory = f", memory={self.memory.size}" if self.memory is not None else ""
        return f"{describe(self.statistic)}, num_slices={self.num_slices}, directions={directions}{memory}"


def regularizer(sigreg: SIGReg | None) -> SIGReg:
    """The module that an objective was given, `SIGReg()` for None, or an error for anything else."""
    if sigreg is None:
        return SIGReg()
    if not isinstance(sigreg, nn.Module) or not hasattr(sigreg, "group"):
        raise TypeError(f"sigreg must be a SIGReg, such as SIGReg(num_slices=256), got {described(sigreg)}")
    return sigreg
