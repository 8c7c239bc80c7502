"""What is checked on one process.  Each check takes the copy and its convention and gives one row."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sigreg.conformance.oracle import FIT, Convention, fitted, samples
from sigreg.conformance.report import ABSENT, FAULT, NOTE, OK, Row
from sigreg.conformance.target import Target
from sigreg.directions import gaussian

HALF = 3e-4  # relative; float32 inside is 1e-6, a count or a loss rounded to bfloat16 is 2e-3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def value(copy: Target) -> tuple[Row, Convention]:
    """The statistic itself, at D = 1, where random directions make no difference."""
    values = [float(copy(x).detach()) for x in samples()]
    convention = fitted(values)
    if convention.error < FIT:
        return Row("value", f"Epps-Pulley, {convention}; off by {convention.error:.0e} at most"), convention
    again = float(copy(samples()[0]).detach())
    if abs(again - values[0]) > FIT * abs(values[0]):
        why = "differs from call to call at D = 1: its directions are not of unit length, or it is noisy"
    else:
        why = f"Epps-Pulley on no known grid; nearest is {convention}, off by {convention.error:.2g}"
    return Row("value", why, FAULT), convention


def gradient(copy: Target, convention: Convention) -> Row:
    """Against the definition's, with an upstream gradient of 3."""
    x = (1.5 * normal(48, 1, seed=3) + 0.3).requires_grad_()
    loss = copy(x)
    if not loss.requires_grad:
        return Row("gradient", "the value carries no gradient", FAULT)
    (found,) = torch.autograd.grad(3 * loss, x)
    exact = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(3 * convention.value(exact), exact)
    error = float((found.double() - expected).abs().max() / expected.abs().max())
    if error < 10 * FIT:
        return Row("gradient", f"the definition's; off by {error:.0e} at most")
    ratio = float((found.double() * expected).sum() / expected.square().sum())
    return Row("gradient", f"{ratio:.3g} times the definition's, off by {error:.2g} of the largest", FAULT)


def sensitivity(copy: Target) -> Row:
    """A regularizer must object to a scale other than 1 and to a mean other than 0."""
    z = normal(256, 8)
    base = _mean(copy, z)
    changes = {"scale 1/10": z / 10, "scale 2": 2 * z, "shift 2": z + 2}
    values = {name: _mean(copy, changed) for name, changed in changes.items()}
    ratios = {
        name: value / base if base else math.inf * value for name, value in values.items()
    }  # NaN: 0 / 0
    found = (
        ", ".join(f"{name}: {ratio:.3g}" for name, ratio in ratios.items()) + " times the Gaussian's value"
    )
    blind = [name for name, ratio in ratios.items() if not ratio > 2]
    if not blind:
        return Row("scale, shift", found)
    return Row("scale, shift", f"{found}: blind to {' and '.join(blind)}", FAULT)


def collapse(copy: Target, convention: Convention | None) -> Row:
    """The value of N equal embeddings at the origin: 0.40205 N on the default grid."""
    N = 128
    found, gaussian_value = float(copy(torch.zeros(N, 8)).detach()), _mean(copy, normal(N, 8))
    if not found > gaussian_value:
        words = f"{found:.4g} at full collapse, {gaussian_value:.4g} at N(0, I): it rewards collapse"
        return Row("collapse", words, FAULT)
    if convention is None:
        return Row("collapse", f"{found:.5g} at N = {N}, {gaussian_value:.3g} at N(0, I)")
    per_sample = found / (convention.scale * N**convention.power)
    expected = float(convention.grid.distance(torch.zeros(N, dtype=torch.float64)))
    words = f"{found:.5g} at N = {N}: {per_sample:.5f} N in units of the statistic"
    if convention.power == 0:
        words = f"{found:.5g}, whatever N: {per_sample:.5f} in units of the statistic without N"
    return Row("collapse", words, FAULT if abs(per_sample / expected - 1) > FIT else OK)


def directions(copy: Target, convention: Convention) -> Row:
    """The mean over slices against 1,024 directions of our own, on a strongly anisotropic sample."""
    z = normal(48, 12, seed=5) * torch.linspace(0.2, 1.6, 12) + torch.linspace(-0.4, 0.8, 12)
    A = gaussian(12, 1024, seed=1, dtype=torch.float64)
    x = z.double() @ A
    expected = torch.stack([convention.value(column) for column in x.T]).mean()
    state = torch.get_rng_state()
    values = [float(copy(z).detach()) for _ in range(8)]
    source = (
        "the global generator" if not torch.equal(state, torch.get_rng_state()) else "a stream of its own"
    )
    torch.set_rng_state(state)
    ratio = sum(values) / len(values) / float(expected)
    fresh = "new at each call" if len(set(values)) > 1 else "the same at each call"
    words = f"mean {ratio:.3f} of the exact one; {fresh}, from {source}"
    # 1024 directions scatter by 2 %, 64 by 6 %; half a sphere, or lengths other than 1, are off by far more
    return Row("directions", words, FAULT if abs(ratio - 1) > 0.25 else OK)


def half(copy: Target, convention: Convention, dtype: torch.dtype) -> Row:
    """Under autocast, with embeddings already rounded: the arithmetic inside and the count of samples."""
    name = "bfloat16" if dtype == torch.bfloat16 else "float16"
    wrong, worst = [], 0.0
    for x in (normal(1030, 1, seed=2), torch.zeros(1030, 1), 0.1 * normal(1030, 1, seed=4)):
        x = x.to(dtype).requires_grad_()
        try:
            with torch.autocast("cpu", dtype):
                loss = copy(x)
            loss.backward()  # type: ignore[no-untyped-call]
        except Exception as error:  # a copy may check its input in any way
            return Row(name, _raised(error), FAULT)
        expected = float(convention.value(x.detach()))
        worst = max(worst, abs(float(loss.detach()) / expected - 1))
        if loss.dtype in (torch.bfloat16, torch.float16):
            wrong.append(f"the loss is returned in {str(loss.dtype)[6:]}")
        if x.grad is None or not x.grad.isfinite().all():
            wrong.append("the gradient is not finite")
    if not worst < HALF:
        wrong.append("float32 inside would give 1e-6")
    return Row(name, "; ".join([f"value off by {worst:.0e}", *dict.fromkeys(wrong)]), FAULT if wrong else OK)


def masks(copy: Target, convention: Convention) -> Row:
    """Masked rows must count as if they were not there, whatever they hold."""
    if copy.mask is None:
        return Row("masks", "takes none", ABSENT)
    x, mask = normal(40, 1, seed=6), torch.arange(40) % 3 > 0
    x[~mask] = 50.0
    expected = float(convention.value(x[mask]))
    try:
        found = float(copy.masked(x, mask).detach())
    except Exception as error:
        return Row("masks", _raised(error, f"{copy.mask}= with one bool a row "), FAULT)
    if abs(found / expected - 1) > FIT:
        return Row(
            "masks", f"{copy.mask}= gives {found / expected:.4g} of the value of the valid rows", FAULT
        )
    x[~mask] = float("nan")
    if not copy.masked(x, mask).detach().isfinite():
        return Row(
            "masks", f"{copy.mask}= equals removing the rows, but NaN in a masked row comes through", NOTE
        )
    return Row("masks", f"{copy.mask}= equals removing the rows; NaN in a masked row is not seen")


def axes(copy: Target, convention: Convention, is_loss: bool) -> Row:
    """Of a tensor (T, N, D), T in front: is the sample axis N, as it should be, or T, or both pooled?"""
    if is_loss or not copy.takes_stack:
        why = (
            "a loss over views: see lambda" if is_loss else "takes (N, D) only, or views as separate tensors"
        )
        return Row("time axis", why, ABSENT)
    T, N = 24, 56
    x = normal(T, N, 1, seed=8) * torch.linspace(0.5, 2.0, T)[:, None, None]
    x = x + torch.linspace(-1, 1, N)[:, None]
    found = float(copy.stacked(x).detach())
    if abs(found / _average([convention.value(row) for row in x]) - 1) < FIT:
        return Row("time axis", "dimension -2 is the sample: each time step of (T, N, D) by itself, averaged")
    if abs(found / float(convention.value(x)) - 1) < FIT:
        return Row("time axis", "time and batch of (T, N, D) are pooled into one sample", NOTE)
    along_time = _average([convention.value(column) for column in x.transpose(0, 1)])
    # A mean over the wrong axis may still be multiplied by the length of the right one, or summed.
    for factor in (1.0, N / T, T / N, float(N), float(T)):
        if abs(found / (factor * along_time) - 1) < FIT:
            words = "the sample axis of (T, N, D) is the FIRST one: each sequence is tested along its time"
            return Row("time axis", words, FAULT)
    return Row("time axis", "(T, N, D) is accepted, but tested along no axis of it", FAULT)


def objective(copy: Target, convention: Convention) -> Row:
    """How a whole loss weighs its prediction term P, the mean squared distance to the views' mean."""
    if copy.style == "f(z), z (N, D)":
        return Row("lambda", "a regularizer alone: no lambda", ABSENT)
    draws = [(normal(64, 1, seed=s), (0.6 + 0.2 * s) * normal(64, 1, seed=s + 50) - 0.3) for s in range(6)]
    found = torch.tensor([float(copy(*views).detach()) for views in draws], dtype=torch.float64)
    P = torch.tensor([float((a - b).square().mean() / 4) for a, b in draws], dtype=torch.float64)
    unit = Convention(1.0, convention.power, convention.grid, 0.0).value
    forms = {
        "averages S over the views": [(unit(a) + unit(b)) / 2 for a, b in draws],
        "pools the views into one sample": [unit(torch.cat(views)) for views in draws],
    }
    fits = []
    for words, S in forms.items():
        columns = torch.stack([P, torch.stack(S)], dim=1)
        weights = torch.linalg.lstsq(columns, found[:, None]).solution.flatten()
        fits.append((float((columns @ weights - found).abs().max() / found.abs().max()), words, weights))
    error, words, (a, b) = min(fits, key=lambda fit: fit[0])
    if error > 10 * FIT:
        return Row("lambda", f"no sum of a prediction term and the statistic (off by {error:.1g})", FAULT)
    if abs(a) < 10 * FIT:
        return Row("lambda", f"no prediction term; {words}", ABSENT)
    if abs(a + b - 1) < 10 * FIT:
        return Row("lambda", f"(1 - lambda) P + lambda S, lambda = {b:.4g}; {words}; P over {_width(copy)}")
    factor = "" if abs(a - 1) < 10 * FIT else f"{a:.4g} "
    if abs(a - 4) < 10 * FIT and "z1, z2" in copy.style:
        words += "; 4 P is the squared distance between the two views"
    return Row("lambda", f"{factor}P + lambda S, lambda = {b:.4g}; {words}; P over {_width(copy)}")


def _raised(error: Exception, what: str = "") -> str:
    """One line about a copy that raised."""
    return f"{what}raises {str(error) or type(error).__name__}".splitlines()[0][:120]


def _width(copy: Target) -> str:
    """Is P a mean or a sum over D?  Far from the origin P dominates the loss, because S is bounded."""
    values = []
    for D in (1, 8):
        z = 1e3 * normal(32, D, seed=9)
        values.append(float(copy(z, -z).detach()) / float(z.square().mean()))
    return "D is a sum" if values[1] / values[0] > 4 else "D is a mean"


def _mean(copy: Target, z: Tensor, calls: int = 4) -> float:
    return sum(float(copy(z).detach()) for _ in range(calls)) / calls


def _average(values: list[Tensor]) -> float:
    return float(torch.stack(values).mean())
