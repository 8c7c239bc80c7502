# mypy: disable-error-code="import-not-found,import-untyped"
"""SIGReg for solo-learn: `method: lejepa`, and `+sigreg` on its other methods, in an unmodified clone.

    python main_pretrain.py --config-path ... --config-name ...     # a Hydra plugin registers them
    python -m sigreg_adapters.solo_learn main_knn.py --dataset ...  # scripts without Hydra

`import sigreg_adapters.solo_learn` loads neither torch nor solo-learn; `register()` and `LeJEPA` do.
Tried with solo-learn at 9187ea39, on lightning 2.6.6 and on its own pins (lightning 2.1.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sigreg_adapters.solo_learn.methods import LeJEPA as LeJEPA

__all__ = ["LeJEPA", "register"]

# The methods whose `out["z"]` is a plain projector output.  Left out: those that put z on the unit
# sphere, where no N(0, I) exists (deepclusterv2, mocov2plus, nnclr, nnsiam, ressl, swav), and those
# with another z or another backbone under their name (all4one, dino, mae, mocov3, wmse).
EXTENDED = ("barlow_twins", "byol", "nnbyol", "simclr", "simsiam", "supcon", "vibcreg", "vicreg")


def register() -> None:
    """Add `lejepa` and `<method>+sigreg` to solo-learn's `METHODS`; a second call changes nothing.

    Raises:
        ImportError: solo-learn cannot be imported, or is older than its Hydra configs.
    """
    methods = _methods()
    from solo.methods import METHODS
    from solo.utils.checkpointer import Checkpointer

    if METHODS.get("lejepa") is methods.LeJEPA:
        return
    METHODS["lejepa"] = methods.LeJEPA
    for name in METHODS.keys() & EXTENDED:  # a clone may be older than some of them
        METHODS[f"{name}+sigreg"] = methods.with_sigreg(METHODS[name])

    # main_pretrain.py rejects a wrong number of large crops by a bare assert before it builds the
    # method; the Checkpointer is the last to read the config before that.
    defaults = Checkpointer.add_and_assert_specific_cfg

    def with_crops_counted(cfg: Any) -> Any:
        if cfg.get("method") == "lejepa" or str(cfg.get("method")).endswith("+sigreg"):
            methods.assert_two_large_crops(cfg)
        return defaults(cfg)

    Checkpointer.add_and_assert_specific_cfg = staticmethod(with_crops_counted)


def _methods() -> Any:
    """Our methods' module, or an error of one line that says why solo-learn cannot be used."""
    try:
        from solo.methods.base import BaseMethod
    except ImportError as reason:
        raise ImportError(
            f"solo-learn cannot be imported ({reason}); start inside a clone of "
            "https://github.com/vturrisi/solo-learn, or run `pip install --no-deps ./solo-learn`"
        ) from reason
    if not hasattr(BaseMethod, "add_and_assert_specific_cfg"):
        raise ImportError(
            "this solo-learn still takes its settings from argparse (its PyPI release does, too); "
            "use a clone of https://github.com/vturrisi/solo-learn from 2023 or later"
        )
    from sigreg_adapters.solo_learn import methods

    return methods


def __getattr__(name: str) -> Any:
    if name == "LeJEPA":
        return _methods().LeJEPA
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
