"""`python -m sigreg inspect`: exit statuses, comparison, pictures, and what its page says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import engine
from benchmarks.rows import Table
from sigreg.__main__ import main
from sigreg.diagnostics import FINDINGS
from sigreg.inspect.plot import null_spectrum
from tests.inspected import refused, write
from tests.samples import normal


def test_the_exit_status_says_healthy_not_healthy_or_unusable(healthy, tmp_path, capsys):
    assert main(["inspect", str(healthy)]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "healthy"
    write(tmp_path / "flat.pt", torch.zeros(64, 8))
    assert main(["inspect", str(tmp_path / "flat.pt")]) == 1
    printed = capsys.readouterr().out
    assert printed.splitlines()[1] == "not healthy: collapsed"
    assert "all rows are 0; SIGReg is 25.731, its value at an exact collapse, 0.40205 N." in " ".join(
        printed.split()
    )
    assert main(["inspect", str(tmp_path / "nothing.npy")]) == 2


def test_the_command_line_is_that_of_the_module(healthy):
    command = [sys.executable, "-m", "sigreg"]
    done = subprocess.run([*command, "inspect", str(healthy)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[1]) == (0, "healthy")
    done = subprocess.run([*command, "inspct"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: python -m sigreg inspect FILE")


def test_two_files_are_set_side_by_side(healthy, tmp_path, capsys):
    write(tmp_path / "b.pt", 0.5 * normal(300, 16, seed=2))
    assert main(["inspect", str(healthy), "--compare", str(tmp_path / "b.pt")]) == 0
    printed = capsys.readouterr().out
    assert "B only: off scale" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("standard deviation of a coordinate")]
    a, b, expected = map(float, line.split()[-3:])
    assert (round(a, 1), round(b, 1), expected) == (1.0, 0.5, 1.0)
    assert main(["inspect", str(tmp_path / "b.pt"), "--compare", str(healthy), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["healthy"], found["compare"]["healthy"]) == (False, True)


@pytest.mark.parametrize("shape", [(200, 16), (20, 40), (3, 1)])
@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_a_picture_is_drawn_of_any_embeddings(shape, scale, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    write(tmp_path / "a.npy", scale * normal(*shape))
    main(["inspect", str(tmp_path / "a.npy"), "--plot", str(tmp_path / "a.png")])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_spectrum_drawn_for_a_gaussian_is_that_of_its_samples():
    for N, D in ((400, 100), (101, 100), (50, 200)):
        x = normal(N, D).double()
        x = x - x.mean(0)
        count = min(N - 1, D)
        measured = torch.linalg.eigvalsh(x.T @ x / (N - 1)).flip(0)[:count]
        # eigenvalues of one sample of this size scatter by a few percent of their mean, which is max(1, D/N)
        assert float((null_spectrum(N, D, count) - measured).abs().mean()) < 0.05 * max(1.0, D / N)


@pytest.mark.parametrize(
    ("module", "package", "option"),
    [("matplotlib", "matplotlib", "--plot"), ("sklearn", "scikit-learn", "--labels")],
)
def test_a_missing_package_is_named(module, package, option, healthy, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    np.save(tmp_path / "y.npy", np.arange(200) % 2)
    said = refused(capsys, healthy, option, tmp_path / ("a.png" if option == "--plot" else "y.npy"))
    assert f"{option} needs {package}, which is not installed: pip install {package}" in said


def test_importing_the_command_line_loads_torch_alone():
    program = (
        "import sys, torch; before = set(sys.modules); import sigreg.__main__; "
        "print(*{m.split('.')[0] for m in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split()) - set(sys.stdlib_module_names)
    assert loaded == {"sigreg"}


ROOT = Path(__file__).parents[1]


def test_the_power_said_is_that_of_the_committed_rows():
    page = (ROOT / "docs/inspect.md").read_text(encoding="utf-8")
    for part in engine.module("inspect_power").table(Table("inspect_power").frame()).split("\n\n"):
        assert part in page


def test_a_gaussian_is_healthy_in_99_of_100_draws_in_the_committed_rows():
    rows = Table("inspect_power").frame()
    null = rows[rows.defect == "none"]
    assert null.named.min() >= 0.99
    assert {(N, D) for N in (32, 128, 512) for D in (2, 8, 64)} <= set(zip(null.N, null.D, strict=True))


def test_every_finding_has_its_place_in_the_documentation():
    page = (ROOT / "docs/inspect.md").read_text(encoding="utf-8")
    for name in FINDINGS:
        assert f"| **{name}** |" in page
