"""What a benchmark run is made of: data, views, training, probes."""

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from torch.testing import assert_close

from benchmarks import augment, data, engine, probes, training


def config(*overrides):
    with initialize_config_dir(str(engine.CONF), version_base="1.3"):
        return compose(
            "config", ["question=lambda", "name=lambda", "scale=smoke", "accelerator=cpu", *overrides]
        )


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 3)):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    return tmp_path


def test_digits_keep_train_and_test_apart():
    images = data.load("digits")
    assert images.train.shape == (1348, 1, 8, 8)
    assert images.train.dtype == torch.uint8
    assert len(images.test) == 449
    assert images.test_labels.bincount().min() > 30


def test_a_folder_of_images_is_loaded_whole(folder):
    images = data.load(str(folder))
    assert images.train.shape == (12, 3, 12, 12)
    assert images.test_labels.tolist() == [0] * 3 + [1] * 3
    first = np.asarray(Image.open(folder / "train" / "dog" / "0.png"))
    assert_close(images.train[6].permute(1, 2, 0), torch.from_numpy(first.copy()))


def test_fewer_images_a_class_is_balanced(folder):
    assert data.load(str(folder), images=2).train_labels.tolist() == [0, 0, 1, 1]


def test_images_of_several_sizes_ask_for_one(folder):
    Image.new("RGB", (20, 20)).save(folder / "train" / "cat" / "9.png")
    with pytest.raises(ValueError, match=r"differ in size.*size=64"):
        data.load(str(folder))
    assert data.load(str(folder), size=8).train.shape == (13, 3, 8, 8)


def test_a_whole_crop_without_changes_is_the_image():
    x = torch.rand(4, 3, 8, 8)
    (out,) = augment.views(x, 1, (1.0, 1.0), flip=False, aspect=1, jitter=0, noise=0)
    assert_close(out, x, atol=1e-5, rtol=0)


def test_a_mirrored_whole_crop_is_the_mirrored_image():
    x = torch.rand(64, 1, 8, 8)
    (out,) = augment.views(x, 1, (1.0, 1.0), flip=True, aspect=1, jitter=0, noise=0)
    same, mirrored = ((out - y).abs().amax((1, 2, 3)) < 1e-5 for y in (x, x.flip(-1)))
    assert (same | mirrored).all()
    assert 10 < mirrored.sum() < 54


def test_views_have_the_asked_share_of_the_image():
    torch.manual_seed(0)
    ramp = torch.linspace(0, 1, 64).expand(500, 1, 64, 64)  # left to right
    out = augment.views(ramp, 2, (0.25, 0.25), size=16, flip=True, jitter=0, noise=0)
    assert out.shape == (2, 500, 1, 16, 16)
    width = (out[..., -1] - out[..., 0]).mean((-1, -2))  # of the crop, signed by the mirror
    assert 0.4 < width.abs().mean() < 0.5  # half the side, of which 15/16 lie between the outer pixels
    assert 0.4 < (width < 0).float().mean() < 0.6
    assert 0.45 < out.mean() < 0.55


def test_colours_change_and_stay_in_range():
    x = torch.rand(64, 3, 8, 8)
    out = augment.views(x, 1, (1.0, 1.0), jitter=0.4, noise=0.1)
    assert out.min() >= 0
    assert out.max() <= 1
    gray = (out - out.mean(2, keepdim=True)).abs().amax((0, 2, 3, 4))
    assert (gray > 0.05).float().mean() > 0.5


def test_probes_find_what_is_there_and_nothing_where_nothing_is():
    rng = np.random.default_rng(0)
    y = np.arange(400) % 4
    noise = rng.standard_normal((400, 8)).astype(np.float32)
    signal = noise.copy()
    signal[np.arange(400), y] += 20

    def scored(features, **more):
        train, test = probes.Split(features[:200], y[:200]), probes.Split(features[200:], y[200:])
        return probes.accuracies(train, {"": test}, **more)

    found = scored(signal, labels=(5, "all"), draws=2)
    assert set(found) == {f"{p}_{n}" for p in probes.PROBES for n in (5, "all")}
    assert min(found.values()) > 0.99
    nothing = scored(noise, labels=(5,), draws=4)
    assert max(nothing.values()) < 0.4


@pytest.mark.parametrize("labels", [(0,), (11,), ("some",), (1.5,)])
def test_labels_that_do_not_exist_are_refused(labels):
    with pytest.raises(ValueError, match=r"expected 'all' or 1\.\.\.10"):
        probes.check(labels, np.arange(100) % 10)


def test_effective_rank_counts_dimensions():
    z = np.random.default_rng(0).standard_normal((5000, 8)).astype(np.float32)
    assert probes.effective_rank(z) == pytest.approx(8, rel=0.01)
    assert probes.effective_rank(z[:, :1] * np.ones(8, np.float32)) == pytest.approx(1, rel=0.01)
    assert probes.effective_rank(0 * z) == 0


def test_the_same_seed_gives_the_same_row():
    rows = []
    for _ in range(2):
        torch.manual_seed(3)
        rows.append(training.measure(config("seed=3")))
    assert rows[0] == rows[1]


def test_every_third_image_is_held_out_of_training_and_of_the_labels():
    kept, held = training.splits(config("select_every=3", "images=null"))
    everything = data.load("digits")
    assert len(kept.train) == 899
    assert len(held.images) == 449
    assert_close(held.images[0], everything.train[2])
    assert_close(kept.train[2], everything.train[3])
    assert_close(kept.test, everything.test)
    assert training.splits(config("select_every=null", "images=null"))[1] is None


def test_a_probe_scores_the_selection_split_beside_the_test_split():
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    features = rng.standard_normal((80, 4)).astype(np.float32)
    features += 50 * y[:, None]
    train, good = probes.Split(features[:40], y[:40]), probes.Split(features[40:], y[40:])
    wrong = probes.Split(features[40:], 1 - y[40:])
    found = probes.accuracies(train, {"": good, "selection_": wrong}, labels=(5,), draws=2, probes=("knn",))
    assert found == {"knn_5": 1.0, "selection_knn_5": 0.0}


@pytest.mark.parametrize(
    ("settings", "steps"),
    [(["max_steps=7"], 7), (["max_images=260"], 8), (["epochs=3"], 3 * (150 // 32))],
)
def test_steps_or_images_may_end_a_run(settings, steps):
    row = training.measure(config("batch_size=32", "labels=[1]", "draws=1", "images=20", *settings))
    assert row["steps"] == steps
    assert row["images_seen"] == 32 * steps
    assert row["selection"] == row["selection_linear_1"]


def test_features_that_are_not_finite_have_no_effective_rank():
    assert np.isnan(probes.effective_rank(np.full((4, 3), np.nan, dtype=np.float32)))


def test_training_helps_on_digits():
    before, after = (
        training.measure(config("images=100", f"epochs={n}", "labels=[5]", "draws=5")) for n in (1, 12)
    )
    assert after["loss"] < before["loss"]
    assert after["accuracy"] > before["accuracy"] + 0.02


def test_fixed_slices_stay_and_resampled_ones_move():
    for resample, step in (("true", 3), ("false", 0)):
        model = training.Pretraining(config(f"resample={resample}"), data.load().train, steps=3)
        for _ in range(3):
            model.log_dict = lambda *args, **kwargs: None
            model.training_step(data.load().train[:32], 0)
        assert int(model.criterion.sigreg.step) == step


def test_without_a_regularizer_there_is_only_prediction():
    row = training.measure(config("statistic=none", "draws=1", "labels=[1]"))
    assert row["sigreg"] == 0
    assert row["loss"] == pytest.approx(0.95 * row["prediction"], rel=1e-5)


def test_a_timm_backbone_and_local_views_of_another_size(folder):
    cfg = config(
        f"data={folder}", "backbone=resnet10t", "labels=[1]", "batch_size=8", "local_views=1", "local_size=8"
    )
    row = training.measure(cfg)
    assert row["steps"] == 1
    assert 0 <= row["accuracy"] <= 1


def test_a_small_stem_keeps_the_resolution_of_small_images():
    x = torch.rand(2, 3, 32, 32)
    for small_stem, side in ((True, 4), (False, 1)):
        net, features = training.backbone("resnet18", 3, 32, small_stem)
        assert net.forward_features(x).shape == (2, features, side, side)


@pytest.mark.long
def test_two_devices_are_lightning_s_to_manage():
    row = training.measure(config("devices=2", "batch_size=32", "labels=[1]", "select_every=null"))
    assert row["steps"] == 3
    assert row["loss"] == pytest.approx(0.95 * row["prediction"] + 0.05 * row["sigreg"], rel=1e-4)


def test_a_run_that_diverged_says_so():
    row = training.measure(config("lr=1e30", "epochs=2"))
    assert row["diverged"] is True
    assert row["accuracy"] is None


def test_the_narrow_resnet_of_the_hosts_is_a_backbone_here():
    net, features = training.backbone("narrow-resnet-9", 3, 32)
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, features)


def test_fashion_mnist_is_read_from_the_package_and_checked(tmp_path, monkeypatch):
    import gzip
    import hashlib

    from benchmarks import fashion_mnist

    source = tmp_path / fashion_mnist.FOLDER
    source.mkdir(parents=True)
    hashes = {}
    for name in fashion_mnist.FILES:
        shape = (20, 3, 4) if "images" in name else (20,)
        values = np.arange(np.prod(shape), dtype=np.uint8) % 10
        content = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes() + values.tobytes()
        (source / f"{name}.gz").write_bytes(gzip.compress(content))
        hashes[name] = hashlib.sha256(content).hexdigest()
    with pytest.raises(SystemExit, match=r"train-images.*SHA-256 .*expected c59f"):
        fashion_mnist.write(tmp_path / "out", tmp_path)
    monkeypatch.setattr(fashion_mnist, "FILES", hashes)
    fashion_mnist.write(tmp_path / "out", tmp_path)
    images = data.load(str(tmp_path / "out"))
    assert images.train.shape == (20, 1, 3, 4)
    assert images.train[0, 0, 0].tolist() == [0, 1, 2, 3]
    assert images.test_labels.bincount().tolist() == [2] * 10


def test_indomain_needs_its_packages_by_name(monkeypatch):
    from benchmarks.questions import indomain

    monkeypatch.setattr(indomain.importlib.util, "find_spec", lambda name: None)
    with (
        initialize_config_dir(str(engine.CONF), version_base="1.3"),
        pytest.raises(ValueError, match="features=imagenet needs efficientnet-lite-pytorch and"),
    ):
        indomain.check(compose("config", ["question=indomain", "name=indomain", "features=imagenet"]))


def test_a_gray_digit_becomes_the_networks_input():
    from benchmarks.questions.indomain import as_network_input

    images = data.load("digits").train[:3]
    seen = as_network_input(images)
    assert seen.shape == (3, 3, 32, 32)
    assert seen.dtype == torch.uint8
    assert bool((seen[:, 0] == seen[:, 2]).all())
    # 32 / 8: pixel 8 i + 5 of a bilinear enlargement lies within the range of its neighbours.
    assert int(seen.max()) <= int(images.max())
