"""The recipe for Transformers: its text and its report; tests/hosts/test_recipe.py trains it."""

import json
from pathlib import Path

import pytest
import torch

from integrations.transformers import report, text

RECIPE = Path(__file__).parents[1] / "integrations" / "transformers"
FOUND = json.loads((RECIPE / "report.json").read_text())


@pytest.fixture(scope="module")
def passages() -> list[bytes]:
    return text.passages(text.read(None))


def test_only_bytes_are_masked_and_the_labels_are_what_was_there(passages):
    for passage, row in zip(passages, text.rows(passages), strict=True):
        ids, labels = row["input_ids"], row["labels"]
        masked = ids == text.MASK
        assert masked.any()
        assert not masked[0]
        assert torch.equal(masked, labels != text.IGNORED)
        restored = torch.where(masked, labels, ids)[1:] - text.FIRST_BYTE
        assert bytes(restored.tolist()) == passage


def test_about_the_share_asked_for_is_masked(passages):
    """Within four standard deviations of a binomial count; a share of 0 masks one byte a passage."""
    masked = torch.cat([row["labels"][1:] != text.IGNORED for row in text.rows(passages, share=0.15)])
    assert abs(masked.float().mean() - 0.15) < 4 * (0.15 * 0.85 / len(masked)) ** 0.5


def test_padding_is_outside_of_the_mask_and_without_label(passages):
    rows = text.rows(passages[:8])
    batch = text.padded(rows, more=5)
    for n, row in enumerate(rows):
        length = len(row["input_ids"])
        assert torch.equal(batch["input_ids"][n, :length], row["input_ids"])
        assert batch["attention_mask"][n].tolist() == [1] * length + [0] * (len(batch["labels"][n]) - length)
        assert (batch["labels"][n, length:] == text.IGNORED).all()
    assert batch["input_ids"].shape == (8, 5 + max(len(row["input_ids"]) for row in rows))


def test_passages_for_evaluation_are_none_of_those_trained_on(passages):
    training, held_out = text.split(passages)
    assert not set(training) & set(held_out)
    assert len(training) + len(held_out) == len(passages)


def test_a_text_that_is_too_short_is_an_error(tmp_path):
    file = tmp_path / "short.txt"
    file.write_text("one paragraph that is long enough to count\n\nand another one of the same length")
    with pytest.raises(ValueError, match=r"has 2 paragraphs .* give a longer one with --text"):
        text.passages(text.read(str(file)))


def test_the_readmes_tables_are_the_report_that_is_committed():
    readme = (RECIPE / "README.md").read_text()
    assert report.table(FOUND["first_step"]) in readme
    assert report.table(FOUND["results"]) in readme


def test_the_report_is_of_a_commit_without_changes():
    assert FOUND["commit"]
    assert FOUND["dirty"] is False


def test_the_report_shows_what_the_readme_says_of_the_first_step():
    first = FOUND["first_step"]
    for name in ("4 microbatches", "32 more padded positions"):
        assert first[name]["gradient differs by"] < 1e-5
    assert first["without the mask"]["gradient differs by"] > 0.01
    assert first["each microbatch by itself"]["sigreg"] < first["one batch"]["sigreg"] / 2


def test_the_report_shows_what_the_readme_says_of_the_embeddings():
    untrained, without, with_it = FOUND["results"].values()
    assert round(without["effective rank"]) == 3
    assert abs(with_it["effective rank"] / untrained["effective rank"] - 1) < 0.1
    assert 1 < with_it["SIGReg"] < without["SIGReg"] / 10
    assert 1 < with_it["loss of the masked bytes"] / without["loss of the masked bytes"] < 1.05
    assert with_it["top-1 retrieval"] <= without["top-1 retrieval"] < 0.03
