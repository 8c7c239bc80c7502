"""Training steps and kernels under torch.compile: one graph, the same numbers, few compilations."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from sigreg import LeJEPALoss, SIGReg, kernels
from sigreg.kernels import inductor
from sigreg.sample import Sample
from tests.kernel_cases import COMPILED, problem


@pytest.mark.long
def test_inductor_without_a_compiler_says_what_to_do():
    code = "import torch, sigreg\nsigreg.SIGReg(num_slices=4, backend='inductor')(torch.randn(5, 3))\n"
    environment = os.environ | {"CXX": "/no/such/compiler", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "RuntimeError: backend='inductor' could not compile here" in run.stderr


class Step(torch.nn.Module):
    """A training step as users write it: an encoder, views, the loss."""

    def __init__(self, **settings) -> None:
        super().__init__()
        self.encoder = torch.nn.Linear(6, 4)
        self.criterion = LeJEPALoss(sigreg=SIGReg(num_slices=8, **settings))

    def forward(self, views: Tensor) -> Tensor:
        return self.criterion(self.encoder(views))


@pytest.mark.parametrize("compiler", ["aot_eager", COMPILED])  # the first traces and generates no code
@pytest.mark.parametrize("backend", ["auto", "inductor"])
def test_a_whole_training_step_is_one_graph(backend, compiler):
    views, step = torch.randn(2, 10, 6), Step(backend=backend)
    plain = Step(backend="eager")
    plain.load_state_dict(step.state_dict())
    compiled = torch.compile(step, fullgraph=True, backend=compiler)
    for count in (1, 2):
        losses = compiled(views), plain(views)
        for loss in losses:
            loss.backward()
        assert_close(*losses, rtol=1e-5, atol=0)
        assert_close(step.encoder.weight.grad, plain.encoder.weight.grad, rtol=1e-4, atol=1e-6)
        assert int(step.criterion.sigreg.step) == count


@pytest.mark.long
def test_a_new_batch_size_costs_no_new_compilation():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    inductor._compiled.cache_clear()
    stats = torch._dynamo.utils.counters["stats"]
    for graphs, shapes in ((2, ((2, 20), (2, 21), (3, 35), (16, 9))), (4, ((1, 64), (1, 65)))):
        for V, N in shapes:
            z, A = problem(V, N, 5, 9)
            kernels.sliced_epps_pulley(Sample(z), A, backend="inductor").mean().backward()
        assert stats["unique_graphs"] == graphs, stats  # one forward, one backward; a size of 1 is special


@pytest.mark.long
def test_many_kinds_of_calls_stay_within_the_limit_of_compilations(monkeypatch):
    """Dynamo's guards without generated code: sizes of 1, masks and dtypes are compiled one by one."""
    torch._dynamo.reset()
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, options, **k: compile_(f, backend="eager", **k))
    inductor._compiled.cache_clear()
    calls = ((2, 64), False, True), ((2, 40), False, True), ((64,), False, False), ((2, 64), True, True)
    for shape, masked, train in (*calls, ((64,), True, True)):
        z = torch.randn(*shape, 8, requires_grad=train)
        sample = Sample(z, torch.rand(shape) < 0.8 if masked else None)
        value = kernels.sliced_epps_pulley(
            sample, torch.randn(8, 16), num_points=33, backend="inductor"
        ).sum()
        if train:
            value.backward()
    inductor._compiled.cache_clear()


def test_many_grids_fit_into_one_process(monkeypatch):
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, options, **kw: compile(f, **kw, backend="eager"))
    inductor._compiled.cache_clear()
    phi = torch.randn(5, 2, 6)
    for J in range(1, 12):  # torch.compile gives up at the ninth variant of one function
        assert inductor._run(inductor._products, phi, None, None, J=J).shape == (5, 2, 8 * J)
    inductor._compiled.cache_clear()
