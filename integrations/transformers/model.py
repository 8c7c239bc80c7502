"""A small BERT over bytes, its loss, and SIGRegTrainer with this recipe's settings."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, TrainingArguments, set_seed

from integrations.transformers import text
from sigreg import SIGReg
from sigreg_adapters.transformers import SIGRegTrainer

POOLING = "cls"  # the hidden state of the token before the first byte, which no byte is predicted from
BATCH, PARTS = 64, 4  # passages in an optimizer step, and the microbatches that they come in


def bert(width: int = 64, seed: int = 0) -> BertForMaskedLM:
    """Two layers with random weights; a token is a byte.

    Without dropout: nothing here asks for the same embedding under two dropout masks, so that SIGReg could be
    lowered by noise, which evaluation does not have (README.md).
    """
    set_seed(seed)
    config = BertConfig(
        vocab_size=text.VOCABULARY,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=128,
        initializer_range=0.1,  # with 0.02 the first token hardly depends on the others for many steps
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=text.PAD,
    )
    return BertForMaskedLM(config)


def cross_entropy(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """The sum over the masked bytes, over their number in the whole optimizer step.

    The loss of BertForMaskedLM itself is the mean over a microbatch, which Trainer (5.23.0) does not divide
    by the number of microbatches.
    """
    logits, labels = outputs.logits.flatten(0, 1), labels.flatten()
    loss = nn.functional.cross_entropy(logits, labels, reduction="sum", ignore_index=text.IGNORED)
    return loss / ((labels != text.IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)


def trainer(
    model: nn.Module,
    rows: list[text.Row],
    weight: float,
    parts: int = PARTS,
    collate: Any = text.padded,
    **options: Any,
) -> SIGRegTrainer:
    """SIGReg of each passage's first token, over all `BATCH` passages of an optimizer step.

    Args:
        model: as `bert` makes it.
        rows: as `text.rows` makes them.
        weight: of SIGReg.
        parts: the number of microbatches.
        collate: rows -> a batch.
        **options: of transformers.TrainingArguments.
    """
    settings: dict[str, Any] = {
        "output_dir": "runs/transformers",
        "per_device_train_batch_size": BATCH // parts,
        "gradient_accumulation_steps": parts,
        "save_strategy": "no",
        "report_to": [],
        "dataloader_drop_last": True,
    }
    return SIGRegTrainer(
        model,
        TrainingArguments(**settings | options),
        train_dataset=rows,
        data_collator=collate,
        compute_loss_func=cross_entropy,
        sigreg_weight=weight,
        pooling=POOLING,
        sigreg=SIGReg(num_slices=256),
    )
