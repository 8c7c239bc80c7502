"""The parts of the question `segmentation`: scenes, masks from maps, and folders in the place of scenes."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from sklearn.decomposition import PCA
from torch.testing import assert_close

from benchmarks import engine, masking, scenes, segmentation_figure
from benchmarks.questions import segmentation
from tests.samples import normal


def config(*overrides):
    with initialize_config_dir(str(engine.CONF), version_base="1.3"):
        return compose(
            "config",
            ["question=segmentation", "name=segmentation", "scale=smoke", "accelerator=cpu", *overrides],
        )


def test_scenes_are_a_function_of_their_seed_whatever_their_number():
    one, more = scenes.draw(5, 32, 7), scenes.draw(scenes.AT_ONCE + 5, 32, 7)
    for found, expected in zip(one, more, strict=True):
        assert_close(found, expected[:5], rtol=0, atol=0)
    assert (scenes.draw(5, 32, 8).images != one.images).any()


def test_a_shape_lies_wholly_in_its_image_and_has_its_area():
    """A disc of radius 0.9 r has the area 0.81 pi r^2, a mean over r uniform in [low, high]."""
    found = scenes.draw(1000, 48, 0)
    border = torch.ones(48, 48, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert not found.masks[:, border].any()
    assert found.masks.flatten(1).any(1).all()
    areas = found.masks[found.shapes == scenes.SHAPES.index("disc")].float().mean((1, 2))
    low, high = scenes.RADIUS
    expected = 0.81 * math.pi * (high**3 - low**3) / 3 / (high - low)
    assert abs(float(areas.mean()) - expected) < 4 * float(areas.std()) / math.sqrt(len(areas))


def test_no_colour_belongs_to_shapes():
    found = scenes.draw(1000, 32, 1)
    x, m = found.images.float(), found.masks[:, None].float()
    shape = (x * m).sum((2, 3)) / m.sum((2, 3))
    ground = (x * (1 - m)).sum((2, 3)) / (1 - m).sum((2, 3))
    difference = shape - ground  # (n, 3)
    assert (difference.mean(0).abs() < 4 * difference.std(0) / math.sqrt(len(x))).all()


def test_otsu_leaves_the_least_variance_within_the_two_groups():
    values = normal(20, 30)
    found = masking.otsu(values)
    for row, threshold in zip(values.double(), found, strict=True):

        def within(t, row=row):
            groups = [row[row > t], row[row <= t]]
            return sum(float((g - g.mean()).square().sum()) for g in groups)

        ordered = row.sort().values
        assert within(threshold) <= min(within(t) for t in ordered[:-1]) * (1 + 1e-9)


def test_a_map_and_its_negative_give_the_same_mask():
    maps = normal(10, 7, 5)  # an odd number of patches: no mask covers half of them
    found = masking.above(masking.oriented(maps))
    assert_close(masking.above(masking.oriented(-maps)), found)
    framed = torch.zeros(1, 6, 6)
    framed[:, 1:-1, 1:-1] = -1  # the border is high: the object is what is low
    assert_close(masking.above(masking.oriented(framed)), framed < 0)


def test_the_first_component_is_that_of_scikit_learn():
    tokens = normal(3, 4, 5, 7) * torch.linspace(1, 3, 7)
    for found, x in zip(masking.first_component(tokens), tokens, strict=True):
        expected = torch.from_numpy(PCA(1).fit_transform(x.flatten(0, 1).double().numpy()))[:, 0].float()
        sign = torch.sign((found.flatten() * expected).sum())
        assert_close(sign * found.flatten(), expected, rtol=1e-5, atol=1e-5)


def test_the_shared_component_is_fitted_to_other_tokens():
    of, tokens = (normal(3, 4, 5, 7, seed=s) * torch.linspace(1, 3, 7) for s in (0, 1))
    pca = PCA(1).fit(of.flatten(0, 2).double().numpy())
    expected = torch.from_numpy(pca.transform(tokens.flatten(0, 2).double().numpy()))[:, 0].float()
    found = masking.shared_component(tokens, of).flatten()
    assert_close(torch.sign((found * expected).sum()) * found, expected, rtol=1e-5, atol=1e-5)


def test_iou_is_intersection_over_union():
    one = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]]).bool()
    other = torch.tensor([[[1, 0], [1, 0]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]]).bool()
    assert_close(masking.iou(one, other), torch.tensor([1 / 3, 0.0, 1.0]))


def test_a_patch_is_in_the_mask_when_half_of_it_is():
    pixels = torch.zeros(1, 4, 4, dtype=torch.bool)
    pixels[0, 0, 0] = pixels[0, 2:, 2] = True  # a quarter of the first patch, half of the last
    assert_close(masking.on_patches(pixels, (2, 2)), torch.tensor([[[False, False], [False, True]]]))


def test_maps_that_are_the_masks_score_one_by_every_rule():
    truth = masking.on_patches(scenes.draw(20, 48, 3).masks, (8, 8))
    maps = truth.float()
    found = {
        "tokens": maps[..., None],
        "first": maps,
        "shared": maps,
        "attention": maps,
        "heads": torch.stack([-maps, maps], 1),
    }
    scores = segmentation._scores({"selection": found, "test": found}, {"selection": truth, "test": truth})
    assert scores == dict.fromkeys(segmentation.RULES, 1.0)


def test_attention_on_the_ground_is_no_object_unless_the_border_rule_turns_it():
    truth = masking.on_patches(scenes.draw(20, 48, 3).masks, (8, 8))
    maps = -truth.float()
    found = {
        "tokens": maps[..., None],
        "first": maps,
        "shared": maps,
        "attention": maps,
        "heads": maps[:, None],
    }
    scores = segmentation._scores({"selection": found, "test": found}, {"selection": truth, "test": truth})
    assert scores["attention"] == scores["first"] == 0.0
    assert scores["attention_by_border"] == 1.0


def test_the_blind_disc_is_better_than_nothing_and_worse_than_the_truth():
    row = segmentation.measure(config("method=centre", "test_images=200"))
    assert 0.1 < row["first"] < 0.5
    assert 0.1 < row["radius"] < 0.7


def test_a_written_map_is_read_again():
    values = normal(3, 4)
    found = segmentation_figure.read(segmentation._written(values))
    span = values.max() - values.min()
    expected = ((values - values.min()) / span * 15).numpy()
    np.testing.assert_allclose(found, expected, atol=0.5 + 1e-5)  # half a level


def test_training_teaches_the_class_to_the_supervised_network_only():
    overrides = ["max_steps=3", "images=40", "batch_size=8", "size=24", "num_slices=8"]
    supervised, lejepa = (
        segmentation.measure(config(f"method={method}", "test_images=4", *overrides))
        for method in ("supervised", "lejepa")
    )
    assert 0 <= supervised["class_accuracy"] <= 1
    assert math.isnan(lejepa["class_accuracy"])
    assert supervised["steps"] == lejepa["steps"] == 3


@pytest.fixture
def folder(tmp_path):
    """Six images a part, scenes of 24 pixels, of two classes; masks of the test images."""
    drawn = scenes.draw(12, 24, 0)
    for i, (image, mask) in enumerate(zip(drawn.images, drawn.masks, strict=True)):
        part, name = ("train", "test")[i % 2], f"{'ab'[i % 4 // 2]}/{i}"
        for kind, pixels in ((part, image.permute(1, 2, 0)), ("masks", mask.byte() * 255)):
            if kind != "masks" or part == "test":
                path = tmp_path / kind / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.numpy()).save(path)
    return tmp_path


def of_folder(folder, *more):
    small = ["size=24", "patch=6", "test_images=3", "batch_size=4", "max_steps=1", "global_size=12"]
    return config(f"folder={folder}", *small, "local_size=6", *more)


def test_a_folder_with_masks_is_scored_against_them(folder):
    cfg = of_folder(folder)
    images, masks = segmentation.held_out(cfg, "test")
    assert images.shape == (3, 3, 24, 24)
    assert masks.shape == (3, 24, 24)
    names = sorted((folder / "test").glob("*/*.png"))[:3]
    drawn = scenes.draw(12, 24, 0)
    for image, mask, path in zip(images, masks, names, strict=True):
        assert_close(image, drawn.images[int(path.stem)], rtol=0, atol=0)
        assert_close(mask, drawn.masks[int(path.stem)])
    row = segmentation.measure(cfg)
    assert set(segmentation.RULES) <= set(row)
    assert row["data_sha256"]


def test_a_folder_without_masks_gives_maps_and_no_scores(folder):
    for path in (folder / "masks").glob("*/*"):
        path.unlink()
    frame = pd.DataFrame(
        [
            {"seed": 0, "folder": str(folder), "size": 24, "test_images": 3, "method": method}
            | segmentation.measure(of_folder(folder, f"method={method}"))
            for method in ("pixels", "untrained")
        ]
    )
    assert "first" not in frame
    assert segmentation.table(frame) == "No masks, so maps only."
    segmentation.figure(frame)
    segmentation.figure(frame.assign(folder="nowhere"))


def test_a_mask_of_another_name_is_an_error(folder):
    next((folder / "masks").glob("*/*")).rename(folder / "masks" / "a" / "other.png")
    with pytest.raises(ValueError, match="give each image a mask"):
        segmentation.held_out(of_folder(folder), "test")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method=magic", "method='magic' is unknown; use one of centre, pixels"),
        ("model=vit_of_nobody", "unknown to timm"),
        ("patch=null", "scenes need size=64 and patch=8"),
        ("folder=nowhere", "folder with train/CLASS/IMAGE"),
    ],
)
def test_a_setting_that_cannot_run_is_refused(override, message):
    with pytest.raises(ValueError, match=message):
        segmentation.check(config(override))
