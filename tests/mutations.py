"""Do the tests notice?  Break one line of a copy of the library, run the tests, see them fail.

    python -m tests.mutations            every mutant must be killed; says by which test
    python -m tests.mutations watson     only those whose description or file has the word

The working tree is never touched: sources and tests are copied to a temporary directory first, and
only the copy is broken.  Each mutant runs in a fork of this process, so torch is imported once.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import hypothesis
import mpmath  # noqa: F401 (loaded once here rather than in every fork)
import pytest
import scipy.stats  # noqa: F401
import torch

from tests.mutants import MUTANTS, ROOT


class FirstFailure:
    """A pytest plugin that remembers which test failed first, and keeps hypothesis from shrinking."""

    name = ""

    def pytest_sessionstart(self) -> None:
        torch.set_num_threads(1)  # after conftest; more would only wait for each other on a busy machine
        quick = hypothesis.settings(
            max_examples=25,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        )
        hypothesis.settings.register_profile("mutants", quick)
        hypothesis.settings.load_profile("mutants")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.name:
            self.name = f"{report.nodeid} (import)"


def tests_fail_by(copy: Path, files: list[str], k: str) -> str:
    """The first test that fails in the copy, in a fork; "" when all pass."""
    read, write = os.pipe()
    if child := os.fork():
        os.close(write)
        with os.fdopen(read) as pipe:
            answer = pipe.read()
        os.waitpid(child, 0)
        return answer or "(the process died)" if answer != "passed" else ""
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        os.chdir(copy)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(copy), str(copy / "adapters")])  # of worker processes
        sys.path[:0] = [str(copy), str(copy / "adapters")]
        for name in [n for n in sys.modules if n.split(".")[0] in ("sigreg", "sigreg_adapters", "tests")]:
            del sys.modules[name]
        first = FirstFailure()
        arguments = ["-x", "-q", "-m", "not long", "-p", "no:cacheprovider", "--rootdir", str(copy)]
        arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis came with this process
        code = pytest.main([*arguments, "-k", k, *(f"tests/{f}" for f in files)], plugins=[first])
        import sigreg

        if not sigreg.__file__.startswith(str(copy)):
            raise RuntimeError("the tests ran on another copy of the library")
        answer = "passed" if code == 0 else first.name or f"(pytest ended with {code!r})"
        os.write(write, answer.encode())
    except BaseException as error:
        os.write(write, f"(could not run: {error!r})".encode())
    finally:
        os._exit(0)


def main(words: list[str]) -> int:
    """Runs the mutants; the exit status is the number of survivors."""
    sys.dont_write_bytecode = True  # a copy broken within the same second would pass for the old one
    os.environ["OMP_NUM_THREADS"] = "1"
    chosen = [m for m in MUTANTS if all(w.lower() in f"{m.what} {m.file}".lower() for w in words)]
    if not chosen:
        print(f"no mutant's name or file contains {' and '.join(words)}")
        return 1
    survivors, start = [], time.time()
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory).resolve()
        ignore = shutil.ignore_patterns("__pycache__", ".hypothesis")
        for name in ("sigreg", "tests", "adapters", "integrations", "benchmarks", "docs"):
            shutil.copytree(ROOT / name, copy / name, ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", copy)
        # the site is built from files of the repository that the copy does not have
        failure = tests_fail_by(
            copy, sorted({m.seen_by for m in chosen}), "not site and not in_the_reference"
        )
        if failure:
            print(f"nothing to learn: without any mutant, {failure} fails")
            return 1
        print(f"unbroken: every test passes ({time.time() - start:.0f} s)", flush=True)
        for number, mutant in enumerate(chosen, 1):
            began = time.time()
            path = mutant.source(copy)
            source = path.read_text(encoding="utf-8")
            if source.count(mutant.right) != 1:
                killer, state = (
                    f"{mutant.file} has no single {mutant.right!r}: bring the table up to date",
                    "STALE",
                )
            else:
                path.write_text(source.replace(mutant.right, mutant.wrong), encoding="utf-8")
                killer = tests_fail_by(copy, [mutant.seen_by], mutant.k)
                path.write_text(source, encoding="utf-8")
                state = "killed" if killer else "SURVIVED"
            if state != "killed":
                survivors.append(mutant)
            seconds = time.time() - began
            print(
                f"{number:3}/{len(chosen)} {state:8} {mutant.what:52} {killer} ({seconds:.0f} s)", flush=True
            )
    killed = len(chosen) - len(survivors)
    print(f"{killed} of {len(chosen)} mutants killed in {time.time() - start:.0f} s")
    return len(survivors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
