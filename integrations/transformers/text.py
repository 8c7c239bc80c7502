"""Passages of a text as rows of bytes, some of them masked, and batches padded to their longest row."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

PAD, CLS, MASK, FIRST_BYTE = 0, 1, 2, 3
VOCABULARY = FIRST_BYTE + 256
IGNORED = -100  # a label that no loss counts
Row = dict[str, Tensor]


def read(path: str | None) -> str:
    """A text file, or the reference that comes with Python: the topics of `help()`, in English."""
    if path is not None:
        return Path(path).read_text(encoding="utf-8")
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def passages(text: str, shortest: int = 24, longest: int = 64) -> list[bytes]:
    """Its distinct paragraphs in their order, of at least `shortest` bytes, cut after `longest`."""
    paragraphs = (" ".join(paragraph.split()).encode() for paragraph in text.split("\n\n"))
    found = list(dict.fromkeys(p[:longest] for p in paragraphs if len(p) >= shortest))
    if len(found) < 320:
        raise ValueError(
            f"the text has {len(found)} paragraphs of {shortest} bytes or more, separated by empty lines; "
            "expected at least 320: give a longer one with --text"
        )
    return found


def split(found: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """For training, and every fifth passage for evaluation."""
    return [p for n, p in enumerate(found) if n % 5], found[::5]


def rows(found: list[bytes], seed: int = 0, share: float = 0.15) -> list[Row]:
    """`input_ids (L,)` with about a share of the bytes masked, and those bytes as `labels (L,)`."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for passage in found:
        ids = torch.tensor([CLS, *(byte + FIRST_BYTE for byte in passage)])
        masked = torch.rand(len(ids), generator=generator) < share
        masked[0], masked[1] = False, masked[1] or not masked[2:].any()  # never CLS, and at least one byte
        result.append(
            {"input_ids": ids.masked_fill(masked, MASK), "labels": ids.masked_fill(~masked, IGNORED)}
        )
    return result


def padded(batch: list[Row], more: int = 0) -> Row:
    """Rows of any length as `(B, L)`, L that of the longest and `more`, with their `attention_mask`."""

    def stacked(key: str, fill: int) -> Tensor:
        whole = torch.nn.utils.rnn.pad_sequence([row[key] for row in batch], True, fill)
        return torch.nn.functional.pad(whole, (0, more), value=fill)

    ids = stacked("input_ids", PAD)
    return {
        "input_ids": ids,
        "attention_mask": (ids != PAD).long(),
        "labels": stacked("labels", IGNORED),
    }


def fingerprint(text: str) -> str:
    """What tells one text from another in a report."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
