"""RNA and DNA counts of barcodes become the activities of sequences."""

import numpy as np
import pandas as pd
import pytest

from modeling_proformer import ProformerTokenizer
from modeling_proformer.data.config import DataConfig
from modeling_proformer.data.prepare import prepare_assay
from modeling_proformer.data.tables import InputError
from modeling_proformer.training.config import FinetuneConfig, TrainConfig


COUNTS = {"rna": ["rna_1", "rna_2"], "dna": ["dna_1", "dna_2"]}


@pytest.fixture
def frame() -> pd.DataFrame:
    """Return six barcodes of each of 80 sequences; some are silent, and some were not read in a replicate."""
    generator = np.random.default_rng(0)
    rows = []
    for number, bases in enumerate(generator.choice(list("ACGT"), (80, 24))):
        for barcode in range(6):
            dna = generator.poisson(20, 2)
            rna = generator.poisson(dna * 2.0 ** (number % 5 - 2)) * np.array([1, 3])
            rows.append(["".join(bases), f"{number}-{barcode}", *rna, *dna])
    frame = pd.DataFrame(rows, columns=["sequence", "tag", *COUNTS["rna"], *COUNTS["dna"]])
    frame.loc[frame.index % 7 == 0, ["rna_2", "dna_2"]] = 0
    return frame


def prepare(frame, **options):
    return prepare_assay(frame, DataConfig(**COUNTS | options), ProformerTokenizer(kmer_size=3))


def expected(frame: pd.DataFrame, min_barcodes: int = 1) -> pd.DataFrame:
    """Return the activities of each replicate by their definition, and Poisson's standard error of their mean."""
    found, errors = {}, {}
    for rna, dna in zip(COUNTS["rna"], COUNTS["dna"], strict=True):
        read = frame[(frame[rna] > 0) | (frame[dna] > 0)]
        by_sequence = read.groupby("sequence")
        sums, barcodes = by_sequence[[rna, dna]].sum() + 1, by_sequence.size()
        shares = sums / sums.sum()
        found[rna] = np.log2(shares[rna] / shares[dna])[barcodes >= min_barcodes]
        errors[rna] = (1 / sums).sum(axis=1)[barcodes >= min_barcodes]
    found, errors = pd.DataFrame(found), pd.DataFrame(errors)
    error = np.sqrt(errors.sum(axis=1)) / errors.count(axis=1) / np.log(2)
    return pd.DataFrame({"activity": found.mean(axis=1), "error": error})


@pytest.mark.parametrize("min_barcodes", [1, 6])
def test_activities_and_weights_are_those_of_the_definition(frame, min_barcodes):
    assay = prepare(frame, min_barcodes=min_barcodes)
    right = expected(frame, min_barcodes).loc[assay.sequences]
    np.testing.assert_allclose(assay.measured[:, 0], right.activity)
    np.testing.assert_allclose(assay.weights, 1 / (right.error**2 + np.median(right.error**2)))
    assert len(assay) == len(expected(frame, min_barcodes)) == 80
    assert assay.table["labels"][:] == [[value] for value in assay.labels[:, 0]]
    assert set(assay.rows(np.arange(3)).column_names) == {"sequence", "labels", "weight"}
    assert "480 rows of barcodes are combined to 80 sequences. Their activity is the log2" in " ".join(assay.findings)


def test_one_column_of_dna_may_be_that_of_all_replicates(frame):
    shared = frame.assign(dna_2=frame.dna_1)
    one, two = prepare(frame, dna=["dna_1"]), prepare(shared)
    np.testing.assert_allclose(one.measured, two.measured)
    # Its error does not average out.
    assert (1 / one.weights).mean() > 1.1 * (1 / two.weights).mean()


def test_the_depth_of_a_column_makes_no_difference(frame):
    deep = frame.assign(rna_1=frame.rna_1 * 1000 + 999)
    frame = frame.assign(rna_1=frame.rna_1 + 1)
    np.testing.assert_allclose(prepare(deep).measured, prepare(frame).measured, atol=0.05)


def test_rows_may_repeat_a_barcode_and_a_barcode_of_two_sequences_counts_for_neither(frame):
    halves = pd.concat([frame.assign(**dict.fromkeys(["rna_1", "rna_2", "dna_1", "dna_2"], 1)), frame])
    repeated = prepare(halves, barcode="tag", min_barcodes=6)
    np.testing.assert_allclose(repeated.measured, prepare(halves, min_barcodes=1).measured)
    with pytest.raises(
        InputError, match=r"the most barcodes .* are 6 in one replicate; give a smaller `min_barcodes` t"
    ):
        prepare(halves, barcode="tag", min_barcodes=7)
    stolen = frame.assign(tag=frame.tag.replace("3-0", "4-1"))
    assay = prepare(stolen, barcode="tag")
    right = expected(frame[~frame.tag.isin(["3-0", "4-1"])]).loc[assay.sequences]
    np.testing.assert_allclose(assay.measured[:, 0], right.activity)
    assert "Rows whose barcode belongs to several sequences: 2; they are left out." in assay.findings


def test_sequences_with_few_barcodes_are_left_out_and_splits_stay(frame):
    fold = np.repeat(np.array(["train", "train", "validation", "test"])[np.arange(80) % 4], 6)
    assay = prepare(frame.assign(fold=fold).drop([0, 1, 6, 7]), min_barcodes=5, split="fold")
    assert len(assay) == 78
    assert "Sequences with fewer than 5 barcodes in every replicate: 2; they are left out." in assay.findings
    folds = dict(zip(frame.sequence, fold, strict=True))
    for name, rows in assay.split._asdict().items():
        assert {folds[sequence] for sequence in assay.sequences_of(rows)} == {name}


def test_a_file_is_read_as_a_frame_is(frame, tmp_path):
    frame.to_csv(tmp_path / "counts.csv", index=False)
    np.testing.assert_allclose(prepare(tmp_path / "counts.csv").measured, prepare(frame).measured)


@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("dna_2", 3.5, r"column 'dna_2': 3\.5 is no number of reads; give the numbers as they were before normalis"),
        ("rna_1", -1, r"column 'rna_1': there cannot be -1 reads"),
        ("tag", None, r"column 'tag': the barcode is missing"),
    ],
)
def test_what_is_no_count_is_refused_by_its_place(frame, tmp_path, as_file, column, value, reason):
    wrong = frame.astype({"dna_2": float})
    wrong.loc[5, column] = value
    data = wrong
    if as_file:
        data = tmp_path / "counts.csv"
        wrong.to_csv(data, index=False)
    with pytest.raises(InputError, match=rf"(line 7|row 6), {reason}"):
        prepare(data, barcode="tag")


def test_a_column_without_reads_is_refused(frame):
    with pytest.raises(InputError, match="column 'rna_2': there are no reads"):
        prepare(frame.assign(rna_2=0))


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        (DataConfig, {"dna": None}, "`rna` needs `dna`"),
        (DataConfig, {"rna": None}, "`dna` needs `rna`"),
        (DataConfig, {"rna": None, "dna": None, "min_barcodes": 3}, "`min_barcodes` needs `rna`"),
        (DataConfig, {"rna": ["a", "b", "c"]}, "`dna` has 2 columns for the 3 of `rna`"),
        (DataConfig, {"rna": "rna_1"}, r"`rna` is a list of columns, such as \['rna_1'\]"),
        (DataConfig, {"dna": ["rna_1"]}, "name the column 'rna_1' more than once"),
        (DataConfig, {"targets": ["activity"]}, "leave out `targets`"),
        (DataConfig, {"weight": "reads"}, "leave out `weight`"),
        (DataConfig, {"min_barcodes": 0}, "must be at least 1"),
        (FinetuneConfig, {"transform": "log"}, "is a logarithm; leave out `transform`"),
        (FinetuneConfig, {"task": "classification"}, "is a logarithm; leave out `task`"),
        (TrainConfig, {"validation_data": "other.tsv"}, "within one table; leave out `validation_data`"),
    ],
)
def test_options_that_contradict_each_other_are_refused(kind, options, reason):
    with pytest.raises(ValueError, match=reason):
        kind(**COUNTS | options)
