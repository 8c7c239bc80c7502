"""A run of the host comparison can be interrupted, may diverge, and chooses by images of its own."""

import lightly.loss
import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

from benchmarks import cuda_graph, data, engine, host_runs, hosts
from benchmarks.__main__ import main
from benchmarks.questions import hosts as question
from benchmarks.questions import hosts_long

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")  # in lightly's DINO head


@pytest.fixture
def setting(tmp_path):
    """A setting of the smallest size: two epochs of two steps on digits."""

    def of(**changes):
        cfg = OmegaConf.load(engine.CONF / "question" / "hosts.yaml")
        small = {
            "data": "digits",
            "images": 10,
            "selection": 5,
            "batch_size": 50,
            "width": 0.125,
            "flip": False,
        }
        more = {"epochs": 2, "every": 1, "seed": 0, "threads": 1, "scale": "smoke", "name": "hosts"}
        return OmegaConf.merge(cfg, small, more, changes)

    return of


def comparable(row):
    return {name: value for name, value in row.items() if name != "step_ms"}


@pytest.mark.parametrize("method", ["lejepa", "byol"])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(method, setting, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    torch.manual_seed(0)  # as the engine does before a run
    whole = host_runs.measure(setting(method=method))
    epochs, train = [], host_runs._Run.train

    def killed(run, images):
        if run.epoch == 1 and len(epochs) == 1:
            raise KeyboardInterrupt
        epochs.append(run.epoch)
        train(run, images)

    monkeypatch.setattr(host_runs._Run, "train", killed)
    cfg = setting(method=method, checkpoints=str(tmp_path))
    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        host_runs.measure(cfg)
    epochs.append("interrupted")
    torch.manual_seed(99)  # what the second process happens to have drawn before cannot matter
    resumed = host_runs.measure(cfg)
    assert epochs == [0, "interrupted", 1]
    assert comparable(resumed) == comparable(whole)


def test_a_checkpoint_is_of_one_setting_alone(setting, tmp_path):
    paths = {
        host_runs._path(setting(checkpoints=str(tmp_path), lr_times=times, threads=threads))
        for times, threads in ((1, 1), (1, 2), (3, 1))
    }
    assert len(paths) == 2, "threads are no setting, the learning rate is one"


@pytest.mark.parametrize("method", ["byol", "lejepa"])
def test_a_run_that_diverges_is_a_row(method, setting):
    row = host_runs.measure(setting(method=method, lr_times=1e12))
    assert row["diverged"] is True
    assert [row[name] for name in ("knn", "linear", "selection_knn", "effective_rank")] == [None] * 4


def test_features_that_are_not_finite_are_a_row_too(setting, monkeypatch):
    """The loss may still be finite while the running statistics of BatchNorm are not."""
    monkeypatch.setattr(host_runs, "embedded", lambda backbone, x, _: torch.full((len(x), 3), float("nan")))
    row = host_runs.measure(setting(method="simclr"))
    assert row["diverged"] is True
    assert row["linear"] is None


@pytest.mark.parametrize("name", hosts.METHODS)
def test_every_method_can_be_trained_by_both_recipes(name, setting):
    cfg = setting(method=name)
    for kind, optimizer in (("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)):
        cfg.optimizer = kind
        found, schedule = hosts.METHODS[name](cfg, 1, 100).optimizer()
        assert type(found) is optimizer
        first = schedule.get_last_lr()[0]
        for _ in range(100):
            found.step()
            schedule.step()
        assert_close(schedule.get_last_lr()[0], 0.0)
        assert first == (2e-3 / 10 if kind == "adamw" else 0.06 * (1 if name == "simsiam" else 50 / 128))


def test_every_method_encodes_its_views_one_after_another(setting):
    """A batch of both views would share the statistics of BatchNorm between them."""
    for name, method in hosts.METHODS.items():
        cfg, sizes = setting(method=name), []
        model = method(cfg, 1, 10)
        model.backbone.register_forward_hook(lambda m, x, y, sizes=sizes: sizes.append(len(x[0])))
        model(torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8))
        assert sizes == [6] * model.views, name


def test_a_recipe_that_is_a_methods_own_is_not_named_twice(setting):
    for method, own in (("lejepa", "adamw"), ("byol", "sgd")):
        with pytest.raises(ValueError, match=f"optimizer={own} is {method}'s own; say optimizer=null"):
            host_runs.check(setting(method=method, optimizer=own))


@pytest.mark.parametrize("name", hosts.BASELINES)
def test_a_baseline_is_probed_and_not_trained(name, setting):
    cfg = setting(method=name)
    host_runs.check(cfg)
    row = host_runs.measure(cfg)
    assert row == host_runs.measure(cfg)
    assert 0.3 < min(row["knn"], row["linear"]) <= 1  # digits, where chance is 0.1
    assert (row["images_seen"], row["diverged"]) == (0, False)


def test_pixels_do_not_depend_on_an_image_s_brightness_and_contrast(setting):
    images = torch.randint(256, (5, 3, 8, 8))
    pixels = hosts.untrained("pixels", setting(), images)
    assert_close(pixels(images.float()), pixels(0.5 * images.float() + 20), atol=1e-4, rtol=0)


def test_the_default_head_is_the_adapter_s(setting):
    method = hosts.METHODS["lejepa-2048"](setting(method="lejepa-2048"), 1, 10)
    default = hosts.LeJEPAProjectionHead(method.dim)
    assert [p.shape for p in method.head.parameters()] == [p.shape for p in default.parameters()]


def test_images_to_choose_settings_by_are_none_of_those_trained_on():
    images = data.load("digits")
    train, (held, labels) = data.split(images, 100, 20)
    assert train.train_labels.bincount().tolist() == [100] * 10
    assert labels.bincount().tolist() == [20] * 10
    assert torch.equal(train.test, images.test)
    seen = {x.numpy().tobytes() for x in train.train}
    assert not any(x.numpy().tobytes() in seen for x in held)
    rest, _ = data.split(images, None, 20)
    assert len(rest.train) == len(images.train) - 200 or rest.train_labels.bincount().min() > 100
    everything, (none, _) = data.split(images, None, None)
    assert len(everything.train) == len(images.train)
    assert len(none) == 0
    with pytest.raises(ValueError, match="images=130 and selection=20: a class has 1"):
        data.split(images, 130, 20)


def test_the_hash_is_of_pixels_and_labels(tmp_path):
    rng = np.random.default_rng(0)

    def written(name, **changes):
        (tmp_path / name).mkdir()
        arrays = {
            "train_images": rng.integers(0, 9, (4, 2, 2, 3), dtype=np.uint8) * 0 + 7,
            "train_labels": np.array([0, 0, 1, 1]),
            "test_images": np.zeros((2, 2, 2, 3), np.uint8),
            "test_labels": np.array([0, 1]),
        }
        np.savez(tmp_path / name / data.ARRAYS, **arrays | changes)
        return data.digest(str(tmp_path / name))

    plain = written("a")
    assert written("b") == plain
    assert written("c", test_labels=np.array([1, 0])) != plain
    assert written("d", test_images=np.ones((2, 2, 2, 3), np.uint8)) != plain


def test_a_long_run_without_a_folder_for_checkpoints_does_not_begin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="say checkpoints=DIR"):
        main(["hosts_long", "data=digits"])


def test_the_best_setting_is_chosen_by_seeds_that_tried_them_all():
    import pandas as pd

    rows = [(0, 1, 0.40), (0, 3, 0.42), (1, 3, 0.10), (2, 3, 0.10), (0, 10, None)]
    own = pd.DataFrame(rows, columns=["seed", "lr_times", "score"]).assign(optimizer="sgd")
    chosen = question.best(own, "score")
    assert chosen.lr_times.unique().tolist() == [3], "seeds 1 and 2 did not try the others"
    assert len(chosen) == 3


def test_a_method_with_one_setting_was_not_searched():
    own = pd.DataFrame({"optimizer": "adamw", "lr_times": [1, 1, 3]})
    assert question._says(own[:1], own) == "AdamW x 1, edge"
    assert question._says(own[:1], own[:2]) == "not searched"


def test_a_lead_has_the_interval_of_welch_s_t():
    """Equal variances 4 and n = 3: standard error sqrt(8 / 3), 4 degrees of freedom, t = 2.776."""
    ours, theirs = pd.Series([0.50, 0.52, 0.54]), pd.Series([0.40, 0.42, 0.44])
    assert question.lead(ours, theirs) == "+10.0 [5.5, 14.5]"
    assert question.lead(ours, theirs[:1]) == "+12.0"
    assert question.lead(pd.Series([0.4999]), pd.Series([0.5])) == "+0.0"


def test_a_long_run_at_another_setting_is_a_line_of_its_own():
    run = {"question": "hosts_long", "method": "simclr", "diverged": False, "selection_knn": None}
    run |= {"epochs": 10, "curve_epoch": "2 10", "curve_knn": "0.1 0.2", "curve_linear": "0.3 0.4"}
    run["effective_rank"] = 3.0
    runs = [run | {"optimizer": None, "lr_times": 10}, run | {"optimizer": "adamw", "lr_times": 3}]
    lines = hosts_long.table(pd.DataFrame(runs)).splitlines()[2:]
    assert [line.split(" | ")[:3] for line in lines] == [
        ["| simclr", "AdamW x 3", "10.0 (n = 1)"],
        ["| simclr", "SGD x 10", "10.0 (n = 1)"],
    ]


def test_what_a_step_replaces_is_written_back_to_its_memory():
    module = torch.nn.BatchNorm1d(3)
    kept = cuda_graph.tensors(module)
    where = {name: tensor.data_ptr() for name, tensor in kept.items()}
    module.weight.data = module.weight.data * 2  # as lightly's update_momentum does
    module.running_mean = module.running_mean + 5  # as its DINOLoss does with the center
    module.running_var.mul_(3)
    cuda_graph.write_back(module, kept)
    assert {name: tensor.data_ptr() for name, tensor in cuda_graph.tensors(module).items()} == where
    assert module.weight.tolist() == [2.0] * 3
    assert module.running_mean.tolist() == [5.0] * 3
    assert module.running_var.tolist() == [3.0] * 3


def test_simclr_s_loss_on_a_gpu_is_lightly_s():
    z0, z1 = torch.randn(2, 16, 8, dtype=torch.float64, requires_grad=True)
    ours, theirs = hosts.nt_xent(z0, z1), lightly.loss.NTXentLoss()(z0, z1)
    assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, (z0, z1)), torch.autograd.grad(theirs, (z0, z1)), strict=True):
        assert_close(a, b)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", hosts.METHODS)
def test_a_replayed_step_is_the_step(method, setting, monkeypatch):
    monkeypatch.setattr(
        hosts.augment, "views", lambda x, count, *_, **__: torch.stack([x, x.flip(-1)] * 2)[:count]
    )
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    batches, losses = torch.randint(256, (9, 64, 3, 32, 32), dtype=torch.uint8, device="cuda"), []
    for graphed in (False, True):
        torch.manual_seed(0)
        cfg = setting(method=method, backbone="resnet-9", width=0.25, stem_stride=2, flip=True)
        run = host_runs._Run(cfg, hosts.METHODS[method](cfg, 3, 100).cuda())
        step = run.step if graphed else run._forward_and_backward
        losses.append([])
        for batch in batches:
            losses[-1].append(float(step(batch)))
            run.optimizer.step()
            run.schedule.step()
    # nine steps multiply a difference of rounding a thousandfold
    assert_close(*map(torch.tensor, losses), rtol=1e-3, atol=1e-4)
    assert len(set(losses[1])) == len(batches)
