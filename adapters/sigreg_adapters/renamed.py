"""Settings and checkpoints of adapters whose class is `sigreg.SIGReg` under another library's names."""

from __future__ import annotations

import warnings
from typing import Any

from sigreg import SIGReg


class DefaultInt(int):
    """The host's default, which differs from the same number given by the caller: settings may replace it."""


class DefaultFloat(float):
    """As `DefaultInt`."""


# The same in every host, and the defaults of `sigreg.SIGReg`.
POINTS, T_MAX, SLICES = DefaultInt(17), DefaultFloat(3.0), DefaultInt(1024)


def rename(settings: dict[str, Any], **given: tuple[str, Any]) -> None:
    """Add to `settings` those of the host's parameters, `theirs=(ours, value)`, that were not left out.

    Raises:
        ValueError: a setting that is in `settings` already, under this library's name.
    """
    for theirs, (ours, value) in given.items():
        if isinstance(value, (DefaultInt, DefaultFloat)):
            continue
        if ours in settings:
            raise ValueError(f"give {theirs}= or {ours}=, which is sigreg's name for it, not both")
        settings[ours] = value


def accept_constants(module: SIGReg, state_dict: dict[str, Any], prefix: str, host: str) -> None:
    """Convert a checkpoint of a host's class, whose buffers are constants of its grid, to one of `module`."""
    constants = [name for name in ("t", "phi", "weights") if prefix + name in state_dict]
    for name in constants:
        del state_dict[prefix + name]
    if constants and prefix + "_extra_state" not in state_dict:
        warnings.warn(
            f"the checkpoint is one of {host}'s class and has no {prefix}_extra_state; the stream of "
            f"directions goes on from seed {module.seed} and the present step",
            stacklevel=3,
        )
        state_dict[prefix + "_extra_state"] = module.get_extra_state()
