"""The rows of files whose sequences are to be predicted: read, and checked before anything is computed."""

import logging
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple, TypeAlias, get_args

from ..tokenization import InvalidSequenceError, ProformerTokenizer
from .cells import IUPAC_REMEDY, IUPAC_TO_N
from .config import count_of, require_choice
from .genome import Genome, read_regions
from .rows import MAX_QUOTED, InputError, Row, measured_value, name_columns, quote_rows, require_columns, sequence_text
from .tables import is_stream, read_rows, table_suffix
from .windows import cut_windows


logger = logging.getLogger(__name__)

#: What to do with rows that cannot be predicted.
OnError: TypeAlias = Literal["refuse", "skip", "mark"]


def is_bed(path: str) -> bool:
    """Return whether a file has regions of a genome by its name."""
    return table_suffix(path) == ".bed"


class ScreenedRow(NamedTuple):
    """
    A row of a file, and what the tokenizer reads of it.

    Attributes:
        path: the file.
        row: the row; its `error` says why it has no prediction.
        sequence: what is tokenized.
    """

    path: str
    row: Row
    sequence: str

    @property
    def place(self) -> str:
        """File and row, for messages."""
        return f"{self.path}, {self.row.location}"


@dataclass
class Findings:
    """
    What is to be said about the rows of files, once all of them are read.

    Attributes:
        rows: number of rows.
        bad_rows, bad: number of those that cannot be predicted, and the first errors.
        cut, longest: number of inserts that are cut, and the length and location of the longest.
        within_rows, within: number of constructs found within longer sequences or over their origin, and the first
            locations.
        unknown: number of sequences with IUPAC codes of several bases.
        long: number of bad rows whose sequence is longer than a construct.
    """

    rows: int = 0
    bad_rows: int = 0
    bad: list[str] = field(default_factory=list)
    cut: int = 0
    longest: tuple[int, str] = (0, "")
    within_rows: int = 0
    within: list[str] = field(default_factory=list)
    unknown: int = 0
    long: int = 0


@dataclass(frozen=True, kw_only=True)
class Screening:
    """
    How rows to predict are read.

    Attributes:
        tokenizer: checks the sequences.
        sequence: column of the sequences.
        measured: column of measurements, if there is one; its cells must be numbers or empty.
        on_error: what to do with rows that cannot be predicted. "refuse": all rows are checked before anything is
            computed, and the files are refused; "skip": the rows are left out; "mark": they have no prediction.
        iupac_as_n: read the IUPAC codes of several bases as N.
        truncation: cut inserts that are longer than the construct.
        genome: the genome of BED files.
        windows: bases from the start of a window of the sequences to that of the next one; None for whole sequences.
        width: bases of a window.

    Raises:
        ValueError: `on_error` is something else.
    """

    tokenizer: ProformerTokenizer
    sequence: str = "sequence"
    measured: str | None = None
    on_error: OnError = "refuse"
    iupac_as_n: bool = False
    truncation: bool = False
    genome: Genome | None = None
    windows: int | None = None
    width: int | None = None

    def __post_init__(self):
        require_choice("on_error", self.on_error, get_args(OnError))

    def keep(self, rows: Sequence[ScreenedRow]) -> list[ScreenedRow]:
        """Return the rows that the output has: all but those to skip."""
        return [each for each in rows if self.on_error != "skip" or not each.row.error]

    def read(self, paths: Sequence[str], batch_size: int) -> Iterator[list[ScreenedRow]]:
        """
        Yield rows, `batch_size` at a time, and log what was found.

        Raises:
            InputError: a file cannot be read (see `read_rows`), has not the columns or others than the first file, or
                no row can be predicted; or, with "refuse", some row cannot.
        """
        findings = Findings()
        batches = self._screen(paths, batch_size, findings, warn=True)
        if self.on_error != "refuse":
            yield from batches
        elif any(map(is_stream, paths)):
            # It cannot be read twice.
            with tempfile.TemporaryFile() as copy:
                for batch in batches:
                    pickle.dump(batch, copy)
                self._refuse(findings)
                copy.seek(0)
                yield from _unpickle(copy)
        else:
            for _ in batches:
                pass
            self._refuse(findings)
            yield from self._screen(paths, batch_size, Findings(), warn=False)
        if findings.bad_rows == findings.rows:
            self._refuse(findings)
        for sentence in self._sentences(findings):
            logger.warning(sentence)

    @property
    def longest(self) -> int:
        """Number of bases of the longest construct."""
        flanks = (self.tokenizer.five_prime_flank, self.tokenizer.three_prime_flank)
        return self.tokenizer.insert_width + sum(len(flank or "") for flank in flanks)

    def _sentences(self, findings: Findings) -> Iterator[str]:
        """Yield a sentence on each kind of finding."""
        of_all = f"of {count_of(findings.rows, 'row')}"
        if findings.bad_rows:
            done = "are left out" if self.on_error == "skip" else "have no prediction"
            yield f"{findings.bad_rows:,} {of_all} {done}: {quote_rows(findings.bad, findings.bad_rows)}"
        if findings.cut:
            bases, location = findings.longest
            yield (
                f"The inserts of {findings.cut:,} {of_all} were cut to {self.tokenizer.insert_width:,} bases; the "
                f"longest had {bases:,} ({location})."
            )
        if findings.within_rows:
            yield (
                f"{findings.within_rows:,} {of_all} hold the construct within a longer sequence (or over the origin "
                "of a circular one) or on the other strand, and the construct alone was predicted: "
                f"{quote_rows(findings.within, findings.within_rows)}"
            )
        if findings.unknown and self.iupac_as_n:
            yield f"{findings.unknown:,} {of_all} have IUPAC codes, which were read as N."

    def _refuse(self, findings: Findings):
        if not findings.bad_rows:
            return
        remedies = []
        if findings.unknown and not self.iupac_as_n:
            remedies.append(IUPAC_REMEDY)
        if findings.long:
            remedies.append("`windows` predicts windows of longer sequences.")
        if findings.bad_rows < findings.rows:
            remedies.append('`on_error="skip"` and `on_error="mark"` predict the other rows.')
        of_all = "" if findings.bad_rows == 1 else f"{findings.bad_rows:,} of {findings.rows:,} rows are bad: "
        raise InputError(" ".join([of_all + quote_rows(findings.bad, findings.bad_rows), *remedies]))

    def _screen(
        self, paths: Sequence[str], batch_size: int, findings: Findings, warn: bool
    ) -> Iterator[list[ScreenedRow]]:
        columns: list[str] | None = None
        for path in paths:
            rows = self._read_rows(path, warn)
            while batch := list(islice(rows, batch_size)):
                cells = batch[0].cells
                columns = columns or list(cells)
                if list(cells) != columns:
                    raise InputError(
                        f"{path}: the columns are {name_columns(cells)}, but those of {paths[0]} are "
                        f"{name_columns(columns)}; files that are predicted together have the same columns."
                    )
                require_columns(path, cells, [self.sequence, *filter(None, [self.measured])])
                yield self.screen_rows(path, batch, findings)

    def _read_rows(self, path: str, warn: bool) -> Iterator[Row]:
        of_genome = is_bed(path)
        if of_genome and self.genome is None:
            raise InputError(f"{path}: these are regions of a genome; name its FASTA file with `genome`.")
        rows = read_regions(path, self.genome) if of_genome else read_rows(path, warn=warn)
        if self.windows is not None:
            return cut_windows(path, rows, self.sequence, self.width, self.windows, of_genome=of_genome)
        return map(_refuse_only_n, rows) if of_genome else rows

    def screen_rows(self, path: str, rows: Sequence[Row], findings: Findings) -> list[ScreenedRow]:
        """Return rows with what is to be tokenized, or with an error; what is found is added to `findings`."""
        screened = [self._screen_cells(path, row, findings) for row in rows]
        sound = [number for number, each in enumerate(screened) if not each.row.error]
        errors = self.find_errors([screened[number].sequence for number in sound])
        for place, number in enumerate(sound):
            sequence = screened[number].sequence
            is_long = len(sequence) > self.longest
            over_origin = self._find_over_origin(sequence) if is_long else []
            # The tokenizer does not look over the origin, and with truncation it would cut the sequence.
            if place in errors or over_origin:
                screened[number] = self._find_within(screened[number], errors.get(place, ""), over_origin, findings)
                findings.long += is_long and bool(screened[number].row.error)
        findings.rows += len(rows)
        for each in screened:
            if each.row.error:
                findings.bad_rows += 1
                findings.bad += [f"{each.place}, {each.row.error}"][: MAX_QUOTED - len(findings.bad)]
        if self.truncation:
            self._count_cut([each for each in screened if not each.row.error], findings)
        return screened

    def _screen_cells(self, path: str, row: Row, findings: Findings) -> ScreenedRow:
        if row.error:
            return ScreenedRow(path, row, "")
        try:
            text = sequence_text(path, row, self.sequence)
            if self.measured is not None:
                measured_value(path, row, self.measured)
        except InputError as error:
            return ScreenedRow(path, row._replace(error=error.reason), "")
        known = text.translate(IUPAC_TO_N)
        findings.unknown += known != text
        return ScreenedRow(path, row, known if self.iupac_as_n else text)

    def find_errors(self, sequences: Sequence[str]) -> dict[int, str]:
        """Return the sequences that cannot be tokenized, and why."""
        try:
            self.tokenizer.encode_letters(sequences, truncation=self.truncation)
        except InvalidSequenceError as error:
            if len(sequences) == 1:
                return {0: error.reason}
            half = len(sequences) // 2
            others = self.find_errors(sequences[half:])
            return self.find_errors(sequences[:half]) | {half + row: reason for row, reason in others.items()}
        return {}

    def _find_within(
        self, screened: ScreenedRow, reason: str, over_origin: Sequence[tuple[int, int, str]], findings: Findings
    ) -> ScreenedRow:
        """Return the row with the only construct that its sequence holds; if there is none, with an error."""
        path, row, sequence = screened
        found = [*self.tokenizer.find_constructs(sequence), *over_origin]
        if over_origin and len(found) > 1:
            reason = f"it holds the construct {len(found)} times, if it is circular. Give one of them."
        if len(found) != 1 or self.find_errors([found[0][2]]):
            return ScreenedRow(path, row._replace(error=f"column {self.sequence!r}: {reason}"), "")
        ((start, end, text),) = found
        findings.within_rows += 1
        if len(findings.within) < MAX_QUOTED:
            size = len(sequence)
            is_forward = text == (sequence if end <= size else 2 * sequence)[start:end].upper().replace("U", "T")
            strand = "" if is_forward else " on the other strand"
            last = f"{end:,}" if end <= size else f"{end - size:,} over the origin"
            findings.within.append(f"{screened.place}, positions {start + 1:,} to {last}{strand}")
        return ScreenedRow(path, row, text)

    def _find_over_origin(self, sequence: str) -> list[tuple[int, int, str]]:
        """Return the constructs that begin at the end of a circular sequence, as `find_constructs` does."""
        size, part = len(sequence), self.longest - 1
        if size <= self.longest:
            return []
        found = self.tokenizer.find_constructs(sequence[-part:] + sequence[:part])
        return [(size - part + start, size - part + end, text) for start, end, text in found if start < part < end]

    def _count_cut(self, screened: Sequence[ScreenedRow], findings: Findings):
        lengths = self.tokenizer.insert_lengths([each.sequence for each in screened])
        for each, length in zip(screened, lengths.tolist(), strict=True):
            if length > self.tokenizer.insert_width:
                findings.cut += 1
                findings.longest = max(findings.longest, (length, each.place))


def _refuse_only_n(region: Row) -> Row:
    """Return a region of a genome, with an error if it has no base."""
    if region.error or region.cells["sequence"].strip("N"):
        return region
    return region._replace(error="only N: the genome has no bases there")


def _unpickle(file) -> Iterator[list[ScreenedRow]]:
    while True:
        try:
            yield pickle.load(file)
        except EOFError:
            return


__all__ = ["Findings", "OnError", "ScreenedRow", "Screening", "is_bed"]
