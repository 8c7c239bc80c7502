"""Runs are ranked by their training loss within one objective, and refused across objectives."""

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from scipy import stats

from sigreg.selection import rank_runs, read_csv, write_csv
from sigreg.selection.__main__ import main

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
RUNS = [
    {"name": "b", "lr": 0.01, "seed": 0, "loss": 0.30, "lambda_param": 0.05, "batch_size": 64},
    {"name": "a", "lr": 0.02, "seed": 0, "loss": 0.20, "lambda_param": 0.05, "batch_size": 64},
    {"name": "c", "lr": 0.03, "seed": 0, "loss": 0.40, "lambda_param": 0.05, "batch_size": 64},
]


def names(ranking):
    return [run.settings["name"] for run in ranking.runs]


@pytest.mark.parametrize(
    "as_table",
    [list, pd.DataFrame, lambda runs: {key: [run[key] for run in runs] for key in runs[0]}],
    ids=["dicts", "DataFrame", "columns"],
)
def test_the_lowest_loss_comes_first_from_any_kind_of_table(as_table):
    assert names(rank_runs(as_table(RUNS))) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("setting", "one", "other"),
    [
        ("t_max", 3.0, 5.0),
        ("num_points", 17, 9),
        ("sigreg_knots", 17, 9),
        ("num_slices", 256, 1024),
        ("method_kwargs.num_slices", 256, 1024),
        ("N", 128, 256),
        ("batch_size", 128, 256),
        ("devices", 1, 8),
        ("views", 2, 4),
        ("local_views", 0, 6),
        ("statistic", "epps_pulley", "watson"),
        ("unbiased", False, True),
        ("memory", 0, 512),
        ("projector_width", 64, 128),
        ("dataset", "cifar10", "cifar100"),
        ("t_max", None, 5.0),
    ],
)
def test_runs_of_different_objectives_are_refused_and_the_setting_is_named(setting, one, other):
    runs = [run | {setting: one} for run in RUNS[:2]] + [RUNS[2] | {setting: other}]
    shown = "not given" if one is None else one
    with pytest.raises(ValueError, match=f"{setting} is {shown} in 2 runs and {other} in 1 ") as e:
        rank_runs(runs)
    assert "lr is" not in str(e.value)
    assert names(rank_runs(runs, ignore=[setting])) == ["a", "b", "c"]


def test_a_column_of_ones_own_can_be_made_part_of_the_objective():
    runs = [run | {"crop": crop} for run, crop in zip(RUNS, (32, 32, 64), strict=True)]
    assert names(rank_runs(runs)) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="crop is 32 in 2 runs and 64 in 1"):
        rank_runs(runs, objective=["crop"])


def test_another_lambda_needs_an_alpha_which_scales_the_loss_as_the_paper_does():
    lambdas = (0.01, 0.002, 0.3)
    runs = [run | {"lambda_param": value} for run, value in zip(RUNS, lambdas, strict=True)]
    with pytest.raises(ValueError, match=r"lambda_param differs \(0.01 in 1 run, 0.002 in 1 and 0.3 in 1\)"):
        rank_runs(runs)
    ranking = rank_runs(runs, alpha=0.4)
    expected = {run["name"]: run["loss"] / run["lambda_param"] ** 0.4 for run in runs}
    assert names(ranking) == sorted(expected, key=expected.__getitem__) == ["c", "b", "a"]
    assert [run.score for run in ranking.runs] == sorted(expected.values())
    assert names(rank_runs(runs, alpha=0)) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="needs positive numbers"):
        rank_runs([*runs, RUNS[0] | {"lambda_param": 0}], alpha=0.4)
    with pytest.raises(ValueError, match="needs a column of lambda"):
        rank_runs([{"loss": 1.0}, {"loss": 2.0}], alpha=0.4)


def test_seeds_of_a_setting_are_averaged_and_an_uneven_number_is_noted():
    runs = RUNS + [run | {"seed": 1, "loss": loss} for run, loss in zip(RUNS[:2], (0.2, 0.5), strict=True)]
    ranking = rank_runs(runs, by=["lr"])
    assert [run.settings["lr"] for run in ranking.runs] == [0.01, 0.02, 0.03]
    assert [run.loss for run in ranking.runs] == pytest.approx([0.25, 0.35, 0.4], rel=1e-12)
    assert [run.runs for run in ranking.runs] == [2, 2, 1]
    assert any("lucky seed" in note for note in ranking.notes)


def test_a_run_without_a_finite_loss_is_last():
    ranking = rank_runs([RUNS[0] | {"name": "lost", "loss": math.nan}, *RUNS])
    assert names(ranking)[-1] == "lost"
    assert ranking.notes == ["1 without a finite loss, ranked last"]
    with pytest.raises(ValueError, match="no run has a finite number"):
        rank_runs([{"loss": None}])


@pytest.mark.parametrize("kind", [bool, int, float, str])
@pytest.mark.parametrize("column", ["resample", "fixed_slices"])
def test_fixed_slices_are_never_ranked_with_resampled_ones(column, kind):
    fixed = kind(column != "resample")
    other = kind(column == "resample")
    runs = [run | {column: flag} for run, flag in zip(RUNS, (fixed, other, fixed), strict=True)]
    with pytest.raises(ValueError, match=r"some have fixed slices .*lower loss"):
        rank_runs(runs, ignore=[column])
    (note,) = rank_runs([run | {column: fixed} for run in RUNS]).notes
    assert note.startswith("all runs have fixed slices")
    assert rank_runs([run | {column: other} for run in RUNS]).notes == []


def test_fixed_slices_have_lower_losses_in_the_rows_of_this_repository():
    rows = [row for row in read_csv(RESULTS / "slices.csv") if row["batch_size"] == 64]
    few = [r for r in rows if r["num_slices"] in (16, 64, 256) and r["directions"] == "gaussian"]
    for slices in (16, 64):
        same = [row for row in few if row["num_slices"] == slices]
        low = rank_runs([row for row in same if row["resample"]], against="accuracy").runs[0].loss
        assert all(row["loss"] < low for row in same if not row["resample"])
        with pytest.raises(ValueError, match="some have fixed slices"):
            rank_runs(same)
        unlabelled = [{k: v for k, v in r.items() if k != "resample"} for r in same]
        (note,) = rank_runs(unlabelled).notes  # without the column, its value gives it away
        fixed = sum(not row["resample"] for row in same)
        assert note.startswith(f"SIGReg is below 1.0 in {fixed} of {len(same)} runs")
    resampled = [row for row in few if row["resample"]]
    assert rank_runs(resampled, ignore=["num_slices"]).notes == []


def test_runs_that_collapsed_onto_zero_are_noted():
    runs = [run | {"sigreg": value} for run, value in zip(RUNS, (1.3, 0.40205 * 64, 2.0), strict=True)]
    (note,) = rank_runs(runs).notes
    assert note.startswith("SIGReg is 0.40205 N in 1 of 3 runs: their embeddings collapsed onto 0")
    assert rank_runs([run | {"devices": 2} for run in runs]).notes == []  # 128 are tested together
    assert len(rank_runs([run | {"devices": 2, "N": 64} for run in runs]).notes) == 1
    assert rank_runs([run | {"statistic": "watson"} for run in runs]).notes == []


def test_the_collapsed_runs_of_this_repository_are_found_and_decide_the_order_over_lambda():
    rows = [row for row in read_csv(RESULTS / "lambda.csv") if row["batch_size"] == 64]
    ranking = rank_runs(rows, alpha=0.4, against="accuracy")
    collapsed = sum(row["lambda_param"] == 0.001 for row in rows)
    assert any(f"0.40205 N in {collapsed} of {len(rows)} runs" in note for note in ranking.notes)
    lowest = sorted(ranking.runs, key=lambda run: run.loss)[:collapsed]
    assert {run.settings["lambda_param"] for run in lowest} == {0.001}
    others = rank_runs([row for row in rows if row["lambda_param"] != 0.001], alpha=0.4, against="accuracy")
    assert others.notes == []
    assert others.correlation > ranking.correlation + 0.3


def test_a_narrow_grid_has_other_values_and_no_note():
    runs = [run | {"sigreg": 0.9, "t_max": 1.0} for run in RUNS]
    assert rank_runs(runs).notes == []
    assert len(rank_runs([run | {"t_max": 3.0} for run in runs]).notes) == 1


def test_the_order_agrees_with_accuracy_as_the_results_say():
    rows = read_csv(RESULTS / "recipe.csv")
    ranking = rank_runs(rows, against="accuracy")
    frame = pd.DataFrame(rows)
    expected = stats.spearmanr(-frame.loss, frame.accuracy).statistic
    torch.testing.assert_close(ranking.correlation, float(expected), rtol=1e-12, atol=0)
    results = (RESULTS.parent / "RESULTS.md").read_text(encoding="utf-8")
    assert f"| learning rate, decay, epochs | 30 | {len(rows)} | {ranking.correlation:.2f} [" in results


def test_names_stay_text(tmp_path, capsys):
    runs = [{"run": "2024_01", "commit": "7e12345", "loss": "0.3", "width": "1_000"}]
    runs += [{"run": "2024_02", "commit": "1e5", "loss": "0.2", "width": "1e3"}]
    (first, second) = rank_runs(runs).runs
    assert first.settings == {"run": "2024_02", "commit": "1e5", "loss": 0.2, "width": 1000.0}
    assert second.settings == {"run": "2024_01", "commit": "7e12345", "loss": 0.3, "width": "1_000"}
    path = tmp_path / "runs.csv"
    write_csv(path, runs)
    main([str(path), "--where", "commit=1e5"])
    assert capsys.readouterr().out.split()[4:] == ["1", "0.2", "0.2", "1"]


def test_one_name_may_be_given_as_a_string():
    runs = [{"lr": lr, "t_max": 3, "loss": loss} for lr in (0.1, 0.2) for loss in (1.0, 2.0)]
    assert repr(rank_runs(runs, by="lr")) == repr(rank_runs(runs, by=["lr"]))
    with pytest.raises(ValueError, match=r"lr is 0\.1 in 2 runs"):
        rank_runs(runs, objective="lr")
    with pytest.raises(ValueError, match="no column 'rate'; it has lr, t_max, loss"):
        rank_runs(runs, by="rate")
    runs[0]["t_max"] = 5
    assert rank_runs(runs, ignore="t_max").runs[0].loss == 1.0
    with pytest.raises(ValueError, match="t_max is 3 in 3 runs and 5 in 1"):
        rank_runs(runs, ignore="t_max_of_another")  # one name, not a text that contains it


def test_equal_accuracies_share_a_rank_and_missing_ones_are_left_out():
    runs = [{"loss": loss, "accuracy": a} for loss, a in ((1, 0.9), (2, 0.8), (3, 0.8), (4, None), (5, 0.1))]
    expected = stats.spearmanr([-1, -2, -3, -5], [0.9, 0.8, 0.8, 0.1]).statistic
    assert rank_runs(runs, against="accuracy").correlation == pytest.approx(expected, rel=1e-12)
    assert math.isnan(
        rank_runs([{"loss": i, "accuracy": 0.5} for i in range(4)], against="accuracy").correlation
    )


@pytest.mark.parametrize(
    ("table", "error", "says"),
    [
        (3, TypeError, "expected a list of dicts, a dict of columns or a DataFrame, got int"),
        ("runs.csv", TypeError, "of a CSV file: rank_runs"),
        ([], ValueError, "holds no run"),
        ({"loss": [1, 2], "lr": [1]}, ValueError, "different lengths"),
        ({"loss": 1, "lr": 2}, TypeError, "a dict of columns or a DataFrame, got dict"),
        ([{"train_loss": 1}], ValueError, "no column 'loss'; it has train_loss"),
        ([{"loss": "low"}], ValueError, "holds 'low'; expected numbers"),
    ],
)
def test_what_is_no_table_of_runs_is_named(table, error, says):
    with pytest.raises(error, match=says):
        rank_runs(table)


def test_numbers_of_torch_and_numpy_are_numbers():
    (run,) = rank_runs([{"loss": torch.tensor(0.5), "lr": torch.tensor(2.0).numpy()[()]}]).runs
    assert (run.loss, run.settings["lr"]) == (0.5, 2.0)


def test_a_setting_named_as_a_column_of_the_ranking_stands_beside_it(tmp_path):
    runs = [{"rank": 4, "score": 7, "loss": 0.3}, {"rank": 8, "score": 7, "loss": 0.2}]  # rank: of LoRA
    ranking = rank_runs(runs, by=["rank", "score"])
    assert repr(ranking).splitlines()[0].split("  ")[-2:] == ["setting rank", "setting score"]
    first = {"rank": 1, "score": 0.2, "loss": 0.2, "runs": 1, "setting rank": 8, "setting score": 7}
    assert ranking.rows()[0] == first
    write_csv(tmp_path / "ranked.csv", ranking.rows())
    assert read_csv(tmp_path / "ranked.csv")[0] == first


def test_settings_within_a_setting_are_compared():
    runs = [run | {"method_kwargs": {"t_max": t}} for run, t in zip(RUNS, (3, 3, 5), strict=True)]
    with pytest.raises(ValueError, match=r"method_kwargs.t_max is 3 in 2 runs and 5 in 1"):
        rank_runs(runs)
    assert names(rank_runs([run | {"method_kwargs": {"t_max": 3}} for run in RUNS])) == ["a", "b", "c"]


def test_names_of_columns_need_not_be_text():
    assert [run.loss for run in rank_runs(pd.DataFrame([[0.3], [0.2]]), loss="0").runs] == [0.2, 0.3]


@pytest.mark.parametrize("empty", [pd.NA, pd.NaT, None, math.nan, ""])
def test_an_empty_cell_of_any_library_is_empty(empty):
    ranking = rank_runs([*RUNS, RUNS[0] | {"name": "lost", "loss": empty}])
    assert names(ranking)[-1] == "lost"


@pytest.mark.parametrize("alpha", ["0.4", math.nan, True])
def test_an_alpha_that_is_no_number_is_named(alpha):
    with pytest.raises((TypeError, ValueError), match=r"alpha=.*must be a number"):
        rank_runs(RUNS, alpha=alpha)
