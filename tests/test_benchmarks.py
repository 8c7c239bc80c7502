"""The engine: a sweep resumes, a row is never half there, a bad setting is one line."""

import csv
import multiprocessing
import os
import stat
import subprocess

import pandas as pd
import pytest
import torch

from benchmarks import engine, provenance, report
from benchmarks.__main__ import main
from benchmarks.competitors import IMPLEMENTATIONS, Case
from benchmarks.questions import theory
from benchmarks.rows import Table

MEASURED = [name for name in engine.questions() if hasattr(engine.module(name), "measure")]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Hydra's folders and the smoke rows land here; `sys.argv` and the environment come back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    return tmp_path


@pytest.fixture
def runs(monkeypatch):
    """`theory` measures nothing here; the list of what it was asked for."""
    asked = []

    def measure(cfg):
        asked.append((cfg.claim, cfg.seed))
        return {"x": len(asked)}

    monkeypatch.setattr(theory, "measure", measure)
    return asked


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """Where the smoke rows of all questions gather, for the report."""
    return tmp_path_factory.mktemp("smoke")


def test_without_arguments_every_question_is_listed(capsys):
    main([])
    printed = capsys.readouterr().out
    for name, line in engine.questions().items():
        assert name in printed
        assert line.endswith("?"), f"the first docstring line of {name} is no question: {line!r}"


@pytest.mark.parametrize("name", MEASURED)
def test_a_question_runs_at_smoke_scale(name, smoke, elsewhere):
    main([name, "scale=smoke", f"results={smoke}"])
    rows = Table(name, smoke).rows()
    assert rows
    for row in rows:
        assert row["scale"] == "smoke"
        for column in ("seed", "seconds", "commit", "dirty", "torch", "device", "date", "peak_mib"):
            assert row[column], f"no {column}"
    assert sorted(path.name for path in elsewhere.iterdir()) == ["runs"], "Hydra left something behind"


def test_the_report_is_reproducible_and_has_every_question(smoke, elsewhere):
    if not list(smoke.glob("*.csv")):
        pytest.skip("needs the rows of the smoke runs above")
    contents = []
    for out in (elsewhere / "one", elsewhere / "two"):
        main(["report", f"results={smoke}", f"out={out}"])
        contents.append({path.name: path.read_bytes() for path in out.rglob("*.*") if path.is_file()})
    assert contents[0] == contents[1]
    written = contents[0]["RESULTS.md"].decode()
    for path in smoke.glob("*.csv"):
        assert f"## {path.stem} (scale=smoke)" in written
        assert f"{path.stem}-smoke.png" in contents[0]


def test_a_restarted_sweep_runs_only_what_is_missing(runs, capsys):
    main(["theory", "scale=smoke", "claim=lemma1,lemma2"])
    main(["theory", "scale=smoke", "claim=lemma1,lemma2,theorem6", "seed=0"])
    assert runs == [("lemma1", 0), ("lemma2", 0), ("theorem6", 0)]
    assert "3 settings, 2 done, 1 to run" in capsys.readouterr().err


def test_another_scale_is_another_setting(runs, elsewhere):
    for scale in ("smoke", "cpu"):
        main(["theory", f"scale={scale}", "claim=lemma1", "seed=0", "effort=1", f"results={elsewhere}/rows"])
    assert len(runs) == 2


def test_where_a_run_goes_does_not_make_it_another_setting(runs):
    main(["theory", "scale=smoke", "claim=lemma1"])
    main(["theory", "scale=smoke", "claim=lemma1", "threads=2"])
    assert len(runs) == 1


def test_a_killed_sweep_keeps_every_finished_run(runs, monkeypatch):
    finished = theory.measure

    def killed(cfg):
        if cfg.claim == "theorem3":
            raise KeyboardInterrupt
        return finished(cfg)

    monkeypatch.setattr(theory, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        main(["theory", "scale=smoke"])
    assert [row["claim"] for row in Table("theory", "runs/smoke").rows()] == ["lemma1", "lemma2", "theorem1"]
    monkeypatch.setattr(theory, "measure", finished)
    main(["theory", "scale=smoke"])
    assert len(runs) == len(set(runs)) == 7


def test_a_run_that_fails_does_not_stop_the_others(runs, monkeypatch, capsys):
    finished = theory.measure

    def failing(cfg):
        if cfg.claim == "lemma1":
            raise RuntimeError("out of luck")
        return finished(cfg)

    monkeypatch.setattr(theory, "measure", failing)
    with pytest.raises(RuntimeError, match="out of luck"):
        main(["theory", "scale=smoke"])
    assert len(Table("theory", "runs/smoke").rows()) == 6
    assert "theory FAILED: claim=lemma1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lamda"], "unknown question 'lamda'; use one of .*lambda"),
        (["lambda", "scale=huge"], "scale='huge' is unknown; use one of smoke, cpu, cifar, gpu"),
        (["lambda", "lamda_param=0.1"], "'lamda_param'"),
        (["lambda", "data=nowhere"], "data='nowhere' is none of digits.*train/CLASS/"),
        (["lambda", "backbone=resnet181"], "backbone='resnet181' is unknown to timm"),
        (["lambda", "small_stem=true"], "small_stem=true is for ResNets"),
        (["lambda", "labels=[1,200]"], r"labels=200: expected 'all' or 1\.\.\.\d\d"),
        (["lambda", "lambda_param=0.1,1.5"], "lambda_param=1.5 must lie in"),
        (["lambda", "statistic=student"], "statistic='student' is unknown"),
        (["lambda", "statistic=jarque_bera", "t_max=3"], "t_max"),
        (["lambda", "directions=north"], "directions='north' is unknown"),
        (["lambda", "global_views=0"], "at least one global view"),
        (["lambda", "batch_size=2000"], "more than the 899 training images"),
        (["theory", "claim=theorem7"], "claim='theorem7' is unknown"),
        (["report", "colour=red"], "colour"),
    ],
)
def test_a_bad_setting_is_one_line_before_anything_runs(arguments, message, monkeypatch, capsys):
    for name in ("lambda", "theory"):
        monkeypatch.setattr(engine.module(name), "measure", lambda cfg: pytest.fail("it ran"))
    with pytest.raises(SystemExit, match=message) as stopped:
        main(arguments)
    assert isinstance(stopped.value.code, str)
    assert "\n" not in stopped.value.code
    assert "Traceback" not in capsys.readouterr().err


def test_a_row_cut_off_in_the_middle_is_dropped(tmp_path):
    table = Table("t", tmp_path)
    table.append([{"seed": 0, "x": 1.5}])
    with open(table.path, "a") as file:
        file.write("1,2.")
    assert table.missing([{"seed": 0}, {"seed": 1}]) == [{"seed": 1}]
    table.append([{"seed": 2, "x": 3.0}])
    assert [row["seed"] for row in table.rows()] == ["0", "2"]


def test_a_new_column_keeps_the_old_rows(tmp_path):
    table = Table("t", tmp_path)
    table.append([{"seed": 0, "x": 1}])
    assert table.missing([{"seed": 0, "momentum": None}]) == [], "null must match a row that lacks the column"
    table.append([{"seed": 1, "momentum": 0.9, "x": 2}])
    table.append([{"seed": 2, "x": 3}])
    assert [row["x"] for row in table.rows()] == ["1", "2", "3"]
    assert [row["momentum"] for row in table.rows()] == ["", "0.9", ""]
    assert table.missing([{"seed": 0, "momentum": None}, {"seed": 1, "momentum": 0.9}]) == []
    assert table.missing([{"seed": 0, "momentum": 0.9}]) != []


def test_equal_settings_are_equal_however_they_are_written(tmp_path):
    table = Table("t", tmp_path)
    table.append([{"lr": 1.0, "labels": [1, 5, "all"], "flip": True, "size": None}])
    assert table.missing([{"lr": 1, "labels": (1, 5, "all"), "flip": True, "size": None}]) == []
    with open(table.path, newline="") as file:
        assert next(csv.DictReader(file))["labels"] == "1 5 all"


def _append(folder, process):
    for i in range(20):
        Table("t", folder).append([{"process": process, "i": i, f"column {process} {i}": "new"}])


def test_many_processes_lose_no_row(tmp_path):
    processes = [
        multiprocessing.get_context("fork").Process(target=_append, args=(tmp_path, p)) for p in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    seen = {(row["process"], row["i"]) for row in Table("t", tmp_path).rows()}
    assert len(seen) == 80


def test_rows_and_figures_do_not_make_the_tree_dirty(tmp_path, monkeypatch):
    def git(*command):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True)

    for path in (
        "sigreg/a.py",
        "benchmarks/results/a.csv",
        "benchmarks/figures/a.png",
        "benchmarks/RESULTS.md",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("old")
    git("init", "-q")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    for path in ("results/a.csv", "results/new.csv", "figures/a.png", "RESULTS.md"):
        (tmp_path / "benchmarks" / path).write_text("new")
    found = provenance.source.__wrapped__()
    assert found["commit"]
    assert found["dirty"] is False
    for path in ("sigreg/b.py", "integrations/c.py", "pyproject.toml", "constraints.txt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("new")
        assert provenance.source.__wrapped__()["dirty"] is True, path
        (tmp_path / path).unlink()


def test_slurm_gets_the_sweep_as_one_array(runs, tmp_path, monkeypatch):
    """A dry run: `sbatch` is a script that takes the job and forgets it."""
    from hydra.core.utils import JobReturn, JobStatus
    from submitit.slurm.slurm import SlurmJob

    for command, body in {
        "srun": "",
        "sbatch": f'cp "$1" {tmp_path}/sent; echo Submitted batch job 7',
    }.items():
        script = tmp_path / "bin" / command
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(script.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(
        SlurmJob, "results", lambda self: [JobReturn(status=JobStatus.COMPLETED, _return_value=None)]
    )
    main(["theory", "scale=smoke", "hydra/launcher=slurm", "hydra.launcher.partition=fast"])
    sent = (tmp_path / "sent").read_text()
    for line in ("--array=0-6%7", "--gpus-per-node=1", "--partition=fast", "--job-name=sigreg-theory"):
        assert f"#SBATCH {line}" in sent
    assert runs == []


@pytest.mark.long
@pytest.mark.parametrize(
    "launcher", [["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], ["hydra/launcher=submitit_local"]]
)
def test_runs_in_other_processes_leave_the_same_rows(launcher, tmp_path):
    main(["theory", "scale=smoke", "claim=lemma1,lemma2", f"results={tmp_path}/here"])
    main(["theory", "scale=smoke", "claim=lemma1,lemma2", f"results={tmp_path}/there", *launcher])
    here, there = (
        sorted((row["claim"], row["x"], row["measured"]) for row in Table("theory", tmp_path / place).rows())
        for place in ("here", "there")
    )
    assert here == there


def test_a_bar_in_a_cell_does_not_end_the_cell():
    table = report.markdown(pd.DataFrame({"what": ["|x| <= 1"]}, index=pd.Index(["a"], name="name")))
    assert table.splitlines()[-1] == r"| a | \|x\| <= 1 |"


def test_a_commit_that_looks_like_a_number_stays_text(tmp_path):
    Table("theory", tmp_path).append([{"x": 1.5, "commit": "2e07191000", "data_sha256": "012345678901"}])
    row = Table("theory", tmp_path).frame().iloc[0]
    assert (row["x"], row["commit"], row["data_sha256"]) == (1.5, "2e07191000", "012345678901")


@pytest.mark.parametrize("name", ["eager", "mix", "mix as two modules"])
def test_competitors_take_the_number_of_points_of_a_case(name):
    few, many = (Case.parse(f"1x64x8x32x{points}") for points in (9, 65))
    z = 10 * torch.randn(1, 64, 8, generator=torch.Generator().manual_seed(0))
    fewer, more = (float(IMPLEMENTATIONS[name](case)(z)) for case in (few, many))
    assert abs(fewer - more) > 1e-3 * more  # at ten times the scale 9 points are too few
    if name == "mix":
        torch.testing.assert_close(
            float(IMPLEMENTATIONS["mix as two modules"](many)(z)), more, rtol=1e-5, atol=0
        )
