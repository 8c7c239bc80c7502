"""`python -m benchmarks [QUESTION [key=value ...] | report]`; without arguments, the questions."""

from __future__ import annotations

import os
import sys

import hydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from benchmarks import engine, report


def main(arguments: list[str]) -> None:
    """Run one question's sweep, or write the report."""
    known = engine.questions()
    if not arguments:
        print(*(f"{name:<16} {line}" for name, line in known.items()), sep="\n")
        return
    name, *overrides = arguments
    if name == "report":
        report.write(overrides)
        return
    if name not in known:
        raise SystemExit(f"unknown question {name!r}; use one of {', '.join(known)}, or report")
    if not hasattr(engine.module(name), "measure"):
        report.show(name, overrides)
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # its errors reach the lines below instead of the screen
    # With a flag of Hydra's (--help, --cfg job, ...) nothing runs, so nothing is swept.
    flagged = any(override.startswith("-") for override in overrides)
    stages = [[]] if flagged else [["--multirun", *stage] for stage in engine.sweeps(name, overrides)]
    for stage in stages:
        flags, swept = [o for o in stage if o.startswith("-")], [o for o in stage if not o.startswith("-")]
        sys.argv = [sys.argv[0], *flags, f"question={name}", f"name={name}", *swept, *overrides]
        try:
            hydra.main(version_base="1.3", config_path=str(engine.CONF), config_name="config")(engine.run)()
        except (HydraException, OmegaConfBaseException) as error:
            raise SystemExit(f"{name}: {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    """Hydra's message and its cause, without the pages around them."""
    lines = [line.strip() for line in f"{error}\n{error.__cause__ or ''}".splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines[:4] if line))


if __name__ == "__main__":
    main(sys.argv[1:])
