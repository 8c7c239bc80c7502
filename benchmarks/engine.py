"""Questions, settings and runs: what Hydra calls for every setting of a sweep."""

from __future__ import annotations

import ast
import importlib
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from benchmarks import data, provenance
from benchmarks.rows import Table
from sigreg import multivariate
from sigreg.directions import DIRECTIONS
from sigreg.univariate import STATISTICS

CONF = Path(__file__).parent / "conf"
QUESTIONS = Path(__file__).parent / "questions"
NOT_RECORDED = {"name", "sweep", "verdict", "results", "checkpoints", "hydra"}
NOT_COMPARED = {"threads", "accelerator", "devices", "data_root"}  # where and how a run goes, not what it is

# Sweeps over everything the library has, whatever it has by now.
CLOSED = ["exact_sigreg"] if hasattr(multivariate, "exact_sigreg") else []
EVERY_STATISTIC = [*sorted(STATISTICS), *CLOSED, "none"]
OmegaConf.register_new_resolver("statistics", lambda: ",".join(EVERY_STATISTIC), replace=True)
OmegaConf.register_new_resolver("directions", lambda: ",".join(sorted(DIRECTIONS)), replace=True)


def questions() -> dict[str, str]:
    """Every question and the first line of its docstring, nothing imported."""
    found = {}
    for path in sorted(QUESTIONS.glob("[!_]*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[path.stem] = doc.partition("\n")[0]
    return found


def sweep(name: str, overrides: list[str]) -> list[str]:
    """The sweep in a question's file at the scale asked for, as one would type it for Hydra."""
    scale = next((o.removeprefix("scale=") for o in reversed(overrides) if o.startswith("scale=")), "cpu")
    sweeps = OmegaConf.load(CONF / "question" / f"{name}.yaml").sweep
    if scale not in sweeps:
        raise SystemExit(f"{name}: scale={scale!r} is unknown; use one of {', '.join(sweeps)}")
    return [f"{key}={value}" for key, value in sweeps[scale].items()]


def module(name: str) -> ModuleType:
    """The module of a question (`lambda` is a keyword, so no import statement)."""
    return importlib.import_module(f"benchmarks.questions.{name}")


def settings(cfg: DictConfig) -> dict[str, Any]:
    """What a row records of its configuration."""
    names = [str(key) for key in cfg if key not in NOT_RECORDED]
    plain = OmegaConf.to_container(OmegaConf.masked_copy(cfg, names), resolve=True)
    return {name: plain[name] for name in names}  # type: ignore[call-overload,index]


def identity(cfg: DictConfig) -> dict[str, Any]:
    """What distinguishes one run from another."""
    return {key: value for key, value in settings(cfg).items() if key not in NOT_COMPARED}


def check(cfg: DictConfig) -> None:
    """Raises ValueError for a setting that cannot run."""
    getattr(module(cfg.name), "check", lambda cfg: None)(cfg)


def run(cfg: DictConfig) -> None:
    """One setting: measure, and append what came out; nothing when its row exists."""
    table = Table(cfg.name, cfg.results)
    if not table.missing([identity(cfg)]):
        return
    source = provenance.source()
    torch.set_num_threads(cfg.threads)
    random.seed(cfg.seed)
    np.random.seed(cfg.seed)
    torch.manual_seed(cfg.seed)
    with provenance.measured() as cost:
        results = module(cfg.name).measure(cfg)
    results = results if isinstance(results, list) else [results]
    images = {"data_sha256": data.digest(cfg.data, cfg.data_root, cfg.get("size"))} if "data" in cfg else {}
    table.append([{**settings(cfg), **result, **cost, **images, **source} for result in results])


class Progress(Callback):
    """Checks every setting before the first one runs; then says what is done and what is left."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        provenance.source()
        planned = []
        for cfg in _planned(config):
            try:
                check(cfg)
            except ValueError as error:
                raise SystemExit(f"{config.name}: {error}") from None
            planned.append(identity(cfg))
        self.wanted = Table(config.name, config.results).missing(planned)
        self.started = time.time()
        done = len(planned) - len(self.wanted)
        left = f"{len(self.wanted)} to run" if self.wanted else "nothing to run"
        _say(f"{config.name}, scale={config.scale}: {len(planned)} settings, {done} done, {left}")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """What is left is counted in the file: the runs may go on in many processes."""
        if identity(config) not in self.wanted:
            return
        setting = " ".join(job_return.overrides[2:])  # after question=... and name=...
        if job_return.status == JobStatus.FAILED:
            _say(f"{config.name} FAILED: {setting}: {job_return._return_value!r}")
            return
        left = len(Table(config.name, config.results).missing(self.wanted))
        done = len(self.wanted) - left
        minutes = (time.time() - self.started) / max(done, 1) * left / 60
        _say(f"{config.name} {done}/{len(self.wanted)}, {minutes:.1f} min left: {setting}")


def _planned(config: DictConfig) -> Iterator[DictConfig]:
    """The configuration of every run of a sweep, as Hydra's sweeper will form it."""
    overrides = OverridesParser.create().parse_overrides(config.hydra.overrides.task)
    for batch in BasicSweeper.split_arguments(overrides, None):
        for job in batch:
            yield compose("config", [*config.hydra.overrides.hydra, *job], return_hydra_config=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
