"""Classes in the target column, and ambiguous bases in the sequences, from the table to the assay."""

import datasets
import numpy as np
import pandas as pd
import pytest

from modeling_proformer import ProformerTokenizer
from modeling_proformer.data.assay import Assay
from modeling_proformer.data.config import DataConfig
from modeling_proformer.data.prepare import prepare_assay
from modeling_proformer.data.sources import load_table
from modeling_proformer.data.tables import InputError
from modeling_proformer.training.config import FinetuneConfig, TrainConfig


NAMES = ["low", "mid", "high"]
LEVELS = {"targets": ["level"], "classes": NAMES}


@pytest.fixture
def frame() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    inserts = ["".join(bases) for bases in generator.choice(list("ACGT"), (90, 16))]
    return pd.DataFrame({"sequence": inserts, "level": [NAMES[row % 3] for row in range(90)]})


def prepare(data, **options) -> Assay:
    return prepare_assay(data, DataConfig(**LEVELS | options), ProformerTokenizer(kmer_size=3))


def numbers_of(data, **options) -> list[float]:
    return [number for (number,) in load_table(data, DataConfig(**LEVELS | options))["labels"][:]]


def test_a_class_is_its_number_and_measured_as_1_among_0(frame):
    frame.loc[4, "level"] = None
    assay = prepare(frame)
    assert assay.findings[:2] == [
        "89 rows have a class of level.",
        "Rows without a measurement: 1; they are left out.",
    ]
    assert assay.config.outputs == NAMES and assay.config.measured_columns == ["level"]
    kept = frame.level.dropna()
    assert assay.labels[:, 0].tolist() == [NAMES.index(name) for name in kept]
    for number, name in enumerate(NAMES):
        assert assay.measured[:, number].tolist() == (kept == name).tolist()
    assert not assay.binary
    missing = assay.measured_of(np.array([[np.nan], [2.0]]))
    assert np.isnan(missing[0]).all() and missing[1].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        ([0, 1, 2] * 3, [0, 1, 2]),
        ([0, 1, 2] * 3, ["0", "1", "2"]),
        ([0.0, 1.0, 2.0] * 3, ["0", "1", "2"]),
        (["0", " 1.0", "2 "] * 3, ["0", "1", "2"]),
        (["a", "b ", "c"] * 3, [" a", "b", "c"]),
        (["none", "NA-like", "null"] * 3, ["none", "NA-like", "null"]),
        ([True, False, True], ["TRUE", "FALSE"]),
    ],
)
@pytest.mark.parametrize("kind", ["frame", "dataset", "file"])
def test_names_and_numbers_are_found_in_columns_of_any_type(tmp_path, cells, names, kind):
    table = pd.DataFrame({"sequence": ["ACGT"] * len(cells), "level": cells})
    if kind == "dataset":
        table = datasets.Dataset.from_pandas(table)
    if kind == "file":
        table.to_csv(tmp_path / "table.tsv", sep="\t", index=False)
        table = tmp_path / "table.tsv"
    assert numbers_of(table, classes=names) == [row % len(names) for row in range(len(cells))]


def test_an_unknown_name_is_refused_where_it_stands(frame):
    frame.loc[30, "level"] = "hgih"
    reason = r"the DataFrame, row 31, column 'level': 'hgih' is not one of the classes 'low', 'mid', 'high'\. Did you"
    with pytest.raises(InputError, match=rf"^{reason} mean 'high'\? `on_error=\"skip\"` leaves such rows out\.$"):
        prepare(frame)


def test_names_without_the_option_lead_to_it(tmp_path, frame):
    frame.loc[:1, "level"] = None
    frame.to_csv(tmp_path / "table.tsv", sep="\t", index=False)
    for data, location in ((frame, "row 3"), (tmp_path / "table.tsv", "line 4")):
        remedy = r"'high' is not a finite number\. If the column holds classes, name them with `classes`;"
        with pytest.raises(InputError, match=rf"{location}, column 'level': {remedy}"):
            prepare(data, classes=None)
    # Among numbers, it is an error of the table.
    with pytest.raises(InputError, match=r"'high' is not a finite number\. `on_error"):
        load_table(pd.DataFrame({"sequence": ["A", "C"], "level": ["1", "high"]}), DataConfig(targets=["level"]))


def test_a_class_that_cannot_be_learned_is_named(frame):
    with pytest.raises(InputError, match=r"^the DataFrame: no row is of the class 'top'\. Leave it out of `classes`"):
        prepare(frame, classes=[*NAMES, "top"])
    frame["fold"] = np.where(frame.level == "mid", "test", "train")
    frame.loc[:20, "fold"] = np.where(np.arange(21) % 2, "validation", "test")
    with pytest.raises(InputError, match=r"^the DataFrame: no training row is of the class 'mid'\."):
        prepare(frame, split="fold")


def test_an_insert_of_two_classes_is_refused_or_kept_but_not_averaged(frame):
    twice = pd.concat([frame, frame[3:4], frame[4:5].assign(level="high")], ignore_index=True)
    conflict = r"row 5 and row 92 have the same insert and different classes \(level mid and high\)"
    for duplicates in ("refuse", "average"):
        with pytest.raises(InputError, match=rf'{conflict}.* no class: keep them all \(`duplicates="keep"`\), or lea'):
            prepare(twice, duplicates=duplicates)
    assert len(prepare(twice, duplicates="keep")) == 92
    # Rows that agree are merged; weights of 0.1 and 0.2 would make an average of 2.0000000000000004.
    agreeing = pd.concat([frame, frame], ignore_index=True).assign(reads=[0.1] * 90 + [0.2] * 90)
    merged = prepare(agreeing, weight="reads", duplicates="average")
    assert len(merged) == 90 and set(merged.labels[:, 0]) == {0, 1, 2}
    assert merged.weights == pytest.approx(np.full(90, 0.3))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"classes": "low"}, r"`classes` is a list of names, such as \['low'\]"),
        ({"classes": ["low"]}, r"`classes` must be two or more names, got \['low'\]"),
        ({"classes": ["low", " "]}, "`classes` must be two or more names"),
        ({"classes": ["low", "low "]}, "`classes` names 'low' more than once"),
        ({"classes": ["1", "2", 1.0]}, "`classes` names '1' more than once"),
        ({"targets": ["level", "other"]}, "`classes` is for one column of targets, but there are 2"),
        ({"bins": [0, 1], "targets": ["a", "b"]}, "`bins` is for numbers, not for classes; leave out `bins` or"),
        ({"rna": ["r"], "dna": ["d"], "targets": ["expression"]}, "`rna` is for numbers"),
        ({"standard_error": "error"}, "`standard_error` is for numbers"),
        ({"transform": "log"}, "`transform` is for numbers, not for classes; leave out `transform` or `classes`"),
        ({"task": "regression"}, "`task` is for numbers"),
    ],
)
def test_options_that_contradict_classes_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        FinetuneConfig(**LEVELS | options)


def test_classes_agree_with_the_task_and_are_refused_by_train():
    assert FinetuneConfig(**LEVELS, task="classification").outputs == NAMES
    with pytest.raises(ValueError, match="`train` predicts measurements, not classes; leave out `classes`"):
        TrainConfig(**LEVELS)


class TestAmbiguousBases:
    @pytest.fixture
    def ambiguous(self, frame) -> pd.DataFrame:
        frame.loc[7, "sequence"] = "R" + frame.sequence[7][1:]
        frame.loc[8, "sequence"] = frame.sequence[8][:-2] + "kN"
        return frame.assign(spare=np.arange(90)).drop(columns="level")

    def test_the_option_is_named_where_a_code_is_refused(self, ambiguous):
        with pytest.raises(
            InputError, match=r"row 8, column 'sequence': 'R' at position 1 .* `iupac_as_n` reads IUPAC"
        ):
            prepare(ambiguous, classes=None, targets=["spare"])
        ambiguous.loc[[7, 8], "sequence"] = "X"
        with pytest.raises(InputError) as refused:
            prepare(ambiguous, classes=None, targets=["spare"])
        assert "row 8" in str(refused.value) and "iupac_as_n" not in str(refused.value)

    @pytest.mark.parametrize("kind", ["frame", "file"])
    def test_codes_are_read_as_n_and_counted(self, tmp_path, ambiguous, kind):
        data = ambiguous
        if kind == "file":
            data = tmp_path / "table.tsv"
            ambiguous.to_csv(data, sep="\t", index=False)
        assay = prepare(data, classes=None, targets=["spare"], iupac_as_n=True)
        assert "Rows with IUPAC codes: 2; the codes are read as N." in assay.findings
        assert assay.sequences[7] == "N" + ambiguous.sequence[7][1:] and assay.sequences[8].endswith("NN")
        others = [row for row in range(90) if row not in (7, 8)]
        assert assay.sequences_of(others) == ambiguous.sequence[others].tolist()
