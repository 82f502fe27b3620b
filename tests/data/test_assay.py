"""A plain table becomes an assay, or is refused before anything is trained on it."""

import csv
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modeling_proformer import ProformerTokenizer
from modeling_proformer.data.assay import Assay
from modeling_proformer.data.config import DataConfig
from modeling_proformer.data.prepare import prepare_assay
from modeling_proformer.data.tables import InputError


@pytest.fixture
def reference() -> ProformerTokenizer:
    """Return the tokenizer of a checkpoint for inserts of 12 bases between two flanks."""
    return ProformerTokenizer(
        kmer_size=3, insert_width=12, five_prime_flank="GATTACAGAT", three_prime_flank="CCGGAATTCC"
    )


@pytest.fixture
def rows() -> list[dict]:
    """Return 100 unrelated inserts of 60 bases with measurements."""
    generator = np.random.default_rng(0)
    return [
        {"sequence": "".join(generator.choice(list("ACGT"), 60)), "expression": float(value)}
        for value in generator.normal(size=100)
    ]


def written(folder: Path, rows: list[dict]) -> Path:
    path = folder / "assay.tsv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def prepare(tmp_path, reference):
    def prepare(rows: list[dict], **options) -> Assay:
        return prepare_assay(written(tmp_path, rows), DataConfig(**options), reference)

    return prepare


def test_of_a_large_table_the_construct_is_that_of_a_part(rows, prepare, monkeypatch):
    monkeypatch.setattr("modeling_proformer.data.prepare.MAX_ROWS_FOR_CONSTRUCT", 50)
    findings = prepare(rows).findings
    assert f"These lines are about 50 of the {len(rows)} sequences." in findings
    assert any(finding.startswith("50 sequences; ") for finding in findings)


class TestBadRows:
    BAD = (
        "line 4, column 'expression': 'x' is not a finite number.*; .*line 7, column 'sequence': '!' at position 5 is"
    )

    @pytest.fixture
    def bad_rows(self, rows) -> list[dict]:
        rows[2]["expression"] = "x"
        rows[5]["sequence"] = "ACGT!"
        rows[8]["sequence"], rows[9]["sequence"] = "", "ACGR"
        # A row without a measurement is not read any further.
        rows[20] = {"sequence": "!", "expression": ""}
        return rows

    def test_are_counted_and_the_first_are_quoted(self, prepare, bad_rows, tmp_path):
        with pytest.raises(InputError, match=f"^4 of 100 rows are bad: .*{self.BAD}.*; and 1 more") as raised:
            prepare(bad_rows)
        # The row that could be read as N is not among those that are quoted.
        remedies = '; and 1 more. `iupac_as_n` reads IUPAC codes as N. `on_error="skip"` leaves such rows out.'
        assert str(raised.value).endswith(remedies)
        frame = pd.read_csv(tmp_path / "assay.tsv", sep="\t")
        with pytest.raises(InputError, match=r"^4 of 100 rows are bad: the DataFrame, row 3, column 'expression'"):
            prepare_assay(frame, DataConfig(), ProformerTokenizer())

    def test_are_left_out_and_the_findings_say_so(self, prepare, bad_rows):
        assay = prepare(bad_rows, on_error="skip")
        bad = [2, 5, 8, 9, 20]
        assert assay.sequences == [row["sequence"] for number, row in enumerate(bad_rows) if number not in bad]
        assert assay.sources[0].left_out == 5
        (finding,) = [each for each in assay.findings if each.startswith("4 of 100 rows")]
        assert re.fullmatch(rf"4 of 100 rows are left out: {self.BAD}.*; and 1 more\.", finding)
        assert "Rows without a measurement: 1; they are left out." in assay.findings

    def test_are_told_without_the_folder(self, prepare, rows, tmp_path):
        """The findings are published with the card, also where the error guesses that a column holds classes."""
        rows[0]["expression"] = "n.d."
        (finding,) = (each for each in prepare(rows, on_error="skip").findings if "are left out" in each)
        assert finding.startswith("1 of 100 rows are left out: line 2, column 'expression': 'n.d.' is not a finite")
        assert str(tmp_path) not in finding

    def test_alone_are_refused(self, prepare, rows):
        for row in rows:
            row["sequence"] = "R" + row["sequence"]
        with pytest.raises(
            InputError, match=r"^100 of 100 rows are bad: .*unknown base; and 97 more\. `iupac_as_n` reads"
        ):
            prepare(rows, on_error="skip")


class TestConstruct:
    def test_it_is_found(self, prepare, rows):
        for row in rows:
            row["sequence"] = "ACGTACGTACTT" + row["sequence"] + "GGGTTTCCCA"
        assay = prepare(rows)
        assert (assay.tokenizer.five_prime_flank, assay.tokenizer.three_prime_flank) == ("ACGTACGTACTT", "GGGTTTCCCA")
        assert (assay.tokenizer.insert_width, assay.tokenizer.kmer_size) == (60, 3)
        assert any("ACGTACGTACTT" in finding for finding in assay.findings)

    def test_the_checkpoint_s_own_keeps_its_width(self, prepare, rows, reference):
        for row in rows:
            row["sequence"] = "GATTACAGAT" + row["sequence"][:9] + "CCGGAATTCC"
        assay = prepare(rows, split_by="random", duplicates="average")
        assert assay.tokenizer.insert_width == 12
        assert "This is the checkpoint's own construct." in assay.findings

    def test_read_from_the_other_end_it_is_told(self, prepare, rows):
        for row in rows:
            row["sequence"] = "GGAATTCCGG" + row["sequence"] + "ATCTGTAATC"
        assert any("read from its other end" in finding for finding in prepare(rows).findings)

    def test_by_hand(self, prepare, rows):
        for row in rows:
            row["sequence"] = "ACGT" + row["sequence"]
        assay = prepare(rows, five_prime_flank="ACGT", insert_width=64, strands="forward")
        assert (assay.tokenizer.five_prime_flank, assay.tokenizer.insert_width) == ("ACGT", 64)
        assert assay.tokenizer.num_tokens == 64

    def test_flanks_by_hand_are_looked_for(self, prepare, rows):
        for row in rows[:90]:
            row["sequence"] = "ACGTAA" + row["sequence"]
        assay = prepare(rows, five_prime_flank="ACGTAA", three_prime_flank="")
        assert assay.tokenizer.insert_width == 60
        assert any("10 of the 100 sequences" in finding for finding in assay.findings)
        with pytest.raises(InputError, match=r"Only 0 of 100 sequences have the 3′ flank that was given"):
            prepare(rows, three_prime_flank="GGGGGGGGGG")

    def test_inserts_alone_are_read_with_flanks_given_and_kept(self, prepare, rows):
        assay = prepare(rows, five_prime_flank="GGGGGGGGGG", missing_flanks="keep")
        assert (assay.tokenizer.five_prime_flank, assay.tokenizer.insert_width) == ("GGGGGGGGGG", 60)

    def test_constructs_beyond_all_measure_are_refused(self, prepare, rows):
        for row in rows:
            row["sequence"] *= 20
        with pytest.raises(InputError, match="inserts of 1,200 bases are longer than the 1,000"):
            prepare(rows)
        with pytest.raises(InputError, match="inserts of 100,000 bases are longer than the 1,000"):
            prepare(rows, insert_width=100_000)

    def test_inserts_longer_than_the_width_by_hand_need_a_decision(self, prepare, rows):
        rows[41]["sequence"] += "ACGT"
        too_long = r"line 43: the insert has 64 bases\. Inserts longer than 60 bases: 1\. Give a larger `insert_w"
        with pytest.raises(InputError, match=too_long):
            prepare(rows, insert_width=60)
        assert len(prepare(rows, insert_width=60, too_long="leave_out").table) == 99
        assert len(prepare(rows, insert_width=60, too_long="cut").table) == 100

    def test_a_single_giant_needs_a_decision(self, prepare, rows):
        rows[41]["sequence"] *= 20
        with pytest.raises(InputError, match=r"line 43: the insert has 1,200 bases, but 99 % of all have 60 at most"):
            prepare(rows)


class TestTargets:
    def test_rows_without_a_measurement_are_left_out_and_told(self, prepare, rows):
        for row in rows:
            row["other"] = 1.5
        rows[0] |= {"expression": "NA", "other": ""}
        rows[1] |= {"expression": ""}
        rows[2] |= {"other": 3.0}
        assay = prepare(rows, targets=["expression", "other"])
        assert len(assay.table) == 99
        assert np.isnan(assay.labels[0]).tolist() == [True, False]
        assert assay.findings[0] == "99 rows have measurements of expression, other."

    def test_reads_in_bins(self, prepare, rows):
        for number, row in enumerate(rows):
            row |= {"low": number % 3, "high": "" if number % 2 else 1}
        rows[3] |= {"low": 0, "high": 0}
        assay = prepare(rows, targets=["low", "high"], bins=[0, 1])
        assert assay.locations[3] == "line 6"
        assert assay.labels[1].tolist() == [1, 0]
        rows[5]["low"] = -2
        with pytest.raises(InputError, match="line 7, column 'low': there cannot be -2 reads"):
            prepare(rows, targets=["low", "high"], bins=[0, 1])

    def test_standard_errors_weigh_at_most_twice_as_much_as_usual(self, prepare, rows):
        for number, row in enumerate(rows):
            row["error"] = [0.0, 0.5, 0.5, 3.0][number % 4]
        weights = prepare(rows, standard_error="error").weights
        np.testing.assert_allclose(weights[:4] / weights[1], [2, 1, 1, 0.5 / 9.25])

    def test_columns_that_contradict_each_other_are_refused(self, prepare, rows):
        rows = [row | {"reads": 3, "error": 0.5} for row in rows]
        for columns, reason in [
            ({"weight": "reads", "standard_error": "error"}, "`weight` or `standard_error`, not both"),
            ({"targets": ["expression", "expression"]}, "names the column 'expression' more than once"),
            ({"bins": [0.0, 1.0]}, "`bins` has 2 centres for 1 column of reads"),
            ({"bins": [0.0]}, r"`bins` must be two or more finite numbers, got \[0\.0\]"),
            ({"targets": ["reads", "error"], "bins": [0.0, float("nan")]}, "two or more finite numbers"),
        ]:
            with pytest.raises(ValueError, match=reason):
                prepare(rows, **columns)
        rows[3]["error"] = ""
        with pytest.raises(InputError, match="line 5, column 'error': the measurement is missing"):
            prepare(rows, standard_error="error")

    @pytest.mark.parametrize(
        ("row", "cells", "reason"),
        [
            (7, {"expression": "high"}, r"line 9, column 'expression': 'high' is not a finite number"),
            (7, {"sequence": "ACGTXACGT"}, r"line 9, column 'sequence': 'X' at position 5 is not one of A C G T U N"),
            (7, {"expression": "1e39"}, r"line 9, column 'expression': 1e\+39 is too large"),
            (7, {"sequence": " "}, r"line 9, column 'sequence': the sequence is empty"),
            (7, {"sequence": "NA"}, r"line 9, column 'sequence': the sequence is empty"),
            (7, {"sequence": "NNnN"}, r"line 9, column 'sequence': the sequence has no base but N"),
        ],
    )
    def test_unreadable_cells_are_refused_by_row_and_column(self, prepare, rows, row, cells, reason):
        rows[row] |= cells
        with pytest.raises(InputError, match=reason):
            prepare(rows)

    def test_rows_of_weight_zero_are_on_no_side(self, prepare, rows):
        rows = [row | {"reads": 0 if number % 4 == 0 else 3} for number, row in enumerate(rows)]
        assay = prepare(rows, weight="reads")
        assert sum(map(len, assay.split)) == len(assay.table) == 75
        assert "Rows of weight 0: 25; they are left out." in assay.findings

    def test_weights_beyond_all_measure_are_refused(self, prepare, rows):
        rows = [row | {"reads": 1} for row in rows]
        rows[7]["reads"] = "1e300"
        with pytest.raises(InputError, match=r"line 9, column 'reads': 1e\+300 is too large"):
            prepare(rows, weight="reads")

    def test_weights_that_are_all_zero_are_refused(self, prepare, rows):
        with pytest.raises(InputError, match="column 'reads': every weight is 0"):
            prepare([row | {"reads": 0} for row in rows], weight="reads")

    def test_an_output_without_measurements_on_a_side_is_refused(self, prepare, rows):
        rows = [row | {"other": number if number < 40 else ""} for number, row in enumerate(rows)]
        rows = [row | {"fold": ("train", "validation", "test")[number // 40]} for number, row in enumerate(rows)]
        with pytest.raises(InputError, match="in the validation split, one of the outputs has 0 measurements"):
            prepare(rows, targets=["expression", "other"], split="fold")

    def test_a_constant_target_is_refused(self, prepare, rows):
        for constant in (3, 1e9):
            with pytest.raises(InputError, match="column 'expression' is constant"):
                # Of a milliard, float32 does not know the last digits.
                prepare([row | {"expression": constant + constant * 1e-10 * (n % 2)} for n, row in enumerate(rows)])

    def test_a_target_that_is_missing_throughout_is_refused(self, prepare, rows):
        with pytest.raises(InputError, match="0 rows with measurements are too few"):
            prepare([row | {"expression": ""} for row in rows])

    def test_ten_rows_are_too_few(self, prepare, rows):
        with pytest.raises(InputError, match="10 rows with measurements are too few"):
            prepare(rows[:10])

    def test_none_are_left(self, prepare, rows):
        with pytest.raises(InputError, match=r"no insert fits the construct's 10 bases\. Are there flanks to trim"):
            prepare(rows, insert_width=10, too_long="leave_out")


class TestDuplicates:
    def test_different_measurements_are_refused_with_both_rows(self, prepare, rows):
        rows[50] = {"sequence": rows[9]["sequence"].lower(), "expression": 7.5}
        rows[9]["expression"] = 2.5
        with pytest.raises(
            InputError, match=r"line 11 and line 52 have the same insert .*\(expression 2\.5 and 7\.5\)"
        ):
            prepare(rows)

    def test_on_two_sides_of_a_split_too(self, prepare, rows):
        rows = [row | {"fold": ("train", "validation", "test")[number % 3]} for number, row in enumerate(rows)]
        rows[50] |= {"sequence": rows[9]["sequence"]}
        columns = {"split": "fold"}
        with pytest.raises(InputError, match=r"line 11 and line 52 have the same insert"):
            prepare(rows, **columns)
        assay = prepare(rows, **columns, duplicates="average")
        assert len(assay.table) == 100 and assay.test_homologs == 1

    def test_a_gap_in_the_first_of_them_hides_nothing(self, prepare, rows):
        for row, value in zip((9, 50, 60), ("", 5, 9), strict=True):
            rows[row] = {"sequence": rows[9]["sequence"], "expression": value}
        rows = [row | {"other": number} for number, row in enumerate(rows)]
        rows[50]["other"] = rows[60]["other"] = 9
        with pytest.raises(InputError, match=r"line 52 and line 62 have the same insert .*\(expression 5 and 9\)"):
            prepare(rows, targets=["expression", "other"])

    def test_or_averaged(self, prepare, rows):
        for row in rows:
            row["reads"] = 1
        rows[50] = {"sequence": rows[9]["sequence"], "expression": 7.0, "reads": 3}
        rows[9]["expression"] = 3.0
        columns = {"weight": "reads"}
        assay = prepare(rows, **columns, duplicates="average")
        assert len(assay.table) == 99
        assert (assay.labels[9, 0], assay.weights[9]) == (6.0, 4.0)
        assert assay.locations[50] == "line 53"

    def test_reads_add_up(self, prepare, rows):
        rows = [row | {"low": 1, "high": 2} for row in rows]
        rows[50]["sequence"] = rows[9]["sequence"]
        assay = prepare(rows, targets=["low", "high"], bins=[0, 1])
        assert assay.labels[9].tolist() == [2, 4]


class TestSplit:
    def test_relatives_stay_on_one_side(self, prepare, rows):
        """Every promoter is there a second time, with one letter changed, and a third, from its other strand."""
        complement = str.maketrans("ACGT", "TGCA")
        variants = [row | {"sequence": row["sequence"][:-1] + "A"} for row in rows if row["sequence"][-1] != "A"]
        reverses = [row | {"sequence": row["sequence"][::-1].translate(complement)} for row in rows]
        assay = prepare(rows + variants + reverses)
        sides = [set(assay.groups[rows]) for rows in assay.split]
        assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
        assert assay.test_homologs == 0
        assert sum(map(len, assay.split)) == len(assay.table)
        random = prepare(rows + variants + reverses, split_by="random")
        assert random.test_homologs > len(random.split.test) / 2
        assert any("have a homolog in another split: the test shows" in finding for finding in random.findings)

    def test_fewer_rows_to_train_on_leave_the_test_as_it_is(self, prepare, rows):
        whole, few = prepare(rows).split, prepare(rows, train_rows=35).split
        assert (len(whole.train), len(whole.validation)) == (70, 15)
        assert (len(few.train), len(few.validation)) == (35, 8)
        assert set(few.train) < set(whole.train) and set(few.validation) < set(whole.validation)
        np.testing.assert_array_equal(few.test, whole.test)
        assert "35 of 70 training rows are used, chosen at random." in prepare(rows, train_rows=35).findings

    def test_as_a_column_says(self, prepare, rows):
        names = ["Train", "train", "training", "val", "TEST"]
        rows = [row | {"fold": names[number % 5]} for number, row in enumerate(rows)]
        split = prepare(rows, split="fold").split
        assert split.test.tolist() == list(range(4, 100, 5))
        assert split.validation.tolist() == list(range(3, 100, 5))

    def test_without_rows_for_validation_some_of_the_training_rows_are_taken(self, prepare, rows):
        rows = [row | {"fold": "test" if number % 5 == 4 else "train"} for number, row in enumerate(rows)]
        split = prepare(rows, split="fold").split
        assert (len(split.train), len(split.validation), len(split.test)) == (68, 12, 20)

    def test_of_one_large_family_the_rows_for_validation_are_chosen_at_random_or_not_at_all(self, prepare, rows):
        """Few others would else choose the best step, and say how wide intervals are."""
        parent = rows[0]["sequence"]
        for number, row in enumerate(rows[:95]):
            row["sequence"] = parent[: number // 2] + "ACGT"[number % 2] + parent[number // 2 + 1 :]
        rows = [row | {"fold": "test" if number % 5 == 4 else "train"} for number, row in enumerate(rows)]
        columns = {"split": "fold"}
        with pytest.raises(InputError, match=r"Whole groups fill only \d of the .* rows of the validation split"):
            prepare(rows, **columns, duplicates="average")
        split = prepare(rows, **columns, duplicates="average", split_by="random").split
        assert len(split.validation) == int(0.15 * (len(split.train) + len(split.validation)))

    def test_a_column_that_assigns_all_rows_splits_them_whatever_splits_others(self, prepare, rows):
        folds = ["train"] * 60 + ["validation"] * 20 + ["test"] * 20
        rows = [row | {"fold": fold} for row, fold in zip(rows, folds, strict=True)]
        for split_by in ("homology", "random"):
            split = prepare(rows, split="fold", split_by=split_by).split
            assert [len(each) for each in split] == [60, 20, 20]

    def test_validation_rows_of_which_none_fits_are_refused(self, reference, rows, tmp_path):
        path = tmp_path / "long.tsv"
        path.write_text("sequence\texpression\n" + "".join(f"{'ACGTTGCA' * 20}\t{row}\n" for row in range(20)))
        with pytest.raises(InputError, match=r"long\.tsv: no insert fits the construct's 70 bases"):
            config = DataConfig(insert_width=70, too_long="leave_out")
            prepare_assay(written(tmp_path, rows), config, reference, validation_data=path)

    def test_a_column_that_leaves_no_test_rows_is_refused(self, prepare, rows):
        with pytest.raises(
            InputError, match=r"in the test split, one .* has 0 measurements.* go without a test \(`test_fraction=0`\)"
        ):
            prepare([row | {"fold": "train"} for row in rows], split="fold")

    def test_a_side_that_is_none_is_refused(self, prepare, rows):
        rows[30]["fold"] = "north"
        rows = [{"fold": "train"} | row for row in rows]
        with pytest.raises(InputError, match="line 32, column 'fold': 'north' is not a split; expected one of"):
            prepare(rows, split="fold")

    def test_by_groups(self, prepare, rows):
        rows = [row | {"gene": f"gene {number % 20}"} for number, row in enumerate(rows)]
        split = prepare(rows, group="gene").split
        sides = [{row % 20 for row in side} for side in split]
        assert sum(map(len, sides)) == 20

    @pytest.mark.parametrize(
        ("cells", "reason"),
        [
            ({"gene": " "}, r"line 32, column 'gene': the group is missing"),
            ({"fold": "test"}, r"line \d+ and line \d+ belong to the same group 'gene 10', but one is in the"),
        ],
    )
    def test_groups_that_say_nothing_or_are_divided_are_refused(self, prepare, rows, cells, reason):
        sides = ["train", "train", "validation", "test"]
        rows = [row | {"gene": f"gene {number % 20}", "fold": sides[number % 4]} for number, row in enumerate(rows)]
        rows[30] |= cells
        with pytest.raises(InputError, match=reason):
            prepare(rows, split="fold", group="gene")

    def test_options_without_effect_are_refused(self, prepare, rows):
        with pytest.raises(ValueError, match="`too_long` 'cut' needs an `insert_width`"):
            prepare(rows, too_long="cut")
        with pytest.raises(InputError, match="`train_rows` is 4, but at least 5 are needed"):
            prepare(rows, train_rows=4)

    def test_validation_rows_are_chosen_at_random(self, prepare, rows):
        whole, few = prepare(rows).split, prepare(rows, validation_rows=6).split
        assert len(few.validation) == 6 and set(few.validation) < set(whole.validation)
        np.testing.assert_array_equal(few.train, whole.train)

    def test_variants_of_one_promoter_need_another_split(self, prepare, rows):
        variants = [
            rows[0] | {"sequence": rows[0]["sequence"][:place] + letter + rows[0]["sequence"][place + 1 :]}
            for place in range(60)
            for letter in "ACGT"
        ]
        variants = [row | {"expression": number} for number, row in enumerate(variants)]
        with pytest.raises(InputError, match="or a column that assigns each row to a split"):
            prepare(variants, duplicates="average")
        assert len(prepare(variants, duplicates="average", split_by="random").split.test) > 20


class TestSeveralTables:
    @pytest.fixture
    def tables(self, rows) -> list[pd.DataFrame]:
        frame = pd.DataFrame(rows).assign(gene=np.arange(100) // 4, reads=np.arange(1, 101))
        return [frame[:60], frame[60:]]

    def test_one_that_is_listed_twice_counts_twice_in_training(self, tables, reference):
        config = DataConfig(weight="reads", group="gene", validation_fraction=0.2, test_fraction=0)
        first, second = tables
        assay = prepare_assay([first, second, first], config, reference)
        assert [(source.times, source.rows) for source in assay.sources] == [(2, 60), (1, 40)]
        train, validation, test = assay.split
        assert (len(validation), len(test)) == (20, 0)
        rows, counts = np.unique(train, return_counts=True)
        np.testing.assert_array_equal(counts, np.where(rows < 60, 2, 1))
        assert not set(rows) & set(validation)
        assert not set(assay.groups[train]) & set(assay.groups[validation])
        assert assay.rows(train[:3])["weight"][:] == assay.weights[train[:3]].tolist()

    def test_a_validation_table_is_evaluated_whole_and_in_its_order(self, tables, reference):
        train, validation = tables
        config = DataConfig(test_fraction=0, split_by="random")
        assay = prepare_assay(train, config, reference, validation_data=validation)
        assert assay.sequences_of(assay.split.validation) == validation.sequence.tolist()
        assert assay.split.train.tolist() == list(range(60))
        assert assay.location(70) == "the DataFrame, row 11"
        # The groups of held-out rows, over which intervals are bootstrapped, are known though the split ignores them.
        assert (assay.groups[:60] == -1).all() and len(set(assay.groups[60:])) == 40
        with pytest.raises(ValueError, match="leave out `split` or `validation_data`"):
            prepare_assay(train, DataConfig(split="gene"), reference, validation_data=validation)

    def test_without_a_measured_validation_row_no_training_row_takes_its_place(self, tables, reference):
        train, validation = tables
        with pytest.raises(InputError, match="the DataFrame: none of the rows that should validate the model is left"):
            prepare_assay(train, DataConfig(), reference, validation_data=validation.assign(expression=None))

    def test_rows_too_long_for_the_construct_are_left_out_of_their_table(self, tables, reference):
        first, second = tables
        second = second.assign(sequence=second.sequence.where(second.reads > 65, second.sequence + "ACGT"))
        config = DataConfig(insert_width=60, too_long="leave_out", split_by="random", test_fraction=0)
        assay = prepare_assay([first, second], config, reference)
        assert [source.left_out for source in assay.sources] == [0, 5]
        assert "Inserts longer than 60 bases: 5; they are left out." in assay.findings


def test_sequences_are_encoded_once(rows, reference, monkeypatch):
    """Construct, duplicates, groups, homologs and split share one encoding of the table."""
    encoded = []
    read_codes = ProformerTokenizer.read_codes

    def count(sequences, *arguments):
        encoded.extend(sequences)
        return read_codes(sequences, *arguments)

    monkeypatch.setattr(ProformerTokenizer, "read_codes", staticmethod(count))
    prepare_assay(pd.DataFrame(rows + rows[:3]), DataConfig(), reference)
    assert len(encoded) == 103
