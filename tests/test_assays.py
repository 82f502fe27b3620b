"""Reading of tables and FASTA files."""

import csv
import gzip
import io
import itertools
import tracemalloc
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_proformer.assays import InputError, Row, load_assay, measured_value, read_rows, sequence_text


# An example takes as long as the machine is busy.
unhurried = settings(deadline=None)
# Any letters that can stand in a cell; a carriage return is a line's end in every text file.
cells = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="\ufeff") | st.just("\t"))
names = cells.map(str.strip).filter(bool)
sequences = st.text("ACGTNacgtn", min_size=1, max_size=100)
line_ends = st.sampled_from(["\n", "\r\n", "\r"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One for all the examples of a property."""
    return tmp_path_factory.mktemp("tables")


def write(path: Path, text: str, gzipped: bool = False, marked: bool = False) -> Path:
    content = text.encode("utf-8-sig" if marked else "utf-8")
    path.write_bytes(gzip.compress(content) if gzipped else content)
    return path


@unhurried
@given(st.dictionaries(names, sequences, min_size=1), st.integers(1, 90), line_ends, st.booleans(), st.booleans())
def test_fasta_comes_back_as_it_was_written(folder, records, width, line_end, gzipped, marked):
    lines, places = [], []
    for name, sequence in records.items():
        places.append(f"line {len(lines) + 1}")
        lines += [f">{name}", *(sequence[i : i + width] for i in range(0, len(sequence), width)), ""]
    path = write(folder / "promoters.fasta", line_end.join(lines), gzipped, marked)
    expected = [Row(place, {"name": n, "sequence": s}) for place, (n, s) in zip(places, records.items(), strict=True)]
    assert list(read_rows(path)) == expected


@unhurried
@given(
    st.lists(names, min_size=1, max_size=4, unique=True).flatmap(
        lambda header: st.tuples(
            st.just(header), st.lists(st.tuples(*[cells | st.just('"\n')] * len(header)), min_size=1)
        )
    ),
    st.sampled_from([("table.tsv", "\t"), ("table.txt", "\t"), ("table.csv", ",")]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
)
def test_tables_come_back_as_they_were_written(folder, table, kind, line_end, gzipped, marked):
    (header, rows), (name, delimiter) = table, kind
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=line_end).writerows([header, *rows])
    found = list(read_rows(write(folder / name, text.getvalue(), gzipped, marked)))
    assert [row.cells for row in found] == [dict(zip(header, row, strict=True)) for row in rows]
    # A row is where it ends, when a cell runs over several lines.
    ends = itertools.accumulate((1 + sum(cell.count("\n") for cell in row) for row in rows), initial=1)
    assert [row.place for row in found] == [f"line {end}" for end in list(ends)[1:]]


def test_parquet_comes_back_as_it_was_written(tmp_path):
    count = 10_000
    columns = {
        "sequence": ["ACGT", None] * (count // 2),
        "expression": [None, 1.5] * (count // 2),
        "n": [*range(count)],
    }
    pq.write_table(pa.table(columns), tmp_path / "table.parquet", row_group_size=3000)
    rows = list(read_rows(tmp_path / "table.parquet"))
    assert [row.place for row in rows] == [f"row {number}" for number in range(1, count + 1)]
    assert {name: [row.cells[name] for row in rows] for name in columns} == columns


@unhurried
@given(st.lists(st.sampled_from([" >twin", ">twin", ">twin "]), min_size=2, max_size=2), st.integers(0, 5))
def test_a_fasta_name_that_occurs_twice_is_found(folder, twins, between):
    others = [f">other {number}\nACGT" for number in range(between)]
    path = write(folder / "twins.fa", "\n".join([twins[0], "ACGT", *others, twins[1], "ACGG", ">last", "AC"]))
    with pytest.raises(InputError, match=rf"twins\.fa, line {3 + 2 * between}: the name 'twin' .* line 1"):
        list(read_rows(path))


@unhurried
@given(st.data())
def test_a_gzip_that_is_cut_anywhere_is_never_read_as_whole(folder, data):
    header, *lines = ["sequence", *("".join(letters) for letters in itertools.product("ACGT", repeat=4))]
    content = gzip.compress("\n".join([header, *lines]).encode())
    path = folder / "cut.tsv.gz"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    read = []
    with pytest.raises(InputError, match=r"cut\.tsv\.gz"):
        read += (row.cells["sequence"] for row in read_rows(path))
    assert read == lines[: len(read)]


@unhurried
@given(
    st.binary(min_size=1, max_size=300), st.sampled_from([".fa", ".tsv", ".csv", ".parquet", ".csv.gz"]), st.booleans()
)
def test_no_content_whatever_raises_anything_but_an_input_error(folder, content, suffix, gzipped):
    path = folder / f"garbage{suffix}"
    path.write_bytes(gzip.compress(content) if gzipped else content)
    try:
        rows = list(read_rows(path))
    except InputError as error:
        assert str(error).startswith(str(path))
        assert len(str(error).splitlines()) == 1
    else:
        assert rows


def test_rows_are_read_as_they_are_needed(tmp_path):
    note = "x" * 1000
    lines = (f"ACGT\t{number}{note}\n" for number in range(20_000))
    with gzip.open(tmp_path / "large.tsv.gz", "wt", compresslevel=1) as file:
        file.writelines(["sequence\tnote\n", *lines])
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(tmp_path / "large.tsv.gz")) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1.5", 1.5),
        (" -2e3 ", -2000),
        (7, 7),
        (np.float32(0.5), 0.5),
        *((na, np.nan) for na in ("", " NA", "NaN", None)),
    ],
)
def test_measured_value(cell, value):
    row = Row("line 2", {"expression": cell})
    assert measured_value("table.tsv", row, "expression") == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize("cell", ["high", "1,5", "inf", "-Infinity", [1], float("inf")])
def test_measured_value_refuses(cell):
    with pytest.raises(InputError, match=r"table\.tsv, line 2, column 'expression': .*not a finite number"):
        measured_value("table.tsv", Row("line 2", {"expression": cell}), "expression")


def test_sequence_text_drops_blanks_at_the_ends_alone():
    assert sequence_text("table.tsv", Row("line 2", {"insert": " acgt\t"}), "insert") == "acgt"
    assert sequence_text("table.tsv", Row("line 2", {"insert": "AC GT"}), "insert") == "AC GT"


@pytest.mark.parametrize("cell", ["", "  ", None, 5, b"ACGT"])
def test_sequence_text_refuses(cell):
    with pytest.raises(InputError, match=r"table\.tsv, line 2, column 'insert': "):
        sequence_text("table.tsv", Row("line 2", {"insert": cell}), "insert")


@pytest.fixture
def assay(tmp_path, monkeypatch):
    """Writes a table and loads it, with a cache of its own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def load(text: str, **columns) -> dict[str, list]:
        return load_assay(str(write(tmp_path / "assay.tsv", text)), **columns).to_dict()

    return load


def test_load_assay_keeps_the_columns_named(assay):
    text = "id\tsequence\texpression\nx\tACGT\t1\ny\t acg \t2.5\n"
    assert assay(text) == {"sequence": ["ACGT", "acg"], "expression": [1.0, 2.5]}
    assert assay(text, sequence_column="id", label_columns=["expression"]) == {
        "id": ["x", "y"],
        "expression": [1.0, 2.5],
    }


def test_load_assay_of_several_outputs_some_of_them_missing(assay):
    table = assay(
        "sequence\tdevelopmental\thousekeeping\tgene\nACGT\t1\t2\t7\nACG\tNA\t3\t7\nAC\t4\t\t8\n",
        label_columns=["developmental", "housekeeping"],
        group_column="gene",
    )
    assert table["sequence"] == ["ACGT", "ACG", "AC"]
    assert table["gene"] == ["7", "7", "8"]
    np.testing.assert_array_equal(table["developmental"], [1, np.nan, 4])
    np.testing.assert_array_equal(table["housekeeping"], [2, 3, np.nan])


def test_load_assay_reads_an_edited_file_anew(assay):
    assert assay("sequence\texpression\nACGT\t1\n")["expression"] == [1.0]
    assert assay("sequence\texpression\nACGT\t2\n")["expression"] == [2.0]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("sequence\tactivity\nACGT\t1\n", "no column 'expression'; there are 'sequence', 'activity'"),
        ("sequence\texpression\nACGT\t1\nACGT\thigh\n", "line 3, column 'expression': 'high' is not a finite number"),
        ("sequence\texpression\nACGT\t1\n\t1\n", "line 3, column 'sequence': the sequence is empty"),
        ("sequence\texpression\nACGT\t1\nACGT\tNA\n", "line 3: no measurement in 'expression'"),
        ("sequence\texpression\n", "no rows"),
    ],
)
def test_load_assay_says_where_a_table_is_wrong(assay, text, complaint):
    with pytest.raises(InputError, match=rf"assay\.tsv.*{complaint}"):
        assay(text)


def test_load_assay_of_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"missing\.tsv: no such file"):
        load_assay(str(tmp_path / "missing.tsv"))
