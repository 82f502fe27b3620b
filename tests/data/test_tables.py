"""Reading of tables and FASTA files."""

import csv
import gzip
import io
import itertools
import re
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_proformer.data.splits import hold_out_groups
from modeling_proformer.data.tables import (
    AssayColumns,
    InputError,
    Row,
    TableDigest,
    check_rows,
    content_digest,
    load_assay,
    measured_value,
    read_rows,
    sequence_text,
)


# An example takes as long as the machine is busy.
unhurried = settings(deadline=None)
# Any letters that can stand in a cell; a carriage return is a line's end in every text file.
cells = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="\ufeff") | st.just("\t"))
names = cells.map(str.strip).filter(bool)
sequences = st.text("ACGTNacgtn", min_size=1, max_size=100)
line_ends = st.sampled_from(["\n", "\r\n", "\r"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """One for all the examples of a property, the cache in it."""
    folder = tmp_path_factory.mktemp("tables")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        yield folder


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


def write_columns(path: Path, table: pa.Table, rows_in_piece: int = 3000):
    """As Parquet, or as Arrow with an index or (`.stream.arrow`) without."""
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=rows_in_piece)
        return
    new = pa.ipc.new_stream if ".stream" in path.suffixes else pa.ipc.new_file
    with new(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_in_piece)


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


def test_load_assay_brings_weights_along(assay):
    table = assay("sequence\texpression\treads\nACGT\t1\t3\nACG\t2\t0\n", weight_column="reads")
    assert table == {"sequence": ["ACGT", "ACG"], "expression": [1.0, 2.0], "reads": [3.0, 0.0]}


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        (["1", ""], "line 3, column 'reads': the weight is missing"),
        (["1", "-2"], "line 3, column 'reads': the weight is -2, which is below 0"),
        (["1", "many"], "line 3, column 'reads': 'many' is not a finite number"),
        (["1", "inf"], "line 3, column 'reads': 'inf' is not a finite number"),
        (["0", "0"], "column 'reads': every weight is 0"),
    ],
)
def test_load_assay_refuses_weights_that_are_none(assay, weights, complaint):
    with pytest.raises(InputError, match=rf"assay\.tsv.*{complaint}"):
        assay("sequence\texpression\treads\nACGT\t1\t{}\nACG\t2\t{}\n".format(*weights), weight_column="reads")


def columns_of(*kinds: tuple[pa.DataType, list]) -> st.SearchStrategy[pa.Array]:
    """A column of 3 rows, of one of these types and with cells out of its list."""
    return st.sampled_from(kinds).flatmap(
        lambda kind: st.lists(st.sampled_from(kind[1]), min_size=3, max_size=3).map(partial(pa.array, type=kind[0]))
    )


TEXTS = ["ACGT", " acg\t", "A"] * 9 + ["", None]
NUMBERS = [1.5, -2.0, 0.0] * 9 + [None, float("nan"), float("inf")]
SEQUENCES = columns_of(
    *((kind, TEXTS) for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())))
)
MEASUREMENTS = columns_of(
    # Those that are checked at once more often than the others.
    *((kind, NUMBERS) for kind in (pa.float64(), pa.float32()) * 4),
    (pa.int64(), [0, 7, -1, 2**62 + 1] * 5 + [None]),
    (pa.uint8(), [1, 255]),
    (pa.string(), ["1.5", " 2 ", "0", "NA", "high"]),
    (pa.bool_(), [True, False]),
)
WEIGHTS = columns_of((pa.int32(), [0, 1, 5] * 9 + [-1, None]), (pa.float64(), [0.0, 2.5] * 9 + [-0.5, float("nan")]))
GROUPS = columns_of(
    (pa.string(), ["a", " b", ""] * 9 + [None]), *[(pa.int16(), [3, -1])] * 4, (pa.float64(), [1.0, 2.5])
)


numbers = itertools.count()


@unhurried
@given(SEQUENCES, MEASUREMENTS, MEASUREMENTS, WEIGHTS, GROUPS)
def test_a_table_is_checked_at_once_as_it_is_row_by_row(folder, sequence, up, down, reads, family):
    """Same table or same message, whatever types its columns have."""
    cells = {"sequence": sequence, "up": up, "down": down, "reads": reads, "family": family}
    path = folder / f"{next(numbers)}.parquet"
    write_columns(path, pa.table(cells))
    arguments = {"label_columns": ["up", "down"], "weight_column": "reads", "group_column": "family"}
    try:
        expected = check_rows(path, read_rows(path), AssayColumns("sequence", ("up", "down"), "reads", "family"))
        if not any(expected["reads"].to_pylist()):
            raise InputError(f"{path}, column 'reads': every weight is 0, so that no row counts.")
    except InputError as error:
        with pytest.raises(InputError, match=f"^{re.escape(str(error))}$"):
            load_assay(str(path), **arguments)
    else:
        # As text, in which NaN is equal to itself.
        assert repr(load_assay(str(path), **arguments).to_dict()) == repr(expected.to_pydict())


def test_load_assay_maps_its_table_from_the_cache(tmp_path, monkeypatch):
    """Memory does not grow with the table, and the second time nothing is read but the copy."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path, count = tmp_path / "table.parquet", 100_000
    write_columns(path, pa.table({"sequence": ["ACGTACGT" * 10] * count, "expression": np.arange(count) / 2}))
    before = pa.total_allocated_bytes()
    first, second = load_assay(str(path)), load_assay(str(path))
    assert pa.total_allocated_bytes() - before < 1_000_000
    assert len(list(tmp_path.glob("cache/**/*.*"))) == 1
    assert first[count - 1] == second[count - 1] == {"sequence": "ACGTACGT" * 10, "expression": (count - 1) / 2}


def test_no_half_written_copy_is_left_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "table.parquet"
    write_columns(path, pa.table({"sequence": ["ACGT"] * 9000 + [""], "expression": [1.0] * 9001}))
    with pytest.raises(InputError, match=r"table\.parquet, row 9001, column 'sequence': the sequence is empty"):
        load_assay(str(path))
    assert not list(tmp_path.glob("cache/**/*.*"))


def test_content_digest_follows_rows_and_not_batches():
    table = pa.table({"sequence": ["ACGT", "AC", "G", "T"], "expression": [1.0, np.nan, None, 2.0]})

    def digest(*tables: pa.Table) -> str:
        whole = TableDigest()
        for each in tables:
            whole.update(each)
        return whole.hexdigest()

    whole = digest(table)
    assert digest(table.slice(0, 1), table.slice(1, 0), table.slice(1)) == whole
    assert content_digest(datasets.Dataset(table)) == whole
    order = pa.array([1, 0, 2, 3])
    moved = table.set_column(0, "sequence", [pa.array(["ACG", "TAC", "G", "T"])])
    others = [table.take(order), table.slice(1), moved, table.rename_columns(["dna", "expression"])]
    others += [table.set_column(1, "expression", [pa.array([1.0, None, None, 3.0])])]
    assert len({whole, *map(digest, others)}) == 6


def test_groups_are_held_out_alike_from_a_column_and_from_a_list(assay, tmp_path):
    names = [f"family {number}" for number in np.random.default_rng(0).integers(0, 50, 400)]
    assay("sequence\texpression\tfamily\n" + "".join(f"ACGT\t1\t{name}\n" for name in names), group_column="family")
    table = load_assay(str(tmp_path / "assay.tsv"), group_column="family")
    column = table.data.column("family")
    for some in (column, pa.chunked_array([column.slice(0, 7).chunk(0), *column.slice(7).chunks])):
        split, expected = hold_out_groups(some, 0.3, seed=1), hold_out_groups(names, 0.3, seed=1)
        assert np.array_equal(split.held_out, expected.held_out)
        assert np.array_equal(split.train, expected.train)
