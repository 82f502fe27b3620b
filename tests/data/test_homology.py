"""Groups of related sequences are those that plain comparisons of all pairs find."""

import re
import runpy
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from processes import run_script

from modeling_proformer.data.homology import find_homologs, homology_groups
from modeling_proformer.data.splits import split_groups
from modeling_proformer.tokenization import InvalidSequenceError


# An example takes as long as the machine is busy.
seeds = st.integers(0, 2**32)

# All pairs of so many are compared by brute force, in seconds.
REAL_SEQUENCES = 700


def reverse_complement(sequence: str) -> str:
    return sequence.translate(str.maketrans("ACGT", "TGCA"))[::-1]


def random_sequence(rng: np.random.Generator, length: int) -> str:
    return "".join(rng.choice(list("ACGT"), length))


# Sequences made of a few pieces, on either strand, have many stretches in common.
pieces = st.text("ACGTN", min_size=1) | seeds.map(lambda seed: random_sequence(np.random.default_rng(seed), 35))
libraries = st.lists(pieces, min_size=1, max_size=4).flatmap(
    lambda pieces: st.lists(
        st.lists(
            st.sampled_from(pieces + [reverse_complement(piece) for piece in pieces]), min_size=1, max_size=3
        ).map("".join),
        max_size=12,
    )
)
window_sizes = st.integers(1, 31)


def plain_windows(sequence: str, size: int) -> set[str]:
    """Return the windows without N that have enough different trinucleotides, each on its first strand in order."""
    windows = [sequence[start : start + size] for start in range(len(sequence) - size + 1)]
    return {
        min(window, reverse_complement(window))
        for window in windows
        if "N" not in window and len({window[i : i + 3] for i in range(size - 2)}) >= (size - 2) / 2
    }


def plain_relations(sequences: Sequence[str], size: int) -> np.ndarray:
    """Compare all pairs: the same, one base apart if short, or with a window in common; (rows, rows) of bool."""
    sequences = [sequence.strip("N") for sequence in sequences]
    windows = [plain_windows(sequence, size) for sequence in sequences]
    related = np.eye(len(sequences), dtype=bool)
    for one, other in combinations(range(len(sequences)), 2):
        pair = sequences[one], sequences[other]
        near = pair[0] == pair[1] or (max(map(len, pair)) < 2 * size and one_base_apart(*pair))
        near |= pair[0] == reverse_complement(pair[1])
        related[one, other] = related[other, one] = near or not windows[one].isdisjoint(windows[other])
    return related


def one_base_apart(one: str, other: str) -> bool:
    """Return whether one base is replaced, inserted or deleted between two sequences, on either strand."""
    if not one or not other:
        return False
    shorter, longer = sorted((one, other), key=len)
    shortened = {longer[:position] + longer[position + 1 :] for position in range(len(longer))}
    return any(
        strand in shortened
        or (len(strand) == len(longer) and sum(a != b for a, b in zip(strand, longer, strict=True)) == 1)
        for strand in (shorter, reverse_complement(shorter))
    )


def plain_groups(related: np.ndarray) -> np.ndarray:
    """Give each row the first row among its homologs', until nothing changes."""
    firsts = np.arange(len(related))
    while True:
        lower = np.array([firsts[relatives].min() for relatives in related], dtype=int)
        if np.array_equal(lower, firsts):
            return np.unique(firsts, return_inverse=True)[1]
        firsts = lower


def plain_identity(one: str, other: str) -> bool:
    """Return whether three quarters of the bases are the same, on either strand, at any offset with enough overlap."""
    shorter = min(len(one), len(other))
    for strand in (other, reverse_complement(other)):
        for offset in range(1 - len(strand), len(one)):
            pairs = list(zip(one[max(offset, 0) :], strand[max(-offset, 0) :], strict=False))
            same = sum(letter == another != "N" for letter, another in pairs)
            if len(pairs) >= min(shorter, max(30, shorter / 2)) and pairs and same >= 0.75 * len(pairs):
                return True
    return False


def plain_likeness(sequences: Sequence[str]) -> np.ndarray:
    """Align all pairs, (rows, rows) of bool; N at the ends are no bases."""
    sequences = [sequence.strip("N") for sequence in sequences]
    alike = [plain_identity(one, other) for one in sequences for other in sequences]
    return np.array(alike, dtype=bool).reshape(len(sequences), len(sequences))


@given(libraries, window_sizes)
def test_groups_are_no_smaller_and_no_larger_than_plain_comparisons_of_all_pairs_allow(sequences, size):
    """Sequences that share a window are in one group, and those that neither do so nor are similar are not."""
    found = homology_groups(sequences, size)
    windows = plain_relations(sequences, size)
    for least in plain_groups(windows) == np.arange(len(sequences))[:, None]:
        assert len(set(found[least])) <= 1
    most = plain_groups(windows | plain_likeness(sequences))
    for family in set(found):
        assert len(set(most[found == family])) == 1


@given(libraries, libraries, window_sizes)
def test_homologs_are_those_that_plain_comparisons_of_all_pairs_find(sequences, others, size):
    both = sequences + others
    windows = plain_relations(both, size)[: len(sequences), len(sequences) :].any(axis=1)
    alike = plain_likeness(both)[: len(sequences), len(sequences) :].any(axis=1)
    found = find_homologs(sequences, others, size)
    assert found[windows].all() and (windows | alike)[found].all()


@given(seeds, st.integers(5, 45), st.integers(50, 120))
def test_short_sequences_one_base_apart_are_homologs(seed, length, rows):
    """Sequences of few bases have neighbours by chance too, which count as well."""
    rng = np.random.default_rng(seed)
    library = [random_sequence(rng, length) for _ in range(rows)]
    replaced, shortened, lengthened = ([*random_sequence(rng, length)] for _ in range(3))
    library += map("".join, (replaced, shortened, lengthened))
    position = int(rng.integers(length))
    replaced[position] = "ACGT"["ACGT".index(replaced[position]) - 1]
    del shortened[position]
    lengthened.insert(position, "A")
    near = [reverse_complement("".join(each)) for each in (replaced, shortened, lengthened)]
    assert find_homologs(near, library).all()
    expected = plain_relations(near + library, 20)
    groups = homology_groups(near + library)
    assert all(len(set(groups[relatives])) == 1 for relatives in expected)
    others = find_homologs(library[:10], library[10:])
    assert others[expected[3:13, 13:].any(axis=1)].all()


def test_all_neighbours_of_a_random_6_mer_are_found():
    """If 1,500 of the 4,096 6-mers were measured, nearly every one has another a base away."""
    rng = np.random.default_rng(0)
    mers = ["".join(bases) for bases in product("ACGT", repeat=6)]
    library = [mers[number] for number in rng.permutation(len(mers))[:1500]]
    test, train = library[:225], library[225:]
    expected = [any(one_base_apart(one, other) or one == reverse_complement(other) for other in train) for one in test]
    assert sum(expected) >= 220
    assert find_homologs(test, train)[expected].all()


def test_padding_makes_no_difference():
    sequences = ["ACGTTGCATGCA", "NNNACGTTGCATGCA", "TGCATGCAACGTNN", "GGGGACCCATTC", "NNNN"]
    assert homology_groups(sequences).tolist() == [0, 0, 0, 1, 2]


@pytest.mark.parametrize(
    ("length", "parents", "variants", "changes", "one_in"),
    [
        (19, 1, 300, 2, 1),
        (30, 20, 40, 3, 1),
        (36, 20, 40, 1, 1),
        (50, 20, 40, 3, 1),
        (80, 30, 20, 10, 1),
        (80, 30, 20, 8, 3),
        (165, 30, 20, 16, 3),
    ],
)
@pytest.mark.slow
def test_variants_of_a_promoter_are_one_group_however_their_changes_lie(
    monkeypatch, length, parents, variants, changes, one_in
):
    """Most pairs of variants share no 20 bases; in very large tables, only one position in several is indexed."""
    monkeypatch.setattr("modeling_proformer.data.homology.MAX_POSITIONS", 2 * length * parents * variants // one_in)
    rng = np.random.default_rng(0)
    sequences, of = [], np.repeat(np.arange(parents), variants)
    for parent in rng.integers(0, 4, (parents, length)):
        for _ in range(variants):
            variant, places = parent.copy(), rng.choice(length, changes, replace=False)
            variant[places] = (variant[places] + rng.integers(1, 4, changes)) % 4
            sequences.append("".join("ACGT"[digit] for digit in variant))
    order = rng.permutation(len(sequences))
    disguised = [(str, reverse_complement)[rng.integers(2)](sequences[row]) for row in order]
    found = homology_groups(disguised)
    assert len(set(zip(found, of[order], strict=True))) == len(set(found)) == parents
    # Each is also directly related to another of its own, and to none of the others'.
    first = of[order] < parents / 2
    assert not find_homologs(*([disguised[row] for row in np.flatnonzero(side)] for side in (first, ~first))).any()
    halves = np.arange(len(order)) % 2 == 0
    homologs = find_homologs(*([disguised[row] for row in np.flatnonzero(side)] for side in (halves, ~halves)))
    assert homologs.mean() > 0.95


@given(libraries, window_sizes, st.randoms(use_true_random=False))
def test_strand_case_alphabet_and_order_make_no_difference(sequences, size, random):
    order = random.sample(range(len(sequences)), len(sequences))
    ways = [str, str.lower, reverse_complement, lambda sequence: sequence.replace("T", "U")]
    disguised = [random.choice(ways)(sequences[row]) for row in order]
    found, expected = homology_groups(disguised, size), homology_groups(sequences, size)[order]
    assert len(set(zip(found, expected, strict=True))) == len(set(found)) == len(set(expected))


@given(seeds, st.integers(41, 90), st.data())
def test_a_variant_stays_in_the_family(seed, length, data):
    reference = random_sequence(np.random.default_rng(seed), length)
    position = data.draw(st.integers(0, length - 1))
    mutated = reference[:position] + data.draw(st.sampled_from("ACGTN")) + reference[position + 1 :]
    assert homology_groups([reference, mutated]).tolist() == [0, 0]
    assert find_homologs([mutated], [reference]).all()


@given(seeds, st.integers(25, 60), st.integers(20, 24))
def test_overlapping_tiles_are_one_family(seed, width, overlap):
    locus = random_sequence(np.random.default_rng(seed), 400)
    # No stretch is of low complexity or there twice.
    assume(len(plain_windows(locus, 20)) == 381)
    tiles = [locus[start : start + width] for start in range(0, 400 - width, width - overlap)]
    assert set(homology_groups(tiles)) == {0}
    apart = [locus[start : start + width] for start in range(0, 400 - width, width - 19)]
    found = homology_groups(apart)
    if len(set(found)) < len(apart):
        # Some of so many short ones may be alike by chance.
        assert found.tolist() == plain_groups(plain_likeness(apart)).tolist()
    # Of one family, but not directly related.
    assert not find_homologs(tiles[:1], tiles[-1:]).any()


def test_relatives_are_found_however_far_apart():
    rng = np.random.default_rng(0)
    promoters = [random_sequence(rng, 60) for _ in range(700)]
    shifted = [reverse_complement(promoter[5:]) for promoter in promoters]
    assert homology_groups(promoters + shifted).tolist() == [*range(700), *range(700)]
    assert (
        find_homologs(promoters[:350], shifted[350:] + promoters[350:] + shifted[:1]).tolist()
        == [True] + [False] * 349
    )


@pytest.mark.parametrize("repeat", ["A" * 30, "CA" * 15, "CAG" * 10, "A" * 14 + "C" + "A" * 15, "GATA" * 8])
def test_low_complexity_is_no_kinship(repeat):
    rng = np.random.default_rng(0)
    promoters = [random_sequence(rng, 40) + repeat + random_sequence(rng, 40) for _ in range(5)]
    assert homology_groups(promoters).tolist() == [0, 1, 2, 3, 4]
    # Not even where there is nothing else, unless it is all the same or one base apart.
    assert homology_groups([repeat, repeat + "CGC", reverse_complement(repeat), repeat + "A"]).tolist() == [0, 1, 0, 0]


def test_unreadable_bases_are_refused_with_their_position():
    with pytest.raises(InvalidSequenceError, match="Sequence 2: 'X' at position 3") as refused:
        homology_groups(["ACGT", "acXt"])
    assert refused.value.row == 1


@pytest.mark.parametrize("size", [0, 32])
def test_windows_fit_a_number(size):
    with pytest.raises(ValueError, match="must be 1 to 31"):
        homology_groups(["ACGT"], size)


def yeast_inserts(data: Path) -> list[str]:
    """Return sequences of neighbouring groups, most of which have several fragments."""
    table = pd.read_parquet(data / "yeast" / "native_ypd.parquet").sort_values("family", kind="stable")
    return table["sequence"].str[17:-13].iloc[-REAL_SEQUENCES:].tolist()


def ecoli_promoters(data: Path) -> list[str]:
    return pd.read_csv(data / "assays" / "ecoli_165bp_mpra.tsv", sep="\t", nrows=REAL_SEQUENCES)["sequence"].tolist()


@pytest.fixture(params=[yeast_inserts, ecoli_promoters])
def real_sequences(shared, request) -> list[str]:
    return request.param(shared / "data")


@pytest.mark.slow
def test_real_groups_are_those_of_plain_comparisons_of_all_pairs(real_sequences):
    letters = one_hot(real_sequences)
    expected = plain_groups(plain_relations(real_sequences, 20) | (best_identity(letters, letters) >= 0.75))
    assert 1 < len(set(expected)) < len(expected)
    assert homology_groups(real_sequences).tolist() == expected.tolist()


def one_hot(sequences: Sequence[str]) -> np.ndarray:
    """Return (rows, bases, 4) for sequences of one length; the reverse complement is the mirror image in both axes."""
    letters = np.array([list(sequence) for sequence in sequences])
    return (letters[..., None] == np.array(list("ACGT"))).astype(np.float32)


def best_identity(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """
    The largest share of equal letters at any offset without gaps, on either strand, where half of the letters or more
    overlap; (rows of ours, rows of theirs).
    """
    best = np.zeros((len(ours), len(theirs)), dtype=np.float32)
    length = ours.shape[1]
    for strand in (theirs, theirs[:, ::-1, ::-1]):
        for overlap in range((length + 1) // 2, length + 1):
            for left, right in ((ours[:, :overlap], strand[:, -overlap:]), (ours[:, -overlap:], strand[:, :overlap])):
                equal = left.reshape(len(left), -1) @ right.reshape(len(right), -1).T
                np.maximum(best, equal / overlap, out=best)
    return best


def test_nothing_alike_lies_on_both_sides_of_a_split_by_homology(real_sequences):
    split = split_groups(homology_groups(real_sequences), 0.1, 0.2)
    train, validation, test = ([real_sequences[row] for row in side] for side in split)
    assert best_identity(one_hot(train), one_hot(validation + test)).max() < 0.75
    assert not find_homologs(test, train + validation).any()


def test_what_is_alike_is_found_by_identity_too(real_sequences):
    """The test above must be able to fail."""
    mirrored = [reverse_complement(sequence[3:] + "ACG") for sequence in real_sequences[:20]]
    identity = best_identity(one_hot(real_sequences[:20]), one_hot(mirrored))
    assert np.diagonal(identity).tolist() == [1] * 20


@pytest.mark.slow
def test_example_of_its_speed(tmp_path):
    script = Path(__file__).parents[2] / "examples" / "benchmark_homology.py"
    words = [script, "--sequences", 300, "--lengths", 60, "--repeats", 1]
    assert run_script(*words, stdout=tmp_path / "printed") == 0
    printed = (tmp_path / "printed").read_text()
    assert re.search(r"^300 sequences +groups, s .*\nof 60 bases( +\d+\.\d){3}\n$", printed)
    related = runpy.run_path(str(script))["related_sequences"](300, 60, seed=0)
    assert 150 <= homology_groups(related).max() + 1 < 200
