"""The conformance kit: it passes what is right, finds each known fault, and exits 1 on one."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from sigreg import LeJEPALoss, SIGReg
from sigreg.conformance import FAULT, OK, NotCallable, Row, Target, check, golden
from sigreg.conformance.__main__ import main, parsed
from sigreg.conformance.oracle import Grid
from sigreg.conformance.report import markdown
from sigreg.univariate import epps_pulley
from tests import oracles
from tests.pool import on_ranks

ROOT = Path(__file__).resolve().parent.parent


def rows(name: str, run=None, **settings) -> dict[str, Row]:
    return {row.check: row for row in check(name, settings, run=run)}


def faults(found: dict[str, Row]) -> set[str]:
    return {name for name, row in found.items() if row.verdict == FAULT}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sigreg:SIGReg", {"num_slices": 64}),
        ("sigreg:LeJEPALoss", {}),
        ("sigreg_adapters.lightly:SIGReg", {"num_vectors": 64, "gather_distributed": True}),
        ("tests.conformance_copies:Right", {}),
        ("tests.conformance_copies:right", {"num_slices": 64}),
        ("tests.conformance_copies:Masked", {}),
    ],
)
def test_a_right_copy_passes(name, settings):
    found = rows(name, run=on_ranks, **settings)
    assert faults(found) == set()
    assert found["two ranks"].verdict in (OK, "note")


BROKEN = {
    "SwappedExponents": ({"value", "scale, shift", "collapse"}, "collapse", "rewards collapse"),
    "Standardised": (
        {"value", "scale, shift"},
        "scale, shift",
        "blind to scale 1/10 and scale 2 and shift 2",
    ),
    "Centred": ({"value", "scale, shift"}, "scale, shift", "blind to shift 2"),
    "LongDirections": ({"value", "scale, shift", "collapse"}, "value", "not of unit length"),
    "WrongAxis": ({"time axis"}, "time axis", "FIRST"),
    "PositiveDirections": ({"directions"}, "directions", "of the exact one"),
    "HalfTheGradient": ({"gradient"}, "gradient", "0.5 times"),
    "DetachedMean": ({"gradient", "bfloat16", "float16"}, "gradient", "no gradient"),
    "CountInHalf": ({"bfloat16"}, "bfloat16", "2e-03"),
    "MaskedByZeros": ({"masks"}, "masks", "of the value of the valid rows"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_copy_is_found_and_named(name):
    expected, where, words = BROKEN[name]
    found = rows(f"tests.conformance_copies:{name}")
    assert faults(found) == expected
    assert words in found[where].found


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SingleProcess", "not reduced: each rank"),
        ("DroppedReduce", "not reduced, yet multiplied by the world size"),
        ("ReducedInPlace", "gradient times 0.5 = 1/world_size: reduced without autograd"),
        ("DirectionsOfEachRank", "different directions"),
    ],
)
def test_a_broken_reduction_is_found_and_named(name, words):
    found = rows(f"tests.conformance_copies:{name}", run=on_ranks)
    assert faults(found) == {"two ranks"}
    assert words in found["two ranks"].found


@pytest.mark.parametrize(
    ("name", "check_", "words"),
    [
        ("Right", "value", "Epps-Pulley, times N; 17 points on [0, 3], doubled"),
        ("NoCount", "value", "not times N; 17 points on [0, 3], doubled"),
        ("NoCount", "collapse", "0.40205, whatever N"),
        ("NotDoubled", "value", "0.5 times the statistic; times N"),
        ("Additive", "lambda", "4 P + lambda S, lambda = 0.5; averages S over the views"),
        ("Pooled", "lambda", "lambda = 0.02; pools the views into one sample; P over D is a sum"),
    ],
)
def test_the_convention_is_said_in_words(name, check_, words):
    found = rows(f"tests.conformance_copies:{name}")
    assert words in found[check_].found
    assert faults(found) == set()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"t_max": 5.0}, "17 points on [0, 5], doubled"),
        ({"grid": "accurate"}, "9 points on [0, 4], doubled"),
        ({"t_max": 2.5, "num_points": 23}, "23 points on [0, 2.5], doubled"),
    ],
)
def test_the_grid_is_recognised(settings, words):
    assert words in next(check("sigreg:SIGReg", {"num_slices": 4, **settings}, run=None)).found


def test_a_target_that_takes_no_embeddings_says_what_was_tried():
    with pytest.raises(NotCallable, match=r"f\(z1, z2\).*TypeError"):
        Target("tests.conformance_copies:takes_nothing")


def test_a_class_or_a_function_is_checked_as_its_name_is():
    for copy, name in ((SIGReg, "sigreg:SIGReg"), (epps_pulley, "sigreg.univariate:epps_pulley")):
        assert list(check(copy, run=None)) == list(check(name, run=None))


@pytest.mark.parametrize(("copy", "got"), [(SIGReg(), "<SIGReg object>"), (lambda z: z.mean(), "<lambda>")])
def test_what_two_processes_cannot_find_by_its_name_is_refused(copy, got):
    with pytest.raises(TypeError, match=f"expected 'module:Name', or a class or function.*got .*{got}"):
        next(check(copy))


def test_a_copy_that_is_always_zero_is_faulty():
    found = rows("tests.conformance_copies:nothing")
    assert faults(found) == {"value", "scale, shift", "collapse"}
    assert "blind to scale 1/10 and scale 2 and shift 2" in found["scale, shift"].found


def test_a_copy_that_raises_is_faulty_and_the_checks_go_on():
    found = rows("tests.conformance_copies:Strict")
    assert faults(found) == {"bfloat16", "float16", "masks"}
    assert found["bfloat16"].found == "raises expected float32"
    assert found["masks"].found.startswith("weights= with one bool a row raises too many values")
    assert found["time axis"].verdict == OK


def test_a_copy_of_a_notebook_is_not_checked_on_two_ranks():
    program = """
from sigreg import SIGReg
from sigreg.conformance import check
class Mine(SIGReg): pass
*_, last = check(Mine, {"num_slices": 64})
print(last.check, last.verdict, last.found)
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert done.stdout.startswith("two ranks - not checked: other processes cannot import"), done.stderr


def test_settings_are_written_behind_the_name():
    assert parsed("a.b:C(x=1, y='z')") == ("a.b:C", {"x": 1, "y": "z"})
    assert parsed("a:b") == ("a:b", {})


@pytest.mark.parametrize("copy", ["a:b(1)", "a:b(x=y)", "a:b(x=", "sigreg:SIGReg(no_setting=1)", "a:b"])
def test_what_cannot_be_called_is_one_line_and_status_2(copy, capsys):
    try:
        status = main([copy, "--one-process"])
    except SystemExit as error:
        status = error.code
    assert status == 2  # 1 is a fault
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_exit_status_is_one_on_a_fault_and_the_tables_are_written(tmp_path, capsys):
    copies = ["tests.conformance_copies:Right", "tests.conformance_copies:WrongAxis"]
    files = ["--json", str(tmp_path / "rows.json"), "--markdown", str(tmp_path / "table.md")]
    assert main([*copies, "--one-process", *files]) == 1
    assert "FIRST" in capsys.readouterr().out
    found = json.loads((tmp_path / "rows.json").read_text())
    assert [len(table) for table in found.values()] == [10, 10]
    table = (tmp_path / "table.md").read_text()
    assert "| (1) `tests.conformance_copies:Right` | ok |" in table
    assert "**(1) `tests.conformance_copies:Right, " in table
    assert main([copies[0], "--one-process"]) == 0
    assert main(["sigreg:no_such_name", copies[0], "--one-process", *files]) == 2
    found = json.loads((tmp_path / "rows.json").read_text())
    assert [len(table) for table in found.values()] == [0, 10]  # the copy after it was checked


def test_the_command_starts_two_ranks_of_its_own():
    command = [sys.executable, "-W", "error", "-m", "sigreg.conformance", "conformance_copies:DroppedReduce"]
    done = subprocess.run(command, cwd=ROOT / "tests", env=environment(), capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "not reduced, yet multiplied by the world size" in done.stdout


def environment() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "adapters")])}


def test_the_markdown_has_a_row_for_each_copy():
    table = markdown({"a:B": [Row("value", "right")], "c:D": [Row("value", "wrong", FAULT)]})
    assert "| copy | value |" in table
    assert "| (1) `a:B` | ok |" in table
    assert "| (2) `c:D` | FAULT |" in table


GOLDEN = golden.load()


def test_the_golden_values_are_what_the_definition_gives():
    assert json.loads(golden.dumps(golden.computed())) == GOLDEN


@pytest.mark.parametrize("case", GOLDEN["univariate"], ids=lambda case: case["name"])
def test_the_golden_values_are_the_oracles_and_ours(case):
    x, weights = np.array(case["x"]), case["weights"]
    grid = {"t_max": case["t_max"], "num_points": case["num_points"]}
    if weights is None:
        assert_close(oracles.epps_pulley(x, **grid), case["value"], rtol=1e-12, atol=1e-12)
        assert_close(float(Grid(**grid).distance(torch.tensor(x)) * len(x)), case["value"])
        leaf = torch.tensor(x)[:, None].requires_grad_()
        value = epps_pulley(leaf, **grid).squeeze()
        value.backward()
        expected = torch.tensor(case["gradient"], dtype=torch.float64)
        assert_close(value.item(), case["value"], rtol=1e-10, atol=1e-12)
        assert_close(leaf.grad.flatten(), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("case", GOLDEN["objective"])
def test_the_golden_objective_is_ours(case):
    def directions(D, K, *, seed, step, device, dtype):
        return torch.tensor(case["directions"], dtype=dtype)

    views = torch.tensor(case["views"], dtype=torch.float64).requires_grad_()
    criterion = LeJEPALoss(case["lambda_param"], SIGReg(num_slices=4, directions=directions, group=None))
    found = criterion.components(views, case["num_global"])
    found.total.backward()
    for part in ("total", "prediction", "sigreg"):
        assert_close(getattr(found, part).item(), case[part], rtol=1e-10, atol=1e-12)
    assert_close(views.grad, torch.tensor(case["gradient"], dtype=torch.float64), rtol=1e-9, atol=1e-10)
