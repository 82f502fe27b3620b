"""Tests that effects of variants are differences of predictions, whichever way they are computed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY

from modeling_proformer import (
    InvalidSequenceError,
    ProformerConfig,
    ProformerForSequenceClassification,
    ProformerTokenizer,
    predict,
)
from modeling_proformer.variants import saturation_mutagenesis, variant_effects


FLANKS = ("TGCA", "GGT")


def tokenizer_for(**options) -> ProformerTokenizer:
    return ProformerTokenizer(kmer_size=3, insert_width=12, **options)


@pytest.fixture(scope="module")
def model() -> ProformerForSequenceClassification:
    torch.manual_seed(0)
    model = ProformerForSequenceClassification(ProformerConfig(**TINY, num_labels=2))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@settings(max_examples=25, deadline=None)
@given(
    insert=st.text("ACGTN", min_size=1, max_size=12),
    flanked=st.booleans(),
    missing_flanks=st.sampled_from(["keep", "cut", "refuse"]),
    strands=st.sampled_from(["both", "forward"]),
    batch_size=st.sampled_from([5, 256]),
)
def test_saturation_mutagenesis_is_the_prediction_of_every_variant(
    model, insert, flanked, missing_flanks, strands, batch_size
):
    five, three = FLANKS if flanked else ("", "")
    tokenizer = tokenizer_for(
        five_prime_flank=five, three_prime_flank=three, missing_flanks=missing_flanks, strands=strands
    )
    (expression,) = saturation_mutagenesis(model, tokenizer, [five + insert + three], batch_size=batch_size)
    assert expression.shape == (len(insert), 4, 2)
    variants = [
        five + insert[:position] + letter + insert[position + 1 :] + three
        for position in range(len(insert))
        for letter in "ACGT"
    ]
    np.testing.assert_allclose(expression.reshape(-1, 2), predict(model, tokenizer, variants), atol=2e-6)


def test_saturation_mutagenesis_computes_sequences_on_demand(model):
    results = saturation_mutagenesis(model, tokenizer_for(), iter(["ACGT", "ACXT"]))
    assert next(results).shape == (4, 4, 2)
    with pytest.raises(InvalidSequenceError, match=r"^Sequence 2: 'X' at position 3"):
        next(results)


def test_too_long_an_insert_is_refused_or_cut(model):
    with pytest.raises(InvalidSequenceError, match="the construct has room for 12"):
        next(saturation_mutagenesis(model, tokenizer_for(), ["ACGT" * 4]))
    for side in ("left", "right"):
        tokenizer = tokenizer_for(truncation_side=side)
        expected, found = (
            next(saturation_mutagenesis(model, tokenizer, [insert], truncation=True))
            for insert in ("ACGTACGTACGT", {"left": "GG" + "ACGT" * 3, "right": "ACGT" * 3 + "GG"}[side])
        )
        np.testing.assert_array_equal(found, expected)
    effects = variant_effects(model, tokenizer_for(), ["ACGT" * 4], ["ACGT" * 3 + "CCCC"], truncation=True)
    assert (effects == 0).all()


def test_one_string_is_not_read_as_many_sequences(model):
    with pytest.raises(TypeError, match="put it in a list"):
        next(saturation_mutagenesis(model, tokenizer_for(), "ACGT"))
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
