"""Views that hold one valid row, or none."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from sigreg import SIGReg
from sigreg.directions import gaussian
from sigreg.functional import sigreg
from sigreg.sequences import SequenceSIGReg

BACKENDS = ["reference", "eager", "inductor"]


def value_and_gradient(z, A, weights, backend):
    z = z.detach().requires_grad_()
    value = sigreg(z, A, weights=weights, backend=backend, unbiased=True)
    return value.detach(), *torch.autograd.grad(value, z)


# One row leaves nothing to estimate an unbiased value from.  Its N is w (w / w^2), 1 up to rounding.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_single_row_of_any_weight_counts_for_nothing_when_unbiased(backend, dtype):
    z = torch.randn(99, 4, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    weights = torch.zeros(99, 4, dtype=dtype)
    weights[:, 1] = torch.arange(1, 100) / 100
    for one in (weights, weights > 0):
        value, grad = value_and_gradient(z, gaussian(3, 16, dtype=dtype), one, backend)
        assert value == 0
        assert not grad.any()


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_view_with_one_row_beside_full_ones_leaves_their_gradient(backend):
    z = torch.randn(3, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    A, mask = gaussian(4, 32, dtype=torch.float64), torch.ones(3, 8, dtype=torch.bool)
    mask[1, 1:] = False
    ours, theirs = (value_and_gradient(z, A, mask, name) for name in (backend, "reference"))
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, rtol=1e-12, atol=1e-13)  # sums of some hundred terms of order 1
    assert not ours[1][1].any()


def test_a_time_step_that_one_sequence_reaches_has_no_gradient_when_unbiased():
    z = torch.randn(8, 5, 6, requires_grad=True, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([5, 3, 3, 3, 3, 3, 3, 3])
    criterion = SequenceSIGReg(SIGReg(unbiased=True, num_slices=32))
    (grad,) = torch.autograd.grad(criterion(z, torch.arange(5) < lengths[:, None]), z)
    assert grad[:, :3].any()
    assert not grad[:, 3:].any()


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("backend", [*BACKENDS, "compiled"])
def test_no_rows_at_all_are_zero(backend, unbiased):
    def loss(z, A, weights):
        name = "auto" if backend == "compiled" else backend
        return sigreg(z, A, weights=weights, backend=name, unbiased=unbiased)

    if backend == "compiled":
        loss = torch.compile(loss, backend="aot_eager", fullgraph=True)
    z = torch.zeros(2, 0, 4, requires_grad=True)
    value = loss(z, gaussian(4, 16), torch.ones(2, 0, dtype=torch.bool))
    value.backward()
    assert value == 0
    assert z.grad.shape == z.shape


def test_no_direction_is_an_error():
    with pytest.raises(ValueError, match=r"K >= 1, got \(4, 0\)"):
        sigreg(torch.randn(8, 4), torch.empty(4, 0))


TRITON = """
import torch
from sigreg.directions import gaussian
from tests.test_few_rows import value_and_gradient
z = torch.randn(99, 4, 3)
weights = torch.zeros(99, 4)
weights[:, 1] = torch.arange(1, 100) / 100
for one in (weights, weights > 0):
    value, grad = value_and_gradient(z, gaussian(3, 16), one, "triton")
    assert value == 0 and not grad.any()
"""


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")
def test_a_single_row_counts_for_nothing_in_triton_s_interpreter():
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", TRITON], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
