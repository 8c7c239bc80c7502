"""Conformance: is this copy of SIGReg right, and which convention does it follow?

    python -m sigreg.conformance lightly.loss:SIGReg my_project.losses:sigreg

`check` does the same in Python.  `golden.json`, beside this file, holds values and gradients for ports
that cannot be imported here (JAX, Keras, Rust); `sigreg.conformance.golden` says what is in it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from sigreg.conformance import checks, ranks
from sigreg.conformance.report import ABSENT as ABSENT
from sigreg.conformance.report import FAULT as FAULT
from sigreg.conformance.report import NOTE as NOTE
from sigreg.conformance.report import OK as OK
from sigreg.conformance.report import Row as Row
from sigreg.conformance.target import NotCallable as NotCallable
from sigreg.conformance.target import Target as Target
from sigreg.conformance.target import name_of


def check(
    name: str | Callable[..., Any],
    settings: Mapping[str, Any] | None = None,
    *,
    run: Callable[..., list[Any]] | None = ranks.spawned,
) -> Iterator[Row]:
    """Check one copy, a row at a time.

    Args:
        name: `module:Class` or `module:function`, or the class or function itself, of embeddings `(N, D)`,
            `(V, N, D)`, a list of views, or two views; what it returns is a scalar, or holds one as `loss`.
        settings: keyword arguments of the class or function.
        run: `run(2, function, *args)` calls a function on two ranks, by default as two processes on this
            machine; None leaves that check out.

    Raises:
        TypeError: `name` is neither a name nor a class or function that a module holds under its name.
        NotCallable: the copy could not be called with embeddings in any of these forms.

    Example:
        >>> for row in check("sigreg:SIGReg", {"num_slices": 64}, run=None):
        ...     print(row.check, row.verdict)
        value ok
        gradient ok
        scale, shift ok
        collapse ok
        directions ok
        bfloat16 ok
        float16 ok
        masks ok
        lambda -
        time axis ok
    """
    name = name_of(name)
    copy = Target(name, settings or {})
    row, convention = checks.value(copy)
    yield row
    known = row.verdict == OK
    if known:
        yield checks.gradient(copy, convention)
    yield checks.sensitivity(copy)
    yield checks.collapse(copy, convention if known else None)
    if not known:  # what follows compares with the value, and would report the same fault again
        return
    yield checks.directions(copy, convention)
    yield checks.half(copy, convention, torch.bfloat16)
    yield checks.half(copy, convention, torch.float16)
    yield checks.masks(copy, convention)
    loss = checks.objective(copy, convention)
    yield loss
    yield checks.axes(copy, convention, is_loss=loss.verdict != ABSENT)
    main = getattr(sys.modules["__main__"], "__file__", None) or ""
    if run is ranks.spawned and name.startswith("__main__:") and not os.path.isfile(main):
        words = "not checked: other processes cannot import what an interpreter or a notebook defines"
        yield Row("two ranks", f"{words}; put the copy into a module", ABSENT)
    elif run is not None:
        try:
            answers = run(2, ranks.on_this_rank, name, dict(settings or {}))
        except Exception as error:
            yield Row("two ranks", f"raises {error}".splitlines()[0][:160], FAULT)
        else:
            yield ranks.judged(answers, convention)
