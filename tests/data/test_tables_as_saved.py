"""Tables as people and their programs save them: each is read right, or refused in a line that says what to do."""

import gzip
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from modeling_proformer.data import excel, tables, text
from modeling_proformer.data.config import DataConfig
from modeling_proformer.data.sources import load_table
from modeling_proformer.data.streams import load_first_rows
from modeling_proformer.data.tables import InputError, Row, measured_value, read_rows


ONE, TWO = "ACGTACGTAC", "GGGGCCCCTT"
SEQUENCES, VALUES = [ONE, TWO], [1.5, -2.0]

# Each holds the same two sequences and measurements.
AS_SAVED = {
    "german.csv": f"name;sequence;expression\na;{ONE};1,5\nb;{TWO};-2,0\n",
    "german, comma in the header.csv": f"name;sequence;expression;x (a, b)\na;{ONE};1,5;0,1\nb;{TWO};-2;7,5\n",
    "german.txt": f"sequence;expression\n{ONE};1,5\n{TWO};-2,00\n",
    "sep.csv": f"sep=;\nsequence;expression\n{ONE};1,5\n{TWO};-2\n",
    "sep, quoted.csv": f'"sep=\t"\nsequence\texpression\n{ONE}\t1.5\n{TWO}\t-2\n',
    "points.csv": f"sequence;expression\n{ONE};1.5\n{TWO};-2.0\n",
    "tabs.csv": f"sequence\texpression\n{ONE}\t1.5\n{TWO}\t-2\n",
    "commas.tsv": f"sequence,expression\n{ONE},1.5\n{TWO},-2\n",
    "comments.tsv": f"# made by hand\n#\n\n# in 2024, twice\nsequence\texpression\n{ONE}\t1.5\n{TWO}\t-2\n",
    "header in a comment.tsv": f"##version 1\n#sequence\texpression\n{ONE}\t1.5\n{TWO}\t-2\n",
    "no header in the comment.csv": f"#a,b,c\nsequence,0,expression\n{ONE},1,1.5\n{TWO},2,-2\n",
    "an empty comment.csv": f"#sequence,expression\n#\nsequence,expression\n{ONE},1.5\n{TWO},-2\n",
    "title.tsv": f"# 2024\nTable 1\nsequence\texpression\n{ONE}\t1.5\n{TWO}\t-2\n",
    "titles.csv": f"Table 1\nMade in 2024, by me\n\nsequence,expression\n{ONE},1.5\n{TWO},-2\n",
    "title of Excel.csv": f"Table 1;;\nname;sequence;expression\na;{ONE};1,5\nb;{TWO};-2\n",
    "unnamed columns.csv": f",sequence,,expression\n1,{ONE},,1.5\n2,{TWO},x,-2\n",
    "no header.txt": f"{ONE}\t1.5\n{TWO}\t-2\n",
    "no header.csv": f"a,{ONE},1.5\nb,{TWO},-2\n",
    "write.table.txt": f'"sequence" "expression"\n"1" "{ONE}" 1.5\n"2" "{TWO}" -2\n',
    "write.table, tabs.tsv": f"sequence\texpression\n1\t{ONE}\t1.5\n2\t{TWO}\t-2\n",
    "write.csv.csv": f'"","sequence","expression"\n"1","{ONE}",1.5\n"2","{TWO}",-2\n',
    "write.csv2.csv": f'"";"sequence";"expression"\n"1";"{ONE}";1,5\n"2";"{TWO}";-2\n',
    "emptied rows.csv": f"sequence,expression,note\n{ONE},1.5,\n,,\n{TWO},-2,\n,,\n,,\n",
    "empty columns.csv": f"sequence,expression,,\n{ONE},1.5,,\n{TWO},-2,,\n",
    "empty cells at the ends.csv": f"sequence,expression\n{ONE},1.5,,\n{TWO},-2\n",
    "three decimals.csv": f"sequence;expression;y\n{ONE};1.500;1.759\n{TWO};-2.000;0.000\n",
    "quotes.tsv": f'sequence\texpression\tnote\n"{ONE}"\t"1.5"\t"5\' end\n{TWO}\t-2\t3\' end"\n',
}


@pytest.mark.parametrize("name", AS_SAVED)
def test_a_table_is_read_as_it_was_saved(tmp_path, name):
    (tmp_path / name).write_text(AS_SAVED[name])
    checked = load_table(tmp_path / name, DataConfig())
    assert (checked["sequence"][:], checked["labels"][:]) == (SEQUENCES, [[value] for value in VALUES])
    assert [row.cells["sequence"] for row in read_rows(tmp_path / name)] == SEQUENCES


def test_the_unicode_text_of_excel_is_read(tmp_path):
    for encoding in ("utf-16", "utf-16-be"):
        content = AS_SAVED["tabs.csv"].replace("\n", "\r\n")
        mark = "\ufeff" if encoding == "utf-16-be" else ""
        (tmp_path / "unicode.txt").write_bytes((mark + content).encode(encoding))
        assert load_table(tmp_path / "unicode.txt", DataConfig())["sequence"][:] == SEQUENCES


def test_a_comment_is_the_header_where_the_first_row_has_no_dna_too(tmp_path):
    for first in ("a\t\t3", "b\tACGT\t1.5"):
        (tmp_path / "a.tsv").write_text(f"##2\n#name\tsequence\texpression\n{first}\nc\t{ONE}\t1\n")
        name, sequence, value = first.split("\t")
        assert next(read_rows(tmp_path / "a.tsv")).cells == {"name": name, "sequence": sequence, "expression": value}


def test_a_title_is_left_out_and_the_log_says_so(tmp_path, caplog):
    (tmp_path / "a.csv").write_text(AS_SAVED["titles.csv"])
    assert next(read_rows(tmp_path / "a.csv")) == Row("line 5", {"sequence": ONE, "expression": "1.5"})
    assert "a.csv: the lines above the header in line 4 are left out as a title." in caplog.text


def test_columns_without_a_header_get_names_and_the_log_says_which(tmp_path, caplog):
    (tmp_path / "dream.txt").write_text(AS_SAVED["no header.txt"])
    assert next(read_rows(tmp_path / "dream.txt")) == Row("line 1", {"sequence": ONE, "expression": "1.5"})
    assert "dream.txt: the table has no header, so its columns are read as sequence, expression." in caplog.text
    (tmp_path / "several.tsv").write_text(f"a\t{ONE}\t1\t2\n")
    assert next(read_rows(tmp_path / "several.tsv")).cells == {
        "column_1": "a",
        "sequence": ONE,
        "column_3": "1",
        "column_4": "2",
    }
    (tmp_path / "list.txt").write_text(f"{ONE}\n{TWO}\n")
    assert [row.cells for row in read_rows(tmp_path / "list.txt")] == [{"sequence": ONE}, {"sequence": TWO}]


@pytest.mark.parametrize("name", ["a.txt", "a.tsv", "a.csv", "a.fas", "a.ffn", "a.fa.bgz", "a.fna.gz"])
def test_fasta_is_read_under_any_name(tmp_path, name):
    content = f"\n>one\ttabs\n{ONE}\n>two\n{TWO}\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert [row.cells["sequence"] for row in read_rows(tmp_path / name)] == SEQUENCES


def test_blocks_of_bases_in_a_fasta_file_are_one_sequence(tmp_path):
    (tmp_path / "blocks.fa").write_text(f">one\n{ONE[:5]} {ONE[5:]}\n>two\n{TWO}\n")
    assert [row.cells["sequence"] for row in read_rows(tmp_path / "blocks.fa")] == SEQUENCES


# Numbers, and whether they are refused between semicolons, and warned of there and elsewhere.
NUMBERS = {
    ("1.759", "955"): (True, True, True),
    ("955", "12.001", "0"): (True, True, True),
    ("-1.759", "-955"): (True, True, True),
    ("1,759", "955"): (True, True, False),
    ("1.759", "2.104"): (False, True, False),
    ("1.759", "0"): (False, True, False),
    ("1,759", "0", "12,004"): (False, True, False),
    ("1.759", "955", "0.5"): (False, False, False),
    ("1.759", "955", "1.7"): (False, False, False),
    ("1.759", "955", "1200"): (False, False, False),
    ("1,759", "955", "1,7"): (False, False, False),
    ("0.759", "955"): (False, False, False),
    ("1.759", "NA", "0.5"): (False, False, False),
}


@pytest.mark.parametrize(("numbers", "signs"), NUMBERS.items())
def test_marks_that_probably_stand_between_thousands_are_not_read_in_silence(tmp_path, caplog, numbers, signs):
    is_refused, is_warned, is_warned_elsewhere = signs
    for name, delimiter in (("a.csv", ";"), ("a.tsv", "\t"), ("b.csv", ",")):
        lines = [f'{ONE}{delimiter}"{number}"' for number in numbers]
        (tmp_path / name).write_text("\n".join([f"sequence{delimiter}expression", *lines]))
    if is_refused:
        with pytest.raises(InputError, match="may be"):
            list(read_rows(tmp_path / "a.csv"))
    else:
        assert len(list(read_rows(tmp_path / "a.csv"))) == len(numbers)
        assert ("is read as a decimal number" in caplog.text) == is_warned
    for name in ("a.tsv", "b.csv"):
        caplog.clear()
        assert len(list(read_rows(tmp_path / name))) == len(numbers)
        assert ("is read as a decimal number" in caplog.text) == is_warned_elsewhere


@pytest.mark.parametrize("compression", ["uncompressed", "lz4"])
def test_feather_is_read_and_streamed(tmp_path, compression):
    table = pa.table({"sequence": SEQUENCES, "expression": VALUES})
    pyarrow.feather.write_feather(table, tmp_path / "a.feather", compression=compression)
    assert [row.cells for row in read_rows(tmp_path / "a.feather")] == table.to_pylist()
    assert load_table(tmp_path / "a.feather", DataConfig())["sequence"][:] == SEQUENCES
    if compression == "uncompressed":
        assert load_first_rows(tmp_path / "a.feather", DataConfig())["sequence"][:] == SEQUENCES


def test_a_workbook_is_read(tmp_path, caplog):
    openpyxl = pytest.importorskip("openpyxl")
    workbook = openpyxl.Workbook()
    for cells in ([], ["sequence", "expression", "active"], [ONE, 1.5, True], [], [TWO, -2]):
        workbook.active.append(cells)
    workbook.create_sheet("notes")
    workbook.save(tmp_path / "a.xlsx")
    assert list(read_rows(tmp_path / "a.xlsx")) == [
        Row("row 3", {"sequence": ONE, "expression": 1.5, "active": True}),
        Row("row 5", {"sequence": TWO, "expression": -2, "active": None}),
    ]
    assert "a.xlsx: only the first of its 2 sheets, 'Sheet', is read." in caplog.text
    assert load_table(tmp_path / "a.xlsx", DataConfig())["labels"][:] == [[1.5], [-2.0]]
    workbook.active.append([ONE, 1, 2, 3])
    workbook.save(tmp_path / "a.xlsx")
    with pytest.raises(InputError, match=r"a\.xlsx, row 6: 4 cells under a header of 3 columns"):
        list(read_rows(tmp_path / "a.xlsx"))


def test_a_formula_without_its_value_is_no_missing_cell(tmp_path):
    """Programs that do not compute write formulas alone; a spreadsheet program adds their values, also empty ones."""
    openpyxl = pytest.importorskip("openpyxl")
    workbook = openpyxl.Workbook()
    for cells in (["sequence", "expression", "note"], [ONE, 1.5], [TWO, "=B2*2", None]):
        workbook.active.append(cells)
    workbook.save(tmp_path / "a.xlsx")
    with pytest.raises(InputError, match=r"a\.xlsx, row 3, column 'expression': the value of the formula is not in"):
        list(read_rows(tmp_path / "a.xlsx"))
    with zipfile.ZipFile(tmp_path / "a.xlsx") as archive, zipfile.ZipFile(tmp_path / "b.xlsx", "w") as computed:
        for name in archive.namelist():
            content = archive.read(name).decode()
            content = content.replace('r="B3"', 'r="B3" t="str"').replace("<v />", "<v></v>")
            computed.writestr(name, content)
    assert [row.cells["expression"] for row in read_rows(tmp_path / "b.xlsx")] == [1.5, None]


def test_a_workbook_that_is_none_or_a_bomb_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("openpyxl")
    (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match=r"a\.xlsx: not a readable Excel workbook"):
        list(read_rows(tmp_path / "a.xlsx"))
    monkeypatch.setattr(excel, "MAX_UNPACKED_BYTES", 10**6)
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", bytes(10**6 + 1))
    with pytest.raises(InputError, match=r"a\.xlsx: the workbook unpacks to 1,000,001 bytes; save its sheet as CSV"):
        list(read_rows(tmp_path / "a.xlsx"))


PARQUET = pa.BufferOutputStream()
pq.write_table(pa.table({"sequence": SEQUENCES}), PARQUET)
WRONG = {
    "a.xls": (b"x", "by its name, this file is a spreadsheet; save its sheet as CSV or .xlsx"),
    "a.fastq.gz": (b"x", "reads of a sequencer; make a FASTA file"),
    "a.gb": (b"x", "annotated sequences; export them as FASTA"),
    "a.zip": (b"x", "compressed; unpack it"),
    "a.tsv.bz2": (b"x", "compressed; unpack it"),
    "a.parquet.gz": (b"x", "only text is read from a compressed file"),
    "a.doc": (b"x", "the format is unknown; the name should end in one of"),
    "excel.csv": (b"PK\x03\x04", "this is an Excel workbook, or another zip archive"),
    "old excel.csv": (b"\xd0\xcf\x11\xe0", "this is an old Excel workbook; save its sheet as CSV or .xlsx"),
    "parquet.tsv": (PARQUET.getvalue().to_pybytes(), "this is a Parquet file; let its name end in .parquet"),
    "bz.tsv": (b"BZh9", "compressed with bzip2"),
    "old.feather": (b"FEA1" * 9, "not a readable Feather file"),
    # Read as they are written, these are 1234 and 2.5.
    "thousands.csv": (
        f"sequence;expression\n{ONE};1.234\n{TWO};2,5\n".encode(),
        "line 3, column 'expression': '2,5' has a decimal comma, but '1.234' in line 2 has the other",
    ),
    # Read as it is written, this is 1.759.
    "german counts.csv": (
        f"sequence;expression\n{ONE};1.759\n{TWO};955\n".encode(),
        "line 2, column 'expression': '1.759' may be 1759, because 955 in line 3 has no decimals. Write 1759, or "
        "decimals in all numbers (955.0).",
    ),
    "thousands and decimals.csv": (
        f"sequence;expression\n{ONE};1.197,79\n".encode(),
        "'1.197,79' is not a finite number; write a point for a decimal comma, and no mark between thousands.",
    ),
    "a sign of typesetters.csv": (f"sequence,expression\n{ONE},−5\n".encode(), "and no mark between thousands."),
    "long title.csv": (
        f"Table 3\nsequence,expression\n{ONE[:5]},1\n".encode(),
        "line 2: 2 cells under a header of 1 column. The header should be the first line of the table.",
    ),
    "repeated.csv": (
        f"sequence,expression,expression\n{ONE},1,2\n".encode(),
        "the column 'expression' occurs 2 times in the header; rename one of them.",
    ),
    "no header, and no DNA.tsv": (
        f"{ONE}R\t1.5\n{TWO}\t2\n".encode(),
        "If its first line is a row, put a line with the names of the columns above it.",
    ),
    "commas.tsv": (
        f"sequence\texpression\n{ONE}\t1,234\n".encode(),
        "line 2, column 'expression': '1,234' is not a finite number; write a point for a decimal comma",
    ),
    "commas.csv": (f"expression,sequence\n1,5,{ONE}\n2,5,{TWO}\n".encode(), "line 2: 3 cells under a header of 2"),
    "ends.tsv": (f"sequence\texpression\n{ONE}\t1\tx\ty\n".encode(), "line 2: 4 cells under a header of 2"),
    "western.csv": (f"name,sequence\nµ,{ONE}\n".encode("cp1252"), "line 2: this is not UTF-8 text; save it as such"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_read_is_named_with_the_remedy(tmp_path, name):
    content, reason = WRONG[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as raised:
        load_table(tmp_path / name, DataConfig())
    assert str(raised.value).startswith(f"{tmp_path / name}")
    assert reason in str(raised.value)


def test_a_workbook_without_openpyxl_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(ImportError, match=r"a\.xlsx: .*pip install 'modeling-proformer\[excel\]', or save"):
        list(read_rows(tmp_path / "a.xlsx"))


class TestQuotes:
    """A stray quote swallows no rows, and an error is in its own line."""

    def test_names_with_quotes_in_a_tsv_are_rows_of_their_own(self, tmp_path):
        names = ["\"5' end", "B", "C", "3' end\"", '5" end', '"whole"', '"a ""b"""', '"']
        lines = [f"{name}\t{ONE}" for name in names]
        (tmp_path / "a.tsv").write_text("\n".join(["name\tsequence", *lines]))
        found = [row.cells["name"] for row in read_rows(tmp_path / "a.tsv")]
        assert found == [*names[:5], "whole", 'a "b"', '"']

    def test_a_quote_swallows_no_tab_that_divides_cells(self, tmp_path):
        (tmp_path / "a.tsv").write_text(f'name\tsequence\tnote\n"5\' end\t{ONE}\t3\' end"\n"tab\there"\t{TWO}\tx\n')
        assert [row.cells["name"] for row in read_rows(tmp_path / "a.tsv")] == ["\"5' end", "tab\there"]

    def test_a_row_with_a_missing_cell_is_blamed_and_not_the_last_line(self, tmp_path):
        (tmp_path / "a.tsv").write_text(f'name\tsequence\na\t{ONE}\n"b\nc\t{TWO}\nd\t{TWO}\n')
        with pytest.raises(InputError, match=r"a\.tsv, line 3: 1 cell under a header of 2 columns. A quote is open"):
            list(read_rows(tmp_path / "a.tsv"))

    def test_rows_swallowed_by_a_quote_in_a_csv_are_refused_where_it_opens(self, tmp_path):
        rows = [f"\"5' end,{ONE}", f"B,{ONE}", f"3' end\",{TWO}"]
        (tmp_path / "a.csv").write_text("\n".join(["name,sequence", f"a,{ONE}", *rows, f"z,{ONE}"]))
        with pytest.raises(InputError, match=r"a\.csv, line 3: a quote that opens here closes in line 5"):
            list(read_rows(tmp_path / "a.csv"))

    def test_an_open_quote_in_a_csv_is_blamed_where_it_opens(self, tmp_path):
        (tmp_path / "a.csv").write_text(f'name,sequence\n\na,{ONE}\n"b,{ONE}\n' + f"c,{ONE}\n" * 50)
        with pytest.raises(InputError, match=r"a\.csv, line 4: not a well-formed table .* quote that is not closed"):
            list(read_rows(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("cell", "value"),
    [("TRUE", 1), ("False", 0), (True, 1), (np.bool_(False), 0), ("+1.", 1), (".5E1", 5), ("#N/A", None)],
)
def test_cells_that_are_measurements(cell, value):
    found = measured_value("a.tsv", Row("line 2", {"y": cell}), "y")
    assert np.isnan(found) if value is None else found == value


@pytest.mark.parametrize("cell", ["1_2", "1_000.5", "0x10", "1,5", "1.234,5", "#DIV/0!", "T", "1e999"])
def test_cells_that_are_no_measurements(cell):
    with pytest.raises(InputError, match="is not a finite number"):
        measured_value("a.tsv", Row("line 2", {"y": cell}), "y")


class TestSizes:
    """A file that unpacks to more than fits the memory is refused in one line, and soon."""

    def test_a_line_without_end(self, tmp_path, monkeypatch):
        monkeypatch.setattr(text, "MAX_CHARACTERS", 10**6)
        for name in ("a.tsv.gz", "a.fa.gz"):
            (tmp_path / name).write_bytes(gzip.compress(b">sequence\n" + bytes(10**6 + 1)))
            with pytest.raises(InputError, match=rf"{name}, line 2: the line has more than 1,000,000 characters"):
                list(read_rows(tmp_path / name))
        (tmp_path / "b.fa").write_text(">one\nAC\n>two\n" + ("A" * 60 + "\n") * 20_000)
        with pytest.raises(InputError, match=r"b\.fa, line 3: the record has more than 1,000,000 bases"):
            list(read_rows(tmp_path / "b.fa"))

    @pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.parquet"])
    def test_a_hundred_thousand_columns(self, tmp_path, name):
        columns = {f"c{number}": [1] for number in range(100_000)}
        if name == "a.parquet":
            pq.write_table(pa.table(columns), tmp_path / name)
        else:
            mark = "\t" if name == "a.tsv" else ","
            (tmp_path / name).write_text(mark.join(columns) + "\n" + mark.join(["1"] * len(columns)) + "\n")
        start = time.perf_counter()
        with pytest.raises(InputError, match=r"the table has 100,000 columns, but at most 10,000 are read"):
            load_table(tmp_path / name, DataConfig())
        assert time.perf_counter() - start < 10

    def test_an_error_does_not_name_thousands_of_columns(self, tmp_path):
        (tmp_path / "a.tsv").write_text("\t".join(f"c{number}" for number in range(5000)) + "\n")
        (tmp_path / "a.tsv").write_text((tmp_path / "a.tsv").read_text() * 2)
        with pytest.raises(InputError, match=r"no column 'sequence'; there are 'c0', .* and 4,980 more\.") as raised:
            load_table(tmp_path / "a.tsv", DataConfig())
        assert len(str(raised.value)) < 500

    def test_large_cells_are_decoded_a_few_at_a_time(self, tmp_path, monkeypatch):
        """5,000 equal cells of 100,000 bases are a file of less than a megabyte, and 500 megabytes in memory."""
        monkeypatch.setattr(tables, "MAX_BATCH_BYTES", 10**7)
        pq.write_table(pa.table({"sequence": ["A" * 100_000] * 5000}), tmp_path / "a.parquet")
        assert (tmp_path / "a.parquet").stat().st_size < 10**6
        before = pa.total_allocated_bytes()
        sizes = []
        for batch in tables.record_batches(Path(tmp_path / "a.parquet")):
            sizes.append(len(batch))
            assert pa.total_allocated_bytes() - before < 10**8
        assert sum(sizes) == 5000 and max(sizes) <= 100
