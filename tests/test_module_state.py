"""SIGReg's state: activation checkpointing, averages of weights, deferred initialisation."""

from __future__ import annotations

import copy
import importlib

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from sigreg import SIGReg, regularizer
from sigreg.multivariate import exact_sigreg
from sigreg.sample import widest
from sigreg.univariate import STATISTICS
from tests.samples import normal64 as normal

# by name: the package has the function of this name
anderson = importlib.import_module("sigreg.univariate.anderson_darling")


def state(sigreg: SIGReg) -> list[int]:
    return sigreg.state_dict()["_extra_state"].tolist()


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("calls", [1, 3, 40])
def test_activation_checkpointing_takes_value_and_gradient_of_one_step(use_reentrant, calls) -> None:
    layer, plain_layer = (nn.Linear(6, 4).double() for _ in range(2))
    plain_layer.load_state_dict(layer.state_dict())
    ours, plain = SIGReg(num_slices=8), SIGReg(num_slices=8)
    inputs = [normal(12, 6, seed=i).requires_grad_() for i in range(calls)]
    # one call between them is not checkpointed, so that steps are not simply counted backwards
    losses = [checkpoint(lambda x: ours(layer(x)), x, use_reentrant=use_reentrant) for x in inputs]
    losses.append(ours(layer(inputs[0] + 1)))
    expected = [plain(plain_layer(x)) for x in (*inputs, inputs[0] + 1)]
    assert_close(losses, expected)
    sum(losses).backward()
    sum(expected).backward()
    assert_close(layer.weight.grad, plain_layer.weight.grad)
    assert state(ours) == state(plain) == [0, calls + 1]


class Reads(TorchDispatchMode):
    """Counts numbers that the host reads, for which it would wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_recomputation_never_reads_a_number_on_the_host(use_reentrant) -> None:
    sigreg, z = SIGReg(num_slices=8), normal(12, 6).requires_grad_()
    with Reads() as reads:
        checkpoint(sigreg, z, use_reentrant=use_reentrant).backward()
    assert reads.count == 0
    with reads:
        z.sum().item()
    assert reads.count == 1  # it sees one


def test_a_module_on_the_cpu_is_not_captured_in_a_cuda_graph(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with FakeTensorMode():
        z = torch.zeros(8, 3, device="cuda")
        with pytest.raises(RuntimeError, match="move it to the GPU before the capture"):
            SIGReg(num_slices=4)(z)
        assert SIGReg(num_slices=4).cuda()(z).device.type == "cuda"


def test_loading_a_state_keeps_the_tensor_that_a_cuda_graph_advances() -> None:
    sigreg = SIGReg(num_slices=4)
    step = sigreg.step
    sigreg.load_state_dict({"_extra_state": torch.tensor([5, 7])})
    assert sigreg.step is step
    assert state(sigreg) == [5, 7]


def test_a_named_step_takes_its_directions_and_advances_nothing() -> None:
    z, ours, stream = normal(12, 4), SIGReg(num_slices=8), SIGReg(num_slices=8)
    values = [stream(z) for _ in range(3)]
    for step in (2, torch.tensor(0), 1):
        assert_close(ours(z, step=step), values[int(step)])
    assert state(ours) == [0, 0]


def test_averages_of_weights_leave_seed_and_step_alone() -> None:
    model = nn.ModuleDict({"layer": nn.Linear(3, 3), "sigreg": SIGReg(num_slices=4, seed=3)})
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(3):
        model["sigreg"](normal(8, 3))
        ema.update_parameters(model)
    assert ema.module["sigreg"].seed == 3
    assert state(model["sigreg"]) == [3, 3]


def test_timm_s_averages_leave_the_seed_alone() -> None:
    utils = pytest.importorskip("timm.utils")
    model = nn.ModuleDict({"layer": nn.Linear(3, 3), "sigreg": SIGReg(num_slices=4, seed=3)})
    ema = utils.ModelEmaV2(model, decay=0.9)
    model["sigreg"](normal(8, 3))
    ema.update(model)
    assert ema.module["sigreg"].seed == 3


def test_a_module_from_the_meta_device_starts_at_step_0() -> None:
    with torch.device("meta"):
        sigreg = SIGReg(num_slices=4, seed=3)
    assert_close(sigreg(torch.empty(8, 3, device="meta")), torch.empty((), device="meta"))
    sigreg.to_empty(device="cpu")
    assert state(sigreg) == [3, 0]
    sigreg(normal(8, 3))
    sigreg.reset_parameters()
    assert state(sigreg) == [3, 0]


def test_second_derivatives_on_the_meta_device() -> None:
    with torch.device("meta"):
        sigreg, z = SIGReg(num_slices=4), torch.empty(8, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(sigreg(z), z, create_graph=True)
    assert gradient.is_meta
    assert gradient.requires_grad


def test_a_module_left_on_the_meta_device_is_an_error() -> None:
    with torch.device("meta"):
        sigreg = SIGReg(num_slices=4)
    for criterion in (sigreg, sigreg.eval()):
        with pytest.raises(RuntimeError, match=r"meta device, z on cpu; call to_empty\(device"):
            criterion(torch.zeros(8, 3))
    assert sigreg.to_empty(device="cpu")(torch.zeros(8, 3)) > 0


def test_a_checkpoint_loads_into_a_module_on_the_meta_device() -> None:
    source = SIGReg(num_slices=4, seed=5)
    source(normal(8, 3))
    with torch.device("meta"):
        target = SIGReg(num_slices=4)
    target.load_state_dict(source.state_dict(), assign=True)
    assert state(target) == [5, 1]
    assert_close(target(normal(8, 3)), source(normal(8, 3)))


@pytest.mark.parametrize("elsewhere", [lambda: torch.device("meta"), FakeTensorMode], ids=["meta", "fake"])
@pytest.mark.parametrize("kind", ["exact", "sobol", "anderson_darling"])
def test_a_call_without_data_leaves_later_calls_alone(elsewhere, kind) -> None:
    """Nothing that such a call computed may be kept for the next one (a D that no other test uses)."""
    D = {"exact": 43, "sobol": 44, "anderson_darling": 45}[kind]

    def value() -> Tensor:
        if kind == "exact":
            return exact_sigreg(torch.ones(6, D))
        if kind == "sobol":
            return SIGReg(num_slices=8, directions="sobol")(torch.ones(6, D))
        return SIGReg(kind, num_slices=8)(torch.ones(6, D))

    with elsewhere():
        value()
    assert value().isfinite()


def test_copies_and_conversions_keep_the_stream() -> None:
    sigreg = SIGReg(num_slices=4, seed=3)
    sigreg(normal(8, 3))
    copies = [copy.deepcopy(sigreg), copy.deepcopy(sigreg).half(), copy.deepcopy(sigreg).double()]
    expected = sigreg(normal(8, 3))
    for one in copies:
        assert_close(one(normal(8, 3)), expected, rtol=0, atol=0)


def test_a_seed_of_64_bits_has_a_checkpoint_that_continues_its_stream() -> None:
    z, ours, resumed = normal(12, 4), SIGReg(num_slices=8, seed=2**64 - 3), SIGReg(num_slices=8)
    ours(z)
    resumed.load_state_dict(ours.state_dict())
    assert state(resumed) == [-3, 1]
    assert_close(resumed(z), ours(z), rtol=0, atol=0)


class NoFloat64(TorchDispatchMode):
    """A device without float64, such as Apple's MPS, which raises for each such tensor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        assert not [x for x in tree_leaves(out) if isinstance(x, Tensor) and x.dtype == torch.float64], func
        return out


@pytest.mark.parametrize("statistic", STATISTICS)
def test_training_needs_no_float64_on_a_device_that_has_none(statistic, monkeypatch) -> None:
    assert [widest(torch.device(name)) for name in ("mps", "cuda")] == [torch.float32, torch.float64]
    for module in (regularizer, anderson):
        monkeypatch.setattr(module, "widest", lambda device: torch.float32)
    z = torch.randn(2, 32, 4, requires_grad=True)
    with NoFloat64():
        SIGReg(statistic, num_slices=8)(z).backward()
    assert z.grad.isfinite().all()
