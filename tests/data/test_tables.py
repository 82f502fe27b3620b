"""Reading tables and FASTA files."""

import csv
import gzip
import io
import itertools
import os
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from columnar import write_columns
from hypothesis import assume, given
from hypothesis import strategies as st

from modeling_proformer.data.cells import DNA_CELL
from modeling_proformer.data.tables import InputError, Row, measured_value, read_rows, sequence_text


# Any characters that a cell can hold; a carriage return would end the line in a text file.
cells = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="\ufeff") | st.just("\t"))
names = cells.map(str.strip).filter(bool)
# A table's header tells its delimiter, and what begins like these, or is DNA, is not read as a header.
column_names = names.filter(
    lambda name: (
        not set(" \t,;") & set(name) and name[0] not in "#>" and name[:4] != "sep=" and not DNA_CELL.fullmatch(name)
    )
)
sequences = st.text("ACGTNacgtn", min_size=1, max_size=100)
line_ends = st.sampled_from(["\n", "\r\n", "\r"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """Return one folder for all the examples of a property."""
    yield tmp_path_factory.mktemp("tables")


def write(path: Path, text: str, gzipped: bool = False, marked: bool = False) -> Path:
    content = text.encode("utf-8-sig" if marked else "utf-8")
    path.write_bytes(gzip.compress(content) if gzipped else content)
    return path


@given(st.dictionaries(names, sequences, min_size=1), st.integers(1, 90), line_ends, st.booleans(), st.booleans())
def test_fasta_comes_back_as_it_was_written(folder, records, width, line_end, gzipped, marked):
    lines, locations = [], []
    for name, sequence in records.items():
        locations.append(f"line {len(lines) + 1}")
        lines += [f">{name}", *(sequence[i : i + width] for i in range(0, len(sequence), width)), ""]
    path = write(folder / "promoters.fasta", line_end.join(lines), gzipped, marked)
    expected = [{"name": name, "sequence": sequence} for name, sequence in records.items()]
    assert list(read_rows(path)) == [Row(*row) for row in zip(locations, expected, strict=True)]


@given(
    st.lists(column_names, min_size=1, max_size=4, unique=True).flatmap(
        lambda header: st.tuples(st.just(header), st.lists(st.tuples(*[cells] * len(header)).filter(any), min_size=1))
    ),
    st.sampled_from([("table.tsv", "\t"), ("table.txt", "\t"), ("table.csv", ","), ("table.csv", ";")]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
)
def test_tables_come_back_as_they_were_written(folder, table, kind, line_end, gzipped, marked):
    (header, rows), (name, delimiter) = table, kind
    # One column alone shows no semicolons.
    assume(delimiter != ";" or len(header) > 1)
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=line_end).writerows([header, *rows])
    found = list(read_rows(write(folder / name, text.getvalue(), gzipped, marked)))
    assert [row.cells for row in found] == [dict(zip(header, row, strict=True)) for row in rows]
    assert [row.location for row in found] == [f"line {line}" for line in range(2, len(rows) + 2)]


def test_a_tab_in_quotes_is_no_second_cell(tmp_path):
    assert list(read_rows(write(tmp_path / "a.tsv", 'note\n"a\tb"\n'))) == [Row("line 2", {"note": "a\tb"})]


def test_a_cell_of_a_csv_may_have_several_lines(tmp_path):
    path = write(
        tmp_path / "table.csv", 'sequence,"expression\n(log2)",note\nACGT,1,"one,\ntwo"\nGGCC,2,"say ""so"""\n'
    )
    assert list(read_rows(path)) == [
        Row("line 4", {"sequence": "ACGT", "expression\n(log2)": "1", "note": "one,\ntwo"}),
        Row("line 5", {"sequence": "GGCC", "expression\n(log2)": "2", "note": 'say "so"'}),
    ]


@pytest.mark.parametrize("name", ["table.parquet", "table.arrow", "table.stream.arrow"])
def test_columns_come_back_as_they_were_written(tmp_path, name):
    count = 10_000
    columns = {
        "sequence": ["ACGT", None] * (count // 2),
        "expression": [None, 1.5] * (count // 2),
        "n": [*range(count)],
    }
    write_columns(tmp_path / name, pa.table(columns))
    rows = list(read_rows(tmp_path / name))
    assert [row.location for row in rows] == [f"row {number}" for number in range(1, count + 1)]
    assert {name: [row.cells[name] for row in rows] for name in columns} == columns


@pytest.mark.parametrize("between", [0, 1, 5])
def test_fasta_records_may_share_a_name_and_one_warning_says_so(tmp_path, caplog, between):
    others = [f">other {number}\nACGT" for number in range(between)]
    path = write(
        tmp_path / "twins.fa", "\n".join([" >twin", "ACGT", *others, ">twin ", "ACGG", *others, ">last", "AC"])
    )
    assert [row.cells["sequence"] for row in read_rows(path)] == [
        "ACGT",
        *["ACGT"] * between,
        "ACGG",
        *["ACGT"] * between,
        "AC",
    ]
    (message,) = caplog.messages
    assert (
        f"twins.fa: records share a name, the first of them in lines 1 and {3 + 2 * between} (such names: "
        f"{1 + between})." in message
    )
    caplog.clear()
    assert list(read_rows(path, warn=False)) and not caplog.messages


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


@given(
    st.binary(min_size=1, max_size=300),
    st.sampled_from([".fa", ".tsv", ".csv", ".parquet", ".arrow", ".csv.gz"]),
    st.booleans(),
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


@pytest.fixture
def pipe(tmp_path):
    """Return a function that makes a pipe with this content, under a name that tells nothing of its format."""
    writers = []

    def make(content: bytes) -> Path:
        path = tmp_path / f"pipe{len(writers)}"
        os.mkfifo(path)
        writers.append(threading.Thread(target=path.write_bytes, args=(content,)))
        writers[-1].start()
        return path

    yield make
    for writer in writers:
        writer.join()


TABLE = "\nname\tsequence\none, two\tACGT\n"
FASTA = "\n>one, two\nAC\nGT\n"
CONTENTS = {".tsv": TABLE, ".csv": TABLE.replace("one, two", '"one, two"').replace("\t", ","), ".fa": FASTA}


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("suffix", CONTENTS)
def test_the_format_of_a_pipe_is_recognised_by_its_content(pipe, tmp_path, suffix, marked, gzipped):
    file = write(tmp_path / f"file{suffix}", CONTENTS[suffix], gzipped, marked)
    assert list(read_rows(pipe(file.read_bytes()))) == list(read_rows(file))


def test_a_process_substitution_is_read():
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as file:
        file.write(FASTA.encode())
    try:
        rows = list(read_rows(f"/dev/fd/{reader}"))
    finally:
        os.close(reader)
    assert rows == [Row("line 2", {"name": "one, two", "sequence": "ACGT"})]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "there are no rows"),
        (b"PAR1\x15\x04\x15\xff", "Parquet and Arrow cannot be read from a pipe"),
        (b"sequence\n\xff\n", "after line 0: this is not UTF-8 text; save it as such"),
    ],
)
def test_a_pipe_is_refused_by_its_name(pipe, content, reason):
    path = pipe(content)
    with pytest.raises(InputError, match=rf"^{path}.*{reason}"):
        list(read_rows(path))


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
