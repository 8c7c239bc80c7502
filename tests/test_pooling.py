"""Pooled embeddings of hidden states, against a loop over the rows of a batch."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from sigreg_adapters.pooling import pooled

B, L, D = 5, 7, 3


@pytest.fixture
def hidden() -> Tensor:
    return torch.randn(B, L, D, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mask() -> Tensor:
    """Rows of 1, 3, 5 and 7 tokens, and one of none."""
    return (torch.arange(L) < torch.tensor([1, 3, 5, 7, 0])[:, None]).long()


def of(pooling, hidden: Tensor, **inputs: Tensor):
    return pooled(pooling, SimpleNamespace(last_hidden_state=hidden), inputs)


def test_the_mean_is_over_the_tokens_of_the_mask(hidden, mask):
    hidden[~mask.bool()] = torch.nan  # what padding holds is not seen
    z, weights = of("mean", hidden, attention_mask=mask)
    assert weights.tolist() == [True] * 4 + [False]
    for n in range(4):
        assert_close(z[n], hidden[n, : mask[n].sum()].mean(0))
    assert z.isfinite().all()


def test_tokens_are_those_of_the_mask(hidden, mask):
    z, weights = of("tokens", hidden, attention_mask=mask)
    assert_close(z[weights], torch.cat([hidden[n, : mask[n].sum()] for n in range(B)]), rtol=0, atol=0)


def test_cls_is_the_first_token(hidden, mask):
    z, weights = of("cls", hidden, attention_mask=mask)
    assert_close(z, hidden[:, 0], rtol=0, atol=0)
    assert weights.tolist() == [True] * 4 + [False]
    z, weights = of("cls", hidden, attention_mask=mask.flip(1))  # padding on the left
    assert_close(z[:4], hidden[range(4), [L - n for n in (1, 3, 5, 7)]], rtol=0, atol=0)
    assert weights.tolist() == [True] * 4 + [False]


@pytest.mark.parametrize("pooling", ["tokens", "mean", "cls"])
def test_without_a_mask_every_token_counts(hidden, pooling):
    z, weights = of(pooling, hidden)
    masked, _ = of(pooling, hidden, attention_mask=torch.ones(B, L))
    assert weights is None
    assert_close(z, masked)


def test_a_function_gives_embeddings_and_perhaps_weights(hidden):
    z, weights = of(lambda outputs, inputs: outputs.last_hidden_state[:, -1], hidden)
    assert_close(z, hidden[:, -1])
    assert weights is None
    pair = (hidden[:, 0], torch.ones(B))
    assert of(lambda outputs, inputs: pair, hidden) is pair


def test_the_masked_mean_of_half_precision_is_summed_in_float32():
    hidden = torch.full((2, 8192, D), 10.0, dtype=torch.float16)  # the sum is beyond float16
    z, _ = of("mean", hidden, attention_mask=torch.ones(2, 8192))
    assert_close(z, torch.full((2, D), 10.0, dtype=torch.float16), rtol=0, atol=0)


@pytest.mark.parametrize("pooling", ["tokens", "mean", "cls"])
def test_the_states_of_a_decoder_are_masked_by_its_own_mask(hidden, mask, pooling):
    outputs = SimpleNamespace(last_hidden_state=hidden, encoder_last_hidden_state=torch.zeros(B, L, D))
    of_source = {"attention_mask": torch.ones(B, L)}  # the source's, which has the same shape here
    found = pooled(pooling, outputs, {**of_source, "decoder_attention_mask": mask})
    assert_close(found, of(pooling, hidden, attention_mask=mask), rtol=0, atol=0)
    for inputs in (of_source, {}):  # padding of the target is not known
        with pytest.raises(TypeError, match=r"states of a decoder.*decoder_attention_mask.*a function"):
            pooled(pooling, outputs, inputs)


@pytest.mark.parametrize(
    ("shape", "mask_shape", "words"),
    [
        ((B, D), None, r"got last_hidden_state \(5, 3\)"),
        ((B, L, D), (B, 1, L), r"attention_mask \(5, 1, 7\)"),
    ],
)
def test_what_has_no_tokens_is_an_error_that_names_both_shapes(shape, mask_shape, words):
    inputs = {} if mask_shape is None else {"attention_mask": torch.ones(mask_shape)}
    with pytest.raises(TypeError, match=words + ".*give a function"):
        of("mean", torch.zeros(shape), **inputs)
    with pytest.raises(TypeError, match="got no last_hidden_state"):
        pooled("mean", (), {})
