"""SIGReg under torch.func, torch.compile, torch.export and higher derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from sigreg import SIGReg
from sigreg.directions import DIRECTIONS, Subspaces
from sigreg.functional import sigreg
from sigreg.univariate import STATISTICS
from tests.samples import normal64 as normal

# torch's own decompositions, imported by jvp, are scripted
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")

CHOICES = {**{name: name for name in STATISTICS}, "mix": {"epps_pulley": 1.0, "vcreg": 0.1}}
every_choice = pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
KINDS = {**DIRECTIONS, "subspaces": Subspaces(2)}
every_kind = pytest.mark.parametrize("kind", KINDS)
weighted = pytest.mark.parametrize("weights", [None, torch.arange(9) < 7], ids=["plain", "masked"])


def problem(kind: str = "gaussian") -> tuple[Tensor, Tensor]:
    return normal(2, 9, 4), KINDS[kind](4, 6, dtype=torch.float64)


def plain_gradient(z: Tensor, A: Tensor, **settings) -> Tensor:
    z = z.detach().requires_grad_()
    return torch.autograd.grad(sigreg(z, A, **settings), z)[0]


@every_choice
@every_kind
@weighted
def test_torch_func_grad_and_vmap(choice, kind, weights) -> None:
    z, A = problem(kind)
    settings = {"statistic": choice, "weights": weights}
    assert_close(torch.func.grad(lambda z: sigreg(z, A, **settings))(z), plain_gradient(z, A, **settings))
    by_view = torch.func.vmap(lambda z: sigreg(z, A, **settings))(z)
    assert_close(by_view, torch.stack([sigreg(v, A, **settings) for v in z]))
    per_view = torch.func.vmap(torch.func.grad(lambda z: sigreg(z, A, **settings)))(z)
    assert_close(per_view, torch.stack([plain_gradient(v, A, **settings) for v in z]))


@every_choice
def test_torch_func_in_the_directions(choice) -> None:
    z, A = problem()
    A.requires_grad_()
    (expected,) = torch.autograd.grad(sigreg(z, A, statistic=choice), A)
    assert_close(torch.func.grad(lambda A: sigreg(z, A, statistic=choice))(A.detach()), expected)


@every_choice
def test_torch_func_jvp_and_hessian(choice) -> None:
    z, A = problem()
    z, tangent = z[0], normal(9, 4, seed=1)

    def value(z: Tensor) -> Tensor:
        return sigreg(z, A, statistic=choice)

    _, derivative = torch.func.jvp(value, (z,), (tangent,))
    assert_close(derivative, (plain_gradient(z, A, statistic=choice) * tangent).sum())
    hessian = torch.func.hessian(value)(z)
    assert_close(torch.func.jacrev(torch.func.grad(value))(z), hessian)
    assert_close(torch.autograd.functional.hessian(value, z), hessian)


QUICK = ("epps_pulley", "anderson_darling", "mix")  # tracing takes seconds; the others are behind `-m long`
traced = pytest.mark.parametrize(
    "choice",
    [pytest.param(c, id=n, marks=() if n in QUICK else pytest.mark.long) for n, c in CHOICES.items()],
)


@traced
@weighted
def test_one_graph_for_any_batch_size(choice, weights) -> None:
    """backend="aot_eager" traces forward and backward as "inductor" does, without generating code."""
    torch._dynamo.reset()
    ours, plain = (SIGReg(choice, num_slices=6) for _ in range(2))
    compiled = torch.compile(ours, fullgraph=True, dynamic=True, backend="aot_eager")
    for N in (9, 12):
        z = normal(2, N, 4)
        w = None if weights is None else torch.arange(N) < N - 2
        losses, grads = [], []
        for module in (compiled, plain):
            x = z.clone().requires_grad_()
            losses.append(module(x, w))
            grads.append(torch.autograd.grad(losses[-1], x)[0])
        assert_close(*losses)
        assert_close(*grads)
    assert int(ours.step) == int(plain.step) == 2


@traced
def test_the_functional_form_is_one_graph_and_is_exported(choice) -> None:
    torch._dynamo.reset()

    class Pure(torch.nn.Module):
        def forward(self, z: Tensor, A: Tensor) -> Tensor:
            return sigreg(z, A, statistic=choice)

    z, A = problem()
    expected = sigreg(z, A, statistic=choice)
    assert_close(torch.compile(Pure(), fullgraph=True, backend="aot_eager")(z, A), expected)
    assert_close(torch.export.export(Pure(), (z, A), strict=True).module()(z, A), expected)


@every_kind
def test_one_graph_for_every_kind_of_directions(kind) -> None:
    torch._dynamo.reset()
    z = normal(2, 9, 4)
    ours, plain = (SIGReg(num_slices=6, directions=KINDS[kind]) for _ in range(2))
    compiled = torch.compile(ours, fullgraph=True, dynamic=True, backend="aot_eager")
    for _ in range(2):
        assert_close(compiled(z), plain(z))


def test_one_graph_with_a_memory_and_torch_func_with_a_named_step() -> None:
    torch._dynamo.reset()
    ours, plain = (SIGReg(num_slices=6, memory=10) for _ in range(2))
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for seed in range(3):
        z = normal(2, 9, 4, seed=seed)
        assert_close(compiled(z), plain(z))
    z = normal(2, 9, 4, seed=3).requires_grad_()
    (expected,) = torch.autograd.grad(plain(z, step=0), z)
    assert_close(torch.func.grad(lambda z: plain(z, step=0))(z.detach()), expected)


@traced
def test_export_of_a_module_in_eval_mode(choice) -> None:
    module, z = SIGReg(choice, num_slices=6).eval(), normal(2, 9, 4)
    assert_close(torch.export.export(module, (z,)).module()(z), module(z))


@every_kind
def test_export_of_every_kind_of_directions(kind) -> None:
    module, z = SIGReg(num_slices=6, directions=KINDS[kind]).eval(), normal(2, 9, 4)
    assert_close(torch.export.export(module, (z,)).module()(z), module(z))


@every_choice
@every_kind
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(choice, kind, use_reentrant) -> None:
    ours, plain = (SIGReg(choice, num_slices=6, directions=KINDS[kind]) for _ in range(2))
    for _ in range(2):
        z, theirs = (normal(2, 9, 4).requires_grad_() for _ in range(2))
        values = checkpoint(ours, z, use_reentrant=use_reentrant), plain(theirs)
        for value in values:
            value.backward()
        assert_close(*values)
        assert_close(z.grad, theirs.grad)
    assert int(ours.step) == int(plain.step) == 2


def test_a_module_in_training_mode_says_why_torch_func_cannot_run_it() -> None:
    module, z = SIGReg(num_slices=6), normal(9, 4)
    with pytest.raises(RuntimeError, match="pass step=, use eval mode"):
        torch.func.grad(module)(z)
    assert_close(torch.func.grad(lambda z: module(z, step=0))(z), torch.func.grad(module.eval())(z))
