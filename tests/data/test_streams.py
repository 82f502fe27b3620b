"""A stream gives the same batches whoever reads them and wherever reading begins, and its errors say where."""

import pickle
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from columnar import write_columns
from torch.utils.data import DataLoader

from modeling_proformer import ProformerTokenizer
from modeling_proformer.data import streams
from modeling_proformer.data.config import DataConfig
from modeling_proformer.data.streams import (
    EndlessStream,
    StreamedFile,
    load_first_rows,
    stream_table,
    version_of,
)
from modeling_proformer.data.tables import InputError


CONFIG = DataConfig(weight="reads", insert_width=12, too_long="leave_out")
TOKENIZER = ProformerTokenizer(kmer_size=3, insert_width=12)


def promoters(rows: int = 300) -> pd.DataFrame:
    """Return different inserts, of which 1 in 7 is too long, 1 in 11 unmeasured, and 1 in 13 of weight 0."""
    generator = np.random.default_rng(0)
    numbers = generator.choice(4**12, rows, replace=False)
    inserts = ["".join("ACGT"[number >> shift & 3] for shift in range(0, 24, 2)) for number in numbers]
    return pd.DataFrame(
        {
            "sequence": [insert * 2 if row % 7 == 3 else insert for row, insert in enumerate(inserts)],
            "expression": [None if row % 11 == 5 else generator.normal() for row in range(rows)],
            "reads": [0 if row % 13 == 2 else 1 + row % 3 for row in range(rows)],
        }
    )


def fitting(frame: pd.DataFrame) -> list[str]:
    return sorted(frame[(frame.sequence.str.len() == 12) & frame.expression.notna() & (frame.reads > 0)].sequence)


@pytest.fixture(params=["a file", "three files"])
def table(request, tmp_path) -> Path:
    """Return a table of 300 rows in row groups of 40, in one file or in those of a folder."""
    frame = promoters()
    if request.param == "a file":
        frame.to_parquet(tmp_path / "table.parquet", row_group_size=40)
        return tmp_path / "table.parquet"
    (tmp_path / "table").mkdir()
    for part in range(3):
        frame.iloc[part * 100 : part * 100 + 100].to_parquet(tmp_path / "table" / f"train-{part}.parquet")
    return tmp_path / "table"


@pytest.fixture
def small_blocks(monkeypatch):
    """Shuffle among so few rows that an epoch has several blocks."""
    monkeypatch.setattr(streams, "READ_ROWS", 16)
    monkeypatch.setattr(streams, "BLOCK_ROWS", 48)


def open_stream(table: Path, start: int = 0, **options) -> EndlessStream:
    files = stream_table(table, CONFIG, TOKENIZER)
    stream = EndlessStream(files, ["sequence", "labels", "weight"], **{"batch_size": 10, "seed": 5} | options)
    stream.skip_rows(start)
    return stream


def batches(stream: EndlessStream, count: int, workers: int = 0) -> list[list[tuple[int, str]]]:
    loader = DataLoader(stream, stream.batch_size, num_workers=workers, collate_fn=list)
    return [[(row["epoch"], row["sequence"]) for row in batch] for batch in islice(loader, count)]


def test_each_epoch_has_every_row_that_is_trained_on_once_in_its_own_order(table, small_blocks):
    expected = fitting(promoters())
    rows = list(islice(open_stream(table), 3 * len(expected)))
    orders = [[row["sequence"] for row in rows if row["epoch"] == epoch] for epoch in range(3)]
    assert [sorted(order) for order in orders] == [expected] * 3
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert all(row["weight"] > 0 and not np.isnan(row["labels"][0]) for row in rows)
    assert [row["sequence"] for row in islice(open_stream(table, seed=6), len(expected))] != orders[0]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_batches_do_not_depend_on_the_loader_workers(table, small_blocks, workers):
    """Five workers are more than there are files; 100 batches are four epochs and a half."""
    assert batches(open_stream(table), 100, workers) == batches(open_stream(table), 100)


@pytest.mark.parametrize("start", [10, 210, 220, 650, 680])
def test_a_stream_that_resumes_goes_on_with_the_same_batches(table, small_blocks, start):
    """An epoch has 216 rows; training was interrupted within the first one, around its end, and later."""
    assert len(fitting(promoters())) == 216
    whole = batches(open_stream(table), 100)
    for workers in (0, 2):
        assert batches(open_stream(table, start), 30, workers) == whole[start // 10 :][:30]


def test_epochs_behind_a_resumed_training_are_not_read(table, monkeypatch):
    opened = []
    read = StreamedFile.read
    monkeypatch.setattr(StreamedFile, "read", lambda file: opened.append(file.name) or read(file))
    stream = open_stream(table, start=50 * 216 + 8)
    assert next(iter(stream))["epoch"] == 50
    assert len(opened) == 2 * len(stream.files)


def test_tables_that_count_twice_and_several_tables_are_mixed(tmp_path, small_blocks):
    frame = promoters()
    write_columns(tmp_path / "first.parquet", pa.table(frame.iloc[:150]), rows_in_piece=50)
    write_columns(tmp_path / "second.arrow", pa.table(frame.iloc[150:]), rows_in_piece=50)
    first, second = (stream_table(tmp_path / name, CONFIG, TOKENIZER) for name in ("first.parquet", "second.arrow"))
    stream = EndlessStream([*first, *second, *first], ["sequence"], batch_size=8, seed=0)
    half, other = fitting(frame.iloc[:150]), fitting(frame.iloc[150:])
    rows = [row["sequence"] for row in islice(stream, 2 * len(half) + len(other))]
    assert sorted(rows) == sorted(half + half + other)
    assert set(rows[:40]) & set(half) and set(rows[:40]) & set(other)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_without_a_row_that_fits_ends_with_an_error(tmp_path, workers):
    promoters().assign(sequence="A" * 150).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(InputError, match="No insert of the streamed tables fits the construct"):
        batches(open_stream(tmp_path / "table.parquet"), 1, workers)


@pytest.mark.parametrize(
    ("cells", "settings", "complaint"),
    [
        ({"sequence": "ACXT"}, {}, "column 'sequence': 'X' at position 3"),
        ({"expression": 1e300}, {}, r"column 'expression': 1e\+300 is too large"),
        ({"reads": -1}, {}, "column 'reads': the weight is -1"),
        (
            {"sequence": "A" * 30, "expression": 1.0, "reads": 1},
            {"too_long": "refuse"},
            "column 'sequence': the insert has 30 bases, but the construct 12. Give a larger `insert_width`",
        ),
        ({"sequence": "ACGT", "expression": 1.0, "reads": 1}, {"flank": "GGATCC"}, "column 'sequence': .*flank"),
    ],
)
def test_a_row_that_is_refused_is_named(tmp_path, cells, settings, complaint):
    """It lies in the second file of a folder."""
    frame = promoters().iloc[:60]
    frame["sequence"] = "GGATCC" * bool(settings.get("flank")) + frame.sequence.str[:12]
    frame.to_parquet(tmp_path / "train-1.parquet")
    for column, value in cells.items():
        frame.loc[50, column] = value
    frame.to_parquet(tmp_path / "train-2.parquet")
    config = DataConfig(weight="reads", insert_width=12, too_long=settings.get("too_long", "leave_out"))
    tokenizer = TOKENIZER
    if settings.get("flank"):
        tokenizer = ProformerTokenizer(
            kmer_size=3, insert_width=12, five_prime_flank=settings["flank"], missing_flanks="refuse"
        )
    with pytest.raises(InputError, match=rf"{tmp_path}, file 2 of 2, row 51, {complaint}"):
        for file in stream_table(tmp_path, config, tokenizer):
            list(file.read())


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "table.parquet"
    promoters().to_parquet(path, row_group_size=40)
    content = bytearray(path.read_bytes())
    content[100:1000] = bytes(900)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"table\.parquet: the rows cannot be read"):
        list(open_stream(path))
    path.write_bytes(content[:-10])
    with pytest.raises(InputError, match=r"table\.parquet"):
        stream_table(path, CONFIG)


def test_a_table_without_a_measurement_is_refused(tmp_path):
    promoters().assign(expression=np.nan).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(InputError, match=r"table\.parquet: no row has a measurement in the columns 'expression'"):
        load_first_rows(tmp_path / "table.parquet", CONFIG)


def test_only_names_are_streamed(tmp_path):
    with pytest.raises(TypeError, match="is a file or the name of a dataset on the Hub, not the DataFrame"):
        stream_table(promoters(), CONFIG)
    promoters().to_csv(tmp_path / "table.csv")
    with pytest.raises(InputError, match="a table that is streamed is a Parquet, Arrow or Feather file"):
        stream_table(tmp_path / "table.csv", CONFIG)
    with pytest.raises(InputError, match=r"none\.parquet: no such file"):
        stream_table(tmp_path / "none.parquet", CONFIG)


def test_a_changed_table_has_another_version(table):
    before = version_of(table)
    assert version_of(table) == before
    changed = table if table.is_file() else table / "train-1.parquet"
    promoters(301).to_parquet(changed)
    assert version_of(table) != before


def test_the_stream_travels_to_workers_that_start_afresh(table):
    """As on macOS and Windows, where processes are not forked."""
    copy = pickle.loads(pickle.dumps(open_stream(table)))
    assert batches(copy, 5) == batches(open_stream(table), 5)


def test_ambiguous_bases_are_read_as_n_on_request(tmp_path):
    frame = promoters(100)
    frame.loc[0, "sequence"] = "R" + frame.sequence[0][1:]
    frame.to_parquet(tmp_path / "table.parquet")
    with pytest.raises(InputError, match=r"row 1, column 'sequence': 'R' at position 1 .* `iupac_as_n` reads IUPAC"):
        list(stream_table(tmp_path / "table.parquet", CONFIG, TOKENIZER)[0].read())
    (file,) = stream_table(tmp_path / "table.parquet", replace(CONFIG, iupac_as_n=True), TOKENIZER)
    rows = [row for table in file.read() for row in table.to_pylist()]
    assert [row["sequence"] for row in rows if row["ambiguous"]] == ["N" + frame.sequence[0][1:]]
    assert sorted(row["sequence"] for row in rows[1:]) == fitting(frame[1:])
