"""What is called best, how far one setting is from another, and where labels of lines go."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import accuracy, bracket, choices, picture
from benchmarks.questions import model_selection


def rows(scores, column="selection"):
    """`{setting: [score at seed 0, 1, ...]}` as a frame."""
    return pd.DataFrame(
        [
            {"line": "a", "lr": lr, "seed": seed, column: score, "accuracy": score}
            for lr, values in scores.items()
            for seed, score in enumerate(values)
        ]
    )


def test_a_lucky_seed_of_an_unfinished_setting_is_not_the_best():
    frame = rows({0.1: [0.8, 0.8, 0.8], 0.2: [0.7, 0.7, 0.7], 0.4: [0.99]})
    assert choices.best(frame, ["line"], "lr").lr.unique() == [0.1]


def test_settings_are_compared_at_seeds_that_all_have_and_reported_at_all_their_seeds():
    frame = rows({0.1: [0.8, 0.8, 0.8, 0.0, 0.0], 0.2: [0.7, 0.7, 0.7]})
    chosen = choices.best(frame, ["line"], "lr")
    assert chosen.lr.unique() == [0.1]
    assert len(chosen) == 5


def test_the_selection_split_chooses_whatever_the_test_split_says():
    frame = rows({0.1: [0.8, 0.8], 0.2: [0.7, 0.7]}).assign(accuracy=[0.1, 0.1, 0.9, 0.9])
    assert choices.best(frame, ["line"], "lr").lr.unique() == [0.1]
    assert choices.best(frame.drop(columns="selection"), ["line"], "lr").lr.unique() == [0.2]


def test_a_run_that_diverged_is_never_the_best():
    frame = rows({0.1: [0.2, 0.2], 0.2: [0.9, None]})
    assert choices.best(frame, ["line"], "lr").lr.unique() == [0.1]


def test_a_best_value_at_the_end_of_the_grid_is_an_edge():
    frame = rows({0.1: [0.8, 0.8], 0.2: [0.7, 0.7], 0.4: [0.6, 0.6]})
    assert choices.at_edge(frame, "lr", 0.1)
    assert not choices.at_edge(frame, "lr", 0.2)


def test_a_paired_difference_does_not_see_what_the_seeds_share():
    shared = np.random.default_rng(0).standard_normal(10)
    one, other = pd.Series(shared + 1 + 0.01 * np.arange(10)), pd.Series(shared)
    mean, low, high, n = choices.paired(one, other)
    assert n == 10
    assert low < mean < high < low + 0.1
    assert choices.paired(one, other.iloc[:1])[3] == 1


def test_the_interval_of_a_correlation_covers_it_and_narrows_with_more_settings():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"lr": np.arange(200) // 2, "x": np.arange(200) // 2})
    frame["y"] = frame.x + 20 * rng.standard_normal(200)
    widths = []
    for settings in (8, 100):
        part = frame[frame.lr < settings]
        low, high = choices.bootstrap(part, "x", "y", ["lr"], draws=300)
        assert low <= choices.rank_correlation(part.x, part.y) <= high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_a_search_in_steps_of_two_ends_between_worse_neighbours(monkeypatch):
    asked = []
    monkeypatch.setattr(bracket, "run", lambda question, settings, seeds, overrides: asked.append(seeds))
    monkeypatch.setattr(
        bracket, "scored", lambda question, settings, seeds, results: -abs(np.log(settings["lr"] / 0.011))
    )
    assert bracket.search("recipe", "statistic", "vcreg", "lr", []) == pytest.approx(0.01)
    assert set(asked) == {bracket.SEARCH[:1], bracket.SEARCH}


def test_labels_that_meet_are_moved_apart_in_their_order():
    placed = picture._apart([0.5, 0.51, 0.5, 0.9], 0.1)
    assert np.diff(sorted(placed)).min() > 0.099
    assert placed[1] == sorted(placed)[2]


def test_only_runs_of_one_objective_are_ranked_together():
    one = dict.fromkeys(model_selection.OBJECTIVE, 1) | {"question": "recipe", "views": 2}
    runs = [
        one | {"num_slices": K, "lr": lr, "weight_decay": 0, "epochs": 1, "lambda_param": 0.05, "seed": 0}
        for K in (16, 64)
        for lr in (1, 2, 3, 4)
    ]
    frame = pd.DataFrame(runs).assign(loss=range(8), accuracy=range(8), sigreg=2.0)
    found = list(model_selection.groups(frame))
    assert [len(group) for _, _, group in found] == [4, 4]
    assert found[0][1] == ["lr"]


@pytest.mark.parametrize(
    ("counts", "said"), [([1, 1], "1 seed"), ([3, 3], "3 seeds"), ([1, 3], "1 to 3 seeds")]
)
def test_a_figure_says_how_many_seeds_its_points_have(counts, said):
    assert picture.seeds(pd.Series(counts)) == said


def test_a_figure_names_a_data_set_whatever_folder_holds_it():
    assert picture.dataset("data/cifar10") == picture.dataset("cifar10") == "CIFAR-10"
    assert picture.dataset("somewhere/flowers") == "flowers"


def test_a_line_is_compared_with_the_reference_at_its_own_other_settings():
    runs = [
        {"K": K, "t": t, "seed": seed, "linear_1": (K + t) / 100, "knn_1": (K + 2 * t) / 100}
        for K in (10, 60)
        for t in (1, 3)
        for seed in (0, 1)
    ]
    lines = accuracy.table(pd.DataFrame(runs), ["K", "t"], {"t": 3}).splitlines()[2:]
    differences = [line.strip("| ").split(" | ")[4:] for line in lines if line.split(" | ")[1] == "1"]
    assert differences == [["-2.0 [-2.0, -2.0] (n = 2)", "-4.0 [-4.0, -4.0] (n = 2)"]] * 2
