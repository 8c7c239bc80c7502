"""The Triton kernels in Triton's interpreter, and where they are used; on a GPU test_gpu.py runs them."""

import importlib.util
import os
import subprocess
import sys
import types
import warnings

import pytest
import torch

from sigreg import SIGReg, kernels
from sigreg.kernels import choice

TRITON = """
import torch
from sigreg import kernels
from sigreg.sample import Sample
from tests.kernel_cases import assert_near, problem, reference

def sliced(z, A, weights=None, **settings):
    return kernels.sliced_epps_pulley(Sample(z, weights), A, backend="triton", **settings).mean()

for shape, settings in (
    ((1, 16, 16, 16), {}),
    ((3, 41, 7, 21), {"num_points": 6, "unbiased": True}),
    ((2, 33, 20, 40), {"num_points": 9, "t_max": 4.0}),
):
    z, A = problem(*shape)
    got = sliced(z, A, **settings)
    (grad,) = torch.autograd.grad(-2 * got, z)
    value, expected = reference(z, A, **settings)
    assert_near(got, grad, (value, -2 * expected), scale=1.0)

z, A = problem(3, 41, 7, 21)
mask = torch.rand(3, 41) > 0.4
masked = torch.where(mask[..., None], z.detach(), torch.nan).requires_grad_()
values = kernels.sliced_epps_pulley(Sample(masked, mask), A, backend="triton")
(grad,) = torch.autograd.grad(values.sum(), masked)
for v in range(3):
    value, expected = reference(z[v : v + 1, mask[v]], A)
    assert_near(values[v], grad[v, mask[v]], (value, expected[0]))
assert not grad[~mask].any()

weights = torch.rand(3, 41)
got = sliced(z, A, weights)
(grad,) = torch.autograd.grad(got, z)
exact = z.detach().double().requires_grad_()
value = kernels.sliced_epps_pulley(Sample(exact, weights), A.double(), backend="reference").mean()
assert_near(got, grad, (value.detach(), *torch.autograd.grad(value, exact)))

wide = torch.randn(41, 2, 14, requires_grad=True)
z, A = wide.transpose(0, 1)[..., ::2], problem(K=21)[1]
got = sliced(z, A)
(grad,) = torch.autograd.grad(got, wide)
assert_near(got, grad.transpose(0, 1)[..., ::2], reference(z, A))

assert torch.equal(got, sliced(z, A))

from sigreg.kernels import choice
torch.cuda.is_current_stream_capturing = lambda: False  # which needs a driver
assert choice._triton_works(torch.device("cpu"))  # the trial before the first use

# Over ranks, and with directions that require grad, the sums and the gradient are two calls.
for other in (None, torch.rand(3, 41)):
    z, A = problem(3, 41, 7, 21)
    A = A.detach().requires_grad_()
    gC, gS = torch.randn(2, 3, 21, 16)
    results = []
    for backend in ("triton", "reference"):
        C, S = kernels.ecf_sums(z, A, other, 3.0 / 16, 16, backend)
        results.append((C, S, *torch.autograd.grad((C * gC).sum() + (S * gS).sum(), (z, A))))
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()

# Selective checkpointing keeps the results of matrix products; no kernel may write into one.
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
aten = torch.ops.aten
products = {aten.mm.default, aten.bmm.default}
def policy(context, op, *args, **kwargs):
    return CheckpointPolicy.MUST_SAVE if op in products else CheckpointPolicy.PREFER_RECOMPUTE
W = torch.randn(8, 7, requires_grad=True)
x, A = torch.randn(2, 40, 8), problem(K=21)[1]
plain = sliced(x @ W, A)
contexts = lambda: create_selective_checkpoint_contexts(policy)
kept = checkpoint(lambda: sliced(x @ W, A), use_reentrant=False, context_fn=contexts)
assert torch.equal(*(torch.autograd.grad(loss, W)[0] for loss in (plain, kept)))

# Where the projections of all views do not fit, views are taken in turn.
from sigreg.kernels import triton as ours
z, A = problem(3, 41, 7, 21)
for w in (None, weights):
    whole = sliced(z, A, w)
    ours._LARGEST = 41 * 21
    in_turn = sliced(z, A, w)
    ours._LARGEST = 1 << 28
    for a, b in zip(*((v, *torch.autograd.grad(v, z)) for v in (whole, in_turn)), strict=True):
        assert (a - b).norm() <= 1e-6 * a.norm()
"""


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")
def test_triton_s_interpreter_agrees_with_the_reference():
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", TRITON], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_triton_off_the_gpu_says_what_to_do():
    with pytest.raises(
        RuntimeError, match=r"backend='triton' (needs triton|takes float32 embeddings on a GPU)"
    ):
        SIGReg(backend="triton", num_slices=4)(torch.randn(5, 3))


@pytest.fixture
def tried(monkeypatch):
    """Puts `kernel` in the place of Triton's for the trial; None: Triton cannot be imported."""

    def install(kernel=lambda *_: (torch.tensor([0.8041]), None)):
        ours = types.SimpleNamespace(value_and_gradient=kernel) if kernel else None
        directions = types.SimpleNamespace(gaussian=lambda out, *_: torch.ones_like(out))
        for name, module in (("triton", ours), ("triton_directions", directions)):
            monkeypatch.setitem(sys.modules, f"sigreg.kernels.{name}", module)
            monkeypatch.setattr(kernels, name, module, raising=False)
        if ours is None:
            monkeypatch.delattr(kernels, "triton")

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    choice._triton_works.cache_clear()
    yield install
    choice._triton_works.cache_clear()


@pytest.mark.parametrize(
    ("kernel", "why"),
    [(None, "ModuleNotFoundError"), (lambda *_: (torch.tensor([7.0]), None), "it gives 7.0")],
)
def test_a_gpu_without_a_working_triton_is_a_warning_and_eager(kernel, why, tried):
    tried(kernel)
    device = torch.device("cpu")
    with pytest.warns(UserWarning, match=f"slower backend='eager': .*{why}"):
        assert not choice._triton_works(device)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not choice._triton_works(device)


def test_the_first_call_is_not_in_a_cuda_graph(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="before you capture"):
        choice._triton_works(torch.device("cpu"))


def test_triton_is_tried_in_float32_whatever_the_default_and_autocast(tried):
    found = []

    def kernel(z, A, *_):
        found.append((z.dtype, A.dtype, (z @ A).dtype))
        return torch.tensor([0.8041]), None

    tried(kernel)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert choice._triton_works(torch.device("cpu"))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == [(torch.float32,) * 3]
