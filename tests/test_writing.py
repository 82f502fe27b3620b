"""Tables are written whole or not at all."""

import gc

import pytest

from modeling_proformer.writing import output_table


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("suffix", [".tsv", ".csv.gz", ".parquet"])
def test_a_table_that_is_interrupted_leaves_nothing_and_says_nothing(tmp_path, suffix):
    with pytest.raises(KeyboardInterrupt), output_table(tmp_path / f"table{suffix}", {}) as table:
        table.write(["name"], [["a"], ["b"]])
        raise KeyboardInterrupt
    gc.collect()
    assert not list(tmp_path.iterdir())
