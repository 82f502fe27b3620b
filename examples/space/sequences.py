"""Read sequences and variants that a user pastes, uploads or types."""

import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from modeling_proformer import InvalidSequenceError, ProformerConfig, ProformerTokenizer
from modeling_proformer.data.tables import (
    DELIMITERS,
    FASTA_SUFFIXES,
    InputError,
    Row,
    read_rows,
    require_columns,
    sequence_text,
)
from modeling_proformer.intervals import prediction_interval


MAX_SEQUENCES = 1_000
MAX_MEGABYTES = 5
# Neither gzip nor Parquet: a small file of these can fill the memory of a shared machine.
SUFFIXES = (*FASTA_SUFFIXES, *DELIMITERS)
MAX_LEVEL = 0.9
PASTED = "Your text"
ADVICE = "On your own machine, “proformer predict FILE” takes any number of sequences."
DNA = re.compile("[ACGTUN]{4,}", re.IGNORECASE)
# Names of a column of sequences; some of them could be read as nucleotides.
COMMON_NAMES = {"sequence", "seq", "insert", "promoter", "dna", "rna", "cdna", "mrna", "cds", "utr"}
NUCLEOTIDES = re.compile("[ACGTUNRYSWKMBDHV]{3,}", re.IGNORECASE)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
# A34G, or 34G for short.
SUBSTITUTION = re.compile(r"([ACGTUN]?)([0-9]{1,9})([ACGTU])", re.IGNORECASE)


class Entries(NamedTuple):
    """The sequences of one source, each with its row and a name to show."""

    source: str
    rows: list[Row]
    names: list[str]
    sequences: list[str]


class Prediction(NamedTuple):
    """The expression of each output, (sequences, outputs), and the ends of intervals if the model has any."""

    outputs: list[str]
    values: np.ndarray
    level: float | None
    low: np.ndarray | None
    high: np.ndarray | None


def read_text(text: str) -> Entries:
    """
    Read pasted text: FASTA, a table with a line of column names, or one sequence on each line.

    Raises:
        InputError: the text is empty or too large, or it starts like FASTA or a table but is not well-formed.
    """
    if not text.strip():
        raise InputError("There are no sequences yet: paste some, or try the example.")
    check_size(PASTED, len(text))
    kind = kind_of_text(text)
    if kind is None:
        lines = enumerate(text.split("\n"), start=1)
        rows = (Row(f"line {number}", {"sequence": line.strip()}) for number, line in lines if line.strip())
        return read_entries(PASTED, rows, "sequence")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"pasted{kind}"
        path.write_text(text, encoding="utf-8", errors="replace")
        with errors_name(path, PASTED):
            column = find_columns(path)[1]
            if column is None:
                raise InputError(f"{path}: no column has only sequences; name the one to read “sequence”.")
            return read_entries(PASTED, read_rows(path, warn=False), column)


def kind_of_text(text: str) -> str | None:
    """Return the suffix that a file with such text has; None for one sequence on each line."""
    first_line, _, others = text.strip().partition("\n")
    if first_line.startswith(">"):
        return ".fasta"
    names = {name.strip().lower() for name in re.split("[\t,]", first_line)}
    if not others and names.isdisjoint(COMMON_NAMES):
        return None
    if "," in first_line and "\t" not in first_line:
        return ".csv"
    return ".tsv" if "\t" in first_line or names <= COMMON_NAMES else None


def read_file(path: str | Path | None, column: str | None) -> Entries:
    """
    Read a FASTA file, or a column of a table; by default, the column that `columns_of_file` finds.

    Raises:
        InputError: there is no file; it is of another kind, damaged, or too large; or it is a table without column
            names, or with a row that has no sequence.
    """
    if path is None:
        raise InputError("There is no file yet: drop or choose one.")
    if column is None:
        column = columns_of_file(path)[1]
    path = check_file(path)
    if column is None:
        raise InputError(f"{path.name}: choose the column with the sequences.")
    with errors_name(path, path.name):
        return read_entries(path.name, read_rows(path, warn=False), column)


def columns_of_file(path: str | Path) -> tuple[list[str], str | None]:
    """
    Return the columns of a table or FASTA file, and the column with the sequences. That is the column “sequence”, or
    the one with the longest DNA in its first rows, or None.

    Raises:
        InputError: see `read_file`.
    """
    path = check_file(path)
    with errors_name(path, path.name):
        return find_columns(path)


def find_columns(path: Path) -> tuple[list[str], str | None]:
    """Return what `columns_of_file` does, for a file of any name."""
    first_rows = [row.cells for row in islice(read_rows(path, warn=False), 20)]
    columns = list(first_rows[0])
    texts = {column: [cells[column].strip() for cells in first_rows] for column in columns}
    dna = [column for column in columns if all(DNA.fullmatch(text) for text in texts[column])]
    longest = max(dna, key=lambda column: sum(map(len, texts[column])), default=None)
    found = next((column for column in columns if column.lower() == "sequence"), longest)
    if not found or found.strip().lower() not in COMMON_NAMES:
        # The first name may be empty: pandas writes an index without a name.
        data = [name for name in columns[1:] if not name.strip()]
        data += [name for name in columns if NUMBER.fullmatch(name.strip())]
        data += [name for name in columns if name == found and NUCLEOTIDES.fullmatch(name.strip())]
        if data:
            raise InputError(
                f"{path}: the first line should name the columns of the table, but {data[0][:20]!r} looks like data."
            )
    return columns, found


def check_file(path: str | Path) -> Path:
    """Check the kind and size of a file, and return its path."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{path.name}: this page reads FASTA, CSV and TSV files; their names end in one of {', '.join(SUFFIXES)}."
        )
    check_size(path.name, path.stat().st_size)
    return path


def check_size(source: str, size: int):
    """Check that there are not too many bytes."""
    if size > MAX_MEGABYTES * 1e6:
        raise InputError(f"{source}: this page takes at most {MAX_MEGABYTES} MB of sequences at a time. {ADVICE}")


def read_entries(source: str, rows: Iterable[Row], column: str) -> Entries:
    """Collect the sequences of rows, and their names."""
    rows = list(islice(rows, MAX_SEQUENCES + 1))
    if len(rows) > MAX_SEQUENCES:
        raise InputError(f"{source}: this page takes at most {MAX_SEQUENCES:,} sequences at a time. {ADVICE}")
    require_columns(source, rows[0].cells, [column])
    sequences = [sequence_text(source, row, column) for row in rows]
    named = next((name for name in rows[0].cells if name.lower() in ("name", "id")), None)
    return Entries(source, rows, [row.cells.get(named) or row.location for row in rows], sequences)


@contextmanager
def errors_name(path: Path, name: str) -> Iterator[None]:
    """Put the name that the user knows into errors, instead of the path on the server."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(path), name)) from None


def check_entries(tokenizer: ProformerTokenizer, entries: Entries):
    """
    Check that the model can read all sequences.

    Raises:
        InputError: a sequence is not DNA, or too long. The error says in which line.
    """
    try:
        lengths = tokenizer.insert_lengths(entries.sequences)
    except InvalidSequenceError as error:
        raise InputError(f"{entries.source}, {entries.rows[error.row].location}: {error.reason}") from None
    too_long = np.flatnonzero(lengths > tokenizer.insert_width)
    if len(too_long):
        first = too_long[0]
        others = f"; {len(too_long):,} sequences are too long" if len(too_long) > 1 else ""
        raise InputError(
            f"{entries.source}, {entries.rows[first].location}: the insert has {lengths[first]:,} bases, but this "
            f"model takes at most {tokenizer.insert_width}{others}."
        )


def with_interval(values: np.ndarray, config: ProformerConfig) -> Prediction:
    """Add intervals of the highest level up to `MAX_LEVEL` for which the model has any."""
    outputs = [config.id2label[number] for number in range(config.num_labels)]
    levels = [float(level) for level in config.interval_half_widths or {} if float(level) <= MAX_LEVEL]
    ends = prediction_interval(values, config, max(levels)) if levels else (None, None)
    return Prediction(outputs, values, max(levels, default=None), *ends)


def alternate_allele(tokenizer: ProformerTokenizer, reference: str, text: str) -> str:
    """
    Return the variant that a user describes: a whole sequence, or substitutions in the insert of the reference such as
    `A34G` or `34G`, separated by blanks or commas.

    Raises:
        InputError: the text is neither of these, has more than one sequence or one that the model cannot read, or a
            substitution does not fit the reference.
    """
    if not text.strip():
        raise InputError("There is no variant yet: paste its sequence, or write a change such as 34G.")
    if text.lstrip().startswith(">") or not re.search(r"\d", text):
        entries = read_text(text)
        if len(entries.sequences) > 1:
            raise InputError(f"Give one variant at a time; there are {len(entries.sequences):,}.")
        check_entries(tokenizer, entries)
        return entries.sequences[0]
    (start,), (length,) = tokenizer.trim_flanks(*tokenizer.read_codes([reference]))
    bases, changed = list(reference), set()
    for change in re.split(r"[\s,;]+", text.strip(" \t\r\n,;")):
        found = SUBSTITUTION.fullmatch(change)
        if not found:
            raise InputError(
                f"{change!r} is not a change such as A34G or 34G: the position in the insert, then the base."
            )
        expected, position, base = found[1].upper(), int(found[2]), found[3].upper()
        if not 1 <= position <= length:
            raise InputError(f"{change}: position {position} lies outside the insert, which has {length} bases.")
        index = int(start) + position - 1
        if expected and expected != reference[index].upper():
            raise InputError(f"{change}: the reference has {reference[index].upper()} at position {position}.")
        if index in changed:
            raise InputError(f"{change}: position {position} is changed twice.")
        changed.add(index)
        bases[index] = base
    return "".join(bases)
