"""Where rows come from: stale ones are marked, the command gives them, no setting runs twice."""

import ast
import multiprocessing
import subprocess
import threading
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import engine, origin, provenance, rows
from benchmarks.__main__ import main
from benchmarks.questions import theory
from benchmarks.rows import Table

RECIPE = '''
"""What it says."""
import math

RATE = 0.1
SPARE = 2


def measure(cfg):
    """Measure."""
    return step(cfg) * RATE


def step(cfg):
    return math.sqrt(cfg)


def table(frame):
    return str(frame)
'''


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one recipe; gives a function that writes it anew."""

    def git(*command):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "recipe.py").write_text(RECIPE)
    git("init", "-q")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setattr(origin, "ROOT", tmp_path)
    for kept in (origin.changed, origin._code_at):
        kept.cache_clear()
    yield lambda old, new: (tmp_path / "recipe.py").write_text(RECIPE.replace(old, new))
    for kept in (origin.changed, origin._code_at):
        kept.cache_clear()


@pytest.mark.parametrize(
    ("old", "new", "whole", "reached"),
    [
        ("", "", (), ()),
        ("What it says", "What it says today", (), ()),
        ("    return math", "    # a comment\n    return math", (), ()),
        ("RATE = 0.1\n", 'RATE = 0.1\n"""What an attribute is."""\n', (), ()),
        ("return str(frame)", "return repr(frame)", ("recipe.py",), ()),
        ("SPARE = 2", "SPARE = 3", ("recipe.py",), ()),
        ("RATE = 0.1", "RATE = 0.2", ("recipe.py",), ("recipe.py",)),
        ("math.sqrt(cfg)", "math.exp(cfg)", ("recipe.py",), ("recipe.py",)),
    ],
)
def test_a_row_is_stale_when_the_code_it_measured_has_changed(checkout, old, new, whole, reached):
    checkout(old, new)
    assert origin.changed("HEAD", ("recipe.py",)).files == whole
    assert origin.changed("HEAD", ("recipe.py:measure",)).files == reached


def test_what_a_harmless_commit_changed_does_not_count_and_what_came_beside_it_does(checkout, monkeypatch):
    def commit() -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "b"]
        subprocess.run(command, cwd=origin.ROOT, check=True)
        return provenance.git("rev-parse", "HEAD")

    first, code = provenance.git("rev-parse", "HEAD"), ("recipe.py:measure",)
    checkout("math.sqrt(cfg)", "math.sqrt(cfg + 0)")
    mend = commit()
    checkout("math.sqrt(cfg)", "math.sqrt(cfg + 0)  # later")
    other = commit()  # changes nothing that was measured
    assert origin.changed(first, code) == (("recipe.py",), ())
    assert origin.changed(first, code, (mend, other)) == ((), (mend,))
    assert origin.changed(mend, code, (mend, other)) == ((), ())
    for harmless in (mend, other):
        monkeypatch.setitem(origin.HARMLESS, harmless, (("theory",), f"it adds nothing to {harmless[:5]}"))
    monkeypatch.setattr(origin, "measured_code", lambda module: code)
    said = origin.stale("theory", pd.DataFrame({"commit": [first, mend]}))
    assert said == f"1 rows of theory are from before changes that leave them as they are (`{mend}`)."
    assert origin.reasons(said).endswith(f"\n- `{mend}`: it adds nothing to {mend[:5]}.\n")
    assert other not in origin.reasons(said)
    assert origin.stale("lambda", pd.DataFrame({"commit": [first]})).startswith("**Stale:** 1 of 1 rows")
    monkeypatch.setitem(origin.EXCEPT, mend, "masked")
    rows = pd.DataFrame(
        {"commit": [first, first, mend], "implementation": ["eager", "eager, masked", "masked"]}
    )
    said = origin.stale("theory", rows)
    assert said.startswith("**Stale:** 1 of 3 rows of theory are from before a change of `recipe.py`")
    assert said.endswith(f" 1 rows of theory are from before changes that leave them as they are (`{mend}`).")
    checkout("math.sqrt(cfg)", "math.exp(cfg)")
    origin.changed.cache_clear()
    assert origin.changed(first, code, (mend,)).files == ("recipe.py",)


@pytest.mark.skipif(
    origin.changed("HEAD", ("README.md",)) is None
    or provenance.git("rev-parse", "--is-shallow-repository") == "true",
    reason="no whole history of commits is here",
)
def test_harmless_commits_are_here_and_name_questions():
    for commit, (questions, reason) in origin.HARMLESS.items():
        assert origin.changed(commit, ("README.md",)) is not None, commit
        assert set(questions) <= set(engine.questions()), commit
        assert reason, commit


def test_a_commit_that_is_not_here_says_so(checkout):
    assert origin.changed("0" * 10, ("recipe.py",)) is None


def test_stale_rows_are_counted_by_commit(monkeypatch):
    found = {"aaa": origin.Change(()), "bbb": origin.Change(("benchmarks/hosts.py",)), "ccc": None}
    monkeypatch.setattr(origin, "changed", lambda commit, *_: found[commit])
    said = origin.stale("hosts", pd.DataFrame({"commit": ["aaa", "bbb", "bbb", "ccc"]}))
    assert said.startswith(
        "**Stale:** 2 of 4 rows of hosts are from before a change of `hosts.py` (commits bbb)."
    )
    assert said.endswith("1 rows of hosts are of commits that this checkout does not have.")
    assert origin.stale("hosts", pd.DataFrame({"commit": ["aaa"]})) == ""


def test_the_command_has_the_arguments_that_a_question_cannot_do_without():
    said = origin.command("hosts_long", "smoke", pd.DataFrame({"commit": ["aaa"]}))
    assert said.startswith("`python -m benchmarks hosts_long scale=smoke checkpoints=DIR`")


def test_every_question_that_measures_names_code_that_exists():
    for name in engine.questions():
        if hasattr(engine.module(name), "measure"):
            for part in origin.measured_code(engine.module(name)):
                path = origin.ROOT / part.partition(":")[0]
                assert path.exists(), f"{name}: {part}"


def test_core_holds_every_file_that_a_loss_or_a_statistic_imports():
    folders = [origin.ROOT / part for part in origin.CORE]
    wanted = [origin.ROOT / "sigreg/objective.py", *(origin.ROOT / "sigreg/multivariate").glob("*.py")]
    seen: set[Path] = set()
    while wanted:
        path = wanted.pop()
        if path in seen or not path.exists():
            continue
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sigreg."):
                place = origin.ROOT / node.module.replace(".", "/")
                names = [place / f"{alias.name}.py" for alias in node.names]
                wanted += [place.with_suffix(".py"), place / "__init__.py", *names]
    outside = [path for path in seen if not any(f == path or f in path.parents for f in folders)]
    assert len(seen) > 30
    assert outside == []


@pytest.mark.parametrize("name", ["theory", "hosts", "lambda"])
def test_the_plan_is_what_the_sweep_runs(name, tmp_path, monkeypatch):
    """Every row of a sweep is one of the plan, and the plan has no other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr("sys.argv", ["benchmarks"])
    monkeypatch.setattr(engine.module(name), "check", lambda cfg: None, raising=False)
    seen = []
    monkeypatch.setattr(
        engine.module(name), "measure", lambda cfg: seen.append(engine.identity(cfg)) or {"x": 1}
    )
    main([name, "scale=smoke", f"results={tmp_path}"])
    assert seen == engine.plan(name, "smoke")
    frame = Table(name, tmp_path).frame()
    assert origin.command(name, "smoke", frame) == f"`python -m benchmarks {name} scale=smoke`"
    short = origin.command(name, "smoke", frame.iloc[1:])
    assert short.endswith(f"(1 of its {len(seen)} settings have no row yet)")
    other = pd.concat([frame, frame.iloc[:1].assign(seed=77)])
    assert origin.command(name, "smoke", other).endswith("(1 rows above are of other settings)")


def test_a_sweep_of_several_stages_runs_them_in_turn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks"])
    stages = [["claim=lemma2", "seed=0"], ["claim=lemma1", "seed=0,1"], ["claim=lemma1,lemma2", "seed=0"]]
    monkeypatch.setattr(engine, "sweeps", lambda name, overrides: stages)
    ran = []
    monkeypatch.setattr(theory, "measure", lambda cfg: ran.append((cfg.claim, cfg.seed)) or {"x": 1})
    main(["theory", "scale=smoke"])
    assert ran == [("lemma2", 0), ("lemma1", 0), ("lemma1", 1)]


def test_rows_of_another_default_are_named_when_a_sweep_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks"])
    monkeypatch.setattr(theory, "measure", lambda cfg: {"x": 1})
    main(["theory", "scale=smoke", "claim=lemma1", "effort=2"])
    assert "not reused" not in capsys.readouterr().err
    main(["theory", "scale=smoke", "claim=lemma1", "effort=3"])
    assert "theory: effort=2 in 1 rows, 3 here; those rows are not reused" in capsys.readouterr().err


def test_a_row_has_the_hash_of_its_images_the_cores_and_the_versions_of_the_hosts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks"])
    monkeypatch.setattr(engine.module("lambda"), "measure", lambda cfg: {"x": 1})
    main(["lambda", "scale=smoke", "lambda_param=0.1", "seed=0", f"results={tmp_path}"])
    (row,) = Table("lambda", tmp_path).rows()
    assert len(row["data_sha256"]) == 12
    assert int(row["cores"]) >= 1
    assert row["lightly"]
    assert "stable-pretraining" in row


def test_reading_waits_for_whoever_writes(tmp_path):
    table = Table("t", tmp_path)
    table.append([{"seed": 0}])
    read = []
    with table._lock():
        reader = threading.Thread(target=lambda: read.append(table.rows()))
        reader.start()
        reader.join(0.2)
        assert not read
    reader.join(20)
    assert read == [[{"seed": "0"}]]


def _hold(folder, claimed, release):
    with Table("t", folder).claim({"seed": 0, "lr": [1, 2]}) as mine:
        claimed.put(mine)
        release.wait(60)


def test_a_setting_that_runs_elsewhere_is_not_run_again(tmp_path):
    """A claim ends with its process, so that a killed run leaves none behind."""
    fork = multiprocessing.get_context("fork")
    claimed, release = fork.Queue(), fork.Event()
    process = fork.Process(target=_hold, args=(tmp_path, claimed, release))
    process.start()
    assert claimed.get(timeout=60)
    with Table("t", tmp_path).claim({"seed": 0, "lr": [1, 2]}) as mine:
        assert not mine
    with Table("t", tmp_path).claim({"seed": 1, "lr": [1, 2]}) as other:
        assert other
    process.kill()
    process.join()
    with Table("t", tmp_path).claim({"seed": 0, "lr": [1, 2]}) as mine:
        assert mine


def test_what_another_process_measures_is_left_to_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks"])
    monkeypatch.setattr(theory, "measure", lambda cfg: pytest.fail("it ran"))
    monkeypatch.setattr(rows.FileLock, "acquire", _refuse(rows.FileLock.acquire))
    main(["theory", "scale=smoke", "claim=lemma1"])
    assert "another process measures this setting now" in capsys.readouterr().err
    assert Table("theory", "runs/smoke").rows() == []


def _refuse(acquire):
    def refusing(lock, timeout=None, **kwargs):
        if timeout == 0:
            raise rows.Timeout(str(lock.lock_file))
        return acquire(lock, timeout, **kwargs)

    return refusing


def test_a_section_says_stale_rows_first(monkeypatch):
    monkeypatch.setattr(origin, "stale", lambda name, rows: f"**Stale:** {len(rows)} of {name}.")
    monkeypatch.setattr(origin, "command", lambda name, scale, rows: f"`run {name}`")
    known = {"date": "d", "seconds": 3600.0, "device": "CPU", "torch": "2", "commit": "aaa", "dirty": False}
    frame = pd.DataFrame([known | {"question": "hosts"}, known | {"question": "host_steps"}])
    first, second, line = origin.line("hosts", "cpu", frame).strip().split("\n\n")
    assert (first, second) == ("**Stale:** 1 of host_steps.", "**Stale:** 1 of hosts.")
    assert line.startswith("*1 rows of host_steps and 1 rows of hosts, 2.00 hours of runs on CPU; torch 2; ")
    assert line.endswith("`run host_steps`; `run hosts`*")
