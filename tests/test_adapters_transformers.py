"""SIGRegTrainer on a stand-in of Trainer; tests/hosts has the host itself, with a BERT and a ViT."""

import copy
import importlib
import math
import pickle
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from sigreg import SIGReg
from tests import transformers_stand_in

N, L = 16, 6


@pytest.fixture
def adapter(monkeypatch):
    """The adapter over the stand-in, whether transformers is installed or not."""
    name = "sigreg_adapters.transformers"
    monkeypatch.setitem(sys.modules, "transformers", transformers_stand_in)
    monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


class Model(nn.Module):
    """Tokens (B, L) -> a base model with last_hidden_state, and a loss."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.base_model, self.head = Base(dropout), nn.Linear(8, 1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        hidden = self.base_model(input_ids).last_hidden_state
        return {"loss": (self.head(hidden[:, 0]) - 1).square().mean()}


class Base(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Embedding(20, 8), nn.Dropout(dropout), nn.Linear(8, 8))
        self.norm = nn.BatchNorm1d(8)

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        self.norm(self.net[0](input_ids).flatten(0, 1))  # only its running means matter here
        return SimpleNamespace(last_hidden_state=self.net(input_ids))


def batches(parts: int, masked: bool = True) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 20, (2 * N, L), generator=generator)
    mask = (torch.arange(L) < 2 + torch.arange(2 * N)[:, None] % 5).long()
    rows = {"input_ids": ids, "attention_mask": mask} if masked else {"input_ids": ids}
    split = {key: value.split(N // parts) for key, value in rows.items()}
    return [dict(zip(split, part, strict=True)) for part in zip(*split.values(), strict=True)]


def trained(adapter, parts: int, masked: bool = True, dropout: float = 0.0, **settings):
    settings = {"sigreg": SIGReg(num_slices=32), "sigreg_weight": 0.3} | settings
    trainer = adapter.SIGRegTrainer(Model(dropout), batches(parts, masked), parts, **settings)
    trainer.train()
    return trainer


def last(outputs, inputs):
    return outputs.last_hidden_state[:, -1]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("pooling", ["tokens", "mean", "cls", last])
def test_accumulation_of_four_equals_one_batch(adapter, pooling, masked):
    whole, parts = (trained(adapter, n, masked, pooling=pooling) for n in (1, 4))
    for mine, theirs in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        assert_close(mine, theirs, rtol=1e-5, atol=1e-6)  # float32 sums in another order
    for key in ("loss", "sigreg"):
        assert_close(*([log[key] for log in t.logs] for t in (parts, whole)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("parts", [1, 4])
def test_the_value_logged_is_that_of_the_tokens_in_the_mask(adapter, parts):
    hidden = Model().base_model.net(torch.cat([b["input_ids"] for b in batches(1)[:1]])).detach()
    mask = batches(1)[0]["attention_mask"].bool()
    expected = SIGReg(num_slices=32)(hidden[mask], step=0)
    found = trained(adapter, parts, pooling="tokens").logs[0]["sigreg"]
    assert_close(found, float(expected), rtol=1e-5, atol=0)


def test_every_step_has_directions_of_its_own(adapter):
    """Those of the optimizer step, by which a resumed run continues them."""
    hidden = Model().base_model.net(torch.cat([b["input_ids"] for b in batches(1)[:1]])).detach()
    mask = batches(1)[0]["attention_mask"].bool()
    trainer = adapter.SIGRegTrainer(
        Model(), batches(1), pooling="tokens", sigreg=SIGReg(num_slices=32), sigreg_weight=0.0
    )
    trainer.state.global_step = 5
    trainer.compute_loss(trainer.model.train(), batches(1)[0])
    trainer.log({"loss": 0.0})
    assert_close(
        trainer.logs[0]["sigreg"], float(SIGReg(num_slices=32)(hidden[mask], step=5)), rtol=1e-5, atol=0
    )


def test_the_first_pass_moves_no_buffer(adapter):
    trainer = trained(adapter, 4)
    assert int(trainer.model.base_model.norm.num_batches_tracked) == 8


def test_dropout_is_the_same_in_both_passes_and_goes_on_as_without(adapter):
    with_it, without = (trained(adapter, 4, dropout=0.3, sigreg_weight=w) for w in (0.3, 0.0))
    plain = transformers_stand_in.Trainer(Model(0.3), batches(4), 4)
    plain.train()
    assert_close(dict(without.model.named_parameters()), dict(plain.model.named_parameters()))
    assert with_it.logs[0]["sigreg"] == without.logs[0]["sigreg"]


def test_the_first_pass_keeps_the_embeddings_and_not_the_hidden_states(adapter, monkeypatch):
    cat, kept = torch.cat, []

    def spy(tensors, **dim):
        kept.append([x.untyped_storage().nbytes() for x in tensors])
        return cat(tensors, **dim)

    monkeypatch.setattr(torch, "cat", spy)
    trained(adapter, 4, pooling=last)
    embeddings = N // 4 * 8 * torch.float32.itemsize
    assert [embeddings] * 4 in kept


def test_a_model_that_encodes_otherwise_the_second_time_is_refused(adapter):
    trainer = adapter.SIGRegTrainer(Model(), batches(4), 4)
    calls = iter(range(1, 99))
    trainer.model.base_model.net.register_forward_hook(lambda m, args, out: out * next(calls))
    with pytest.raises(RuntimeError, match="second pass encoded a microbatch otherwise"):
        trainer.train()


def test_evaluation_reports_the_loss_of_the_task(adapter):
    trainer = adapter.SIGRegTrainer(Model().eval(), batches(1))
    batch = batches(1)[0]
    assert_close(trainer.compute_loss(trainer.model, batch), Model().eval()(**batch)["loss"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sigreg_weight": -1.0}, "sigreg_weight"),
        ({"pooling": "max"}, "pooling='max'"),
        ({"sigreg": SIGReg(memory=8)}, "memory"),
    ],
)
def test_what_cannot_be_honoured_is_refused(adapter, settings, words):
    with pytest.raises(ValueError, match=words):
        adapter.SIGRegTrainer(Model(), batches(1), **settings)


def test_a_weight_given_as_sigreg_is_named(adapter):
    with pytest.raises(TypeError, match=r"sigreg must be a SIGReg, such as .* got 0\.05"):
        adapter.SIGRegTrainer(Model(), batches(1), sigreg=0.05)


def test_a_mask_that_does_not_fit_is_an_error(adapter):
    batch = batches(1)[0] | {"attention_mask": torch.ones(N, L, L)}
    with pytest.raises(TypeError, match="attention_mask"):
        adapter.SIGRegTrainer(Model(), [batch]).train()


def test_training_leaves_nothing_of_the_trainer_on_the_model(adapter):
    trainer = trained(adapter, 2)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(trainer.model)))
    assert not any(module._forward_hooks for module in copied.modules())
    during = adapter.SIGRegTrainer(trainer.model, batches(1), 1)
    copies = []
    during.log = lambda logs: copies.append(pickle.dumps(during.model))  # as an average of the weights would
    during.train()
    assert copies
    assert all(b"Trainer" not in copied for copied in copies)
    assert not during.model.base_model._forward_hooks


def test_evaluation_during_training_keeps_no_outputs(adapter):
    trainer = trained(adapter, 1)
    hook = trainer.model.base_model.register_forward_hook(trainer._kept)
    trainer.model.eval()(batches(1)[0]["input_ids"])
    assert trainer._kept.outputs is None
    hook.remove()


def test_a_last_batch_of_one_row_trains(adapter):
    one = {key: value[:1] for key, value in batches(1, masked=False)[0].items()}
    trainer = adapter.SIGRegTrainer(Model(), [one], 1, pooling=last)
    trainer.train()
    assert math.isfinite(trainer.logs[-1]["sigreg"])


def test_microbatches_with_and_without_weights_are_one_sample(adapter):
    """A pooling function gives weights where some rows do not count, and none elsewhere."""

    def pooling(outputs, inputs):
        z, counts = outputs.last_hidden_state[:, 0], inputs["attention_mask"][:, 3] > 0
        return z if counts.all() else (z, counts)

    def logged(parts):
        mask = torch.ones(2 * N, L, dtype=torch.long)
        mask[: N // 2, 3] = torch.arange(N // 2) % 2
        split = [
            b | {"attention_mask": m} for b, m in zip(batches(parts), mask.split(N // parts), strict=True)
        ]
        trainer = adapter.SIGRegTrainer(Model(), split, parts, pooling=pooling, sigreg=SIGReg(num_slices=32))
        trainer.train()
        return [log["sigreg"] for log in trainer.logs]

    assert_close(logged(4), logged(1), rtol=1e-5, atol=0)


def test_steps_without_a_log_keep_nothing(adapter):
    trainer = adapter.SIGRegTrainer(Model(), batches(1) * 20, 1, sigreg=SIGReg(num_slices=8))
    trainer.log, log = (lambda logs: None), trainer.log  # as with logging_strategy="no"
    trainer.train()
    kept = [value for value in vars(trainer).values() if isinstance(value, list | Tensor)]
    assert sum(len(x) if isinstance(x, list) else x.numel() for x in kept if x is not trainer.batches) < 10
    log({"loss": 0.0})
    assert 0 < trainer.logs[0]["sigreg"] < N
