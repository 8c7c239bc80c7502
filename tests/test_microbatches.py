"""A batch in parts is one batch: `backward` leaves what the unsplit step leaves, with the memory of one."""

from __future__ import annotations

import copy
import functools
import re
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pool import on_ranks
from test_distributed import WIDTH, Problem, error_of
from test_distributed_training import fit_with_lightning
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.testing import assert_close

from benchmarks import accumulation
from benchmarks.kernel_count import KernelCount
from sigreg import LeJEPALoss, SIGReg, replay
from sigreg.microbatches import backward
from sigreg.multivariate import exact_sigreg

DOCUMENT = (Path(__file__).parents[1] / "docs" / "accumulation.md").read_text()
EXACT = {"rtol": 1e-10, "atol": 1e-10}  # float64: the parts of a sum are added in another order


def network(norm: type[nn.Module] = nn.LayerNorm, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Linear(WIDTH, 7), norm(7), nn.GELU(), nn.Dropout(dropout), nn.Linear(7, 4)
    return nn.Sequential(*layers).double()


def batch(V: int, N: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(V, N, WIDTH, dtype=torch.float64, generator=generator)


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def views(model: nn.Module, x: Tensor) -> list[Tensor]:
    return [model(view) for view in x]


def joined(model: nn.Module, parts: Any) -> list[Tensor]:
    """The views of all parts with their graphs: what the memory of one part does not hold."""
    return [torch.cat(of_view) for of_view in zip(*(views(model, part) for part in parts), strict=True)]


def two_terms(z: list[Tensor]) -> dict[str, Tensor]:
    """A host's loss with SIGReg beside it."""
    pairs = torch.nn.functional.cross_entropy(z[0] @ z[-1].T, torch.arange(len(z[0])))
    sigreg = SIGReg("moments", num_slices=8)(torch.stack(z))
    return {"sigreg": sigreg, "loss": pairs + 0.1 * sigreg}


CRITERIA = {
    "lejepa": LeJEPALoss(0.3, SIGReg(num_slices=8)).eval(),
    "order": LeJEPALoss(0.3, SIGReg("watson", num_slices=8)).eval(),
    "exact": lambda z: exact_sigreg(torch.stack(z)).mean(),
    "two terms": two_terms,
}
splits = st.lists(st.integers(1, 6), min_size=1, max_size=5).filter(lambda split: sum(split) > 1)


def loss_of(result: Any) -> Tensor:
    return result["loss"] if isinstance(result, dict) else result


@settings(max_examples=40)
@given(split=splits, V=st.integers(1, 3), name=st.sampled_from(sorted(CRITERIA)), seed=st.integers(0, 999))
def test_gradients_of_any_split_are_those_of_the_unsplit_batch(split, V, name, seed):
    x, criterion = batch(V, sum(split), seed), CRITERIA[name]
    whole, parted = network(), network()
    expected = loss_of(criterion(views(whole, x)))
    expected.backward()
    result = backward(criterion, functools.partial(views, parted), x.split(split, dim=1))
    assert_close(loss_of(result), expected.detach(), **EXACT)
    assert not loss_of(result).requires_grad
    assert_close(gradients(parted), gradients(whole), **EXACT)


@given(split=splits, seed=st.integers(0, 999))
def test_with_batchnorm_and_dropout_it_is_the_batch_whose_parts_were_encoded_one_by_one(split, seed):
    split = [n + 1 for n in split]  # BatchNorm takes no sample of one
    parts = batch(2, sum(split), seed).split(split, dim=1)
    results = []
    for ours in (False, True):
        model, criterion = network(nn.BatchNorm1d, dropout=0.4), LeJEPALoss(0.3, SIGReg(num_slices=8))
        torch.manual_seed(seed)
        if ours:
            backward(criterion, lambda part: views(model, part), parts)  # noqa: B023
        else:
            criterion(joined(model, parts)).backward()
        state = {**model.state_dict(), **criterion.state_dict()}
        results.append((gradients(model), state, torch.rand(3)))
    assert_close(results[1], results[0], **EXACT)


def test_the_mean_of_microbatches_is_another_objective():
    """One draw of docs/accumulation.md: z = 0.8 N(0, I), N = 256, D = 64; there the mean ratio is 4.2."""
    z = 0.8 * torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    sigreg = SIGReg().eval()
    whole, mean = sigreg(z), torch.stack([sigreg(part) for part in z.split(32)]).mean()
    assert whole > 3 * mean
    assert_close(backward(sigreg, nn.Identity(), [p.requires_grad_() for p in z.split(32)]), whole)


def test_gradients_add_to_those_that_are_there_and_clipping_comes_after():
    model, x = network(), batch(2, 12)
    criterion = LeJEPALoss(sigreg=SIGReg(num_slices=8)).eval()
    backward(criterion, model, x.split(4, dim=1))
    once = gradients(model)
    backward(criterion, model, x.split(5, dim=1))
    assert_close(gradients(model), 2 * once, **EXACT)
    assert_close(nn.utils.clip_grad_norm_(model.parameters(), 0.1), 2 * once.norm())


def test_the_components_of_the_loss_come_back_for_logging():
    model, x = network(), batch(2, 12)
    loss = LeJEPALoss(sigreg=SIGReg(num_slices=8)).eval()
    result = backward(loss.components, model, x.split(4, dim=1))
    assert type(result) is type(loss.components(x))
    assert_close(result, type(result)(*(part.detach() for part in loss.components(model(x)))), **EXACT)
    assert result.total.grad_fn is None


def test_crops_of_several_sizes_are_views_like_any_other():
    torch.manual_seed(0)
    crops = [torch.randn(12, 1, size, size).double() for size in (8, 8, 4)]
    results = []
    for ours in (False, True):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Conv2d(1, 5, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
        criterion = functools.partial(LeJEPALoss(sigreg=SIGReg(num_slices=8)), num_global=2)
        if ours:
            parts = [[crop[rows] for crop in crops] for rows in (slice(0, 5), slice(5, 12))]
            backward(criterion, lambda part: [net(crop) for crop in part], parts)  # noqa: B023
        else:
            criterion([net(crop) for crop in crops]).backward()
        results.append(gradients(net))
    assert_close(results[1], results[0], **EXACT)


def test_the_criterion_may_take_weights_that_the_parts_carry():
    x, mask = batch(2, 12), torch.arange(12) % 3 > 0
    loss = LeJEPALoss(sigreg=SIGReg(num_slices=8)).eval()
    whole, parted = network(), network()
    loss(whole(x), weights=mask).backward()
    parts = list(zip(x.split(5, dim=1), mask.split(5), strict=True))
    weights = torch.cat([w for _, w in parts])
    backward(lambda z: loss(z, weights=weights), lambda part: parted(part[0]), parts)
    assert_close(gradients(parted), gradients(whole), **EXACT)


def test_the_memory_and_the_step_of_sigreg_move_once():
    sigreg = SIGReg(num_slices=8, memory=6)
    backward(sigreg, network(), batch(1, 12).split(3, dim=1))
    assert int(sigreg.step) == 1
    assert sigreg.memory.rows.shape[-2] == 6


class Counting(nn.Module):
    """An encoder with a buffer that is None at first and one that its forward pass replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, 4).double()
        self.register_buffer("seen", None)
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.detach().sum() + (0.0 if self.seen is None else self.seen)
        self.total = self.total + 1
        return self.layer(x)


def test_buffers_move_once_also_those_that_are_replaced():
    model, x = Counting(), batch(1, 12)
    backward(SIGReg(num_slices=8), lambda part: model(part), x.split(3, dim=1))
    assert_close(model.seen, x.sum())
    assert float(model.total) == 4


def test_a_view_of_a_frozen_network_takes_no_gradient():
    online, target, x = network(), network(nn.BatchNorm1d), batch(1, 12)[0]
    before = copy.deepcopy(target.state_dict())
    target.eval()

    def encode(part: Tensor) -> list[Tensor]:
        with torch.no_grad():
            frozen = target(part)
        return [online(part), frozen]

    backward(lambda z: (z[0] - z[1]).square().mean(), encode, x.split(5))
    whole = network()
    (whole(x) - target(x)).square().mean().backward(inputs=list(whole.parameters()))
    assert_close(gradients(online), gradients(whole), **EXACT)
    assert_close(target.state_dict(), before)


# Half precision


def test_under_autocast_it_is_the_step_under_autocast():
    x = batch(2, 24).float()
    results = []
    for ours in (False, True):
        model, criterion = network().float(), LeJEPALoss(sigreg=SIGReg(num_slices=8))
        parts = x.split(10, dim=1)
        with torch.autocast("cpu", torch.bfloat16):
            if ours:
                backward(criterion, model, parts)
            else:
                loss = criterion(torch.cat([model(part) for part in parts], dim=-2))
        if not ours:
            loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        results.append(gradients(model))
    # Parts are added in another order, each rounded to bfloat16 (eps 2^-8) as it leaves its matrix product.
    scale = float(results[0].abs().max())
    assert_close(results[1], results[0], rtol=0, atol=2**-8 * scale)


def test_a_grad_scaler_scales_the_gradients_but_not_the_loss():
    model, x = network().float(), batch(2, 12).float()
    criterion = LeJEPALoss(sigreg=SIGReg(num_slices=8)).eval()
    plain = backward(criterion, model, x.split(5, dim=1))
    expected = gradients(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    assert_close(backward(criterion, model, x.split(5, dim=1), scaler=scaler), plain)
    assert_close(gradients(model), 1024 * expected)
    scaler.unscale_(optimizer)
    assert_close(gradients(model), expected)
    scaler.update()
    weights = [p.detach().clone() for p in model.parameters()]
    optimizer.zero_grad()
    backward(criterion, model, [x[:, :5], x[:, 5:] * torch.inf], scaler=scaler)
    scaler.step(optimizer)
    scaler.update()
    assert_close([p.detach() for p in model.parameters()], weights)  # the step was skipped
    assert scaler.get_scale() == 512


# Over ranks


class Synchronisations:
    """Counts the messages of DDP's reducer, and averages as it does."""

    def __init__(self) -> None:
        self.buckets: list[int] = []

    def hook(self) -> Any:
        def count(_: Any, bucket: dist.GradBucket) -> Any:
            self.buckets.append(bucket.index())
            tensor = bucket.buffer() / dist.get_world_size()
            return dist.all_reduce(tensor, async_op=True).get_future().then(lambda done: done.value()[0])

        future = torch.futures.Future[torch.Tensor]
        count.__annotations__ = {"bucket": dist.GradBucket, "return": future}  # not as text
        return count


def in_parts(
    problem: Problem, norm: type[nn.Module], sizes: list[list[int]] | None = None, steps: int = 2
) -> tuple[Tensor, Tensor, int, dict[str, Tensor]]:
    """This rank's loss and gradients, how often DDP communicated them, and its buffers."""
    rank, sent = dist.get_rank(), Synchronisations()
    model = DDP(network(norm))
    model.register_comm_hook(None, sent.hook())
    # by default their number differs over the ranks
    parts = problem.part(rank).split(2 + rank if sizes is None else sizes[rank], dim=1)

    def encode(part: Tensor) -> list[Tensor]:
        return model(part.flatten(0, 1)).unflatten(0, part.shape[:2])

    for _ in range(steps):
        model.zero_grad()
        loss = backward(LeJEPALoss(0.3, problem.sigreg()), encode, parts)
    return loss, gradients(model), len(sent.buckets), dict(model.module.named_buffers())


@settings(max_examples=15)
@given(
    sizes=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=4), min_size=1, max_size=3).filter(
        lambda sizes: sum(map(sum, sizes)) > 1
    ),
    statistic=st.sampled_from(["epps_pulley", "watson", "mix of sums"]),
    V=st.integers(1, 3),
    seed=st.integers(0, 999),
)
@example(sizes=[[2, 2, 2, 3]], statistic="epps_pulley", V=2, seed=0)
@example(sizes=[[2, 2, 2, 1], [3, 1]], statistic="vcreg", V=2, seed=0)
@example(sizes=[[1], [3, 3], [2, 1, 2]], statistic="anderson_darling", V=2, seed=0)
@example(sizes=[[0], [2, 0, 3]], statistic="epps_pulley", V=2, seed=0)
def test_parts_on_ranks_are_one_batch_with_one_synchronisation_a_step(sizes, statistic, V, seed):
    problem, model = Problem(tuple(map(sum, sizes)), V=V, statistic=statistic, seed=seed), network()
    expected = LeJEPALoss(0.3, problem.sigreg(group=None))(model(problem.batch()))
    expected.backward()
    results = on_ranks(len(sizes), in_parts, problem, nn.LayerNorm, sizes, 1)
    for loss, gradient, synchronisations, _ in results:
        assert_close(loss, expected.detach(), **EXACT)
        assert_close(gradient, gradients(model), **EXACT)
        assert synchronisations == 1


def in_lightning(problem: Problem) -> tuple[list[tuple[Tensor, Tensor]], int]:
    """Two steps of manual optimization under Lightning's `ddp`: losses, gradients and messages."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(?!sigreg)")  # Lightning's advice and its imports
        import lightning

        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.net, self.seen = network(), []
                self.criterion = LeJEPALoss(0.3, problem.sigreg())
                self.automatic_optimization = False

            def on_train_start(self) -> None:
                self.trainer.strategy.model.register_comm_hook(None, sent.hook())

            def training_step(self, x: Tensor) -> None:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                loss = backward(self.criterion, self.net, x.split(2 + dist.get_rank(), dim=1))
                self.seen.append((loss, gradients(self.net)))
                optimizer.step()

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), lr=0.1)

        module, sent = Module(), Synchronisations()
        fit_with_lightning(module, [problem.part(dist.get_rank())] * 2)
    return module.seen, len(sent.buckets)


def test_lightning_s_ddp_needs_nothing_more():
    problem, model = Problem(split=(7, 4)), network()
    criterion, expected = LeJEPALoss(0.3, problem.sigreg(group=None)), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        loss = criterion(model(problem.batch()))
        loss.backward()
        expected.append((loss.detach(), gradients(model)))
        optimizer.step()
    for seen, synchronisations in on_ranks(2, in_lightning, problem):
        assert_close(seen, expected, **EXACT)
        assert synchronisations == 2


def test_ddp_broadcasts_batchnorms_statistics_as_it_did():
    problem = Problem(split=(6, 6))
    own = []  # after rank 0's first step, and then after the second one of each
    for last in (0, 1):
        model = network(nn.BatchNorm1d)
        with torch.no_grad():
            for rank in (0, last):  # a step begins with the statistics of rank 0
                for part in problem.part(rank).split(2 + rank, dim=1):
                    model(part.flatten(0, 1))
        own.append(dict(model.named_buffers()))
    for result, buffers in zip(on_ranks(2, in_parts, problem, nn.BatchNorm1d), own, strict=True):
        assert_close(result[3], buffers)


def with_fsdp2(problem: Problem) -> tuple[Tensor, Tensor, int]:
    from test_distributed import Traffic
    from torch.distributed.fsdp import fully_shard

    model = network()
    with warnings.catch_warnings():
        # Linear on (V, N, D) gives a view, of which fully_shard advises not to change it in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
        fully_shard(model)
        parts = problem.part(dist.get_rank()).tensor_split(3, dim=1)
        with Traffic() as traffic:
            loss = backward(LeJEPALoss(0.3, problem.sigreg()), lambda part: model(part), parts)
        gradient = torch.cat([p.grad.full_tensor().flatten() for p in model.parameters()])
    return loss, gradient, sum(n for name, n in traffic.calls.items() if "reduce_scatter" in name)


def test_fsdp2_shards_the_sum_of_the_parts_once():
    problem, model = Problem(split=(7, 4)), network()
    expected = LeJEPALoss(0.3, problem.sigreg(group=None))(model(problem.batch()))
    expected.backward()
    for loss, gradient, scatters in on_ranks(2, with_fsdp2, problem):
        assert_close(loss, expected.detach(), **EXACT)
        assert_close(gradient, gradients(model), **EXACT)
        assert scatters == 1


# Memory and time


def deep(width: int = 128, depth: int = 12) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(depth)]
    return nn.Sequential(*layers, nn.Linear(width, 8))


def peak(step: Any) -> int:
    with KernelCount() as counter:
        step()
    return counter.peak


def test_sixteen_parts_take_the_memory_of_one():
    criterion = SIGReg(num_slices=4, backend="eager")
    x = torch.randn(16 * 128, 128)
    one = peak(lambda: backward(criterion, deep(), [x[:128]]))
    sixteen = peak(lambda: backward(criterion, deep(), x.split(128)))
    whole = peak(lambda: criterion(deep()(x)).backward())
    print(f"peak of one part {one}, of sixteen {sixteen}, of the whole batch {whole} bytes")
    assert sixteen < 1.3 * one
    assert whole > 4 * sixteen


def test_small_views_of_large_outputs_keep_nothing_alive():
    """As ViTs take their class token, x[:, 0]."""
    net, x = nn.Linear(8, 4096), torch.randn(16 * 64, 8)
    peaks = [
        peak(lambda: backward(SIGReg(num_slices=4, backend="eager"), lambda p: net(p)[:, :4], parts))  # noqa: B023
        for parts in (x[:64].split(64), x.split(64))
    ]
    assert peaks[1] < 1.3 * peaks[0]


@pytest.mark.long
def test_a_step_in_parts_takes_less_than_1_45_of_a_plain_one():
    """Two passes cost one more forward, a third of a step."""
    model, criterion, x = deep(256, 12), SIGReg(num_slices=64), torch.randn(2048, 256)

    def plain() -> None:  # the usual accumulation, at equal images
        for part in x.split(256):
            criterion(model(part)).backward()

    seconds: dict[str, list[float]] = {"plain": [], "parts": []}
    for _ in range(15):
        for name, step in (("plain", plain), ("parts", lambda: backward(criterion, model, x.split(256)))):
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    assert min(seconds["parts"]) < 1.45 * min(seconds["plain"])


# The document


@pytest.fixture
def no_group_left():
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)


@pytest.mark.usefixtures("no_group_left")
def test_the_code_of_the_document_runs_from_top_to_bottom():
    assert len(BLOCKS) == 4
    space: dict[str, Any] = {"__name__": "document"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(?!sigreg)")  # Lightning's advice and its imports
        for number, block in enumerate(BLOCKS):
            exec(compile(block, f"accumulation.md, block {number}", "exec"), space)
            assert space["loss"].isfinite()
        logged = {name: float(value) for name, value in space["trainer"].callback_metrics.items()}
    assert set(logged) == {"loss", "prediction", "sigreg"}
    assert space["trainer"].global_step == 2


def test_the_document_s_lightning_module_clips_gradients_that_are_unscaled():
    """With a learning rate of 1, SGD moves the weights by the length that gradients are clipped to."""
    space: dict[str, Any] = {"__name__": "document"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(?!sigreg)")
        exec(BLOCKS[0], space)
        import lightning
        from lightning.pytorch.plugins.precision import MixedPrecision

        module_only = BLOCKS[2][: BLOCKS[2].index("data =")]
        exec(module_only, space)

        class Descent(space["Module"]):
            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), lr=1.0)

        module = Descent()
        module.criterion.lambda_param = 1.0  # gradients much longer than 1
        before = nn.utils.parameters_to_vector(module.net.parameters()).detach().clone()
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = torch.utils.data.TensorDataset(torch.randn(256, 2, 8))
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=256))
    moved = nn.utils.parameters_to_vector(module.net.parameters()).detach() - before
    assert_close(moved.norm(), torch.tensor(1.0), rtol=1e-4, atol=0)


def test_the_numbers_of_the_document_are_those_of_its_script():
    rows = accumulation.table(accumulation.measured()).splitlines()
    start = DOCUMENT.splitlines().index(rows[0])
    printed = DOCUMENT.splitlines()[start : start + len(rows)]
    for row, ours in zip(rows[2:], printed[2:], strict=True):  # the last digit may round otherwise elsewhere
        there, here = ([float(x) for x in re.findall(r"[\d.]+", line)] for line in (row, ours))
        assert here == pytest.approx(there, abs=0.011)


# What goes wrong


def restless() -> Any:
    generator = torch.Generator().manual_seed(0)
    return lambda part: part * torch.randn(part.shape, generator=generator, dtype=part.dtype)


def growing() -> Any:
    calls = []
    return lambda part: (calls.append(0), part[:, : 1 + len(calls)])[1]


@pytest.mark.parametrize(
    ("criterion", "encode", "split", "message"),
    [
        (SIGReg(), network(), None, r"TypeError: parts is one tensor .*parts.split\(32\)"),
        (SIGReg(), network(), [], "ValueError: there are no parts"),
        (SIGReg(), growing(), [4], r"RuntimeError: .*\(2, 2, 5\).* and \[\(2, 3, 5\)\] in the second pass"),
        (SIGReg(), restless(), [4, 4], "RuntimeError: embeddings moved by .*global generators"),
        (SIGReg(), lambda part: network()(part).detach(), [4], "RuntimeError: .*part 0 requires no gradient"),
        (SIGReg(), lambda part: part[0].detach(), [4], "RuntimeError: .*part 0 requires no gradient"),
        (SIGReg(), lambda part: "z", [4], "TypeError: encode returned str"),
        (SIGReg(), lambda part: part.mean(), [4], r"TypeError: encode returned \(\) of torch.float64"),
        (SIGReg(), lambda part: [], [4], "TypeError: encode returned an empty list"),
        (SIGReg(), lambda part: part[: part.shape[1]], [1, 4], r"ValueError: .*only n may differ"),
        (lambda z: z, network(), [4, 4], r"ValueError: .*loss has the shape \(2, 8, 4\)"),
        (lambda z: 3.0, network(), [4, 4], "TypeError: the criterion returned float"),
        (lambda z: {"total": z.sum()}, network(), [4], 'TypeError: the criterion returned dict.*"loss"'),
        (lambda z: z.detach().sum(), network(), [4], "RuntimeError: .*requires no gradient"),
        (lambda z: LEAF.sum(), network(), [4], "RuntimeError: .*does not depend on the embeddings"),
    ],
)
def test_bad_input_is_an_error_that_says_what_came(criterion, encode, split, message):
    x = batch(2, 12).requires_grad_()
    parts = x if split is None else x[:, : sum(split)].split(split, dim=1) if split else []
    assert re.match(message, error_of(backward, criterion, encode, parts))


LEAF = torch.ones(2, requires_grad=True)


def test_modules_inside_of_a_compiled_function_must_be_named():
    whole, parted, x = network(nn.BatchNorm1d), network(nn.BatchNorm1d), batch(1, 12)[0]
    encode = torch.compile(lambda part: parted(part), backend="eager")
    parts = x.split(6)
    error = error_of(backward, SIGReg(num_slices=8), encode, parts)
    assert "name the modules, as in modules=" in error
    parted.load_state_dict(whole.state_dict())
    parted.zero_grad()
    backward(SIGReg(num_slices=8), encode, parts, modules=[parted])
    SIGReg(num_slices=8)(torch.cat([whole(part) for part in parts])).backward()
    assert_close(gradients(parted), gradients(whole), **EXACT)
    assert_close(parted.state_dict(), whole.state_dict())


def test_a_parameter_of_no_module_is_allowed_where_it_is_said():
    W, x = nn.Parameter(torch.randn(WIDTH, 4).double()), batch(1, 12)[0]
    backward(SIGReg(num_slices=8), lambda part: part @ W, x.split(5), modules=[])
    gradient = W.grad.clone()
    W.grad = None
    SIGReg(num_slices=8)(x @ W).backward()
    assert_close(gradient, W.grad, **EXACT)


def test_a_batchnorm_that_is_no_child_of_the_encoder_moves_once():
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.others = nn.Linear(4, 8), [nn.BatchNorm1d(8, affine=False)]

        def forward(self, x: Tensor) -> Tensor:
            return self.others[0](self.layer(x))

    encoder = Encoder()
    backward(SIGReg(num_slices=8), encoder, [torch.randn(8, 4) for _ in range(4)])
    assert int(encoder.others[0].num_batches_tracked) == 4


def test_a_lazy_module_is_told_to_run_once_before():
    net = nn.Sequential(nn.Linear(4, 8), nn.LazyBatchNorm1d())
    with pytest.raises(ValueError, match="LazyBatchNorm1d has no shape yet; run the encoder once before"):
        backward(SIGReg(num_slices=8), net, [torch.randn(8, 4) for _ in range(2)])


def test_the_random_state_of_every_kind_of_gpu_is_replayed(monkeypatch):
    """No GPU is here: only what would be asked of torch is checked."""
    asked = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: "mps")
    monkeypatch.setattr(torch.mps, "set_rng_state", asked.append)
    for kind in (torch.cuda, torch.xpu):
        monkeypatch.setattr(kind, "is_initialized", lambda: True)
        monkeypatch.setattr(kind, "get_rng_state_all", lambda kind=kind: kind.__name__)
        monkeypatch.setattr(kind, "set_rng_state_all", asked.append)
    replay.set_random_state(replay.random_state())
    assert asked == ["torch.cuda", "torch.xpu", "mps"]
