"""Constructs are detected in sequences whose construct is known."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_proformer import InvalidSequenceError, ProformerTokenizer
from modeling_proformer.data.constructs import Construct, construct_tokenizer, detect_construct, orientation_of


FIVE, THREE = "TGCATTTTTTTCACATC", "GGTTACGGCTGTT"
ADAPTER = "AGATCGGAAGAGCACACGTCTGAAC"
COMPLEMENT = str.maketrans("ACGT", "TGCA")
# An example takes as long as the machine is busy.
fifty_examples = settings(max_examples=50)
seeds = st.integers(0, 2**32 - 1)
flank_pairs = st.sampled_from([(FIVE, THREE), ("", ADAPTER), (ADAPTER, "")])


def random_letters(rng: np.random.Generator, length: int) -> str:
    return "".join(rng.choice(list("ACGT"), length))


def random_inserts(rng: np.random.Generator, number: int, shortest: int = 80, longest: int = 80) -> list[str]:
    return [random_letters(rng, length) for length in rng.integers(shortest, longest + 1, number)]


def with_flanks(inserts: list[str], five_prime: str = FIVE, three_prime: str = THREE) -> list[str]:
    return [five_prime + insert + three_prime for insert in inserts]


def reverse_complement(sequence: str) -> str:
    return sequence.translate(COMPLEMENT)[::-1]


def other_letter(rng: np.random.Generator, letter: str) -> str:
    return rng.choice([other for other in "ACGT" if other != letter])


def mutated(rng: np.random.Generator, sequence: str, rate: float) -> str:
    return "".join(other_letter(rng, letter) if rng.random() < rate else letter for letter in sequence)


def substitute(rng: np.random.Generator, sequence: str, place: int) -> str:
    return sequence[:place] + other_letter(rng, sequence[place]) + sequence[place + 1 :]


def saturation_mutagenesis(promoter: str, places: range) -> list[str]:
    """Return every substitution at these positions, one in each sequence."""
    return [
        promoter[:place] + letter + promoter[place + 1 :]
        for place in places
        for letter in "ACGT"
        if letter != promoter[place]
    ]


def no_flanks(construct: Construct) -> bool:
    return construct.five_prime_flank is None and construct.three_prime_flank is None


def found_flanks(construct: Construct) -> tuple[str, str]:
    return construct.five_prime_flank or "", construct.three_prime_flank or ""


flank_lengths = st.integers(8, 25)


@fifty_examples
@given(seeds, flank_lengths, flank_lengths, st.integers(20, 60), st.integers(12, 40), st.integers(0, 40))
def test_flanks_are_found_and_inserts_trimmed_to_their_lengths(seed, five, three, number, shortest, spread):
    rng = np.random.default_rng(seed)
    five_prime, three_prime = random_letters(rng, five), random_letters(rng, three)
    inserts = random_inserts(rng, number, shortest, shortest + spread)
    construct = detect_construct(with_flanks(inserts, five_prime, three_prime))
    # Of inserts of one length, 19 of 20 may agree in one more letter by chance.
    assert construct.five_prime_flank.startswith(five_prime)
    assert construct.three_prime_flank.endswith(three_prime)
    extra = len(construct.five_prime_flank + construct.three_prime_flank) - five - three
    lengths = np.array([len(insert) for insert in inserts]) - extra
    assert construct.lengths == (lengths.min(), np.sort(lengths)[number // 2], lengths.max())
    if not construct.without_flanks:
        assert construct.missing_flanks == "keep"
        tokenizer = construct_tokenizer(construct, kmer_size=3, kmer_stride=1)
        assert tokenizer.insert_lengths(with_flanks(inserts, five_prime, three_prime)).tolist() == lengths.tolist()


@fifty_examples
@given(seeds)
def test_order_case_and_u_for_t_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    sequences = with_flanks(random_inserts(rng, 97, 60, 80)) + random_inserts(rng, 3, 60, 80)
    construct = detect_construct(sequences)
    assert detect_construct([sequences[row] for row in rng.permutation(100)]) == construct
    assert detect_construct([sequence.lower().replace("t", "u") for sequence in sequences]) == construct
    assert detect_construct([reverse_complement(sequence) for sequence in sequences]) == construct._replace(
        five_prime_flank=reverse_complement(THREE), three_prime_flank=reverse_complement(FIVE)
    )


@pytest.mark.parametrize(("five_prime", "three_prime"), [(FIVE, ""), ("", THREE)])
def test_a_flank_at_one_end(five_prime, three_prime):
    rng = np.random.default_rng(0)
    construct = detect_construct(with_flanks(random_inserts(rng, 200), five_prime, three_prime))
    assert construct.five_prime_flank == (five_prime or None)
    assert construct.three_prime_flank == (three_prime or None)
    assert construct.insert_width == 80


@fifty_examples
@given(seeds, flank_pairs)
def test_sequences_without_flanks_are_inserts_on_their_own(seed, flanks):
    inserts = random_inserts(np.random.default_rng(seed), 100, 60, 80)
    sequences = inserts[:3] + with_flanks(inserts[3:], *flanks)
    construct = detect_construct(sequences)
    assert found_flanks(construct) == flanks
    assert (construct.missing_flanks, construct.without_flanks) == ("keep", 3)
    tokenizer = construct_tokenizer(construct, kmer_size=3, kmer_stride=1)
    assert np.array_equal(tokenizer.encode_letters(sequences), tokenizer.encode_letters(inserts))
    assert "3 of the 100 sequences lack them" in construct.describe()


@fifty_examples
@given(seeds, flank_pairs, st.sampled_from([-1, 0, 1]))
def test_with_errors_in_flanks_sequences_are_cut_by_length(seed, flanks, change):
    rng = np.random.default_rng(seed)
    sequences = with_flanks(random_inserts(rng, 100), *flanks)
    end = rng.choice([end for end, flank in enumerate(flanks) if flank])
    place = int(rng.integers(len(flanks[end]))) + (len(flanks[0]) + 80) * end
    # A letter deleted, substituted or inserted.
    substituted = substitute(rng, sequences[0], place)
    sequences[0] = substituted[: place + (change >= 0)] + sequences[0][place + (change <= 0) :]
    construct = detect_construct(sequences)
    assert found_flanks(construct) == flanks
    tokenizer = construct_tokenizer(construct, kmer_size=3, kmer_stride=1)
    assert tokenizer.insert_lengths(sequences).tolist() == [80 + change] + [80] * 99
    if construct.without_flanks or change == 0:
        assert (construct.missing_flanks, construct.without_flanks) == ("cut", 1)
        assert "1 of the 100 sequences have them with errors" in construct.describe()


def test_errors_in_flanks_and_inserts_on_their_own_are_read_together():
    rng = np.random.default_rng(0)
    inserts = random_inserts(rng, 100)
    sequences = [substitute(rng, sequence, 3) for sequence in with_flanks(inserts[:2])]
    sequences += [*with_flanks(inserts[2:-1]), inserts[-1]]
    construct = detect_construct(sequences)
    assert (construct.missing_flanks, construct.without_flanks) == ("cut", 3)
    assert construct_tokenizer(construct, kmer_size=3, kmer_stride=1).inserts(sequences) == inserts


def test_padding_hides_no_flank():
    inserts = random_inserts(np.random.default_rng(0), 1000, 60, 80)
    construct = detect_construct([sequence.rjust(110, "N") for sequence in with_flanks(inserts)])
    assert construct[:3] == (FIVE, THREE, "keep")
    assert construct.insert_width == 80


@pytest.mark.parametrize("odd", ["other promoter", "no insert", "cut short"])
def test_sequences_that_no_setting_reads_to_their_insert_are_refused(odd):
    rng = np.random.default_rng(0)
    inserts = random_inserts(rng, 100)
    sequences = with_flanks(inserts)
    sequences[-2:] = {
        "other promoter": with_flanks(inserts[-2:], FIVE, random_letters(rng, len(THREE))),
        "no insert": [sequences[-2], FIVE + THREE],
        "cut short": [sequences[-2], sequences[-1][:25]],
    }[odd]
    construct = detect_construct(sequences)
    assert construct[:3] == (FIVE, THREE, "refuse")
    assert construct.lengths == (80, 80, 80)
    tokenizer = construct_tokenizer(construct, kmer_size=3, kmer_stride=1)
    with pytest.raises(InvalidSequenceError) as refusal:
        tokenizer(sequences)
    assert refusal.value.row >= 98
    tokenizer(sequences[: -construct.without_flanks])
    assert "are refused" in construct.describe()


@fifty_examples
@given(seeds, st.integers(40, 200), st.data())
def test_saturation_mutagenesis_has_no_flank_that_hides_a_mutated_position(seed, length, data):
    promoter = random_letters(np.random.default_rng(seed), length)
    first = data.draw(st.integers(0, length - 10))
    places = range(first, data.draw(st.integers(first + 10, length)))
    assert no_flanks(detect_construct(saturation_mutagenesis(promoter, places)))


@fifty_examples
@given(seeds, st.sampled_from([0.0005, 0.005, 0.01, 0.04, 0.12, 0.3]))
def test_variants_of_one_promoter_have_no_flanks(seed, rate):
    rng = np.random.default_rng(seed)
    promoter = random_letters(rng, 75)
    variants = [mutated(rng, promoter, rate) for _ in range(100)]
    assert no_flanks(detect_construct(variants))
    shorter = [variant[rng.integers(0, 60) :] for variant in variants]
    assert no_flanks(detect_construct(shorter))


def test_a_stretch_is_no_flank_beside_one_position_that_varies():
    rng = np.random.default_rng(0)
    promoter = random_letters(rng, 75)
    variants = [mutated(rng, promoter[:20], 0.001) + rng.choice(list("ACGT")) + promoter[21:] for _ in range(400)]
    assert no_flanks(detect_construct(variants))


@pytest.mark.parametrize(
    "sequences",
    [
        with_flanks(random_inserts(np.random.default_rng(0), 19)),
        with_flanks(random_inserts(np.random.default_rng(0), 19)) * 50,
        with_flanks(random_inserts(np.random.default_rng(0), 100), "ACCATGG", "GAATTC"),
        with_flanks(random_inserts(np.random.default_rng(0), 100), "N" * 20, "N" * 20),
        random_inserts(np.random.default_rng(0), 100),
        [FIVE + THREE] * 100,
        ["A"],
    ],
    ids=["few", "few but repeated", "short flanks", "padding", "random", "one sequence", "one letter"],
)
def test_in_doubt_there_are_no_flanks(sequences):
    construct = detect_construct(sequences)
    assert no_flanks(construct)
    assert construct.missing_flanks == "keep"
    assert construct.without_flanks == 0
    assert construct.insert_width == max(len(sequence.strip("N")) for sequence in sequences)
    assert "No constant flanks" in construct.describe()


def test_both_orientations_of_an_element_are_counted():
    rng = np.random.default_rng(0)
    inserts = random_inserts(rng, 50)
    palindrome = inserts[0][:40] + reverse_complement(inserts[0][:40])
    turned = [reverse_complement(insert) for insert in inserts[:5]]
    construct = detect_construct(with_flanks([*inserts, *turned, palindrome]))
    assert construct.reverse_complements == 10
    assert "For 10 sequences, the reverse complement" in construct.describe()


def test_what_cannot_be_read_is_refused_as_by_the_tokenizer():
    sequences = with_flanks(random_inserts(np.random.default_rng(0), 30))
    with pytest.raises(InvalidSequenceError, match="Sequence 8: 'X' at position 4") as refusal:
        detect_construct([*sequences[:7], "ACGX", *sequences[7:]])
    assert refusal.value.row == 7
    with pytest.raises(InvalidSequenceError, match="empty"):
        detect_construct(["ACGT", ""])
    with pytest.raises(ValueError, match="no sequences"):
        detect_construct([])


@pytest.mark.parametrize(
    ("five_prime", "three_prime", "orientation"),
    [
        (FIVE, THREE, "forward"),
        ("GGGG" + FIVE, THREE[:8], "forward"),
        (FIVE[-9:], THREE + "AC", "forward"),
        (FIVE, None, "forward"),
        (None, THREE, "forward"),
        (reverse_complement(THREE), reverse_complement(FIVE), "reverse"),
        (reverse_complement(THREE)[-8:], reverse_complement(FIVE) + "ACGT", "reverse"),
        (None, reverse_complement(FIVE), "reverse"),
        (FIVE, reverse_complement(FIVE), "unknown"),
        (FIVE[:-1], THREE, "unknown"),
        (FIVE[-5:], THREE[:5], "unknown"),
        (THREE, FIVE, "unknown"),
        (None, None, "unknown"),
    ],
)
def test_orientation_against_a_checkpoint(yeast_tokenizer, five_prime, three_prime, orientation):
    construct = detect_construct(["ACGT"])._replace(five_prime_flank=five_prime, three_prime_flank=three_prime)
    assert orientation_of(construct, yeast_tokenizer) == orientation


def test_flanks_of_a_checkpoint_may_be_in_lower_case_or_absent():
    construct = detect_construct(with_flanks(random_inserts(np.random.default_rng(0), 30)))
    lower_case = ProformerTokenizer(five_prime_flank=FIVE.lower(), three_prime_flank=THREE.replace("T", "u"))
    assert orientation_of(construct, lower_case) == "forward"
    assert orientation_of(construct, ProformerTokenizer()) == "unknown"


@pytest.mark.parametrize(("kmer_stride", "width"), [(1, 78), (5, 80), (78, 78), (100, 100)])
def test_the_tokenizer_is_as_wide_as_the_longest_insert(kmer_stride, width):
    sequences = with_flanks(random_inserts(np.random.default_rng(0), 30, 78, 78))
    tokenizer = construct_tokenizer(detect_construct(sequences), 10, kmer_stride)
    assert (tokenizer.kmer_size, tokenizer.kmer_stride, tokenizer.insert_width) == (10, kmer_stride, width)
    assert tokenizer(sequences, return_tensors="np")["input_ids"].shape == (30, 2 * width // kmer_stride)


@pytest.mark.parametrize(("kmer_size", "kmer_stride"), [(0, 1), (3, 0), (3, -2)])
def test_a_tokenizer_that_cannot_be(kmer_size, kmer_stride):
    with pytest.raises(ValueError, match="must"):
        construct_tokenizer(detect_construct(["ACGT"]), kmer_size, kmer_stride)


def test_a_person_can_read_it():
    construct = detect_construct(with_flanks(random_inserts(np.random.default_rng(0), 1200)))
    assert construct.describe() == (
        "1,200 sequences; every insert has 80 bases.\n"
        "Trimmed: the 5′ flank TGCATTTTTTTCACATC and the 3′ flank GGTTACGGCTGTT, exact in every sequence."
    )
    assert detect_construct(["A", "ACG"]).describe() == (
        "2 sequences; inserts have 1 to 3 bases, median 3.\n"
        "No constant flanks were found: each sequence is read as an insert."
    )


ADAPTERS = "AGGACCGGATCAACT", "CATTGCGTGAACCGA"


@pytest.mark.parametrize(
    ("table", "flanks", "missing_flanks", "without_flanks", "lengths", "reverse_complements", "orientation"),
    [
        ("yeast/native_ypd.parquet", (FIVE, THREE), "keep", 0, (80, 80, 80), 336, "forward"),
        ("yeast/random_ypd.tsv", (FIVE, THREE), "cut", 38, (65, 80, 95), 0, "forward"),
        ("assays/ecoli_165bp_mpra.tsv", (None, None), "keep", 0, (165, 165, 165), 0, "unknown"),
        ("assays/drosophila_deepstarr_sample.tsv", (None, None), "keep", 0, (249, 249, 249), 95, "unknown"),
        ("assays/human_k562_lentimpra_sample.tsv", ADAPTERS, "keep", 0, (200, 200, 200), 154, "unknown"),
    ],
)
def test_real_assays(
    shared,
    yeast_tokenizer,
    table,
    flanks,
    missing_flanks,
    without_flanks,
    lengths,
    reverse_complements,
    orientation,
):
    path = shared / "data" / table
    rows = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, sep="\t")
    sequences = rows["sequence"].tolist()
    construct = detect_construct(sequences)
    assert construct == (*flanks, missing_flanks, lengths, len(sequences), without_flanks, reverse_complements)
    assert orientation_of(construct, yeast_tokenizer) == orientation
    found = construct_tokenizer(construct, kmer_size=10, kmer_stride=1).insert_lengths(sequences)
    assert (found.min(), found.max()) == (lengths[0], lengths[2])
