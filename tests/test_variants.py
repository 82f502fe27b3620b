"""Tests that effects of variants are differences of predictions, whichever way they are computed."""

import numpy as np
import pytest

from modeling_proformer import (
    InvalidSequenceError,
    ProformerForSequenceClassification,
    ProformerTokenizer,
    predict,
    variant_effects,
)


def tokenizer_for(**options) -> ProformerTokenizer:
    return ProformerTokenizer(kmer_size=3, insert_width=12, **options)


@pytest.fixture(scope="module")
def model(two_outputs) -> ProformerForSequenceClassification:
    return two_outputs


def test_too_long_an_insert_is_cut(model):
    effects = variant_effects(model, tokenizer_for(), ["ACGT" * 4], ["ACGT" * 3 + "CCCC"], truncation=True)
    assert (effects == 0).all()


def test_one_string_is_not_read_as_many_sequences(model):
    with pytest.raises(TypeError, match="put each in a list"):
        variant_effects(model, tokenizer_for(), "ACGT", "ACGA")


def test_variant_effects_are_alternate_minus_reference(model):
    references, alternates = ["ACGTACGT", "ACGTACGT", "GGGG"], ["ACGAACGT", "ACGTACG", "GGGG"]
    effects = variant_effects(model, tokenizer_for(), references, alternates)
    expected = predict(model, tokenizer_for(), alternates) - predict(model, tokenizer_for(), references)
    np.testing.assert_allclose(effects, expected, atol=2e-6)
    assert np.abs(effects[:2]).min() > 1e-4
    assert (effects[2] == 0).all()


def test_a_variant_that_cannot_be_read_is_named(model):
    with pytest.raises(InvalidSequenceError, match=r"^Sequence 2: alternate: 'Z' at position 1") as raised:
        variant_effects(model, tokenizer_for(), ["ACGT", "ACGT"], ["ACGA", "ZCGT"])
    assert raised.value.row == 1
    with pytest.raises(ValueError, match="2 references and 1 alternates"):
        variant_effects(model, tokenizer_for(), ["ACGT", "ACGT"], ["ACGA"])
