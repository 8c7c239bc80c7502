"""The demo: train a world model from pixels with SIGReg and without, then decode, predict and plan.

    python -m integrations.world_model.demo
    python -m integrations.world_model.demo --steps 2000 --seed 1 --out runs/longer

Writes report.json and report.png to runs/world_model.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from integrations.world_model import picture, planning, study
from integrations.world_model.model import Settings, WorldModel


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for field in fields(Settings):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=type(field.default), default=field.default)
    parser.add_argument("--held-out", type=int, default=400, help="episodes that measure")
    parser.add_argument("--tasks", type=int, default=200, help="for planning")
    parser.add_argument("--out", type=Path, default=Path("runs/world_model"))
    return parser.parse_args(arguments)


def table(results: picture.Results, tasks: int) -> str:
    lines = [f"{'':28}{'R^2':>8}{'sd':>9}{'rank':>7}{'success':>10}   95 % interval"]
    for variant, name in study.VARIANTS.items():
        found = results[variant]
        health = f"{found['sd']:9.2g}{found['effective_rank']:7.1f}" if "sd" in found else " " * 16
        name = "pixels, random policy" if variant == "reference" else name
        lines.append(f"{name:28}{found['r2']:8.3f}{health}{_rate(found['success'], tasks)}")
    return "\n".join(
        [*lines, f"{'planning in the true world':52}{_rate(results['reference']['truth'], tasks)}"]
    )


def _rate(rate: float, tasks: int) -> str:
    low, high = planning.interval(rate, tasks)
    return f"{100 * rate:8.1f} %   [{100 * low:.1f}, {100 * high:.1f}]"


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
    start, work = time.perf_counter(), time.process_time()
    setting = study.prepare(settings, args.held_out, args.tasks)
    results: picture.Results = {}
    models: dict[str, WorldModel] = {}
    for variant in study.VARIANTS:
        results[variant], model = study.run(variant, setting)
        if model is not None:
            models[variant] = model
    report: dict[str, Any] = {
        "settings": asdict(settings) | {"held_out": args.held_out, "tasks": args.tasks},
        "results": results,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - work, 1),  # of all threads
        "versions": {name: version(name) for name in ("sigreg", "torch", "scikit-learn")}
        | {"python": platform.python_version(), "cores": os.cpu_count()},
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    picture.draw(results, models["sigreg"], setting).savefig(args.out / "report.png", dpi=120)
    print(f"\n{table(results, args.tasks)}\n")
    print("wrote", args.out / "report.json", "and", args.out / "report.png")


if __name__ == "__main__":
    main()
