"""SIGRegTrainer with transformers' own Trainer: a tiny BERT and a tiny ViT, made here, no download."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from sigreg import SIGReg
from sigreg_adapters.transformers import SIGRegTrainer

ROOT = Path(__file__).resolve().parents[2]
N, L = 16, 12


def bert(dropout: float = 0.0) -> BertForMaskedLM:
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    dropouts = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return BertForMaskedLM(BertConfig(vocab_size=40, max_position_embeddings=L, **size, **dropouts))


def sentences() -> list[dict[str, Tensor]]:
    """Of different length, padded to L; every third token is predicted."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for n in range(2 * N):
        ids = torch.randint(1, 40, (L,), generator=generator)
        mask = torch.arange(L) < 4 + n % 9
        labels = torch.where(mask & (torch.arange(L) % 3 == 0), ids, -100)
        rows.append({"input_ids": ids * mask, "attention_mask": mask.long(), "labels": labels})
    return rows


def vit(dropout: float = 0.0) -> ViTForImageClassification:
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    dropouts = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=3, **size, **dropouts))


def images() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2 * N, 3, 8, 8, generator=generator)
    return [{"pixel_values": image, "labels": torch.tensor(n % 3)} for n, image in enumerate(pixels)]


def cross_entropy(outputs, labels: Tensor, num_items_in_batch=None) -> Tensor:
    """Over the tokens of a whole step.

    BertForMaskedLM of 5.23.0 takes no notice of num_items_in_batch: under Trainer its own loss is too large
    by a factor `gradient_accumulation_steps`, with or without SIGReg.
    """
    loss = nn.functional.cross_entropy(outputs.logits.flatten(0, -2), labels.flatten(), reduction="sum")
    return loss / num_items_in_batch


MODELS = {"bert": (bert, sentences, cross_entropy), "vit": (vit, images, None)}


def trainer(
    folder: Path,
    name: str = "bert",
    accumulation: int = 1,
    *,
    dropout: float = 0.0,
    processes: int = 1,
    bf16: bool = False,
    **settings,
) -> SIGRegTrainer:
    """Two optimizer steps of plain SGD over 2 N rows, in their order."""
    model, rows, loss = MODELS[name]
    args = TrainingArguments(
        str(folder),
        per_device_train_batch_size=N // accumulation // processes,
        gradient_accumulation_steps=accumulation,
        max_steps=2,
        learning_rate=0.1,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_steps=1,
        use_cpu=True,
        bf16=bf16,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        train_sampling_strategy="sequential",
    )
    settings = {"sigreg": SIGReg(num_slices=64), "sigreg_weight": 0.3, "compute_loss_func": loss} | settings
    return SIGRegTrainer(model(dropout), args, train_dataset=rows(), **settings)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {name: value.detach().cpu() for name, value in model.named_parameters()}


def losses(trainer: Trainer, key: str = "loss") -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def assert_same_training(ours: Trainer, theirs: Trainer) -> None:
    """In float32, sums in another order: a few eps of the largest update."""
    for name, value in weights(ours).items():
        assert_close(value, weights(theirs)[name], rtol=1e-5, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")
    for key in ("loss", "sigreg"):
        assert_close(losses(ours, key), losses(theirs, key), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("pooling", ["tokens", "mean", "cls"])
def test_accumulation_of_four_equals_one_batch(tmp_path, name, pooling):
    whole = trainer(tmp_path, name, pooling=pooling)
    parts = trainer(tmp_path, name, 4, pooling=pooling)
    for each in (whole, parts):
        each.train()
    assert_same_training(parts, whole)
    assert len(losses(parts, "sigreg")) == 2


def test_trainer_itself_equals_a_weight_of_zero_and_differs_from_another(tmp_path):
    plain = trainer(tmp_path)
    plain.__class__ = Trainer
    without, with_it = trainer(tmp_path, sigreg_weight=0.0), trainer(tmp_path)
    for each in (plain, without, with_it):
        each.train()
    assert_close(weights(without), weights(plain), rtol=0, atol=0)
    assert any(not torch.equal(weights(with_it)[name], value) for name, value in weights(plain).items())


def encoded(model: nn.Module, rows: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    labels = batch.pop("labels")
    return model.base_model(**batch).last_hidden_state, batch.get("attention_mask", labels)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_value_logged_is_that_of_the_tokens_in_the_mask(tmp_path, accumulation):
    one = trainer(tmp_path, accumulation=accumulation, pooling="tokens")
    hidden, mask = encoded(bert(), sentences()[:N])
    expected = SIGReg(num_slices=64)(hidden[mask.bool()].detach(), step=0)
    one.train()
    assert_close(losses(one, "sigreg")[0], float(expected), rtol=1e-5, atol=0)


def test_what_padding_holds_does_not_matter(tmp_path):
    """Position embeddings make padded tokens differ; their values and gradients must not count."""
    one, other = (
        trainer(tmp_path, accumulation=4, pooling="mean"),
        trainer(tmp_path, accumulation=4, pooling="mean"),
    )
    other.train_dataset = [
        {**row, "input_ids": row["input_ids"] + 7 * (1 - row["attention_mask"])} for row in sentences()
    ]
    for each in (one, other):
        each.train()
    assert_same_training(other, one)


def test_dropout_is_the_same_in_both_passes(tmp_path):
    """Were it not, the adapter would refuse the second pass; and the random state goes on as if alone."""
    with_it = trainer(tmp_path, accumulation=4, dropout=0.3)
    without = trainer(tmp_path, accumulation=4, dropout=0.3, sigreg_weight=0.0)
    plain = trainer(tmp_path, accumulation=4, dropout=0.3)
    plain.__class__ = Trainer
    for each in (with_it, without, plain):
        torch.manual_seed(5)
        each.train()
    assert_close(weights(without), weights(plain), rtol=0, atol=0)


def test_a_loss_that_trainer_divides_is_divided_and_sigreg_is_not(tmp_path):
    """As of a model without **kwargs, whose loss is the mean over a microbatch."""
    whole, parts = (trainer(tmp_path, "vit", accumulation=a) for a in (1, 4))
    for each in (whole, parts):
        each.model_accepts_loss_kwargs = False
        each.train()
    assert_same_training(parts, whole)


def test_evaluation_reports_the_loss_of_the_task(tmp_path):
    ours, plain = trainer(tmp_path), trainer(tmp_path)
    plain.__class__ = Trainer
    assert_close(*(t.evaluate(sentences())["eval_loss"] for t in (ours, plain)), rtol=0, atol=0)


def test_bfloat16_trains(tmp_path):
    dtypes = []
    half, full = trainer(tmp_path, accumulation=4, bf16=True), trainer(tmp_path, accumulation=4)
    linear = half.model.base_model.encoder.layer[0].intermediate.dense
    linear.register_forward_hook(lambda m, args, out: dtypes.append(out.dtype))
    for each in (half, full):
        each.train()
    assert torch.bfloat16 in dtypes
    assert_close(losses(half, "sigreg"), losses(full, "sigreg"), rtol=0.05, atol=0)  # bfloat16 holds 3 digits


def test_a_resumed_run_continues_the_directions(tmp_path):
    whole = trainer(tmp_path / "whole")
    whole.train()
    first = trainer(tmp_path / "parts")
    first.args.max_steps, first.args.save_strategy = 1, "steps"
    first.args.save_steps = 1
    first.train()
    second = trainer(tmp_path / "parts")
    second.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-1"))
    assert_same_training_of_last_step(second, whole)


def assert_same_training_of_last_step(ours: Trainer, theirs: Trainer) -> None:
    for name, value in weights(ours).items():
        assert_close(value, weights(theirs)[name], rtol=1e-5, atol=2e-6)
    assert_close(losses(ours, "sigreg")[-1], losses(theirs, "sigreg")[-1], rtol=1e-5, atol=0)


def test_two_ranks_equal_one_process(tmp_path):
    """torchrun, gloo, DDP: each rank has half of every batch, in two microbatches of other lengths."""
    one = trainer(tmp_path, accumulation=2, pooling="tokens")
    one.train()
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
        __file__,
    ]
    path = os.pathsep.join([str(ROOT), str(ROOT / "adapters")])
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run([*command, str(tmp_path)], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = torch.load(tmp_path / "weights.pt")
    for name, value in weights(one).items():
        assert_close(theirs[name], value, rtol=1e-5, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")
    logged = json.loads((tmp_path / "logged.json").read_text())
    assert_close(logged, losses(one, "sigreg"), rtol=1e-4, atol=1e-4)


if __name__ == "__main__":  # one rank of the test above
    out = Path(sys.argv[1])
    rank = trainer(out / "ranks", accumulation=2, pooling="tokens", processes=2)
    rank.train()
    if rank.is_world_process_zero():
        torch.save(weights(rank), out / "weights.pt")
        (out / "logged.json").write_text(json.dumps(losses(rank, "sigreg")))
