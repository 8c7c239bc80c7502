"""Questions, settings and runs: what Hydra calls for every setting of a sweep."""

from __future__ import annotations

import ast
import copy
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
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from benchmarks import data, provenance
from benchmarks.rows import Table, cell, cells, compared
from sigreg.directions import DIRECTIONS
from sigreg.univariate import STATISTICS

CONF = Path(__file__).parent / "conf"
QUESTIONS = Path(__file__).parent / "questions"
NOT_RECORDED = {"name", "sweep", "verdict", "results", "checkpoints", "hydra"}
NOT_COMPARED = {"threads", "accelerator", "devices", "data_root"}  # where and how a run goes, not what it is

# Sweeps over everything the library has, whatever it has by now.
EVERY_STATISTIC = [*sorted(STATISTICS), "exact_sigreg", "none"]
OmegaConf.register_new_resolver("statistics", lambda: ",".join(EVERY_STATISTIC), replace=True)
OmegaConf.register_new_resolver("directions", lambda: ",".join(sorted(DIRECTIONS)), replace=True)


def questions() -> dict[str, str]:
    """Every question and the first line of its docstring, nothing imported."""
    found = {}
    for path in sorted(QUESTIONS.glob("[!_]*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[path.stem] = doc.partition("\n")[0]
    return found


def sweeps(name: str, overrides: list[str]) -> list[list[str]]:
    """The sweeps in a question's file at the scale asked for, as one would type them for Hydra.

    Usually one; a list of them is run in turn, for what no product of values describes, such as a search.
    """
    scale = next((o.removeprefix("scale=") for o in reversed(overrides) if o.startswith("scale=")), "cpu")
    known = OmegaConf.load(CONF / "question" / f"{name}.yaml").sweep
    if scale not in known:
        raise SystemExit(f"{name}: scale={scale!r} is unknown; use one of {', '.join(known)}")
    stages = known[scale] if OmegaConf.is_list(known[scale]) else [known[scale]]
    return [[f"{key}={value}" for key, value in stage.items()] for stage in stages]


def plan(name: str, scale: str) -> list[dict[str, Any]]:
    """The identity of every run of a question's sweeps at a scale.  Raises KeyError for an unknown scale."""
    if scale not in OmegaConf.load(CONF / "question" / f"{name}.yaml").sweep:
        raise KeyError(scale)
    parser, planned = OverridesParser.create(), []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        base = compose("config", [f"question={name}", f"name={name}", f"scale={scale}"])
    for stage in sweeps(name, [f"scale={scale}"]):
        for batch in BasicSweeper.split_arguments(parser.parse_overrides(stage), None):
            for job in batch:
                cfg = copy.deepcopy(base)
                for override in parser.parse_overrides(list(job)):
                    OmegaConf.update(cfg, override.key_or_group, override.value())
                planned.append(identity(cfg))
    return planned


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
    """One setting: measure, and append what came out.

    Nothing when its row exists, or while another process of this machine is measuring it.
    """
    table = Table(cfg.name, cfg.results)
    with table.claim(identity(cfg)) as claimed:
        if not claimed:
            _say(f"{cfg.name}: another process measures this setting now: {cells(identity(cfg))}")
        elif table.missing([identity(cfg)]):
            table.append(_measured(cfg))


def _measured(cfg: DictConfig) -> list[dict[str, Any]]:
    """The rows of one setting, with all that tells where they come from."""
    source = provenance.source()
    torch.set_num_threads(cfg.threads)
    random.seed(cfg.seed)
    np.random.seed(cfg.seed)
    torch.manual_seed(cfg.seed)
    with provenance.measured() as cost:
        results = module(cfg.name).measure(cfg)
    results = results if isinstance(results, list) else [results]
    images = {"data_sha256": data.digest(cfg.data, cfg.data_root, cfg.get("size"))} if "data" in cfg else {}
    return [{**settings(cfg), **result, **cost, **images, **source} for result in results]


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
        self._warn_of_others(config, planned)
        left = f"{len(self.wanted)} to run" if self.wanted else "nothing to run"
        _say(f"{config.name}, scale={config.scale}: {len(planned)} settings, {done} done, {left}")

    def _warn_of_others(self, config: DictConfig, planned: list[dict[str, Any]]) -> None:
        """Rows that no run here matches in some key: a default may have changed since, and they stay."""
        _, others = compared(Table(config.name, config.results).rows(), planned)
        others = [row for row in others if row.get("scale") == config.scale]
        for key in dict.fromkeys(key for settings in planned for key in settings):
            here = {cell(settings[key]) for settings in planned if key in settings}
            there = {row.get(key) or "" for row in others}
            if there and not here & there:
                said = f"{key}={'/'.join(sorted(there))} in {len(others)} rows, {'/'.join(sorted(here))} here"
                _say(f"{config.name}: {said}; those rows are not reused")

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
