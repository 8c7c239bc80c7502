"""The documentation: its code runs, its printed results are right, its numbers have rows, the site builds."""

import doctest
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
HOSTS = ["lightly", "lightning", "stable_pretraining", "transformers"]
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if "_build" not in path.parts)


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    settings = r"(?:---\n.*?^---\n)?"  # of a notebook's cell
    return re.findall(rf"^```{language}\n{settings}(.*?)^```", text, re.DOTALL | re.MULTILINE)


ELSEWHERE = ["accumulation.md"]  # test_accumulation_document.py runs its code
RUNNABLE = [page for page in PAGES if blocks(page, "python") and page not in ELSEWHERE]
PRINTED = [page for page in PAGES if blocks(page, "pycon")]


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A folder for outputs, and what torchrun tells a single process."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "localhost", "MASTER_PORT": 29617}.items():
        monkeypatch.setenv(name, str(value))
    yield
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:::lightning.*", "ignore:::transformers.*", "ignore:::accelerate.*")
@pytest.mark.parametrize("page", RUNNABLE)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, alone):
    code = "\n".join(blocks(page, "python"))
    for host in HOSTS:
        if re.search(rf"^\s*(import|from) {host}\b", code, re.MULTILINE):
            pytest.importorskip(host)
    if ".cuda()" in code and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    exec(compile(code, page, "exec"), {"__name__": "page"})


@pytest.mark.parametrize("page", PRINTED)
def test_what_a_page_says_is_printed_is_printed(page):
    parsed = doctest.DocTestParser().get_doctest("\n".join(blocks(page, "pycon")), {}, page, page, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    said: list[str] = []
    assert runner.run(parsed, out=said.append).failed == 0, "".join(said)


def test_every_accuracy_that_the_advice_names_is_in_the_results():
    rows = (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8").splitlines()
    wanted = re.findall(r"^\|.* (\S+ ± \S+ \(n = \d+\)) \| (\S+ ± .*?) \|$", advice(), re.MULTILINE)
    assert len(wanted) > 20
    missing = [pair for pair in wanted if not any(all(cell in row for cell in pair) for row in rows)]
    assert not missing


def advice() -> str:
    return (DOCS / "understand/choosing.md").read_text(encoding="utf-8")


def test_every_test_of_distributed_training_is_in_the_file_that_its_letter_names():
    page = (DOCS / "distributed.md").read_text(encoding="utf-8")
    files = {letter: ROOT / "tests" / name for name, letter in re.findall(r"`(test_\w+\.py)`\s\((\w)", page)}
    letter, missing = "", []
    found = re.findall(r"([A-Z]) (?=`test_)|`(test_\w+)`", page)
    for named, test in found:
        letter = named or letter
        if test and f"\ndef {test}(" not in files[letter].read_text(encoding="utf-8"):
            missing.append((letter, test))
    assert len(found) > 30
    assert missing == []


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Built with warnings as errors, without running the tutorial, which `make docs` does."""
    pytest.importorskip("sphinx", reason="the extra docs is not installed")
    pytest.importorskip("myst_nb")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-nWq", "--keep-going", "-D", "nb_execution_mode=off"]
    done = subprocess.run([*command, str(DOCS), str(out)], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    return out


def test_the_site_builds_without_a_warning(site):
    assert (site / "index.html").exists()


def test_every_public_name_is_in_the_reference(site):
    listed = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    names = {line.split()[0] for line in listed.splitlines()}
    missing = [name for name in public_names() if name not in names]
    assert not missing


def public_names() -> list[str]:
    import sigreg
    import sigreg.multivariate
    import sigreg.univariate

    modules = (sigreg, sigreg.univariate, sigreg.multivariate)
    names = [f"{m.__name__}.{name}" for m in modules for name in m.__all__ if not name.startswith("__")]
    design = "functional.sigreg microbatches.backward sequences.SequenceSIGReg diagnostics.gaussianity"
    design += " conventions.convert_lambda conformance.check directions.orthogonal"
    adapters = "lightly.LeJEPALoss lightly.SIGReg lightning.GaussianityMonitor timm.Encoder"
    adapters += " solo_learn.register transformers.SIGRegTrainer stable_pretraining.SlicedEppsPulley"
    adapters += " stable_worldmodel.SIGReg"
    names += [f"sigreg.{name}" for name in design.split()]
    return names + [f"sigreg_adapters.{name}" for name in adapters.split()]


@pytest.mark.long
def test_the_figures_are_drawn_and_the_tutorial_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'adapters'}"}
    cells = "\n".join(blocks("start/tutorial.md", r"\{code-cell\}"))
    draw = "import sys; sys.path.insert(0, 'docs'); import figures; import pathlib\n"
    draw += f"figures.FOLDER = pathlib.Path({str(tmp_path)!r}); figures.main()"
    for program in (cells, draw):
        subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, env=environment)
    drawn = {"characteristic", "field", "loss_curves", "monitor", "slice"}
    assert {path.stem for path in tmp_path.glob("*.png")} == drawn
