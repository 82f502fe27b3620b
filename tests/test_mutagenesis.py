"""Effects of single changes are differences of predictions, whichever way they are computed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY

from modeling_proformer import (
    InputError,
    InvalidSequenceError,
    ProformerConfig,
    ProformerForSequenceClassification,
    ProformerTokenizer,
    mutate,
    predict,
    saturation_mutagenesis,
)
from modeling_proformer.mutagenesis import mutate_file


FLANKS = ("TGCA", "GGT")


def tokenizer_for(**options) -> ProformerTokenizer:
    return ProformerTokenizer(kmer_size=3, insert_width=12, **options)


@pytest.fixture(scope="module")
def model(two_outputs) -> ProformerForSequenceClassification:
    return two_outputs


@settings(max_examples=30)
@given(
    insert=st.text("ACGTN", min_size=1, max_size=12),
    flanked=st.booleans(),
    missing_flanks=st.sampled_from(["keep", "cut", "refuse"]),
    strands=st.sampled_from(["both", "forward"]),
    deletions=st.booleans(),
    batch_size=st.sampled_from([5, 256]),
)
def test_each_change_is_predicted_like_its_sequence(
    model, insert, flanked, missing_flanks, strands, deletions, batch_size
):
    five, three = FLANKS if flanked else ("", "")
    tokenizer = tokenizer_for(
        five_prime_flank=five, three_prime_flank=three, missing_flanks=missing_flanks, strands=strands
    )
    sequence = five + insert + three
    (result,) = mutate(model, tokenizer, [sequence], deletions=deletions, batch_size=batch_size)
    changed = {
        (position, base, alternate): five + insert[: position - 1] + alternate.strip("-") + insert[position:] + three
        for position, base in enumerate(insert, start=1)
        for alternate in "ACGT-"[: 4 + deletions]
        if alternate != base and (alternate != "-" or len(insert) > 1)
    }
    reference, *predicted = predict(model, tokenizer, [sequence, *changed.values()])
    found = {
        (position, base, alternate): (expression, effect)
        for position, base, alternate, expression, effect in result.changes()
        if not np.isnan(expression).any()
    }
    assert result.insert == insert
    assert list(found) == list(changed)
    np.testing.assert_allclose([expression for expression, _ in found.values()], predicted, atol=2e-6)
    np.testing.assert_allclose([effect for _, effect in found.values()], predicted - reference, atol=4e-6)
    np.testing.assert_allclose(result.reference, reference, atol=2e-6)
    for position, base in enumerate(insert, start=1):
        of_base = [found[position, base, other][1] for other in "ACGT" if other != base]
        expected = np.zeros(2) if base == "N" else -sum(of_base) / 3
        np.testing.assert_allclose(result.contributions[position - 1], expected, atol=1e-6)


@settings(max_examples=10)
@given(insert=st.text("ACGTN", min_size=1, max_size=12))
def test_saturation_mutagenesis_is_the_prediction_of_every_variant(model, insert):
    (expression,) = saturation_mutagenesis(model, tokenizer_for(), [insert])
    assert expression.shape == (len(insert), 4, 2)
    variants = [
        insert[:position] + base + insert[position + 1 :] for position in range(len(insert)) for base in "ACGT"
    ]
    np.testing.assert_allclose(expression.reshape(-1, 2), predict(model, tokenizer_for(), variants), atol=2e-6)


def test_the_deletion_of_the_only_base_has_no_prediction(model):
    (result,) = mutate(model, tokenizer_for(), ["G"], deletions=True)
    assert np.isnan(result.expression).tolist() == [[[False, False]] * 4 + [[True, True]]]
    assert np.isfinite(result.contributions).all()


def test_sequences_are_computed_on_demand(model):
    results = saturation_mutagenesis(model, tokenizer_for(), iter(["ACGT", "ACXT"]))
    assert next(results).shape == (4, 4, 2)
    with pytest.raises(InvalidSequenceError, match=r"^Sequence 2: 'X' at position 3"):
        next(results)


def test_too_long_an_insert_is_refused_or_cut(model):
    with pytest.raises(InvalidSequenceError, match="the construct has room for 12"):
        next(mutate(model, tokenizer_for(), ["ACGT" * 4]))
    for side in ("left", "right"):
        tokenizer = tokenizer_for(truncation_side=side)
        longer = {"left": "GG" + "ACGT" * 3, "right": "ACGT" * 3 + "GG"}[side]
        expected, found = mutate(model, tokenizer, ["ACGTACGTACGT", longer], truncation=True)
        assert found.insert == "ACGTACGTACGT"
        np.testing.assert_array_equal(found.expression, expected.expression)


def test_one_string_is_not_read_as_many_sequences(model):
    with pytest.raises(TypeError, match="put it in a list"):
        next(saturation_mutagenesis(model, tokenizer_for(), "ACGT"))


class TestFiles:
    @pytest.fixture
    def table(self, tmp_path):
        path = tmp_path / "table.tsv"
        path.write_text("id\tsequence\na\tACGTAC\nb\tACXT\nc\tGGG\n")
        return path

    def test_a_bad_row_is_refused_before_anything_is_computed(self, model, table):
        with pytest.raises(InputError, match=r"line 3, column 'sequence': 'X' at position 3"):
            next(mutate_file(model, tokenizer_for(), table))

    @pytest.mark.parametrize(("on_error", "expected"), [("skip", ["a", "c"]), ("mark", ["a", "b", "c"])])
    def test_the_others_are_those_of_the_sequences(self, model, table, on_error, expected):
        found = list(mutate_file(model, tokenizer_for(), table, on_error=on_error, deletions=True))
        assert [row.cells["id"] for row, _ in found] == expected
        assert [(row.cells["id"], bool(row.error)) for row, result in found if result is None] == (
            [("b", True)] if on_error == "mark" else []
        )
        results = [result for _, result in found if result is not None]
        for result, alone in zip(
            results, mutate(model, tokenizer_for(), ["ACGTAC", "GGG"], deletions=True), strict=True
        ):
            np.testing.assert_array_equal(result.expression, alone.expression)

    def test_weights_that_are_not_sound_are_reported_with_the_row(self, table):
        model = ProformerForSequenceClassification(ProformerConfig(**TINY))
        model.expression_head.dense.bias.data.fill_(float("nan"))
        with pytest.raises(InputError, match=r"table.tsv, line 2: the prediction is nan"):
            next(mutate_file(model, tokenizer_for(), table, on_error="skip"))
