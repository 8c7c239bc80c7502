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


U, M, D, Q, A = (
    "univariate/",
    "multivariate/",
    "directions.py",
    "kernels/quadrature.py",
    "adapters/sigreg_adapters/",
)
B, V, W, S, T, X, R = (
    "test_statistics_bounds.py",
    "test_multivariate.py",
    "test_weights.py",
    "test_module_state.py",
    "test_tails.py",
    "test_microbatches.py",
    "test_microbatches_over_ranks.py",
)
MUTANTS = [
    Mutant("drop N", Q, "return ((N * w) * error).sum(-1)", "return (w * error).sum(-1)"),
    Mutant("flip the sign of the imaginary part", Q, "+ (S / W).square()", "- (S / W).square()"),
    Mutant("wrong weight function", Q, "w = phi * (2 * t_max / P)", "w = phi * phi * (2 * t_max / P)"),
    Mutant("no weight function", Q, "w = phi * (2 * t_max / P)", "w = 0 * phi + (2 * t_max / P)"),
    Mutant("one half-line only", Q, "(2 * t_max / P)", "(t_max / P)"),
    Mutant("points shifted by one", Q, "torch.linspace(t_max / P, t_max, P,", "torch.linspace(0, t_max - t_max / P, P,"),
    Mutant("last point at full weight", Q, "w[-1:] /= 2", "w[-1:] /= 1"),
    Mutant("wrong distance of points", U + "epps_pulley.py", "t_max / (num_points - 1), num_points - 1)", "t_max / num_points, num_points - 1)"),
    Mutant("unbiased: keep the pair (n, n)", Q, "N * error - expectation", "N * error", k="oracle"),
    Mutant("unbiased: no correction", Q, "_correction(N) * w * (N", "w * (N"),
    Mutant("slope of the unbiased form for both", Q, "f = _correction(N) if unbiased else 1.0", "f = _correction(N)", "test_kernels.py", k="reference_s"),
    Mutant("unsorted sample", U + "order.py", "x, index = sample.x.sort(dim=-2)", "x, index = sample.x, sample.x.argsort(dim=-2)"),
    Mutant("sorted the wrong way", U + "order.py", "sort(dim=-2)", "sort(dim=-2, descending=True)"),
    Mutant("sorted along slices", U + "order.py", "sort(dim=-2)", "sort(dim=-1)", k="oracle or one_by_one"),
    Mutant("weights not sorted along", U + "order.py", ".gather(-2, index)", "", W, k="mask_equals"),
    Mutant("rank at the end of its step", U + "order.py", "w.cumsum(-2) - w / 2", "w.cumsum(-2)"),
    Mutant("infinity passes the cdf", U + "order.py", "guard = (torch.where(ends.isfinite(), 0.0, torch.nan) * ends).sum(-2)", "guard = 0 * x[..., 0, :].nan_to_num(0, 0, 0)", k="non_finite"),
    Mutant("infinity shows in the value only", U + "order.py", "guard = (torch.where(ends.isfinite(), 0.0, torch.nan) * ends).sum(-2)", "guard = (0 * ends).sum(-2)", "test_precision.py", k="infinite"),
    Mutant("Cramér-von Mises: drop 1/(12 N)", U + "cramer_von_mises.py", "+ s.p.pow(3).sum(-2) / 12", ""),
    Mutant("Watson: drop the mean", U + "watson.py", "(e - mean)", "e"),
    Mutant("Anderson-Darling: one tail twice", U + "anderson_darling.py", "torch.where(left, near, far)", "torch.where(left, far, near)"),
    Mutant("Anderson-Darling: drop the least value", U + "anderson_darling.py", "distance: Tensor = least + 2", "distance: Tensor = 2"),
    Mutant("Anderson-Darling: the tail of log_ndtr", U + "anderson_darling.py", "return torch.where(left, far, near), torch.where(left, near, far)", "return torch.special.log_ndtr(x), torch.special.log_ndtr(-x)", T),
    Mutant("Shapiro-Francia: wrong plotting positions", U + "shapiro_francia.py", "0.125) / (N + 0.25)", "0.0) / N"),
    Mutant("Shapiro-Francia: correlation not squared", U + "shapiro_francia.py", "residual.square()", "residual.abs()"),
    Mutant("Vasicek: wrong window", U + "vasicek_entropy.py", "(n / (2 * window))", "(n / window)"),
    Mutant("Vasicek: ties are free", U + "vasicek_entropy.py", ".clamp(min=_SPACING)", ""),
    Mutant("Vasicek: masked rows count", U + "vasicek_entropy.py", "torch.where(i < n, x, 0.0)", "torch.where(i < n, x, 1.0)", W, k="mask_equals"),
    Mutant("Jarque-Bera: kurtosis without its 3", U + "jarque_bera.py", "(kurtosis - 3).square()", "kurtosis.square()"),
    Mutant("Jarque-Bera: constants divide by 0", U + "jarque_bera.py", "m2 = m2.masked_fill(is_constant(mean, m2), 1.0)", "m2 = m2"),
    Mutant("moments: He_3 and up without the recurrence's k", U + "moments.py", "x * he - k * below", "x * he - below"),
    Mutant("moments: drop k!", U + "moments.py", "/ math.factorial(k)", "/ 1"),
    Mutant("central moments: the center has no gradient", U + "central.py", "(-a[1]).pow(p - j)", "(0 * a[1]).pow(p - j)", k="finite_differences"),
    Mutant("central moments: nor has the mean", U + "central.py", "return c + a[1], central", "return c, central", k="finite_differences"),
    Mutant("central moments: center of this rank only", U + "central.py", "c = total / sample.W", "c = sample.x.detach().mean(-2)", k="split"),
    Mutant("vcreg: variance instead of sd", U + "vcreg.py", ".sqrt()", "", B, k="collapse"),
    Mutant("vcreg: the gradient of sqrt at 0", U + "vcreg.py", "variance.masked_fill(constant, 1.0).sqrt().masked_fill(constant, 0.0)", "variance.sqrt()", k="hard"),
    Mutant("mix: forget a weight", "functional.py", "mean if member.weight == 1 else member.weight * mean", "mean", k="dict_of_weights"),
    Mutant("mix: a setting to nobody", U + "statistic.py", "if k in takes}", "if k not in takes}", k="reaches"),
    Mutant("half precision inside", "sample.py", "x if x.dtype == torch.float64 else x.float()", "x", k="hard"),
    Mutant("weights: N is the total weight", "sample.py", "w1 * (w1 / torch.where(some, w2, 1.0))", "w1", W, k="ratios or equal_weights"),
    Mutant("weights: masked rows keep what they hold", "sample.py", "self.x = torch.where((self.weights > 0).unsqueeze(-1), x, 0.0)", "self.x = x", W, k="mask_equals"),
    Mutant("weights: views without rows count", "sample.py", "valid.sum().clamp(min=1)", "valid.numel()", W, k="leave_the_mean"),
    Mutant("weights: of this rank only", "sample.py", "self._totals = _totals(w1, w2)\n        return", "self._totals = _totals(*self._local_sums())\n        return", k="split"),
    Mutant("prediction: padded rows count", "objective.py", "w = w * some", "w = torch.ones_like(w)", "test_weights_of_objectives.py", k="prediction"),
    Mutant("all-reduce: nothing is reduced", "collectives.py", "dist.all_reduce(total, group=group)", "pass", "test_distributed.py", k="two_uneven and epps"),
    Mutant("all-reduce: gradient of one rank's share", "collectives.py", "return grad * size", "return grad.clone()", "test_distributed.py", k="two_uneven and epps"),
    Mutant("second derivative: this rank's share only", "collectives.py", "return _AllReduce.apply(grad, *ctx.arguments), None, None", "return grad * ctx.arguments[1], None, None", "test_distributed_derivatives.py", k="hessian and epps"),
    Mutant("second derivative: this rank's rows only", "collectives.py", "return _Share.apply(grad, *ctx.arguments), None, None", "return _Share.apply(grad.detach(), *ctx.arguments), None, None", "test_distributed_derivatives.py", k="hessian and cramer"),
    Mutant("all-gather: another rank's gradient", "collectives.py", "[dist.get_rank(group)] * len(counts)", "[0] * len(counts)", "test_distributed.py", k="two_uneven and watson"),
    Mutant("drift goes unnoticed", "collectives.py", "torch._assert_async((total == self.size * mine).all(), DRIFTED)", "pass", "test_distributed_failures.py", k="drift_apart and epps"),
    Mutant("the step does not advance", "regularizer.py", "        self.step.add_(1)\n        return step\n\n    def _assert", "        return step\n\n    def _assert", "test_regularizer.py"),
    Mutant("checkpointing: the next step's directions", "regularizer.py", "return steps[(keys == key).int().argmax()]", "return self.step", S, k="checkpointing"),
    Mutant("checkpointing: the last call's step", "regularizer.py", "(keys == key).int().argmax()", "0", S, k="checkpointing"),
    Mutant("the state forgets the step", "regularizer.py", "self.step])", "0 * self.step])", S, k="meta"),
    Mutant("memory: gradient and age", "memory.py", "[..., -M:, :].clone()", "[..., :M, :].clone()", S, k="beside_the_batch"),
    Mutant("memory: masked rows are kept", "memory.py", "order = (kept > 0).int()", "order = (kept >= 0).int()", S, k="take_no_place"),
    Mutant("memory: buffers, which DDP overwrites", "memory.py", "self.rows: Tensor | None = None", 'self.register_buffer("rows", None)', "test_distributed_training.py", k="memory"),
    Mutant("weights above a row may be negative", U + "order.py", ".clamp(min=0)", "", "test_weights.py", k="weight_0_at"),
    Mutant("a uniform number of 1", "random_numbers.py", ".clamp_(max=2**24 - 1)", "", "test_directions.py", k="length_0"),
    Mutant("sixteen checkpointed calls", "regularizer.py", "_REMEMBERED = 256", "_REMEMBERED = 16", "test_module_state.py", k="takes_value"),
    Mutant("the hook of the Trainer stays", A + "transformers.py", "            self._hook.remove()\n", "            pass\n", "test_adapters_transformers.py", k="leaves_nothing"),
    Mutant("microbatches: no copy of the random state", "microbatches.py", "        set_random_state(states[i])\n", "", X, k="dropout"),
    Mutant("microbatches: every part the first one's gradient", "microbatches.py", "gradients[i], last)", "gradients[0], last)", X, k="unsplit and any_split"),
    Mutant("microbatches: views of the encoder are kept", "microbatches.py", "z.clone() for z in", "z for z in", "test_accumulation_document.py", k="small_views"),
    Mutant("microbatches: buffers stay where the first pass moved them", "microbatches.py", "    called.restore()\n", "", X, k="batchnorm or buffers"),
    Mutant("microbatches: the scaler is forgotten", "microbatches.py", "scaler.scale(loss)", "loss", X, k="scaler"),
    Mutant("replay: DDP communicates with every part", "replay.py", "stack.enter_context(module.no_sync())", "pass", R, k="synchronisation"),
    Mutant("replay: FSDP2 too", "replay.py", "synchronise(False)", "pass", R, k="fsdp2"),
    Mutant("replay: DDP broadcasts in the first pass only", "replay.py", "wrapper.require_forward_param_sync = broadcasts", "pass", R, k="broadcasts"),
    Mutant("sphere: D - 1 for D - 2", M + "sphere.py", "angle.cos().pow(D - 2)", "angle.cos().pow(D - 1)", V, k="sphere"),
    Mutant("sphere: a slope off by a sign", M + "sphere.py", "slope * rest - h / 2", "slope * rest + h / 2", V, k="sphere"),
    Mutant("pairs: half a gradient", M + "pairs.py", "(4 if ctx.alone", "(2 if ctx.alone", V, k="finite_differences"),
    Mutant("exact: singles at the rate of pairs", M + "exact.py", "kernel(1 / 4)", "kernel(1 / 2)", V, k="slices"),
    Mutant("exact: unbiased keeps the pairs (j, j)", M + "exact.py", "(N * pairs - 1)", "(N * pairs)", V, k="slices"),
    Mutant("BHEP: D for D / 2", M + "bhep.py", "math.exp(-D / 2 * math.log1p(b2))", "math.exp(-D * math.log1p(b2))", V, k="fifty"),
    Mutant("Henze-Zirkler: no whitening", M + "bhep.py", "L = torch.linalg.cholesky(S)", "L = torch.eye(D, dtype=z.dtype)", V, k="whitened"),
    Mutant("products: a sign of the cosines", "kernels/products.py", "ascending(cc + ss, cc - ss)", "ascending(cc + ss, cc + ss)", "test_kernels.py", k="reference_s and eager"),
    Mutant("products: the slope of the cosines upside down", "kernels/products.py", "gC * -twice_k", "gC * twice_k", "test_kernels.py", k="reference_s and formula"),
    Mutant("eager: weights forgotten", "kernels/eager.py", "self.short.mul_(weights)", "pass", W, k="in_a_kernel"),
    Mutant("eager: the tile's first view for all", "kernels/eager.py", "n[views, 0]", "n[:1, 0]", W, k="own_mask or in_a_kernel"),
    Mutant("eager: weights forgotten in the backward pass over ranks", "kernels/eager.py", "tile.sums(_rows(weights, views))\n        g =", "tile.sums(None)\n        g =", "test_kernels.py", k="repetitions and two-phase"),
    Mutant("inductor: weights forgotten", "kernels/inductor.py", "short = [row * weights for row in short]", "pass", "test_kernels.py", k="mask_equals and formula"),
    Mutant("inductor: weights forgotten in the gradient", "kernels/inductor.py", "return total if weights is None else total * weights", "return total", "test_kernels.py", k="repetitions and formula"),
    Mutant("triton: weights forgotten", "kernels/triton_kernels.py", "weight = tl.load(w + v * N + n, mask=n < N, other=0.0)[:, None]", "weight = (n < N).to(tl.float32)[:, None]", "test_triton.py", k="interpreter"),
    Mutant("triton: weights forgotten in the gradient", "kernels/triton_kernels.py", "g *= tl.load(w + v * N + n, mask=n < N, other=0.0)[:, None]", "pass", "test_triton.py", k="interpreter"),
    Mutant("triton: the trapezoid rule counts its last point twice", "kernels/triton_kernels.py", "(1 if p == P - 1 else 2)", "2", "test_triton.py", k="interpreter"),
    Mutant("triton: the unbiased value with the biased slopes", "kernels/triton_kernels.py", "scale * (re * correction - phi)", "scale * (re - phi)", "test_triton.py", k="interpreter"),
    Mutant("triton: the views of a second piece get the weights of the first", "kernels/triton.py", "weights[own]", "weights", "test_triton.py", k="interpreter"),
    Mutant("triton: projections in a tensor that selective checkpointing keeps", "kernels/triton.py", "torch.matmul(z[own], A, out=projections[: own.stop - v])", "z[own] @ A", "test_triton.py", k="interpreter"),
    Mutant("triton: a single row has a gradient when unbiased", "kernels/triton_kernels.py", "scale *= (correction > 0).to(tl.float32)", "pass", "test_few_rows.py", k="interpreter"),
    Mutant("a single row has a gradient when unbiased", "kernels/quadrature.py", "scale = scale * (f > 0)", "pass", "test_few_rows.py", k="full_ones"),
    Mutant("a single row of float weight counts as two", "kernels/quadrature.py", "beyond_one > 8 * torch.finfo(N.dtype).eps", "beyond_one > 0", "test_few_rows.py", k="any_weight"),
    Mutant("a loaded state replaces the step of a captured graph", "regularizer.py", "self.step.copy_(step)", "self.step = step.clone()", "test_module_state.py", k="cuda_graph"),
    Mutant("a recomputation waits for the GPU", "regularizer.py", "steps.index_select(0, found).reshape(())", "steps[int(found)]", "test_module_state.py", k="never_reads"),
    Mutant("triton's directions: sine and cosine exchanged", "kernels/triton_directions.py", "tl.where(second, tl.sin(angle), tl.cos(angle))", "tl.where(second, tl.cos(angle), tl.sin(angle))", "test_directions.py", k="triton"),
    Mutant("triton's directions: 2^32 times an int32", "kernels/triton_directions.py", "tl.full((1, 1), step, tl.int64)", "tl.full((1, 1), step, tl.int32)", "test_directions.py", k="triton"),
    Mutant("inductor: x dt in the place of half of it", "kernels/inductor.py", "phi = _scaled_product(dt / 2,", "phi = _scaled_product(dt,", "test_kernels.py", k="reference_s and formula"),
    Mutant("inductor: each part replaces the last", "kernels/inductor.py", "beta=float(start > 0)", "beta=0.0", "test_kernels.py", k="reference_s and formula"),
    Mutant("inductor: half the rotation to the next block", "kernels/inductor.py", "_library(8 * first", "_library(4 * first", "test_kernels.py", k="any_grid and formula"),
    Mutant("inductor: the wrong step of the recurrence", "kernels/inductor.py", "(2 - v * (4 - v)) ** 2 - 2", "(2 - v * (4 - v)) ** 2 - 2.01", "test_kernels.py", k="reference_s and formula"),
    Mutant("sincos: a coefficient of the sine", "kernels/sincos.py", "8.33301729e-3", "8.33401729e-3", "test_sincos.py"),
    Mutant("sincos: a coefficient of the cosine", "kernels/sincos.py", "4.16666407e-2", "4.16676407e-2", "test_sincos.py"),
    Mutant("sincos: large angles", "kernels/sincos.py", ".clamp(-1.6, 1.6)", "", "test_sincos.py"),
    Mutant("normal numbers: every piece the first", "random_numbers.py", "_hashes(first, last, seed, step, device)", "_hashes(0, last - first, seed, step, device)", "test_directions.py", k="in_pieces"),
    Mutant("gaussian directions: every step the same", "random_numbers.py", ".add_(start)", ".add_(0 * step)", "test_directions.py", k="seed_and_step"),
    Mutant("gaussian directions: every seed the same", "random_numbers.py", "_mixed(seed + _GAMMA)", "_mixed(_GAMMA)", "test_directions.py", k="seed_and_step"),
    Mutant("orthogonal: not Haar", D, "Q = Q * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)", "Q = Q.abs()", "test_directions.py", k="orthonormal"),
    Mutant("sobol: no shift", D, "^ shift.unsqueeze(-1)", "^ 0", "test_directions.py", k="seed_and_step"),
    Mutant("diagnostics: p-value from the wrong side", "diagnostics/gaussianity.py", "(null >= value)", "(null <= value)", "test_diagnostics.py", k="departures"),
    Mutant("arguments: an unknown backend of the functional form", "functional.py", "if backend not in BACKENDS:", "if False:", "test_regularizer.py", k="named"),
    Mutant("arguments: one statistic twice in a mix", U + "statistic.py", "m.settings for m in members[:i])", "m.settings for m in [])", "test_regularizer.py", k="named"),
    Mutant("arguments: a statistic of another shape", U + "statistic.py", "if tuple(values.shape) != expected:", "if False:", "test_regularizer.py", k="named"),
    Mutant("diagnostics: axes forgotten", "diagnostics/gaussianity.py", "torch.cat([ep, epps_pulley(z, weights=weights)])", "torch.cat([ep, 0 * epps_pulley(z)])", "test_diagnostics.py", k="worst_slice or departures"),
    Mutant("diagnostics: the weights of the null forgotten", "diagnostics/gaussianity.py", "_measure(z, A, w)[0])", "_measure(z, A)[0])", "test_diagnose.py", k="null_of_a_weighted"),
    Mutant("diagnostics: masked rows stay", "diagnostics/gaussianity.py", "checked(sample.x[sample.weights > 0]).float()", "checked(sample.x).float()[: int((sample.weights > 0).sum())]", "test_diagnose.py", k="equals_removing"),
    Mutant("reachable: the bias of a finite N forgotten", "diagnostics/reachable.py", "(1 - 1 / N) * modulus + 1 / N", "modulus", "test_diagnose.py", k="low_rank or rises"),
    Mutant("reachable: every slice the mean one", "diagnostics/reachable.py", "(log_terms + k * c.log() - c).exp().sum(-1)", "(-c.squeeze(-1) * rank / D).exp()", "test_diagnose.py", k="kummer or low_rank"),
    Mutant("rank: a finite N forgotten", "diagnostics/rank.py", "m * math.exp(-(m + 2) * (m - 1) / (2 * m * M))", "m", "test_diagnose.py", k="rank_behind"),
    Mutant("measured: what a finite N adds to the spectrum stays", "diagnostics/measured.py", "(squares - total**2 / n)", "squares", "test_diagnose.py", k="numbers_of_a_gaussian"),
    Mutant("measured: the mean of a normal sample's kurtosis is 3", "diagnostics/null.py", "kurtosis - 3 * (N - 1) / (N + 1)", "kurtosis - 3", "test_diagnose.py", k="scipys or numbers_of_a_gaussian"),
    Mutant("measured: offset without the number of rows", "diagnostics/measured.py", "f_z(N * self.mean / safe", "f_z(self.mean / safe", "test_diagnose.py", k="numbers_of_a_gaussian"),
    Mutant("findings: any two groups are clusters", "diagnostics/rules.py", "1.5 * SEPARATE", "0", "test_docs.py", k="printed and inspect"),
    Mutant("findings: tails are no reason for a low rank", "diagnostics/rules.py", "max(m.rank, m.rank_of_directions) if heavy(m) else m.rank", "m.rank", "test_diagnose.py", k="not_taken"),
    Mutant("findings: jumps between classes are steps", "diagnostics/rules.py", "m.smoothness > -0.35", "True", "test_diagnose.py", k="sorted_by_class"),
    Mutant("inspect: a pickle runs", "inspect/formats.py", "mmap=True, weights_only=not allow_pickle", "mmap=True, weights_only=False", "test_inspect.py", k="refused"),
    Mutant("inspect: an old pickle runs", "inspect/formats.py", '"cpu", weights_only=not allow_pickle', '"cpu", weights_only=False', "test_inspect.py", k="refused"),
    Mutant("inspect: only the rows kept are looked at", "inspect/files.py", "usable = piece.isfinite().all(1)", "usable = piece[:1].isfinite().all(1)", "test_inspect.py", k="not_finite"),
    Mutant("inspect: the exit status of healthy embeddings", "inspect/cli.py", "return HEALTHY if", "return NOT_HEALTHY if", "test_inspect.py", k="exit_status"),
    Mutant("lightly: the grid is dropped", A + "lightly/loss.py", "if isinstance(value, (_DefaultInt, _DefaultFloat)):", "if False:", "test_lightly.py", k="named_grid"),
    Mutant("lightly: t_max is dropped", A + "lightly/loss.py", 't_max=("t_max", t_max), num', 'num', "test_lightly.py", k="reach_any_form"),
    Mutant("lightly: every view is global", A + "lightly/loss.py", "], len(global_proj)", "], None", "test_lightly.py"),
    Mutant("monitor: only the last forward pass", A + "lightning.py", "diagnose_batch(calls,", "diagnose_batch(calls[-1:],", "test_monitor.py", k="enter_one_report"),
    Mutant("conventions: the distance of two views is that to their mean", "conventions.py", "size = 4 * size if", "size = 1 * size if", "test_conventions.py", k="stand_in"),
    Mutant("conventions: lightly's P + l S", "conventions.py", 'convention {source!r}")', 'convention {source!r}")\n    upper = float("inf")', "test_conventions.py", k="lightly"),
    Mutant("pooling: padding is averaged", A + "pooling.py", "torch.where(mask[..., None], hidden, 0.0).sum(1)", "hidden.sum(1)", "test_pooling.py"),
    Mutant("pooling: rows without a token count", A + "pooling.py", "clamp(min=1), mask.any(1)", "clamp(min=1), mask.any(1) | True", "test_pooling.py"),
    Mutant("transformers: Trainer divides SIGReg", A + "transformers.py", "share = share * parts", "share = share * 1", "test_adapters_transformers.py", k="accumulation"),
    Mutant("microbatches: attributes stay where the first pass moved them", "replay.py", "            vars(module).update(attributes)\n", "", X, k="attributes"),
    Mutant("microbatches: every buffer is written to", "replay.py", "and not torch.equal(buffer, value)", "", X, k="graph_that"),
    Mutant("a narrow step overflows", "random_numbers.py", "step.to(torch.int64) * 2**32", "step * 2**32", "test_regularizer.py", k="integer_dtype"),
    Mutant("one row over one process of a group", "adapters/sigreg_adapters/last_batch.py", "or resolve(group).size > 1", "or True", "test_last_batch.py"),
    Mutant("transformers: buffers stay where the first pass moved them", A + "transformers.py", "        called.restore()\n", "", "test_adapters_transformers.py", k="buffer"),
    Mutant("transformers: another dropout in the second pass", A + "transformers.py", "        set_random_state(state)\n", "", "test_adapters_transformers.py", k="dropout"),
    Mutant("transformers: no check of the second pass", A + "transformers.py", "if moved > DRIFT * size:", "if False:", "test_adapters_transformers.py", k="otherwise"),
    Mutant("transformers: the same directions in every step", A + "transformers.py", "z, weights_of_one_row(z, weights, self.sigreg.group), step=self.state.global_step", "z, weights, step=0", "test_adapters_transformers.py", k="directions"),
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
            path = copy / (mutant.file if mutant.file.startswith("adapters/") else f"sigreg/{mutant.file}")
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
