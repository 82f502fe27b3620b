"""Scores of variants are those of a slow computation on whole chromosomes, and what cannot be scored says why."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY

from modeling_proformer import (
    InputError,
    ProformerConfig,
    ProformerForSequenceClassification,
    ProformerTokenizer,
    predict,
    score_variants,
)
from modeling_proformer.data.genome import Genome, Region
from modeling_proformer.data.vcf import Variant
from modeling_proformer.variant_scores import difference_interval


pysam = pytest.importorskip("pysam")

WIDTH = 12
COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A", "N": "N"}


@pytest.fixture(scope="module")
def model(two_outputs) -> ProformerForSequenceClassification:
    return two_outputs


@pytest.fixture(scope="module")
def tokenizer() -> ProformerTokenizer:
    return ProformerTokenizer(kmer_size=3, insert_width=WIDTH, five_prime_flank="TGCA", three_prime_flank="GGT")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("genomes")


def write_genome(folder: Path, chromosomes: dict[str, str]) -> Path:
    path = folder / "genome.fa"
    path.write_text("".join(f">{name}\n{bases}\n" for name, bases in chromosomes.items()))
    path.with_name("genome.fa.fai").unlink(missing_ok=True)
    return path


def reverse(bases: str) -> str:
    return "".join(COMPLEMENT[base] for base in reversed(bases))


def slow_windows(
    chromosome: str, position: int, reference: str, alternate: str, offsets: int, room: int, promoter=None
):
    """Return the windows of both alleles, from whole chromosomes with and without the variant; None for no such."""
    start, end = position - 1, position - 1 + len(reference)
    changed = chromosome[:start] + alternate + chromosome[end:]
    while reference != alternate and reference and alternate and reference[-1] == alternate[-1]:
        reference, alternate, end = reference[:-1], alternate[:-1], end - 1
    while reference != alternate and reference and alternate and reference[0] == alternate[0]:
        reference, alternate, start = reference[1:], alternate[1:], start + 1
    # An insertion or deletion lies in the leftmost place that gives the same chromosome.
    while not (reference and alternate) and start > 0 and chromosome[start - 1] != "N":
        inserted = changed[start - 1 : start - 1 + len(alternate)]
        if chromosome[: start - 1] + inserted + chromosome[end - 1 :] != changed:
            break
        start, end = start - 1, end - 1
    first, last = (0, len(chromosome)) if promoter is None else promoter[:2]
    if promoter is not None and promoter[2] == "-":
        chromosome, changed = reverse(chromosome), reverse(changed)
        start, end = len(chromosome) - end, len(chromosome) - start
        first, last = len(chromosome) - last, len(chromosome) - first
    shift = len(changed) - len(chromosome)
    width = room if promoter is None else min(room, last - first)
    allowed = [
        stop
        for stop in range(end, end + width + 1)
        if stop - width <= start and stop + shift - width <= start and (promoter is None or first <= stop - width)
        if promoter is None or stop <= last
    ]
    # An insertion at the border of a promoter is outside of it.
    if promoter is not None and not (first <= start and end <= last and (start < end or first < start < last)):
        return None
    count = min(offsets, len(allowed))
    stops = [allowed[((2 * number + 1) * len(allowed) - 1) // (2 * count)] for number in range(count)]
    if not stops or any(
        stop < width or stop + shift < width or stop > len(chromosome) or stop + shift > len(changed) for stop in stops
    ):
        return None
    return [(chromosome[stop - width : stop], changed[stop + shift - width : stop + shift]) for stop in stops]


@st.composite
def problems(draw):
    """A chromosome, variants of it whose reference alleles are right, and promoters that may overlap."""
    # Of two letters, there are many repeats.
    chromosome = draw(st.text(draw(st.sampled_from(["AC", "ACGT"])), min_size=30, max_size=60))
    if draw(st.booleans()):
        hole = draw(st.integers(0, 25))
        chromosome = chromosome[:hole] + "NNN" + chromosome[hole + 3 :]
    variants = []
    for _ in range(draw(st.integers(1, 6))):
        position = draw(st.integers(1, len(chromosome)))
        reference = chromosome[position - 1 : position - 1 + draw(st.integers(1, 5))]
        alternate = draw(st.one_of(st.text("ACGT", min_size=1, max_size=5), st.text("ACGT", min_size=9, max_size=14)))
        variants.append((position, reference, reference[0] + alternate if draw(st.booleans()) else alternate))
    bounds = st.tuples(st.integers(0, 40), st.integers(3, 25), st.sampled_from("+-"))
    promoters = [
        (start, min(start + length, len(chromosome)), strand)
        for start, length, strand in draw(st.lists(bounds, max_size=4))
        if start < len(chromosome)
    ]
    return chromosome, variants, promoters


@settings(max_examples=60)
@given(
    problem=problems(),
    offsets=st.integers(1, WIDTH),
    with_promoters=st.booleans(),
    width=st.sampled_from([7, WIDTH]),
    batch_size=st.sampled_from([1, 7, 64]),
)
def test_scores_are_those_of_chromosomes_with_and_without_the_variant(
    model, tokenizer, folder, problem, offsets, with_promoters, width, batch_size
):
    chromosome, variants, promoters = problem
    offsets = min(offsets, width)
    path = write_genome(folder, {"chrI": chromosome, "chrII": "ACGT" * 10})
    expected = []
    for position, reference, alternate in variants:
        if not with_promoters:
            expected.append(slow_windows(chromosome, position, reference, alternate, offsets, width))
            continue
        windows = [
            slow_windows(chromosome, position, reference, alternate, offsets, width, promoter)
            for promoter in sorted(promoters, key=lambda promoter: promoter[0])
        ]
        expected += [each for each in windows if each]
    # One that can be scored, because files without any are refused.
    plain = Variant("G", "T", "chrII", 19)
    regions = [Region("", "chrI", start, end, strand=strand) for start, end, strand in promoters]
    scores = [
        *score_variants(
            model,
            tokenizer,
            [plain, *(Variant(reference, alternate, "I", position) for position, reference, alternate in variants)],
            path,
            promoters=[Region("", "chrII", 8, 30), *regions] if with_promoters else None,
            offsets=offsets,
            width=width,
            batch_size=batch_size,
        )
    ][1:]
    if with_promoters:
        scores = [score for score in scores if not score.error]
    assert [not score.error for score in scores] == [windows is not None for windows in expected]
    for score, windows in zip(scores, expected, strict=True):
        if windows is None:
            assert np.isnan(score.difference).all()
            continue
        flanked = [f"TGCA{window}GGT" for pair in windows for window in pair]
        values = predict(model, tokenizer, flanked).reshape(len(windows), 2, 2)
        np.testing.assert_allclose(score.reference, values[:, 0].mean(axis=0), atol=2e-6)
        np.testing.assert_allclose(score.alternate, values[:, 1].mean(axis=0), atol=2e-6)
        differences = values[:, 1] - values[:, 0]
        np.testing.assert_allclose(score.difference, differences.mean(axis=0), atol=4e-6)
        assert score.windows == len(windows)
        spread = differences.std(axis=0) if len(windows) > 1 else np.full(2, np.nan)
        np.testing.assert_allclose(score.spread, spread, atol=4e-6)


def test_bases_around_a_variant_that_its_record_repeats_change_nothing(model, tokenizer, folder):
    bases = "".join(np.random.default_rng(1).choice(list("ACGT"), 60))
    path = write_genome(folder, {"chrI": bases})
    short = Variant(bases[30], bases[30] + "GAT", "chrI", 31)
    long = Variant(bases[28:34], bases[28:31] + "GAT" + bases[31:34], "chrI", 29)
    one, other = score_variants(model, tokenizer, [short, long], path, offsets=4)
    assert one.window == other.window
    np.testing.assert_array_equal(one.difference, other.difference)


@pytest.mark.parametrize("strand", [None, "+", "-"])
def test_an_indel_in_a_repeat_has_the_same_windows_wherever_it_is_written(model, tokenizer, folder, strand):
    bases = "".join(np.random.default_rng(3).choice(list("ACGT"), 60))
    bases = bases[:25] + "CAAAAAAG" + "TCACACAG" + bases[41:]
    path = write_genome(folder, {"chrI": bases})
    promoters = None if strand is None else [Region("", "chrI", 15, 50, strand=strand)]
    same = [
        [Variant("CA", "C", "chrI", 26), Variant("AA", "A", "chrI", 30), Variant("AG", "G", "chrI", 32)],
        [Variant("C", "CA", "chrI", 26), Variant("A", "AA", "chrI", 29), Variant("G", "AG", "chrI", 33)],
        [Variant("TCA", "T", "chrI", 34), Variant("ACA", "A", "chrI", 36), Variant("CAG", "G", "chrI", 39)],
    ]
    for variants in same:
        changed = {
            bases[: each.position - 1] + each.alternate + bases[each.position - 1 + len(each.reference) :]
            for each in variants
        }
        assert len(changed) == 1
        scores = [*score_variants(model, tokenizer, variants, path, promoters=promoters, offsets=3)]
        assert len(scores) == 3 and len({score.window for score in scores}) == 1
        for score in scores:
            assert not score.error
            np.testing.assert_array_equal(score.difference, scores[0].difference)


def test_a_window_of_the_open_batch_is_never_forgotten(model, tokenizer, monkeypatch):
    sequences = ["".join(bases) for bases in np.random.default_rng(4).choice(list("ACGT"), (12, WIDTH))]
    pairs = [*zip(sequences[::2], sequences[1::2], strict=True), (sequences[0], sequences[3])]
    expected = predict(model, tokenizer, [allele for pair in pairs for allele in pair]).reshape(len(pairs), 2, 2)
    monkeypatch.setattr("modeling_proformer.variant_scores.WINDOWS_KEPT", 4)
    for batch_size in (1, 3, 64):
        scores = list(score_variants(model, tokenizer, [Variant(*pair) for pair in pairs], batch_size=batch_size))
        np.testing.assert_allclose([score.reference for score in scores], expected[:, 0], atol=2e-6)
        np.testing.assert_allclose([score.alternate for score in scores], expected[:, 1], atol=2e-6)


def test_a_reference_that_is_used_again_and_again_is_kept(model, tokenizer, monkeypatch):
    sequences = ["".join(bases) for bases in np.random.default_rng(5).choice(list("ACGT"), (12, WIDTH))]
    monkeypatch.setattr("modeling_proformer.variant_scores.WINDOWS_KEPT", 4)
    computed = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: computed.extend(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    variants = [Variant(sequences[0], alternate) for alternate in sequences[1:]]
    list(score_variants(model, tokenizer, variants, batch_size=2))
    hook.remove()
    assert len(computed) == 12


def test_an_allele_that_does_not_fit_says_where_there_is_no_room(model, tokenizer, folder):
    bases = "ACGTTGCAAC" * 6
    path = write_genome(folder, {"chrI": bases})
    scores = [
        *score_variants(
            model,
            tokenizer,
            [Variant(bases[24], bases[24] + "GGCCGGCC", "chrI", 25), Variant(bases[30], "C", "chrI", 31)],
            path,
            promoters=[Region("", "chrI", 20, 32)],
        )
    ]
    assert scores[0].error == (
        "allele too long: 8 bases do not fit between the promoter's 5′ end and the end of the variant, where there is "
        "room for 5"
    )


def test_variants_without_a_location_are_counted(model, tokenizer, caplog):
    with caplog.at_level("WARNING"):
        list(score_variants(model, tokenizer, [Variant("ACGT", "ACCT"), Variant("AXGT", "ACGT")]))
    assert "unreadable sequence (first row 2: reference: " in caplog.text


@pytest.mark.parametrize("offsets", [1, 6])
def test_neighbouring_variants_share_their_references_and_both_alleles_a_batch(model, tokenizer, folder, offsets):
    bases = "".join(np.random.default_rng(2).choice(list("ACGT"), 400))
    path = write_genome(folder, {"chrI": bases})
    variants = [
        Variant(bases[position], base, "chrI", position + 1)
        for position in range(100, 200)
        for base in "ACGT"
        if base != bases[position]
    ]
    batches = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: batches.append(kwargs["input_ids"]), with_kwargs=True
    )
    scores = [*score_variants(model, tokenizer, variants, path, offsets=offsets, batch_size=16)]
    hook.remove()
    assert not any(score.error for score in scores)
    assert all(len(batch) <= 16 for batch in batches)
    computed = [tuple(tokens) for batch in batches for tokens in batch.tolist()]
    assert len(computed) == len(set(computed))
    # Each position of the genome starts one window of references.
    starts = {
        position - after for position in range(100, 200) for after in range(12 // offsets // 2, 12, 12 // offsets)
    }
    assert len(computed) == 300 * offsets + len(starts)
    batches.clear()
    lone = variants[::60]
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: batches.append(kwargs["input_ids"]), with_kwargs=True
    )
    list(score_variants(model, tokenizer, lone, path, batch_size=5))
    hook.remove()
    assert [len(batch) for batch in batches] == [4, 4, 2]


def test_an_interval_covers_every_difference_of_values_in_the_intervals_of_both_alleles():
    config = ProformerConfig(**TINY, interval_half_widths={"0.9": [1.0], "0.95": [2.0]}, label_transform="log")
    reference, alternate = np.exp([[2.0]]), np.exp([[0.0]])
    low, high = difference_interval(reference, alternate, config, 0.9)
    np.testing.assert_allclose([low, high], [[[np.exp(-2) - np.exp(4)]], [[np.exp(2) - np.exp(0)]]])
    with pytest.raises(ValueError, match=r"at the level 0.95 needs those of both alleles at 0.975"):
        difference_interval(reference, alternate, config, 0.95)


def test_variants_and_genome_have_to_fit(model, tokenizer, folder):
    path = write_genome(folder, {"chrI": "ACGT" * 20})
    (score,) = [
        score
        for score in score_variants(
            model, tokenizer, [Variant("A", "C", "1", 41), Variant("C", "T", "I", 42)], Genome(path)
        )
        if score.error
    ]
    assert score.error.startswith("unknown chromosome: '1'") and np.isnan(score.reference).all()
    with pytest.raises(InputError, match="give its FASTA file with `genome`"):
        list(score_variants(model, tokenizer, [Variant("A", "C", "I", 41)]))
    with pytest.raises(InputError, match="None of 1 rows can be scored: 1 no position"):
        list(score_variants(model, tokenizer, [Variant("ACGT", "ACGC")], path))


def test_an_insertion_at_the_border_of_a_promoter_is_outside_of_it(model, tokenizer, folder):
    path = write_genome(folder, {"chrI": "ACGTTGCAAC" * 6})
    bases = "ACGTTGCAAC" * 6
    # Behind the bases 20, 21, 31 and 32 of the chromosome.
    variants = [Variant(bases[end - 1], bases[end - 1] + "G", "chrI", end) for end in (20, 21, 31, 32)]
    scores = score_variants(model, tokenizer, variants, path, promoters=[Region("", "chrI", 20, 32)])
    assert [score.error for score in scores] == ["no promoter", "", "", "no promoter"]


def test_a_genome_that_cannot_be_read_is_no_fault_of_its_variants(model, tokenizer, folder):
    path = write_genome(folder, {"chrI": "ACGT" * 20, "chrII": "ACGT" * 20})
    Genome(path)
    path.write_bytes(path.read_bytes()[:100])
    os.utime(f"{path}.fai")
    variants = [Variant("A", "C", "chrI", 41), Variant("A", "C", "chrII", 41)]
    with pytest.raises(InputError, match="chrII, positions 1 to 80, cannot be read; the file is damaged"):
        list(score_variants(model, tokenizer, variants, path))
