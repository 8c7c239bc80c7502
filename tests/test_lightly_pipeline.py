"""The lightly recipes run: each method for two steps, a resumed run goes on, bad arguments are one line."""

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version

import pytest
import torch
from packaging.version import Version
from PIL import Image
from torch.utils.data import Dataset

from integrations.lightly import backbones, data, demo, methods, picture, pretrain, probes

FEW = ["--epochs", "1", "--batch-size", "16", "--workers", "0", "--precision", "32-true"]
# Lightning's own: a scheduler step it takes itself, a loader it would rather see with more workers
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning"),  # lightly's DINO head
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]


@dataclass
class Few:
    """The first images of a data set; lightly sets `transform` on what it is given."""

    dataset: Dataset
    transform: Callable | None = None

    def __len__(self):
        return 32

    def __getitem__(self, i):
        image, label = self.dataset[i]
        return image if self.transform is None else self.transform(image), label


@pytest.fixture(scope="module")
def images() -> data.Images:
    digits = data.digits()
    return replace(digits, train=Few(digits.train))


@pytest.mark.parametrize("method", ["lejepa", "byol", "dino", "simsiam"])
def test_every_method_trains_two_steps(method, images, tmp_path):
    args = pretrain.parse(["--method", method, "--out", str(tmp_path), *FEW])
    before = pretrain.build(args, images.size).backbone.state_dict()
    model = pretrain.pretrain(args, images)
    assert model.global_step == 2
    assert any(not torch.equal(before[k], v) for k, v in model.backbone.state_dict().items() if "weight" in k)
    row = next(csv.DictReader(pretrain.log_of(model).read_text().splitlines()))
    assert torch.isfinite(torch.tensor(float(row["loss"])))
    assert (tmp_path / "last.ckpt").exists()


def test_the_monitor_logs_beside_the_losses_and_leaves_the_training_as_it_is(images, tmp_path):
    weights = []
    for monitor in ("0", "1"):
        args = pretrain.parse(["--out", str(tmp_path / monitor), "--monitor", monitor, *FEW])
        model = pretrain.pretrain(args, images)
        weights.append(model.backbone.state_dict())
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=0, atol=0)
    rows = list(csv.DictReader(pretrain.log_of(model).read_text().splitlines()))
    looks = [row for row in rows if row["gaussianity/epps_pulley"]]
    assert [row["step"] for row in looks] == ["0", "1"]
    assert all(1 < float(row["gaussianity/effective_rank"]) <= 64 for row in looks)
    assert sum(bool(row["loss"]) for row in rows) == 1


@pytest.mark.skipif(
    Version(version("lightly")) < Version("1.5.25"),
    reason="lightly before 1.5.25 leaves a numpy scalar in the checkpoint, which torch will not load",
)
def test_a_killed_run_goes_on_from_its_last_epoch(images, tmp_path, monkeypatch):
    def die(method):
        if method.current_epoch == 1:
            raise RuntimeError("killed")

    args = pretrain.parse(["--out", str(tmp_path), *FEW, "--epochs", "2"])
    with monkeypatch.context() as patch:
        patch.setattr(methods.LeJEPA, "on_train_epoch_start", die)
        with pytest.raises(RuntimeError, match="killed"):
            pretrain.pretrain(args, images)
    args.resume = True
    model = pretrain.pretrain(args, images)
    assert (model.current_epoch, model.global_step) == (2, 4)
    assert int(model.criterion.sigreg.step) == 4
    assert len(pretrain.log_of(model).read_text().splitlines()) == 2  # a header and the second epoch


def test_an_image_folder_trains(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(8):
                Image.new("RGB", (40, 36), (i * 30, 90, 200)).save(tmp_path / split / name / f"{i}.png")
    args = pretrain.parse(
        ["--data", str(tmp_path), "--out", str(tmp_path / "out"), *FEW, "--batch-size", "8"]
    )
    images = data.load(args.data, args.size)
    assert pretrain.pretrain(args, images).global_step == 2
    features, labels = data.embed(torch.nn.Flatten(), images, "test")
    assert features.shape == (16, 3 * 32 * 32)
    assert sorted(labels) == [0] * 8 + [1] * 8


def test_a_timm_backbone_trains(images, tmp_path):
    args = pretrain.parse(["--backbone", "test_resnet", "--out", str(tmp_path), *FEW])
    assert pretrain.pretrain(args, images).global_step == 2


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "test_resnet"])
def test_a_timm_backbone_is_built_for_the_size_of_the_views(name):
    backbone, dim = backbones.create(name, 32)
    assert backbone(torch.zeros(2, 3, 32, 32)).shape == (2, dim)


def test_a_learning_rate_of_zero_is_taken():
    for method in pretrain.NAMES:
        assert pretrain.build(pretrain.parse(["--method", method, "--lr", "0"]), 16).lr == 0


def test_fewer_images_than_a_batch_are_an_error_of_one_line(images, tmp_path):
    args = pretrain.parse(["--out", str(tmp_path), *FEW, "--batch-size", "64"])
    with pytest.raises(SystemExit, match=r"^--batch-size 64: there are only 32 images to train on$"):
        pretrain.pretrain(args, images)


def test_the_demo_of_other_data_is_an_error_of_one_line():
    with pytest.raises(SystemExit, match=r"^--data cifar10: .*integrations\.lightly\.pretrain$"):
        demo.main(["--data", "cifar10", "--epochs", "1"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--backbone", "resnet_of_nobody"], "timm knows no such model"),
        (["--data", "nowhere"], "expected nowhere/train/<class>/<image>"),
        (["--num-global", "9"], "must lie in 1...4"),
        (["--monitor", "5", "--method", "byol"], "which byol does not use"),
        (["--resume", "--out", "runs/never"], "no checkpoint"),
    ],
)
def test_a_bad_argument_is_one_line(arguments, says, capsys):
    with pytest.raises(SystemExit) as exit:
        pretrain.main(arguments)
    line = exit.value.code if isinstance(exit.value.code, str) else capsys.readouterr().err.splitlines()[-1]
    assert says in line
    assert "\n" not in line


def test_few_shot_accuracy_is_perfect_on_separated_classes():
    features, labels = torch.eye(3).repeat(20, 1).numpy(), torch.arange(3).repeat(20).numpy()
    for probe in (probes.knn, probes.linear):
        result = probe((features, labels), (features, labels))
        assert {n: r["mean"] for n, r in result.items()} == {"1": 1.0, "5": 1.0, "10": 1.0}


def test_the_picture_has_four_panels():
    import pandas as pd

    log = pd.DataFrame({"epoch": [0, 1], "sigreg": [9.0, 1.2], "prediction": [0.2, 0.1], "loss": [0.5, 0.2]})
    bar = {n: {"mean": 0.5, "sd": 0.1} for n in ("1", "5", "10")}
    z = torch.randn(50, 8).numpy()
    knn = dict.fromkeys(("pixels", "random", "lejepa"), bar)
    figure = picture.draw(log, knn, z, torch.arange(50).numpy() % 10, z)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert len(titles) == 4
    assert titles[0] == "Loss terms during training"
