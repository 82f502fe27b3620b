"""Constraints of a lab: the quick check, DNA Chisel and plain Python agree."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import broken_constraints

from modeling_proformer.constraints import ConstraintChecker, Constraints, decode_bases, encode_bases


MOTIFS = ["BsaI", "BanI", "EcoRI", "ATG", "TATAWR", "acgu", "GNC"]


@settings(max_examples=150)
@given(
    inserts=st.lists(st.text("ACGT", min_size=14, max_size=14) | st.text("AT", min_size=14, max_size=14), min_size=1),
    flanks=st.sampled_from([("", ""), ("TGCATTTTTT", "GGTT"), ("", "C"), ("GGTCTCAGGTCTC", "ATGATG")]),
    avoid=st.lists(st.sampled_from(MOTIFS), max_size=3),
    avoid_forward=st.lists(st.sampled_from(["ATG", "TATAWR"]), max_size=1),
    gc=st.none() | st.tuples(st.integers(0, 100), st.integers(2, 100)).map(sorted),
    max_homopolymer=st.none() | st.integers(1, 8),
    max_repeat=st.none() | st.integers(1, 30),
)
def test_the_quick_check_dna_chisel_and_plain_python_agree(inserts, flanks, **constraints):
    checker = ConstraintChecker(Constraints(**constraints), 14, *flanks)
    texts = {
        **constraints,
        "avoid": [each.upper().replace("U", "T") if each == "acgu" else each for each in constraints["avoid"]],
    }
    expected = [broken_constraints(insert, flanks, **texts) for insert in inserts]
    found = checker.passes(np.stack([encode_bases(insert) for insert in inserts]))
    assert found.tolist() == [not broken for broken in expected]
    for insert, broken in zip(inserts, expected, strict=True):
        assert {name.split("`")[1] for name in checker.broken(insert)} == broken


def test_sites_over_the_junction_are_found_but_not_those_of_the_flanks():
    checker = ConstraintChecker(Constraints(avoid=["BsaI"]), 6, "GGTCTCAAGGT", "ACC")
    assert checker.broken("CTCAAA") == ["`avoid` BsaI"]
    assert checker.broken("CACGAG") == ["`avoid` BsaI"]  # GAGACC, the site on the other strand
    assert checker.broken("CAAAAA") == []


def test_every_enzyme_has_a_site_that_is_found():
    from Bio.Restriction.Restriction_Dictionary import rest_dict

    for name, enzyme in rest_dict.items():
        for site in enzyme["site"].split("|") if set(enzyme["site"]) - {"N"} else ():
            insert = site.translate(str.maketrans("RYSWKMBDHVN", "ACCAGACAAAA"))
            checker = ConstraintChecker(Constraints(avoid=[name]), len(insert))
            assert not checker.passes(encode_bases(insert)[None])[0], name


@settings(max_examples=30)
@given(st.text("ACGT", min_size=30, max_size=30), st.sets(st.integers(0, 29), max_size=5), st.integers(0, 9))
def test_a_repaired_insert_fulfils_all_and_keeps_what_it_must(insert, kept, seed):
    constraints = {"avoid": ["BsaI", "TTT"], "gc": (30, 60), "max_homopolymer": 4}
    flanks = ("TGCATTT", "GGTT")
    checker = ConstraintChecker(Constraints(**constraints), 30, *flanks)
    before = np.random.get_state()[1].tolist()
    repaired = checker.repair(insert, sorted(kept), seed)
    assert np.random.get_state()[1].tolist() == before
    assert repaired == checker.repair(insert, sorted(kept), seed)
    if repaired is None:
        assert kept
    else:
        assert not broken_constraints(repaired, flanks, **constraints)
        assert all(repaired[position] == insert[position] for position in kept)


@pytest.mark.parametrize(
    ("constraints", "names"),
    [
        ({"avoid": ["BsaI", "W"], "gc": (10, 60)}, {"`avoid` W", "`gc` 10 60"}),
        (
            {"avoid_forward": ["A", "C", "G"], "max_homopolymer": 6},
            {"`avoid_forward` A", "`avoid_forward` C", "`avoid_forward` G", "`max_homopolymer` 6"},
        ),
        ({"gc": (51, 52), "avoid": ["ATG"]}, {"`gc` 51 52"}),
        ({"max_repeat": 1, "gc": (30, 60)}, {"`max_repeat` 1"}),
        ({"avoid": ["AG", "CA", "CG"]}, set()),
    ],
)
def test_the_constraints_that_contradict_each_other_are_named(constraints, names):
    assert set(ConstraintChecker(Constraints(**constraints), 20).conflict("ACGT" * 5, ())) == names


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (
            {"avoid": ["BsaII"]},
            "`avoid` 'BsaII' is neither a restriction enzyme nor a motif in IUPAC codes. Did you mean 'B",
        ),
        ({"avoid": ["bsai"]}, "Did you mean 'BsaI'?"),
        ({"avoid_forward": ["BsaI"]}, "`avoid_forward` 'BsaI' is not a motif"),
        ({"avoid": ["NN"]}, "not N alone"),
        ({"avoid": [""]}, "neither a restriction enzyme nor"),
        ({"avoid": "BsaI"}, r"`avoid` is a list, such as \['BsaI'\]"),
        ({"gc": (60, 30)}, "`gc` is the least and the greatest GC content in percent, such as 30 60, but is 60 30."),
        ({"gc": (30,)}, "`gc` is the least"),
        ({"gc": (0.3, 0.6)}, "`gc` is in percent, and not a share: write 60 for 0.6."),
        ({"gc": (30, 101)}, "`gc` is the least"),
        ({"max_homopolymer": 0}, "`max_homopolymer` is 0, but must be 1 to 99"),
        ({"max_repeat": 31}, "`max_repeat` is 31, but must be 1 to 30"),
    ],
)
def test_constraints_outside_their_range_are_refused(constraints, message):
    with pytest.raises(ValueError, match=message):
        Constraints(**constraints)


def test_codes_are_those_of_the_bases():
    assert encode_bases("ACGT").tolist() == [0, 1, 2, 3]
    assert decode_bases(np.array([3, 2, 1, 0])) == "TGCA"
