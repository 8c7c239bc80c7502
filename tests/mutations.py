"""Do the tests notice?  Break one line of a copy of the library, run the tests, see them fail.

    python -m tests.mutations            every mutant must be killed; says by which test
    python -m tests.mutations watson     only those whose description or file has the word

The working tree is never touched: sources and tests are copied to a temporary directory first, and
only the copy is broken.  Each mutant runs in a fork of this process, so torch is imported once.
"""

# ruff: noqa: E501 (one mutant, one line)
from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import hypothesis
import mpmath  # noqa: F401 (loaded once here rather than in every fork)
import pytest
import scipy.stats  # noqa: F401
import torch

ROOT = Path(__file__).resolve().parent.parent


class Mutant(NamedTuple):
    """What is wrong, where, the right line, the wrong one, and the tests that must notice (file, -k)."""

    what: str
    file: str
    right: str
    wrong: str
    seen_by: str = "test_statistics.py"
    k: str = ""


U, M, B, V, D = (
    "univariate/",
    "multivariate/",
    "test_statistics_bounds.py",
    "test_multivariate.py",
    "directions.py",
)
MUTANTS = [
    Mutant("drop N", "kernels/sums.py", "return N * (w * error).sum(-2)", "return (w * error).sum(-2)"),
    Mutant("flip the sign of the imaginary part", "kernels/sums.py", "+ im.square()\n        return", "- im.square()\n        return"),
    Mutant("wrong window", "kernels/sums.py", "w = 2 * dt * phi ", "w = 2 * dt * phi * phi "),
    Mutant("no window", "kernels/sums.py", "w = 2 * dt * phi ", "w = 2 * dt + 0 * phi "),
    Mutant("one half-line only", "kernels/sums.py", "w = 2 * dt * phi ", "w = dt * phi "),
    Mutant("off-by-one knot", "kernels/sums.py", "torch.arange(1, P + 1,", "torch.arange(0, P,"),
    Mutant("last knot at full weight", "kernels/sums.py", "w[-1:] / 2", "w[-1:]"),
    Mutant("wrong knot spacing", U + "epps_pulley.py", "t_max / (num_points - 1), num_points - 1", "t_max / num_points, num_points - 1"),
    Mutant("unbiased: keep the pair (n, n)", "kernels/sums.py", "- 1) / (N - 1)\n", ") / (N - 1)\n"),
    Mutant("unbiased: divide by N", "kernels/sums.py", "- 1) / (N - 1)\n", "- 1) / N\n", B, k="minibatch_bias"),
    Mutant("unsorted sample", U + "order.py", "checked(x).sort(dim=-2).values", "checked(x)"),
    Mutant("sorted the wrong way", U + "order.py", "sort(dim=-2)", "sort(dim=-2, descending=True)"),
    Mutant("sorted along slices", U + "order.py", "sort(dim=-2)", "sort(dim=-1)"),
    Mutant("off-by-one rank", U + "order.py", "(2 * i - 1) / (2 * N)", "(2 * i + 1) / (2 * N)"),
    Mutant("infinity passes the cdf", U + "order.py", "return 0 * x[..., 0, :] + 0 * x[..., -1, :]", "return 0.0", k="non_finite"),
    Mutant("Cramér-von Mises: drop 1/(12 N)", U + "cramer_von_mises.py", "1 / (12 * x.shape[-2]) + distance", "distance"),
    Mutant("Watson: drop the mean", U + "watson.py", "e - e.mean(-2, keepdim=True)", "e"),
    Mutant("Anderson-Darling: one tail twice", U + "anderson_darling.py", "log_ndtr(-x)", "log_ndtr(x)"),
    Mutant("Anderson-Darling: log of a rounded cdf", U + "anderson_darling.py", "log_ndtr(-x)", "torch.log1p(-torch.special.ndtr(x))"),
    Mutant("Anderson-Darling: drop the least value", U + "anderson_darling.py", "_least(x.shape[-2]) + 2", "2"),
    Mutant("Shapiro-Francia: wrong plotting positions", U + "shapiro_francia.py", "- 0.375", "- 0.5"),
    Mutant("Shapiro-Francia: correlation not squared", U + "shapiro_francia.py", "residual.square().sum(-2) +", "residual.abs().sum(-2) +"),
    Mutant("Vasicek: wrong window", U + "vasicek_entropy.py", "math.log(N / (2 * m))", "math.log(N / m)"),
    Mutant("Vasicek: ties are free", U + "vasicek_entropy.py", ".clamp(min=_SPACING)", ""),
    Mutant("Jarque-Bera: kurtosis without its 3", U + "jarque_bera.py", "(kurtosis - 3).square()", "kurtosis.square()"),
    Mutant("Jarque-Bera: constants divide by 0", U + "jarque_bera.py", "m2 = m2.masked_fill(is_constant(mean, m2), 1.0)", "m2 = m2"),
    Mutant("moments: He_3 and up without the recurrence's k", U + "moments.py", "x * he - k * below", "x * he - below"),
    Mutant("moments: drop k!", U + "moments.py", "(N * math.factorial(k))", "N"),
    Mutant("central moments: the center has no gradient", U + "central.py", "(-a[1]).pow(p - j)", "(0 * a[1]).pow(p - j)", k="finite_differences"),
    Mutant("central moments: nor has the mean", U + "central.py", "return N, c + a[1], central", "return N, c, central", k="finite_differences"),
    Mutant("central moments: center of this rank only", U + "central.py", "c = total / N", "c = x.detach().mean(-2)", k="split"),
    Mutant("vcreg: variance instead of sd", U + "vcreg.py", ".sqrt()", "", B, k="collapse"),
    Mutant("vcreg: the gradient of sqrt at 0", U + "vcreg.py", "variance.masked_fill(constant, 1.0).sqrt().masked_fill(constant, 0.0)", "variance.sqrt()", k="hard"),
    Mutant("mix: forget a weight", U + "mixed.py", "weight * (f(x, ranks=ranks)", "(f(x, ranks=ranks)", k="mixed"),
    Mutant("mix: order statistics of this rank only", U + "mixed.py", "ranks.gather(x)\n", "x\n", k="split or gathers"),
    Mutant("half precision inside", U + "contract.py", "x if x.dtype == torch.float64 else x.float()", "x", k="hard"),
    Mutant("sphere: D - 1 for D - 2", M + "sphere.py", "angle.cos().pow(D - 2)", "angle.cos().pow(D - 1)", V, k="sphere"),
    Mutant("sphere: a slope off by a sign", M + "sphere.py", "slope * rest - h / 2", "slope * rest + h / 2", V, k="sphere"),
    Mutant("pairs: half a gradient", M + "pairs.py", "(4 if other is None", "(2 if other is None", V, k="finite_differences"),
    Mutant("exact: singles at the rate of pairs", M + "exact.py", "kernel(1 / 4)", "kernel(1 / 2)", V, k="slices"),
    Mutant("exact: unbiased keeps the pairs (j, j)", M + "exact.py", "(N * pairs - 1)", "(N * pairs)", V, k="slices"),
    Mutant("BHEP: D for D / 2", M + "bhep.py", "math.exp(-D / 2 * math.log1p(b2))", "math.exp(-D * math.log1p(b2))", V, k="fifty"),
    Mutant("Henze-Zirkler: no whitening", M + "bhep.py", "L = torch.linalg.cholesky(S)", "L = torch.eye(D, dtype=z.dtype)", V, k="whitened"),
    Mutant("harmonics: a sign in the table", "kernels/harmonics.py", "[1, 0, 0, -1, 0, 0, 0, 0]", "[1, 0, 0, 1, 0, 0, 0, 0]", "test_kernels.py", k="reference_s and eager"),
    Mutant("harmonics: the slope of the cosines upside down", "kernels/harmonics.py", ".T - gC @", ".T + gC @", "test_kernels.py", k="reference_s and formula"),
    Mutant("inductor: x dt in the place of half of it", "kernels/inductor.py", "phi = _scaled_product(dt / 2,", "phi = _scaled_product(dt,", "test_kernels.py", k="reference_s and formula"),
    Mutant("inductor: each part replaces the last", "kernels/inductor.py", "beta=float(start > 0)", "beta=0.0", "test_kernels.py", k="reference_s and formula"),
    Mutant("inductor: every part weighs as the first", "kernels/inductor.py", "weights[rows, 8", "weights[: len(phi[rows]), 8", "test_kernels.py", k="reference_s and formula"),
    Mutant("slope of the unbiased form for both", "kernels/sums.py", "scale = 2 * w / ((N - 1) if unbiased else N)", "scale = 2 * w / (N - 1)", "test_kernels.py", k="reference_s"),
    Mutant("inductor: half the turn to the next block", "kernels/inductor.py", "_library(8 * first", "_library(4 * first", "test_kernels.py", k="any_grid and formula"),
    Mutant("inductor: the wrong step of the recurrence", "kernels/inductor.py", "(2 - v * (4 - v)) ** 2 - 2", "(2 - v * (4 - v)) ** 2 - 2.01", "test_kernels.py", k="reference_s and formula"),
    Mutant("half turns: a coefficient of the sine", "kernels/half_turns.py", "8.33301729e-3", "8.33401729e-3", "test_half_turns.py"),
    Mutant("half turns: a coefficient of the cosine", "kernels/half_turns.py", "4.16666407e-2", "4.16676407e-2", "test_half_turns.py"),
    Mutant("half turns: off the circle", "kernels/half_turns.py", ".clamp(-1.6, 1.6)", "", "test_half_turns.py"),
    Mutant("normal numbers: every piece the first", D, "_hashes(first, last, key)", "_hashes(0, last - first, key)", "test_directions.py", k="in_pieces"),
    Mutant("gaussian directions: every step the same", D, "step * _GAMMA)", "0 * step * _GAMMA)", "test_directions.py", k="seed_and_step"),
    Mutant("orthogonal: not Haar", D, "Q = Q * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)", "Q = Q.abs()", "test_directions.py", k="orthonormal"),
    Mutant("sobol: no shift", D, "^ shift.unsqueeze(-1)", "^ 0", "test_directions.py", k="seed_and_step"),
    Mutant("diagnostics: p-value from the wrong side", "diagnostics.py", "(null >= value)", "(null <= value)", "test_diagnostics.py", k="departures"),
    Mutant("diagnostics: axes forgotten", "diagnostics.py", "torch.cat([ep, epps_pulley(z)])", "torch.cat([ep, 0 * epps_pulley(z)])", "test_diagnostics.py", k="worst_slice or departures"),
]  # fmt: skip


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
        sys.path.insert(0, str(copy))
        for name in [n for n in sys.modules if n.split(".")[0] in ("sigreg", "tests")]:
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
        for name in ("sigreg", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", copy)
        failure = tests_fail_by(copy, sorted({m.seen_by for m in chosen}), "")
        if failure:
            print(f"nothing to learn: without any mutant, {failure} fails")
            return 1
        print(f"unbroken: every test passes ({time.time() - start:.0f} s)", flush=True)
        for number, mutant in enumerate(chosen, 1):
            began = time.time()
            path = copy / "sigreg" / mutant.file
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
