"""LeJEPA beside BYOL, DINO and VICReg in solo-learn: its main_pretrain.py, its CIFAR configs.

    python integrations/solo_learn/compare.py --solo-learn CLONE --data CIFAR10   # resumes where it stopped
    python integrations/solo_learn/compare.py --table

CIFAR10 holds train/<class>/*.png and test/<class>/*.png.  One row per method and seed is appended to
benchmarks/results/solo_learn.csv; a row that is there is not run again.  What differs from the stock
configs, for all methods alike, stands in `overrides` and in small_cifar.py.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "benchmarks" / "results" / "solo_learn.csv"
METHODS = ("lejepa", "byol", "dino", "vicreg")
SETTINGS = ("method", "seed", "images", "epochs", "batch_size", "threads")


def overrides(args: argparse.Namespace, seed: int) -> list[str]:
    """A CPU, a small ResNet-18, the subset and a schedule that fits the few epochs; wandb off."""
    return [
        "backbone.name=small_resnet18",
        f"data.train_path={args.data.resolve()}",
        f"data.val_path={args.data.resolve()}",
        "data.num_workers=1",
        "data.format=image_folder",
        f"optimizer.batch_size={args.batch_size}",
        f"max_epochs={args.epochs}",
        f"+check_val_every_n_epoch={args.epochs}",
        "+num_sanity_val_steps=0",
        "+scheduler.warmup_epochs=1",
        f"+seed={seed}",
        "devices='1'",
        "accelerator=cpu",
        "strategy=auto",
        "precision=32",
        "sync_batchnorm=False",
        "wandb.enabled=False",
        "checkpoint.enabled=False",
        "auto_resume.enabled=False",
        "+enable_progress_bar=False",
        "+profiler=simple",
        "hydra/job_logging=stdout",  # or the profile is lost: the stock configs switch logging off
    ]


def run(args: argparse.Namespace, method: str, seed: int) -> dict[str, object]:
    """Pretrain once; online accuracy, step time and peak memory."""
    clone = args.solo_learn.resolve()
    own = HERE / "pretrain" / "cifar" / f"{method}.yaml"
    configs = own.parent if own.is_file() else clone / "scripts" / "pretrain" / "cifar"
    command = [sys.executable, str(HERE / "small_cifar.py"), str(clone / "main_pretrain.py")]
    command += [f"--config-path={configs}", f"--config-name={method}", *overrides(args, seed)]
    env = os.environ | {
        "SMALL_CIFAR": str(args.images // 10),
        "OMP_NUM_THREADS": str(args.threads),
        "PYTHONWARNINGS": "ignore",
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "scripts").symlink_to(clone / "scripts")
        start = time.perf_counter()
        with open(Path(folder) / "log", "w+") as log:
            child = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            log.seek(0)
            output = log.read()
        seconds = time.perf_counter() - start
        if child.returncode != 0:
            raise SystemExit(f"{method}, seed {seed}, failed:\n{output[-3000:]}")
        with open(Path(folder) / "lightning_logs/version_0/metrics.csv") as file:
            accuracies = [row["val_acc1"] for row in csv.DictReader(file) if row["val_acc1"]]
    profile = re.search(r"run_training_batch\s*\|\s*([\d.eE+-]+)", output)
    assert profile is not None, output[-3000:]
    return {
        "method": method,
        "seed": seed,
        "images": args.images,
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "threads": args.threads,
        "images_seen": args.images // args.batch_size * args.batch_size * args.epochs,
        "online_accuracy": round(float(accuracies[-1]), 2),
        "step_seconds": float(profile.group(1)),
        "peak_mib": usage.ru_maxrss // 1024,
        "seconds": round(seconds, 1),
        "solo_learn": _git(clone, "rev-parse", "--short", "HEAD"),
        "commit": _git(HERE, "rev-parse", "--short", "HEAD"),
        "dirty": bool(_git(HERE, "status", "--porcelain", "--untracked-files=no")),
        "torch": version("torch"),
        "lightning": version("lightning"),
        "device": f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _git(folder: Path, *command: str) -> str:
    return subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True).stdout.strip()


def rows() -> list[dict[str, str]]:
    """What has been measured so far."""
    if not RESULTS.is_file():
        return []
    with RESULTS.open() as file:
        return list(csv.DictReader(file))


def append(row: dict[str, object]) -> None:
    """Add one row, and the header before the first."""
    new = not RESULTS.is_file()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


def table() -> str:
    """Markdown, a line per method: its longest runs, one a seed, and their peak memory.

    The rows' accuracies and times are not shown: the accuracy is that of a classifier trained beside the
    method by the optimizer of its recipe, and the time is of a machine that was not quiet.
    """
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows():
        groups.setdefault((row["method"], row["solo_learn"]), []).append(row)
    lines = [
        "| method | runs | images seen, each | peak MiB | solo-learn |",
        "| --- | --- | --- | --- | --- |",
    ]
    for (method, commit), group in groups.items():
        seen = max(int(row["images_seen"]) for row in group)
        longest = [row for row in group if int(row["images_seen"]) == seen]
        memory = max(int(row["peak_mib"]) for row in longest)
        lines.append(f"| {method} | {len(longest)} | {seen} | {memory} | {commit} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, one line of progress each; then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--solo-learn", type=Path, help="the clone")
    parser.add_argument("--data", type=Path, help="the image folder")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1))
    parser.add_argument("--images", type=int, default=5000, help="training images, a multiple of 10")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the table of what is there, run nothing")
    args = parser.parse_args()
    if not args.table:
        if args.solo_learn is None or args.data is None:
            parser.error("--solo-learn and --data are needed to run; --table needs neither")
        settings = vars(args)
        done = {tuple(row[k] for k in SETTINGS) for row in rows()}
        for i, (seed, method) in enumerate((s, m) for s in args.seeds for m in args.methods):
            wanted = settings | {"method": method, "seed": seed}
            if tuple(str(wanted[k]) for k in SETTINGS) in done:
                continue
            print(f"[{i + 1}/{len(args.seeds) * len(args.methods)}] {method}, seed {seed} ...", flush=True)
            row = run(args, method, seed)
            append(row)
            print(f"    {row['online_accuracy']} % after {row['seconds']} s", flush=True)
    print(table())


if __name__ == "__main__":
    main()
