"""Text files of sequences and measurements: FASTA, and tables with any delimiter, as people save them."""

import csv
import gzip
import io
import logging
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import numpy as np

from .cells import DECIMAL_COMMA, DNA_CELL, MISSING, NUMBER
from .config import count_of
from .number_styles import NumberStyles
from .rows import InputError, Row


logger = logging.getLogger(__name__)

#: Name of the standard input.
STANDARD_INPUT = "/dev/stdin"

# A cell of more characters is no sequence that a model of promoters reads, and may not fit the memory.
MAX_CHARACTERS = 2**26
MAX_COLUMNS = 10_000

# The csv module has this limit for the whole process; its own is shorter than a plasmid may be.
csv.field_size_limit(MAX_CHARACTERS)

# Lines by which the delimiter and the header are recognised.
LINES_LOOKED_AT = 20

SPREADSHEET = "an Excel workbook, or another zip archive"
# How files begin that are no text, whatever their name says.
MAGIC = {
    b"PAR1": "a Parquet file; let its name end in .parquet",
    b"ARROW1": "an Arrow file; let its name end in .arrow",
    b"FEA1": "a Feather file of the old version 1; write it again with a current library",
    b"PK\x03\x04": f"{SPREADSHEET}; let the workbook's name end in .xlsx, or save its sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save its sheet as CSV or .xlsx",
    b"BZh": "compressed with bzip2; unpack it, or compress it with gzip",
    b"\xfd7zXZ": "compressed with xz; unpack it, or compress it with gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it, or compress it with gzip",
}
PIPES_ARE_TEXT = "Parquet and Arrow cannot be read from a pipe; give the name of a file"


class TextLines:
    """The lines of a text file or pipe, gzipped or not; errors say where the file is damaged."""

    def __init__(self, path: Path, is_stream: bool = False):
        self.path = path
        # The standard input can be read even where it cannot be opened again: as a socket, or as another user's pipe.
        name = 0 if str(path) == STANDARD_INPUT else path
        self.binary = open(name, "rb", closefd=name != 0)  # noqa: SIM115
        gzipped = self.binary.peek(2)[:2] == b"\x1f\x8b"
        self.content = gzip.GzipFile(fileobj=self.binary) if gzipped else self.binary
        self.number = self.lines_read = 0
        self.peeked: list[str] = []
        with self._readable():
            start = self.content.peek(6)[:6]
        for magic, kind in MAGIC.items():
            if start.startswith(magic):
                columnar = is_stream and magic in (b"PAR1", b"ARROW1")
                raise InputError(f"{path}: {PIPES_ARE_TEXT if columnar else f'this is {kind}'}.")
        # Excel writes its “Unicode text” in UTF-16.
        encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        self.file = io.TextIOWrapper(self.content, encoding=encoding, newline=None)  # type: ignore[type-var]

    def __enter__(self) -> "TextLines":
        return self

    def __exit__(self, *exception):
        self.file.close()
        self.binary.close()

    def __iter__(self) -> "TextLines":
        return self

    def __next__(self) -> str:
        line = self.peeked.pop(0) if self.peeked else self._read()
        if not line:
            raise StopIteration
        self.number += 1
        return line

    def put_back(self, line: str):
        """Let this line be the next one again."""
        self.peeked.insert(0, line)
        self.number -= 1

    def peek(self, count: int) -> list[str]:
        """Return the next lines, which will come again."""
        while len(self.peeked) < count and (line := self._read()):
            self.peeked.append(line)
        return self.peeked[:count]

    def skip_blank(self):
        """Skip blank lines."""
        while (lines := self.peek(1)) and not lines[0].strip():
            next(self)

    def _read(self) -> str:
        """Return the next line, or "" at the end."""
        with self._readable():
            line = self.file.readline(MAX_CHARACTERS + 1)
        self.lines_read += 1
        if len(line) > MAX_CHARACTERS:
            raise InputError(
                f"{self.path}, line {self.lines_read}: the line has more than {MAX_CHARACTERS:,} characters; this is "
                "no table of promoters."
            )
        return line

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except EOFError as error:
            raise InputError(
                f"{self.path}: the gzip data ends early, after line {self.lines_read}; copy or compress it again."
            ) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{self.path}: damaged gzip data after line {self.lines_read} ({error}).") from error
        except UnicodeError as error:
            raise InputError(
                f"{self.path}, {self._place_of_other_text()}: this is not UTF-8 text; save it as such, in Excel as "
                '"CSV UTF-8".'
            ) from error

    def _place_of_other_text(self) -> str:
        """Return where the text stops to be UTF-8: it is decoded in large pieces, of which the lines are not known."""
        with suppress(OSError):
            opener = gzip.open if isinstance(self.content, gzip.GzipFile) else open
            if self.path.is_file():
                with opener(self.path, "rb") as file:
                    for number, line in enumerate(file, start=1):
                        try:
                            line.decode()
                        except UnicodeDecodeError:
                            return f"line {number}"
        return f"after line {self.lines_read}"


def read_text(path: Path, delimiter: str | None, is_stream: bool, warn: bool) -> Iterator[Row]:
    """
    Stream the rows of a text file.

    Args:
        path: the file.
        delimiter: the one that its name stands for, "" for FASTA; None for a pipe, whose name tells nothing.
        is_stream: whether it is a pipe.
        warn: log what may be a mistake.

    Raises:
        InputError: see `read_rows`.
    """
    with TextLines(path, is_stream) as lines:
        lines.skip_blank()
        first = "".join(lines.peek(1))
        if delimiter == "" or first.lstrip().startswith(">"):
            yield from _read_fasta(path, lines, warn)
        else:
            yield from _read_delimited(path, lines, delimiter or ("\t" if "\t" in first else ","), warn)


def _read_fasta(path: Path, lines: TextLines, warn: bool) -> Iterator[Row]:
    # These take 16 bytes a record, so that repeated names are found in a large file too.
    names, header_lines = array("q"), array("q")
    header, parts, length = None, [], 0
    for line in lines:
        line = line.strip()
        if line.startswith(">"):
            if header is not None:
                yield Row(f"line {header_lines[-1]}", {"name": header, "sequence": "".join(parts)})
            header, parts, length = line[1:].strip(), [], 0
            if not header:
                raise InputError(f"{path}, line {lines.number}: the record has no name.")
            names.append(hash(header))
            header_lines.append(lines.number)
        elif line and header is None:
            raise InputError(f"{path}, line {lines.number}: expected a FASTA header that starts with '>'.")
        elif line:
            # Sequences are also written in blocks of ten.
            parts.append("".join(line.split()))
            length += len(parts[-1])
            if length > MAX_CHARACTERS:
                raise InputError(
                    f"{path}, line {header_lines[-1]}: the record has more than {MAX_CHARACTERS:,} bases; this is no "
                    "promoter."
                )
    if header is not None:
        yield Row(f"line {header_lines[-1]}", {"name": header, "sequence": "".join(parts)})
    if warn:
        _report_repeated_names(path, np.frombuffer(names, dtype=np.int64), header_lines)


def _report_repeated_names(path: Path, names: np.ndarray, header_lines: Sequence[int]):
    different, counts = np.unique(names, return_counts=True)
    repeated = np.isin(names, different[counts > 1])
    if repeated.any():
        first, second = np.flatnonzero(names == names[repeated.argmax()])[:2]
        logger.warning(
            f"{path}: records share a name, the first of them in lines {header_lines[first]} and "
            f"{header_lines[second]} (such names: {(counts > 1).sum():,}). Each record has a row of its own."
        )


def _read_delimited(path: Path, lines: TextLines, usual: str, warn: bool) -> Iterator[Row]:
    header, delimiter = _read_header(path, lines, usual, warn)
    # German spreadsheets use the semicolon because their decimals have commas.
    decimal_comma = delimiter == ";"
    styles = NumberStyles(path, delimiter, warn, header)
    is_first = True
    for start, cells in _split_rows(path, lines, delimiter, len(header)):
        # Spreadsheets leave such rows where something was deleted, and such cells at the ends of rows.
        if not any(cells):
            continue
        while len(cells) > len(header) and not cells[-1]:
            del cells[-1]
        if len(cells) != len(header):
            hint = " A quote is open at its end." if sum(cell.count('"') for cell in cells) % 2 else ""
            if is_first and not hint:
                hint = " The header should be the first line of the table."
            raise InputError(
                f"{path}, line {start}: {count_of(len(cells), 'cell')} under a header of "
                f"{count_of(len(header), 'column')}.{hint}"
            )
        is_first = False
        row = Row(f"line {lines.number}", dict(zip(header, cells, strict=True)), decimal_comma)
        styles.add(row)
        yield row
    styles.finish()


def _read_header(path: Path, lines: TextLines, usual: str, warn: bool) -> tuple[list[str], str]:
    """Return the names of the columns and the delimiter, and leave `lines` at the first row."""
    given = comment = None
    for line in lines:
        text = line.rstrip("\n")
        if comment is None and given is None and (found := re.fullmatch('"?sep=(.)"?', text.strip(" "))):
            given = found[1]
        elif text.lstrip().startswith("#"):
            comment = text.lstrip().lstrip("#").strip(" ")
        elif text.strip():
            lines.put_back(line)
            break
    sample = lines.peek(LINES_LOOKED_AT)
    if not sample:
        return [], usual
    delimiter = given or _find_delimiter(sample, usual)
    rows = [*_sample_rows(sample, delimiter), []]
    names = [] if comment is None else [*_sample_rows([comment], delimiter), []][0]
    # The header itself may be a comment.
    if not (len(names) == len(rows[0]) > 1 and (_has_dna(rows[0]) or _is_row_without_dna(rows))):
        names = _name_columns(rows[0]) if _has_dna(rows[0]) else []
        if names and warn:
            logger.warning(
                f"{path}: the table has no header, so its columns are read as {', '.join(names)}. To name them "
                "yourself, put a line with their names above the first row."
            )
    if not names:
        titles = _count_titles(rows)
        _, names = next(islice(_split_rows(path, lines, delimiter, None), titles, None))
        if titles and warn:
            logger.warning(f"{path}: the lines above the header in line {lines.number} are left out as a title.")
        # R writes the names of the rows, but no name above them.
        if delimiter != "," and _have_row_names(len(names), _sample_rows(sample, delimiter, len(names))[titles + 1 :]):
            names = ["row_names", *names]
        # Spreadsheets leave empty columns at the right.
        rows = _sample_rows(sample, delimiter, len(names))[titles + 1 :]
    while len(names) > 1 and not names[-1].strip() and not any(cells[len(names) - 1 :] for cells in map(_trim, rows)):
        del names[-1]
    names = number_unnamed(names)
    check_header(path, names)
    return names, delimiter


def _has_dna(cells: Sequence[str]) -> bool:
    return any(DNA_CELL.fullmatch(cell.strip()) for cell in cells)


def _is_number(cell: str) -> bool:
    return bool(NUMBER.fullmatch(cell.strip()) or DECIMAL_COMMA.fullmatch(cell.strip()))


def _is_row_without_dna(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first of these is no header: it has a number, and no name above the DNA of another row."""
    first, *others = rows
    texts = [cell.strip() for cell in first]
    named = [text.lower() not in MISSING and not re.fullmatch("[ACGTUN]+", text, re.IGNORECASE) for text in texts]
    return any(map(_is_number, first)) and not any(
        _has_dna([cell for cell, is_named in zip(cells, named, strict=False) if is_named]) for cells in others
    )


def _count_titles(rows: Sequence[list[str]]) -> int:
    """Return how many rows are a title: above the header, which is above the first DNA, and with fewer cells."""
    first = next((number for number, cells in enumerate(rows) if _has_dna(cells)), 0)
    header = [cell.strip() for cell in _trim(rows[first - 1])]
    is_header = len(set(header)) == len(header) and not any(
        cell.lower() in MISSING or _is_number(cell) for cell in header
    )
    above = is_header and first > 1 and len(rows[first - 1]) == len(rows[first])
    return first - 1 if above and len(_trim(rows[0])) < len(header) else 0


def number_unnamed(names: list[str]) -> list[str]:
    """Return the names of columns, where several without a name are column_2 and so on."""
    if sum(not name.strip() for name in names) < 2:
        return names
    return [name if name.strip() else f"column_{number}" for number, name in enumerate(names, start=1)]


def _trim(cells: list[str]) -> list[str]:
    """Return a row without the empty cells at its end."""
    while cells and not cells[-1]:
        cells = cells[:-1]
    return cells


def check_header(path: Path, header: Sequence[str]):
    """
    Check the names of a table's columns.

    Raises:
        InputError: a name occurs twice, or there are too many.
    """
    if len(header) > MAX_COLUMNS:
        raise InputError(
            f"{path}: the table has {len(header):,} columns, but at most {MAX_COLUMNS:,} are read; one row is one "
            "sequence, so leave out other columns, or transpose it."
        )
    for name, count in Counter(header).items():
        if count > 1:
            raise InputError(f"{path}: the column {name!r} occurs {count} times in the header; rename one of them.")


def _find_delimiter(sample: list[str], usual: str) -> str:
    """Return the delimiter that divides the header and the first rows into most cells, and alike."""
    best, best_rank = usual, (False, 0, False)
    for delimiter in dict.fromkeys([usual, *"\t,;"]):
        found = _sample_rows(sample, delimiter)
        sizes = [len(cells) for cells in found[_count_titles([*found, []]) :] if cells]
        if sizes and sizes[0] > 1:
            alike = len(set(sizes)) == 1 or (set(sizes[1:]) == {sizes[0] + 1} and delimiter != ",")
            rank = (alike, sizes[0] if alike else 0, delimiter == usual)
            best, best_rank = max((best, best_rank), (delimiter, rank), key=lambda ranked: ranked[1])
    if best_rank == (False, 0, False) and not any(mark in sample[0] for mark in "\t,;"):
        # R's own delimiter.
        header, *rows = (len(cells) for cells in _sample_rows(sample, " ") or [[]])
        quoted = sample[0].startswith('"')
        if len(set(rows)) == 1 and (rows[0] == header > 1 or (rows[0] == header + 1 and (quoted or header > 1))):
            return " "
    return best


def _sample_rows(sample: list[str], delimiter: str, columns: int | None = None) -> list[list[str]]:
    """Return the cells of each row in these lines; the last row is left out if it may go on after them."""
    if delimiter == "\t":
        return [_split_tabs(line.rstrip("\n"), columns) for line in sample if line.strip("\n")]
    rows = []
    with suppress(csv.Error):
        rows.extend(cells for cells in csv.reader(sample, delimiter=delimiter) if cells)
    return rows[:-1] if len(rows) > 1 and len(sample) == LINES_LOOKED_AT else rows


def _have_row_names(columns: int, rows: list[list[str]]) -> bool:
    """Return whether rows have one cell more than the header, and it is not a delimiter at the end of each line."""
    return bool(rows) and all(len(cells) == columns + 1 and cells[0] and cells[-1] for cells in rows)


def _name_columns(cells: Sequence[str]) -> list[str]:
    """Return names for the columns of a table without a header, by the cells of its first row."""
    dna = [_has_dna([cell]) for cell in cells]
    numbers = [_is_number(cell) for cell in cells]
    names = [f"column_{number}" for number in range(1, len(cells) + 1)]
    for name, fits in (("sequence", dna), ("expression", numbers)):
        if sum(fits) == 1:
            names[fits.index(True)] = name
    return names


def _split_rows(path: Path, lines: TextLines, delimiter: str, columns: int | None) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row that is not blank, and the number of its first line."""
    if delimiter == "\t":
        # A tab-separated row is one line: whoever writes 5" or 5' end does not mean a quotation that ends lines later.
        for line in lines:
            if text := line.rstrip("\n"):
                yield lines.number, _split_tabs(text, columns)
        return
    start = lines.number + 1
    physical: list[str] = []

    def remember() -> Iterator[str]:
        for line in lines:
            physical.append(line)
            yield line

    try:
        for cells in csv.reader(remember(), delimiter=delimiter, strict=True):
            if cells:
                if len(physical) > 1 and columns is not None:
                    _refuse_swallowed_rows(path, start, physical, delimiter, columns)
                yield start, cells
            start = lines.number + 1
            physical.clear()
    except csv.Error as error:
        raise InputError(
            f"{path}, line {start}: not a well-formed table ({error}); look for a quote that is not closed."
        ) from error


def _refuse_swallowed_rows(path: Path, start: int, physical: list[str], delimiter: str, columns: int):
    """Refuse a cell that runs over several lines, each of which is a row by itself: a stray quote swallowed them."""
    if columns > 1 and all(line.count(delimiter) == columns - 1 for line in physical):
        raise InputError(
            f"{path}, line {start}: a quote that opens here closes in line {start + len(physical) - 1}, and the lines "
            "between look like rows. Remove both quotes, or double those that are part of a name."
        )


def _split_tabs(line: str, columns: int | None) -> list[str]:
    """Return the cells of a tab-separated row. A cell is quoted only if its quotes open and close around it."""
    cells = line.split("\t")
    if '"' not in line:
        return cells
    if columns is not None and len(cells) > columns:
        # There may be tabs within quotes.
        try:
            (quoted,) = csv.reader([line], delimiter="\t", strict=True)
        except csv.Error:
            quoted = []
        if len(quoted) == columns:
            return quoted
    return [*map(_unquote, cells)]


def _unquote(cell: str) -> str:
    if len(cell) < 2 or cell[0] != '"' or cell[-1] != '"':
        return cell
    inside = cell[1:-1].split('""')
    return cell if any('"' in part for part in inside) else '"'.join(inside)


__all__ = ["TextLines", "check_header", "number_unnamed", "read_text"]
