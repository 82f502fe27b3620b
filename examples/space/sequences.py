"""What a user pastes, uploads or types, as sequences; and predictions of them."""

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


MOST_SEQUENCES = 1_000
MOST_MEGABYTES = 5
# Neither gzip nor Parquet: a small file of these can hold more than a shared machine does.
SUFFIXES = (*FASTA_SUFFIXES, *DELIMITERS)
HIGHEST_LEVEL = 0.9
PASTED = "Your text"
ADVICE = "On your own machine, “proformer predict FILE” takes any number of them."
DNA = re.compile("[ACGTUN]{4,}", re.IGNORECASE)
# What a column of sequences may be called; the letters of some are those of nucleotides.
COMMON_NAMES = {"sequence", "seq", "insert", "promoter", "dna", "rna", "cdna", "mrna", "cds", "utr"}
NUCLEOTIDES = re.compile("[ACGTUNRYSWKMBDHV]{3,}", re.IGNORECASE)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
# A34G, or 34G for short.
SUBSTITUTION = re.compile(r"([ACGTUN]?)([0-9]{1,9})([ACGTU])", re.IGNORECASE)


class Entries(NamedTuple):
    """Sequences of one source, each with the row it comes from and a name to show."""

    source: str
    rows: list[Row]
    names: list[str]
    sequences: list[str]


class Prediction(NamedTuple):
    """Expression of each output, (sequences, outputs); and, where the model knows them, the intervals' ends."""

    outputs: list[str]
    values: np.ndarray
    level: float | None
    low: np.ndarray | None
    high: np.ndarray | None


def read_text(text: str) -> Entries:
    """
    FASTA, a table with a line of column names, or one sequence a line.

    Raises:
        InputError: there is nothing in it or too much, or it is no FASTA or table although it starts like one.
    """
    if not text.strip():
        raise InputError("There are no sequences yet: paste some, or try the example.")
    check_size(PASTED, len(text))
    kind = kind_of_text(text)
    if kind is None:
        lines = enumerate(text.split("\n"), start=1)
        rows = (Row(f"line {number}", {"sequence": line.strip()}) for number, line in lines if line.strip())
        return entries_of(PASTED, rows, "sequence")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"pasted{kind}"
        path.write_text(text, encoding="utf-8", errors="replace")
        with called(path, PASTED):
            column = find_columns(path)[1]
            if column is None:
                raise InputError(f"{path}: no column holds sequences alone; call the one with them “sequence”.")
            return entries_of(PASTED, read_rows(path), column)


def kind_of_text(text: str) -> str | None:
    """The suffix of a file with such text; None of one sequence a line."""
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
    A FASTA file, or a table's column of sequences; by default, the one that `columns_of_file` finds.

    Raises:
        InputError: there is none, it is of another kind, damaged, too large, or a table without names of its columns,
            or has no sequence in one of its rows.
    """
    if path is None:
        raise InputError("There is no file yet: drop one, or choose it.")
    if column is None:
        column = columns_of_file(path)[1]
    path = checked_file(path)
    if column is None:
        raise InputError(f"{path.name}: choose the column of the sequences.")
    with called(path, path.name):
        return entries_of(path.name, read_rows(path), column)


def columns_of_file(path: str | Path) -> tuple[list[str], str | None]:
    """
    The columns of a table or FASTA file, and the one that holds its sequences: it is called so, or the longest of
    those whose first cells are DNA; None where there is none.

    Raises:
        InputError: see `read_file`.
    """
    path = checked_file(path)
    with called(path, path.name):
        return find_columns(path)


def find_columns(path: Path) -> tuple[list[str], str | None]:
    """Those of `columns_of_file`, whatever the file is called to the user."""
    first_rows = [row.cells for row in islice(read_rows(path), 20)]
    columns = list(first_rows[0])
    texts = {column: [cells[column].strip() for cells in first_rows] for column in columns}
    dna = [column for column in columns if all(DNA.fullmatch(text) for text in texts[column])]
    longest = max(dna, key=lambda column: sum(map(len, texts[column])), default=None)
    found = next((column for column in columns if column.lower() == "sequence"), longest)
    if not found or found.strip().lower() not in COMMON_NAMES:
        # The first name may be empty: pandas leaves that of its index so.
        data = [name for name in columns[1:] if not name.strip()]
        data += [name for name in columns if NUMBER.fullmatch(name.strip())]
        data += [name for name in columns if name == found and NUCLEOTIDES.fullmatch(name.strip())]
        if data:
            raise InputError(
                f"{path}: the first line should name the columns of the table, but {data[0][:20]!r} looks like data."
            )
    return columns, found


def checked_file(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"{path.name}: this page reads FASTA, CSV and TSV files, whose names end in one of {', '.join(SUFFIXES)}."
        )
    check_size(path.name, path.stat().st_size)
    return path


def check_size(source: str, size: int):
    if size > MOST_MEGABYTES * 1e6:
        raise InputError(
            f"{source}: this page takes {MOST_MEGABYTES} MB of sequences at a time, and there are more. {ADVICE}"
        )


def entries_of(source: str, rows: Iterable[Row], column: str) -> Entries:
    rows = list(islice(rows, MOST_SEQUENCES + 1))
    if len(rows) > MOST_SEQUENCES:
        raise InputError(
            f"{source}: this page takes {MOST_SEQUENCES:,} sequences at a time, and there are more. {ADVICE}"
        )
    require_columns(source, rows[0].cells, [column])
    sequences = [sequence_text(source, row, column) for row in rows]
    named = next((name for name in rows[0].cells if name.lower() in ("name", "id")), None)
    return Entries(source, rows, [row.cells.get(named) or row.place for row in rows], sequences)


@contextmanager
def called(path: Path, name: str) -> Iterator[None]:
    """Errors say the name that the user knows a file by, not where it lies on the server."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(path), name)) from None


def check_entries(tokenizer: ProformerTokenizer, entries: Entries):
    """
    Raises:
        InputError: a sequence is not DNA, or too long; says in which line.
    """
    try:
        lengths = tokenizer.insert_lengths(entries.sequences)
    except InvalidSequenceError as error:
        raise InputError(f"{entries.source}, {entries.rows[error.row].place}: {error.reason}") from None
    too_long = np.flatnonzero(lengths > tokenizer.insert_width)
    if len(too_long):
        first = too_long[0]
        all_of_them = f"; {len(too_long):,} sequences are too long" if len(too_long) > 1 else ""
        raise InputError(
            f"{entries.source}, {entries.rows[first].place}: the insert has {lengths[first]:,} letters, and this "
            f"model takes {tokenizer.insert_width} at most{all_of_them}."
        )


def with_interval(values: np.ndarray, config: ProformerConfig) -> Prediction:
    """Predictions with the intervals of the highest level up to `HIGHEST_LEVEL` that the model has any for."""
    outputs = [config.id2label[number] for number in range(config.num_labels)]
    levels = [float(level) for level in config.interval_half_widths or {} if float(level) <= HIGHEST_LEVEL]
    ends = prediction_interval(values, config, max(levels)) if levels else (None, None)
    return Prediction(outputs, values, max(levels, default=None), *ends)


def alternate_allele(tokenizer: ProformerTokenizer, reference: str, text: str) -> str:
    """
    The variant that a user describes: a whole sequence, or substitutions in the insert of the reference, such as
    `A34G` or `34G`, several of them between blanks or commas.

    Raises:
        InputError: it is neither, more than one sequence or one that the model does not take, or a substitution does
            not fit the reference.
    """
    if not text.strip():
        raise InputError("There is no variant yet: paste its sequence, or name a change such as 34G.")
    if text.lstrip().startswith(">") or not re.search(r"\d", text):
        entries = read_text(text)
        if len(entries.sequences) > 1:
            raise InputError(f"Give one variant at a time; there are {len(entries.sequences):,}.")
        check_entries(tokenizer, entries)
        return entries.sequences[0]
    _, (start,), (length,) = tokenizer.read_inserts([reference], allow_mask=False)
    letters, changed = list(reference), set()
    for change in re.split(r"[\s,;]+", text.strip(" \t\r\n,;")):
        found = SUBSTITUTION.fullmatch(change)
        if not found:
            raise InputError(
                f"{change!r} is not a change such as A34G or 34G: position in the insert, then the letter."
            )
        expected, position, letter = found[1].upper(), int(found[2]), found[3].upper()
        if not 1 <= position <= length:
            raise InputError(f"{change}: position {position} lies outside the insert, which has {length} letters.")
        place = int(start) + position - 1
        if expected and expected != reference[place].upper():
            raise InputError(f"{change}: the reference has {reference[place].upper()} at position {position}.")
        if place in changed:
            raise InputError(f"{change}: position {position} is changed twice.")
        changed.add(place)
        letters[place] = letter
    return "".join(letters)
