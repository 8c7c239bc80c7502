"""The solo-learn adapter through the host's own, unmodified main scripts.

Needs a clone: name its folder in SOLO_LEARN, or install it (`pip install --no-deps -e CLONE`).  Whatever
lightning and torchmetrics this interpreter has are the dependency set that is tested.
"""

from __future__ import annotations

import csv
import difflib
import importlib.util
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "integrations" / "solo_learn"


def _clone() -> Path | None:
    if "SOLO_LEARN" in os.environ:
        folder = Path(os.environ["SOLO_LEARN"])
    else:
        spec = importlib.util.find_spec("solo")
        folder = Path(spec.origin).parents[1] if spec is not None and spec.origin else Path("nowhere")
    return folder.resolve() if (folder / "main_pretrain.py").is_file() else None


CLONE = _clone()
pytestmark = pytest.mark.skipif(
    CLONE is None, reason="no clone of solo-learn: name its folder in SOLO_LEARN, or install it"
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of noise in five classes, the fewest main_linear.py takes."""
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for label in range(5):
            (folder / split / str(label)).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / str(label) / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def pretrained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which 2 of 3 epochs of `method: lejepa` were run."""
    folder = tmp_path_factory.mktemp("pretrained")
    _pretrain(folder, images, "max_epochs=2")
    return folder


Done = subprocess.CompletedProcess[str]


def _run(folder: Path, *command: str) -> Done:
    """Run in `folder`, so that the clone stays as it is; `scripts` is where the configs look for it."""
    assert CLONE is not None
    if not (folder / "scripts").exists():
        (folder / "scripts").symlink_to(CLONE / "scripts")
    path = os.pathsep.join([str(ROOT), str(ROOT / "adapters"), str(CLONE)])
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, timeout=500
    )


def _main(folder: Path, images: Path, script: str, config: Path, *settings: str) -> Done:
    return _run(
        folder,
        f"{CLONE}/{script}",
        f"--config-path={config.parent}",
        f"--config-name={config.stem}",
        f"data.train_path={images}/train",
        f"data.val_path={images}/val",
        "data.num_workers=0",
        "optimizer.batch_size=16",
        "+enable_progress_bar=false",
        *settings,
    )


def _try_pretrain(folder: Path, images: Path, *settings: str) -> Done:
    config = CONFIGS / "pretrain/custom/custom_cpu.yaml"
    return _main(folder, images, "main_pretrain.py", config, "check_val_every_n_epoch=1", *settings)


def _pretrain(folder: Path, images: Path, *settings: str) -> list[dict[str, float]]:
    """Pretrain and return the rows of the training log, one an epoch."""
    done = _try_pretrain(folder, images, *settings)
    assert done.returncode == 0, done.stderr[-3000:]
    return _log(folder, "train_class_loss_epoch")


def _log(folder: Path, column: str) -> list[dict[str, float]]:
    logs = sorted((folder / "lightning_logs").glob("*/metrics.csv"), key=lambda f: f.stat().st_mtime)
    with logs[-1].open() as file:
        rows = [row for row in csv.DictReader(file) if row.get(column)]
    return [{key: float(value) for key, value in row.items() if value} for row in rows]


def _checkpoint(folder: Path) -> Path:
    return max(folder.glob("trained_models/lejepa/*/*.ckpt"), key=lambda f: f.stat().st_mtime)


def test_two_epochs_of_lejepa_train_log_and_leave_a_checkpoint(pretrained: Path) -> None:
    rows = _log(pretrained, "train_lejepa_loss_epoch")
    assert [row["epoch"] for row in rows] == [0, 1]
    for row in rows:
        total = 0.95 * row["train_prediction_epoch"] + 0.05 * row["train_sigreg_epoch"]
        assert row["train_lejepa_loss_epoch"] == pytest.approx(total, rel=1e-4)
    assert _checkpoint(pretrained).name.endswith("-ep=1.ckpt")
    assert len(_log(pretrained, "val_acc1")) == 2  # online linear evaluation


@pytest.mark.long
def test_main_linear_evaluates_the_checkpoint(pretrained: Path, images: Path) -> None:
    checkpoint = _checkpoint(pretrained)
    config, given = CONFIGS / "linear/custom_cpu.yaml", f"pretrained_feature_extractor='{checkpoint}'"
    done = _main(pretrained, images, "main_linear.py", config, given, "max_epochs=1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(_log(pretrained, "val_acc1")) == 1


@pytest.mark.long
def test_a_run_resumes_with_its_stream_of_directions(pretrained: Path, images: Path, tmp_path: Path) -> None:
    import torch

    rows = _pretrain(tmp_path, images, "max_epochs=3", f"+resume_from_checkpoint='{_checkpoint(pretrained)}'")
    assert [row["epoch"] for row in rows] == [2]
    state = torch.load(_checkpoint(tmp_path), weights_only=True)["state_dict"]
    assert state["criterion.sigreg.step"] == 6  # 2 steps an epoch


@pytest.mark.long
def test_auto_resume_finds_the_run(pretrained: Path, images: Path) -> None:
    done = _try_pretrain(pretrained, images, "max_epochs=2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Resuming from previous checkpoint that matches specifications" in done.stdout


@pytest.mark.long
def test_two_processes_share_one_exact_loss(images: Path, tmp_path: Path) -> None:
    rows = _pretrain(
        tmp_path, images, "max_epochs=2", "strategy=ddp", "devices='2'", "optimizer.batch_size=8"
    )
    assert [row["epoch"] for row in rows] == [0, 1]
    # Noise is embedded close to one point, where SIGReg is 0.402 N: 3.2 for the 8 of one process,
    # 6.4 for the 16 of both.
    assert all(row["train_sigreg_epoch"] > 4 for row in rows)


@pytest.mark.long
@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_a_vit_takes_two_crop_sizes(images: Path, tmp_path: Path, precision: str) -> None:
    rows = _pretrain(
        tmp_path,
        images,
        "max_epochs=1",
        "backbone.name=vit_tiny",
        "+backbone.kwargs.dynamic_img_size=true",
        f"precision={precision}",
    )
    assert rows[0]["train_lejepa_loss_epoch"] > 0


@pytest.mark.long
def test_a_convnext_trains(images: Path, tmp_path: Path) -> None:
    rows = _pretrain(tmp_path, images, "max_epochs=1", "backbone.name=convnext_tiny")
    assert rows[0]["train_lejepa_loss_epoch"] > 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("byol", ["method_kwargs.pred_hidden_dim=64", "momentum.base_tau=0.99"]),
        ("vicreg", []),
        ("simclr", ["method_kwargs.temperature=0.2"]),
    ],
)
def test_plus_sigreg_trains_a_method_of_the_hosts_own(
    images: Path, tmp_path: Path, method: str, settings: list[str]
) -> None:
    rows = _pretrain(
        tmp_path,
        images,
        "max_epochs=1",
        f"method={method}+sigreg",
        "+sigreg={weight: 0.1, num_slices: 64}",
        "augmentations.1.num_crops=0" if method == "vicreg" else "augmentations.1.num_crops=1",
        *(f"+{setting}" for setting in settings),
    )
    assert rows[0]["train_sigreg_epoch"] > 0


@pytest.mark.long
def test_knn_is_evaluated_online_and_by_main_knn(pretrained: Path, images: Path, tmp_path: Path) -> None:
    if tuple(map(int, version("torchmetrics").split(".")[:2])) >= (0, 12):
        pytest.skip("solo-learn's k-NN classifier needs torchmetrics < 0.12")
    _pretrain(tmp_path, images, "max_epochs=1", "+knn_eval={enabled: true, k: 5}")
    assert _log(tmp_path, "val_knn_acc1")

    # main_knn.py moves everything to a GPU; without one, "moving" has to mean leaving it
    launcher = (
        "import sys, torch\n"
        "if not torch.cuda.is_available(): torch.Tensor.cuda = lambda self, **_: self\n"
        "from sigreg_adapters.solo_learn.__main__ import main\n"
        "main(sys.argv[1:])"
    )
    arguments = {
        "pretrained_checkpoint_dir": _checkpoint(pretrained).parent,
        "dataset": "custom",
        "train_data_path": images / "train",
        "val_data_path": images / "val",
        "k": 5,
        "distance_function": "euclidean",
        "feature_type": "projector",
        "num_workers": 0,
    }
    flags = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
    done = _run(tmp_path, "-c", launcher, f"{CLONE}/main_knn.py", *flags)
    assert "Result: acc@1=" in done.stdout, done.stderr[-3000:]


@pytest.mark.long
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("augmentations.1.crop_size=48", "give the others another crop_size"),
        ("backbone.name=vit_tiny", "set backbone.kwargs.dynamic_img_size: true"),
        ("+method_kwargs.lambda_param=2", "lambda_param=2 must lie in [0, 1]"),
    ],
)
def test_a_mistake_ends_in_one_line_that_says_what_to_change(
    images: Path, tmp_path: Path, setting: str, message: str
) -> None:
    done = _try_pretrain(tmp_path, images, setting)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ValueError: ")]
    assert message in line


@pytest.mark.long
@pytest.mark.parametrize("config", sorted((CONFIGS / "pretrain").glob("*/lejepa.yaml")), ids=str)
def test_every_config_composes_with_the_clones_augmentations(config: Path, tmp_path: Path) -> None:
    done = _run(
        tmp_path,
        f"{CLONE}/main_pretrain.py",
        f"--config-path={config.parent}",
        f"--config-name={config.stem}",
        "--cfg=job",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "method: lejepa" in done.stdout
    assert "crop_size" in done.stdout


@pytest.mark.parametrize("replaced", ["byol", "dino"])
def test_our_config_differs_from_the_hosts_by_the_lines_the_readme_shows(replaced: str) -> None:
    assert CLONE is not None
    theirs = _settings(CLONE / "scripts" / "pretrain" / "cifar" / f"{replaced}.yaml")
    ours = _settings(CONFIGS / "pretrain" / "cifar" / "lejepa.yaml")
    difference = list(difflib.unified_diff(theirs, ours, n=0, lineterm=""))[2:]
    shown = "\n".join(line for line in difference if not line.startswith("@@"))
    assert f"```diff\n{shown}\n```" in (CONFIGS / "README.md").read_text()


def _settings(config: Path) -> list[str]:
    lines = [line.split("#")[0].rstrip() for line in config.read_text().splitlines()]
    return [line for line in lines if line]
