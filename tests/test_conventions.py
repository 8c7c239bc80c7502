"""Lambdas of other implementations: the table of conventions, computed from their own formulas."""

import pytest
import torch
from test_regularizer import embeddings

from sigreg.conventions import _SUMS, CONVENTIONS, convert_lambda
from sigreg.univariate import epps_pulley

V, N, D = 8, 256, 64


def gradients() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Of each convention's prediction and regularizer in z, all on the reference grid.

    Views drawn from one distribution, away from N(0, I), so that pooling them changes nothing else.
    """
    z = (embeddings(V, N, D) * 0.5).double().requires_grad_()
    prediction = (z - z.mean(0)).square().sum((0, 2)).mean() / V  # summed over D
    per_view = epps_pulley(z @ torch.eye(D, dtype=z.dtype)).mean()
    pooled = epps_pulley(z.reshape(V * N, D)).mean()
    grad = lambda value: torch.autograd.grad(value, z, retain_graph=True)[0].flatten()  # noqa: E731
    mean, summed = grad(prediction / D), grad(prediction)
    return {
        "sigreg": (mean, grad(per_view)),
        "lightly": (mean, grad(per_view)),
        "minimal": (mean, grad(per_view)),
        "paper": (summed, grad(per_view)),
        "stable-pretraining": (mean, grad(pooled)),
        "stable-worldmodel": (mean, grad(per_view)),
        "le-wm": (mean, grad(per_view)),
        "dl_techniques": (mean, grad(per_view / N)),
        "eb_jepa": (4 * mean, grad(per_view / N)),  # two views' distance to each other, not to their mean
    }


@pytest.mark.parametrize("target", CONVENTIONS)
def test_converted_lambdas_balance_the_two_gradients_alike(target):
    parts = gradients()

    def balance(name: str, value: float) -> torch.Tensor:
        prediction, sigreg = parts[name]
        weight = 1.0 if name in _SUMS else 1 - value
        return value * sigreg.norm() / (weight * prediction.norm())

    converted = convert_lambda(0.05, "sigreg", target, N=N, D=D, V=V)
    # pooling V views is V times one view but for the O(1/N) bias of a finite sample: 6 % here
    tolerance = 0.06 if target == "stable-pretraining" else 1e-6
    torch.testing.assert_close(balance(target, converted), balance("sigreg", 0.05), rtol=tolerance, atol=0)


def test_the_values_of_one_batch_stand_as_the_field_reports_them():
    """lightly 39.0, stable-pretraining 309, eb_jepa 0.152 on V=8, N=256, D=64, sd 0.5 (random slices)."""
    from sigreg import SIGReg

    z = embeddings(V, N, D) * 0.5
    per_view = SIGReg().eval()(z)
    pooled = SIGReg().eval()(z.reshape(V * N, D))
    torch.testing.assert_close(per_view, torch.tensor(39.0), rtol=0.03, atol=0)
    torch.testing.assert_close(pooled, torch.tensor(309.0), rtol=0.03, atol=0)
    torch.testing.assert_close(per_view / N, torch.tensor(0.152), rtol=0.03, atol=0)


@pytest.mark.parametrize("source", CONVENTIONS)
@pytest.mark.parametrize("target", CONVENTIONS)
def test_there_and_back_is_the_identity(source, target):
    sizes = {"N": 128, "D": 32, "V": 4}
    there = convert_lambda(0.02, source, target, **sizes)
    assert convert_lambda(there, target, source, **sizes) == pytest.approx(0.02, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((0.1, "sigreg", "dino"), "dino"),
        ((1.0, "sigreg", "lightly"), "lambda=1.0"),
        ((-0.1, "eb_jepa", "sigreg"), "N="),
        ((0.1, "paper", "sigreg"), "D="),
        ((0.1, "sigreg", "stable-pretraining"), "V="),
    ],
)
def test_bad_conversions_are_named(arguments, says):
    with pytest.raises(ValueError, match=says):
        convert_lambda(*arguments)
