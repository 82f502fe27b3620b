"""Designs: what was asked for, under constraints that plain Python checks."""

import logging
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lab import broken_constraints, differing
from tiny import TINY

from modeling_proformer import ProformerConfig, ProformerForSequenceClassification, ProformerTokenizer, design, predict
from modeling_proformer.starts import nearest


WIDTH = 24
FLANKS = ("TGCATTTT", "GGTTACGG")
CONSTRAINTS = {
    "avoid": ["BsaI", "BsmBI", "TAW"],
    "avoid_forward": ["ATG"],
    "gc": (30, 60),
    "max_homopolymer": 4,
    "max_repeat": 6,
}
START = "ACGTGGTCTCAACGTTACCGGATC"


def tokenizer_for(**options) -> ProformerTokenizer:
    return ProformerTokenizer(kmer_size=3, insert_width=WIDTH, **options)


@pytest.fixture(scope="module")
def model() -> ProformerForSequenceClassification:
    return make_model({0: "expression"})


def make_model(outputs: dict[int, str], strands: int = 2) -> ProformerForSequenceClassification:
    torch.manual_seed(0)
    sizes = {**TINY, "max_position_embeddings": strands * WIDTH}
    model = ProformerForSequenceClassification(ProformerConfig(**sizes, id2label=outputs))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def random_predictions(model, tokenizer) -> np.ndarray:
    bases = np.random.default_rng(5).choice(list("ACGT"), (256, WIDTH))
    return predict(model, tokenizer, ["".join(row) for row in bases])


def check(designs, flanks, min_distance, **constraints):
    """Check everything that every design promises."""
    for index, each in enumerate(designs):
        assert set(each.insert) <= set("ACGT")
        assert each.sequence == flanks[0] + each.insert + flanks[1]
        assert not broken_constraints(each.insert, flanks, **constraints)
        others = [other.insert for number, other in enumerate(designs) if number != index]
        assert each.nearest_design == min(differing(each.insert, other) for other in others) >= min_distance


@pytest.mark.parametrize(
    ("flanks", "options"),
    [
        (FLANKS, {"missing_flanks": "refuse"}),
        (("", ""), {}),
        (("", "GGTTACGG"), {"strands": "forward"}),
    ],
)
def test_designs_are_near_their_targets_and_break_nothing(flanks, options):
    tokenizer = tokenizer_for(five_prime_flank=flanks[0] or None, three_prime_flank=flanks[1] or None, **options)
    model = make_model({0: "expression"}, tokenizer.num_strands).train()
    usual = random_predictions(model, tokenizer_for(strands=tokenizer.strands))
    low, high = np.quantile(usual, [0.2, 0.8]).tolist()
    designs = design(model, tokenizer, [low, (high, high + 1), "max", "min"], number=4, min_distance=5, **CONSTRAINTS)
    assert model.training
    check(designs, flanks, 5, **CONSTRAINTS)
    assert [each.target for each in designs[::4]] == [f"{low:g}", f"{high:g}:{high + 1:g}", "max", "min"]
    predicted = predict(model, tokenizer, [each.sequence for each in designs])
    np.testing.assert_allclose(np.stack([each.predicted for each in designs]), predicted, atol=2e-6)
    at_low, at_high, most, least = predicted.reshape(4, 4)
    assert np.abs(at_low - low).max() <= 0.0101 * usual.std() * 1.3
    assert (at_high >= high - 2e-6).all() and (at_high <= high + 1 + 2e-6).all()
    assert most.min() > np.quantile(usual, 0.99) and least.max() < np.quantile(usual, 0.01)


def test_a_number_is_met_before_the_extreme_of_another_output():
    tokenizer, model = tokenizer_for(), make_model({0: "liver", 1: "blood", 2: "skin"})
    usual = random_predictions(model, tokenizer)
    liver = float(np.quantile(usual[:, 0], 0.75))
    # In this model, liver falls where skin rises.
    assert np.corrcoef(usual[:, 0], usual[:, 2])[0, 1] < -0.9
    asked = [{"liver": liver, "blood": "max"}, f"liver={liver}, blood=min", f"liver={liver},skin=max"]
    designs = design(model, tokenizer, asked, number=3)
    predicted = np.stack([each.predicted for each in designs])
    assert predicted.shape == (9, 3)
    assert np.abs(predicted[:, 0] - liver).max() < 0.02 * usual[:, 0].std()
    assert predicted[:3, 1].mean() > np.quantile(usual[:, 1], 0.9)
    assert predicted[3:6, 1].mean() < np.quantile(usual[:, 1], 0.01)


def test_the_range_of_one_output_is_reached_exactly_beside_the_number_of_another(caplog):
    tokenizer, model = tokenizer_for(), make_model({0: "liver", 1: "blood"})
    usual = random_predictions(model, tokenizer)
    liver, (low, high) = float(np.median(usual[:, 0])), np.quantile(usual[:, 1], [0.97, 1]).tolist()
    with caplog.at_level(logging.WARNING):
        designs = design(model, tokenizer, [{"liver": liver, "blood": (low, high + 1)}], number=60, rounds=200)
    predicted = np.stack([each.predicted for each in designs])
    assert ((predicted[:, 1] >= low) & (predicted[:, 1] <= high + 1)).all()
    assert not np.stack([each.missed for each in designs]).any() and not caplog.text


def test_every_miss_is_in_the_designs_and_in_the_log(caplog):
    tokenizer, model = tokenizer_for(), make_model({0: "liver", 1: "blood"})
    usual = random_predictions(model, tokenizer)
    liver, (low, high) = float(np.median(usual[:, 0])), np.quantile(usual[:, 1], [0.9, 0.91]).tolist()
    texts = [f"liver={liver},blood=max", f"liver=max,blood={low}:{high}", "liver=max"]
    with caplog.at_level(logging.WARNING):
        designs = design(model, tokenizer, texts, number=8, rounds=3)
    predicted, missed = (np.stack([getattr(each, name) for each in designs]) for name in ("predicted", "missed"))
    away = np.abs(predicted[:8, 0] - liver)
    near = away < 0.007 * usual[:, 0].std()
    far = away > 0.014 * usual[:, 0].std()
    assert far.any() and not missed[:8][near].any()
    np.testing.assert_allclose(missed[:8, 0][far], away[far], atol=1e-6)
    outside = np.maximum(low - predicted[8:16, 1], 0) + np.maximum(predicted[8:16, 1] - high, 0)
    assert outside.any()
    np.testing.assert_allclose(missed[8:16, 1], outside, atol=1e-6)
    assert not missed[:8, 1].any() and not missed[8:16, 0].any() and not missed[16:].any()
    worst = predicted[missed[:, 0].argmax(), 0], predicted[8 + outside.argmax(), 1]
    assert [each.getMessage().partition(", and")[0] for each in caplog.records] == [
        f"{(missed[:8, 0] > 0).sum()} of 8 designs miss the target {texts[0]}; the worst has the prediction liver "
        f"{worst[0]:.4g}",
        f"{(outside > 0).sum()} of 8 designs miss the target {texts[1]}; the worst has the prediction blood "
        f"{worst[1]:.4g}",
    ]


def test_designs_come_in_the_order_of_targets_and_starts(model):
    starts = {"short": START[:16], "long": START, "middle": START[2:22]}
    designs = design(model, tokenizer_for(), ["min", "max"], number=2, rounds=1, starts=starts)
    expected = [(target, name) for target in ("min", "max") for name in starts for _ in range(2)]
    assert [(each.target, each.start) for each in designs] == expected
    assert [len(each.insert) for each in designs] == [len(starts[name]) for _, name in expected]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_distance": 25}, "`min_distance` is 25, but an insert has only 24 bases."),
        (
            {"min_distance": 20, "starts": {"x": START, "y": START[:18]}},
            "`min_distance` is 20, but the insert of the start 'y' has only 18 bases.",
        ),
        (
            {"starts": {"x": START, "y": START[:18]}, "keep": ["17-19"]},
            "`keep` '17-19' lies outside of the insert of the start 'y', which has 18 bases.",
        ),
    ],
)
def test_what_no_insert_can_fulfil_is_refused_before_the_model_runs(model, arguments, message, monkeypatch):
    def fail(*_):
        raise AssertionError("the model ran")

    monkeypatch.setattr(type(model), "forward", fail)
    with pytest.raises(ValueError) as raised:
        design(model, tokenizer_for(), ["max"], **arguments)
    assert str(raised.value) == message


def test_equal_seeds_give_equal_designs(model):
    arguments = {"number": 3, "rounds": 4, **CONSTRAINTS}
    one, same, other = (
        [each.insert for each in design(model, tokenizer_for(), ["max"], seed=seed, **arguments)] for seed in (1, 1, 2)
    )
    assert one == same and not set(one) & set(other)


def test_more_rounds_come_nearer(model):
    few, many = (
        np.mean([each.predicted for each in design(model, tokenizer_for(), ["max"], number=3, rounds=rounds)])
        for rounds in (1, 20)
    )
    assert many > few


@pytest.mark.parametrize("as_construct", [False, True])
def test_designs_of_a_start_keep_what_they_must_and_have_few_edits(model, as_construct):
    tokenizer = tokenizer_for(five_prime_flank=FLANKS[0], three_prime_flank=FLANKS[1])
    starts = {"one": START, "two": START[::-1], "short": START[2:18]}
    given = {name: text.join(FLANKS) if as_construct else text for name, text in starts.items()}
    designs = design(
        model,
        tokenizer,
        ["max", "min"],
        number=3,
        starts=given,
        max_edits=5,
        keep=[1, "3-5", "16"],
        min_distance=3,
        avoid=["BsaI"],
        max_homopolymer=4,
    )
    assert len(designs) == 18
    check(designs, FLANKS, 3, avoid=["BsaI"], max_homopolymer=4)
    for each in designs:
        start = starts[each.start]
        assert len(each.insert) == len(start)
        assert each.edits == sum(a != b for a, b in zip(each.insert, start, strict=True)) <= 5
        assert all(each.insert[position - 1] == start[position - 1] for position in (1, 3, 4, 5, 16))
    assert np.mean([each.predicted for each in designs if each.target == "max"]) > np.mean(
        [each.predicted for each in designs if each.target == "min"]
    )


def test_one_edit_suffices_to_remove_a_site(model):
    (found,) = design(model, tokenizer_for(), ["max"], number=1, starts=[START], max_edits=1, avoid=["BsaI"])
    assert found.edits == 1 and found.start == "1" and "GGTCTC" not in found.insert
    assert found.nearest_design is None


def test_designs_are_far_from_what_exists(model):
    existing = [START, START[3:] + "ACG", START * 2, START[:5], "N" * 4 + START[4:]]
    designs = design(model, tokenizer_for(), ["max"], number=3, starts=[START], min_distance=4, existing=existing)
    for each in designs:
        assert each.nearest_existing == min(differing(each.insert, other) for other in existing) >= 4


@given(
    st.text("ACGT", min_size=1, max_size=6), st.lists(st.text("ACGT", min_size=5, max_size=5), min_size=1, max_size=4)
)
def test_the_nearest_is_found_where_it_fits_best(insert, others):
    codes = [np.array([["ACGT".index(base) for base in other] for other in others])]
    expected = min(differing(insert, other) for other in others)
    assert nearest(np.array(["ACGT".index(base) for base in insert]), codes) == expected


def test_a_target_that_nothing_reaches_is_refused(model, caplog):
    with pytest.raises(
        ValueError, match=r"`targets` 1000: no insert .* near this; the nearest has the prediction [\d.-]+\. Ask"
    ):
        design(model, tokenizer_for(), [1000], number=2, rounds=2)
    # A start and few edits may not allow it, so what comes nearest is returned.
    with caplog.at_level(logging.WARNING):
        assert len(design(model, tokenizer_for(), [1000], number=2, rounds=2, starts=[START], max_edits=3)) == 2
    assert "2 of 2 designs miss the target 1000" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"number": 0}, "`number` is 0, but must be at least 1"),
        ({"rounds": 0}, "`rounds` is 0"),
        ({"min_distance": 0}, "`min_distance` is 0"),
        ({"max_edits": 0, "starts": [START]}, "`max_edits` is 0"),
        ({"max_edits": 3}, "`max_edits` needs sequences to start from: give `starts`"),
        ({"keep": [3]}, "`keep` needs sequences to start from"),
        ({"length": 25}, "`length` is 25, but the construct has room for 1 to 24"),
        ({"length": 20, "starts": [START]}, "`starts` have lengths of their own"),
        ({"starts": []}, "`starts` is empty"),
        ({"starts": {"x": "ACGN"}}, "the start 'x': N at position 4"),
        ({"starts": {"x": "ACGX"}}, "the start 'x': 'X' at position 4"),
        ({"starts": {"x": START * 2}}, "the start 'x': its insert has 48 bases"),
        ({"starts": [START], "keep": ["0-3"]}, "`keep` '0-3' is not a position from 1"),
        ({"starts": [START], "keep": ["7-3"]}, "`keep` '7-3' is not"),
        (
            {"starts": [START], "keep": [25]},
            "`keep` 25 lies outside of the insert of the start '1', which has 24 bases",
        ),
        ({"existing": ["ACGT", "AXGT"]}, "`existing`: Sequence 2: 'X' at position 2"),
        ({"targets": []}, "`targets` is empty"),
        ({"targets": "max"}, r"`targets` is a list, such as \['max'\]"),
        ({"targets": ["high"]}, "`targets` 'high' is not a number, a range such as 6:8, max or min"),
        ({"targets": ["8:6"]}, "`targets` '8:6' is not"),
        ({"targets": [float("nan")]}, "`targets` nan is not"),
        ({"targets": [{"expresion": 3}]}, "no output 'expresion'. Did you mean 'expression'?"),
        ({"targets": [{}]}, "names no output"),
        ({"targets": ["expression=5, expression=6"]}, "the output 'expression' occurs twice"),
        (
            {"avoid": ["W"], "gc": (20, 60)},
            "`avoid` W and `gc` 20 60 contradict each other: no insert of 24 bases was found.",
        ),
        ({"min_distance": 24}, "`min_distance` 24: only 1 of 10 designs were found"),
        (
            {"starts": [START], "max_edits": 1, "number": 5, "min_distance": 3},
            "`min_distance` 3 and `max_edits` 1: only",
        ),
        (
            {"starts": {"x": START}, "keep": ["1-12"], "avoid": ["BsaI"]},
            "`keep` protects GGTCTC at positions 5 to 10 of the start 'x', which `avoid` BsaI forbids",
        ),
        (
            {"starts": {"x": "G" * 20}, "keep": ["1-18"], "gc": (30, 60)},
            "`gc` 30 60 and `keep` contradict each other: no insert of 20 bases was found from the start 'x'.",
        ),
    ],
)
def test_what_cannot_be_designed_is_refused_in_one_line(model, arguments, message):
    arguments = {"targets": ["max"], **arguments}
    with pytest.raises(ValueError, match=message) as raised:
        design(model, tokenizer_for(), arguments.pop("targets"), **arguments)
    assert "\n" not in str(raised.value)


def test_a_target_without_the_name_of_its_output_is_refused():
    with pytest.raises(ValueError, match="the model has 2 outputs, so name those that it is for, such as liver=3"):
        design(make_model({0: "liver", 1: "blood"}), tokenizer_for(), [3])


def test_an_unknown_argument_is_refused(model):
    with pytest.raises(TypeError, match="no argument 'max_homopolimer'"):
        design(model, tokenizer_for(), ["max"], max_homopolimer=3)


def test_without_dna_chisel_its_extra_is_named(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "dnachisel", None)
    with pytest.raises(ImportError, match=r"pip install 'modeling-proformer\[design\]'"):
        design(model, tokenizer_for(), ["max"])
