"""The copy under test: where it comes from and how it wants to be called."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Views = list[Tensor]  # V tensors (N, D)

STYLES: dict[str, Callable[[Any, Views], Any]] = {
    "f(z), z (N, D)": lambda f, views: f(views[0]),
    "f(z), z (V, N, D)": lambda f, views: f(torch.stack(views)),
    "f([z1, ...]), views (N, D)": lambda f, views: f(views),
    "f(z1, z2), views (N, D)": lambda f, views: f(views[0], views[-1]),
    "f(local_proj=, global_proj=), each (V, N, D)": lambda f, views: f(
        local_proj=torch.stack(views),
        global_proj=torch.stack(views),  # some refuse to have no local one
    ),
}
MASKS = ("mask", "weights", "weight", "valid", "valid_mask", "sample_mask", "sample_weight", "sample_weights")


class NotCallable(TypeError):
    """The target could not be called with embeddings in any of the known forms."""


def name_of(copy: Any) -> str:
    """`module:Name` of a class or function, by which other processes find it; a string is returned as it is.

    Raises:
        TypeError: an object, a lambda or what is defined within a function, which no other process finds.
    """
    if isinstance(copy, str):
        return copy
    name = getattr(copy, "__qualname__", f"<{type(copy).__name__} object>")
    if "<" in name:
        raise TypeError(
            f"expected 'module:Name', or a class or function at the top level of a module, got {name}; "
            "settings go into settings="
        )
    return f"{copy.__module__}:{name}"


@dataclass
class Target:
    """A copy by name, `module:Class` (constructed with `settings`) or `module:function`.

    Raises:
        ValueError: the name has no colon.
        NotCallable: no call style gave a number; the message holds what each one raised.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.f = self.fresh()
        self.style = next((s for s in STYLES if self._works(s)), "")
        if not self.style:
            raise NotCallable(
                f"{self.name} could not be called; write a function of z (N, D) around it. Tried: "
                + "; ".join(f"{style}: {self._failure(style)}" for style in STYLES)
            )
        self.takes_stack = self._works("f(z), z (V, N, D)")

    def fresh(self) -> Any:
        """A new instance of the class, or the function with its settings."""
        module, separator, attribute = self.name.partition(":")
        if not separator:
            raise ValueError(f"{self.name!r} names no attribute; write module:ClassOrFunction")
        found: Any = functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
        if inspect.isclass(found):
            return found(**self.settings)
        return functools.partial(found, **self.settings) if self.settings else found

    def _failure(self, style: str) -> str | None:
        z = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
        try:
            scalar(STYLES[style](self.f, list(z)))
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:200]
        return None

    def _works(self, style: str) -> bool:
        return self._failure(style) is None

    def __call__(self, *views: Tensor) -> Tensor:
        """The value of V views `(N, D)`."""
        return scalar(STYLES[self.style](self.f, list(views)))

    def stacked(self, z: Tensor) -> Tensor:
        """The value of one tensor `(V, N, D)`, whatever the copy makes of its axes."""
        return scalar(self.f(z))

    @property
    def mask(self) -> str | None:
        """The name of the argument that takes weights or a mask, if there is one."""
        f = self.f.forward if isinstance(self.f, torch.nn.Module) else self.f
        return next((p for p in inspect.signature(f).parameters if p in MASKS), None)

    def masked(self, z: Tensor, mask: Tensor) -> Tensor:
        """The value of one view with a mask `(N,)`."""
        keyword = {str(self.mask): mask}
        f = functools.partial(self.f, **keyword)
        return scalar(STYLES[self.style](f, [z]))


def scalar(result: Any) -> Tensor:
    """The loss in what a copy returns: a tensor, a dict or an object with a loss, or a tuple.

    A univariate statistic returns one value per slice; their mean is taken.

    Raises:
        TypeError: there is no tensor in it.
    """
    if isinstance(result, Mapping):
        result = result["loss"]
    elif hasattr(result, "loss"):
        result = result.loss
    elif isinstance(result, tuple):
        result = result[0]
    if not isinstance(result, Tensor):
        raise TypeError(f"returned a {type(result).__name__}, not a tensor")
    return result if result.ndim == 0 else result.mean()
