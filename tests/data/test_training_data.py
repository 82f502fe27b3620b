"""Tables to train on."""

import numpy as np
import pandas as pd
import pytest

from modeling_proformer.data.tables import InputError
from modeling_proformer.data.training_data import (
    check_training,
    label_scale,
    load_training_data,
    record_training,
    rows_that_fit,
)


@pytest.fixture
def write_table(tmp_path):
    def write(name: str, rows: int, seed: int = 0, **columns) -> str:
        generator = np.random.default_rng(seed)
        table = {
            "sequence": ["".join(generator.choice(list("ACGT"), 12)) for _ in range(rows)],
            "expression": generator.normal(size=rows),
            "family": np.arange(rows) // 4,
            **columns,
        }
        pd.DataFrame(table).to_csv(tmp_path / name, index=False)
        return str(tmp_path / name)

    return write


def test_families_are_held_out_whole_and_the_scale_is_the_training_rows_own(write_table, tiny_tokenizer):
    reads = np.arange(1, 41)
    large = write_table("large.csv", 40, reads=reads)
    small = write_table("small.csv", 20, seed=1, reads=np.ones(20))
    data = load_training_data(
        [large, small, small],
        tiny_tokenizer,
        weight_column="reads",
        group_column="family",
        validation_fraction=0.2,
    )
    # A fifth of each table; the one listed twice counts twice in training and once in evaluation.
    assert (len(data.train), len(data.held_out)) == (32 + 2 * 16, 8 + 4)
    assert not set(data.train["sequence"][:]) & set(data.held_out["sequence"][:])
    measured = np.array(data.train["expression"][:])
    assert (data.label_mean, data.label_std) == ([pytest.approx(measured.mean())], [pytest.approx(measured.std())])
    assert data.mean_weight == pytest.approx(np.mean(data.train["reads"][:]))
    assert [(table.source, table.times, table.rows) for table in data.tables] == [(large, 1, 40), (small, 2, 20)]


def test_a_validation_table_is_held_out_whole_and_in_its_order(write_table, tiny_tokenizer):
    train, validation = write_table("train.csv", 20), write_table("validation.csv", 12, seed=1)
    data = load_training_data([train], tiny_tokenizer, validation_source=validation)
    assert len(data.train) == 20
    assert data.held_out["sequence"][:] == pd.read_csv(validation).sequence.tolist()
    fewer = load_training_data([train], tiny_tokenizer, validation_source=validation, max_validation_rows=5)
    assert len(fewer.held_out) == 5


def test_validation_sequences_that_are_trained_on_too_are_counted(write_table, tiny_tokenizer):
    train, other = write_table("train.csv", 20), write_table("other.csv", 20, seed=1)
    trained_on = pd.read_csv(train).sequence
    sequences = [trained_on[3], trained_on[3], trained_on[5], *["ACGT", "GATT"] * 4]
    validation = write_table("validation.csv", 11, seed=2, sequence=sequences)
    data = load_training_data([train, other, train], tiny_tokenizer, validation_source=validation)
    assert (data.seen_in_training, len(data.held_out)) == (3, 11)
    assert load_training_data([other], tiny_tokenizer, validation_source=validation).seen_in_training == 0
    assert load_training_data([train], tiny_tokenizer, validation_fraction=0.2).seen_in_training == 0


def test_constant_measurements_are_refused(write_table, tiny_tokenizer):
    varied, constant = write_table("varied.csv", 20), write_table("constant.csv", 20, expression=3.0)
    with pytest.raises(InputError, match="In the training rows, the column 'expression' has no two different values"):
        load_training_data([constant], tiny_tokenizer, validation_source=varied)
    with pytest.raises(InputError, match="In the held-out rows, the column 'expression' has no two different values"):
        load_training_data([varied], tiny_tokenizer, validation_source=constant)
    with pytest.raises(InputError, match=r"varied\.csv: 20 rows in 20 groups cannot be split with 0\.01"):
        load_training_data([varied], tiny_tokenizer, validation_fraction=0.01)


def test_label_scale_ignores_missing_values():
    names = ["glucose", "galactose"]
    scale = label_scale(names, [np.array([1.0, 3.0, np.nan]), np.array([5.0, np.nan, 9.0])])
    assert scale == ([2.0, 7.0], [1.0, 2.0])
    with pytest.raises(InputError, match="'galactose' has no two different values"):
        label_scale(names, [np.array([1.0, 3.0]), np.array([5.0, 5.0])])
    with pytest.raises(InputError, match="'glucose' has no two different values"):
        label_scale(names, [np.array([np.nan, np.nan]), np.array([5.0, 6.0])])


def test_bad_sequences_are_found_before_training(tiny_tokenizer):
    with pytest.raises(InputError, match=r"^promoters, row 5: 'X' at position 3"):
        rows_that_fit("promoters", ["ACGT"] * 4 + ["ACXT"], tiny_tokenizer, batch_size=2)


def test_rows_too_long_for_the_construct_are_left_out(tiny_tokenizer):
    sequences = ["ACGT", "A" * 13, "A" * 12, "ACGT" * 10]
    assert rows_that_fit("promoters", sequences, tiny_tokenizer, batch_size=3).tolist() == [0, 2]
    with pytest.raises(InputError, match=r"promoters: no insert fits the construct's 12 letters\. Are there flanks"):
        rows_that_fit("promoters", ["A" * 13], tiny_tokenizer)


def test_a_training_is_compared_with_what_it_began_with(tmp_path, write_table, tiny_tokenizer):
    def tables(*sources: str):
        return load_training_data(sources, tiny_tokenizer, validation_fraction=0.2).tables

    first, second = write_table("first.csv", 20), write_table("second.csv", 20, seed=1)
    run, settings = tmp_path / "run", {"seed": 1, "label_columns": ("expression",)}
    with pytest.raises(InputError, match=r"training\.json should say what the training in this folder began with"):
        check_training(run, tables(first), settings)
    record_training(run, tables(first, second), settings)
    check_training(run, tables(first, second), settings)
    with pytest.raises(InputError, match=r"run holds a training with seed 1, not 2\. Leave it as it was"):
        check_training(run, tables(first, second), {**settings, "seed": 2})
    moved = str(tmp_path / "moved.csv")
    (tmp_path / "second.csv").rename(moved)
    check_training(run, tables(first, moved), settings)
    with pytest.raises(InputError, match=r"run holds a training on other tables: .*second\.csv is gone"):
        check_training(run, tables(first), settings)
    with pytest.raises(InputError, match=r"moved\.csv has changed since, or was no part of it\. Give the tables as"):
        check_training(run, tables(moved, first), settings)
    with pytest.raises(InputError, match=r"first\.csv has changed since"):
        check_training(run, tables(first, first, moved), settings)
    write_table("first.csv", 20, seed=2)
    with pytest.raises(InputError, match=r"first\.csv has changed since"):
        check_training(run, tables(first, moved), settings)
