"""The command `proformer design`."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import MISSING as REQUIRED
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from transformers import PreTrainedModel

from ..configuration_proformer import ProformerConfig
from ..data.config import option
from ..data.screening import Screening
from ..data.tables import Row, cell_error, read_rows, require_columns, sequence_text
from ..designing import Design, design
from ..loading import checkpoint_path, load_checkpoint
from ..options import valid_options
from ..starts import GivenSequenceError
from ..tokenization import ProformerTokenizer
from ..writing import FORMATS, output_file, output_table, table_suffix_of
from .common import INTERVAL, MODEL, TABLE, RunOptions, append_interval, input_path, require_interval


# Options that the library's function does not have.
OF_THE_COMMAND = ("output", "fasta", "model", "interval", "sequence")

# Table of the rows that a fine-tuned model was not trained on, in its folder.
PREDICTIONS = "predictions.tsv"

# Rows of training and test sequences that are read at a time.
SCREENED_ROWS = 1024

# Options that name a file, where the library's function takes its sequences.
GIVEN = ("starts", "existing")

# Types of columns in Parquet; predictions are numbers anyway.
TYPES = dict.fromkeys(("edits", "nearest_design", "nearest_existing"), pa.int64())


@dataclass(kw_only=True)
class DesignOptions:
    """Options that say what `proformer design` looks for, and what it writes."""

    targets: list[str] = option(
        "What to design: a number, a range such as 6:8, max or min; for a model of several outputs, goals by name, "
        "such as developmental=2,housekeeping=min, of which numbers and ranges come first.",
        REQUIRED,
    )
    output: str | None = option(
        f"Table to write, whose name ends in one of {', '.join(FORMATS)}; by default TSV on the standard output.",
        aliases=["-o"],
        metavar="FILE",
    )
    fasta: str | None = option("FASTA file to write too, with the flanks added, ready to order.", metavar="FILE")
    model: str | None = option(MODEL)
    number: int = option("Designs for each target, and for each start.", 10)
    interval: float | None = option(INTERVAL)
    rounds: int = option("Rounds of evolution at most.", 50)
    seed: int = option("Equal seeds give equal designs.", 0)


@dataclass(kw_only=True)
class StartOptions:
    """Where the search starts."""

    _argument_group_name: ClassVar[str] = "starts"

    length: int | None = option(
        "Bases of an insert from a random start; by default as many as the construct has room for."
    )
    starts: str | None = option(
        f"FASTA or {TABLE} of sequences to start from, instead of random ones.", aliases=["--from"], metavar="FILE"
    )
    max_edits: int | None = option("Most bases that may differ from the start.")
    keep: list[str] = option("Positions of each start, from 1, that stay as they are, such as 7 and 10-20.", [])
    sequence: str = option(
        "Column with the sequences, in the tables that the other options name.", "sequence", metavar="COLUMN"
    )


@dataclass(kw_only=True)
class ConstraintOptions:
    """Constraints that every design fulfils."""

    _argument_group_name: ClassVar[str] = "constraints"

    avoid: list[str] = option(
        "Restriction enzymes by name, or motifs in IUPAC codes, that are on neither strand, nor over the "
        "junctions with the flanks.",
        [],
    )
    avoid_forward: list[str] = option("Motifs that are not on the forward strand, such as ATG.", [])
    gc: list[float] = option("Least and greatest GC content of the insert in percent, such as 30 60.", [])
    max_homopolymer: int | None = option("Longest run of one base, over the junctions too.")
    max_repeat: int | None = option("Longest subsequence that occurs twice in the construct, on either strand.")
    min_distance: int = option("Least number of bases that differ between two designs, and from existing.", 1)
    existing: str | None = option(f"FASTA or {TABLE} of sequences that exist already.", metavar="FILE")


@dataclass(kw_only=True)
class TrustOptions:
    """Options that say which sequences the designs are compared with, to find where the model may be wrong."""

    _argument_group_name: ClassVar[str] = "trust"

    training: str | None = option(
        f"FASTA or {TABLE} of the sequences that the model was trained on: adds how far each design is from the "
        "nearest one, as the model sees them.",
        metavar="FILE",
    )
    test: str | None = option(
        f"FASTA or {TABLE} of the sequences that the model was tested on, by default the test rows of {PREDICTIONS} "
        "in the folder of a fine-tuned model: says how many designs are further from the training sequences than any "
        "of these, which do not count as training sequences themselves.",
        metavar="FILE",
    )


@dataclass(kw_only=True)
class DesignConfig(DesignOptions, StartOptions, ConstraintOptions, TrustOptions, RunOptions):
    """
    Options of `proformer design`.

    Raises:
        ValueError: an option is outside its range.
    """

    groups: ClassVar[tuple[type, ...]] = (
        DesignOptions,
        StartOptions,
        ConstraintOptions,
        TrustOptions,
        RunOptions,
    )

    def __post_init__(self):
        super().__post_init__()
        table_suffix_of(self.output)
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"`seed` is {self.seed}, but must be 0 to {2**32 - 1:,}.")


def run(config: DesignConfig):
    """Design inserts, and write them as a table and a FASTA file."""
    model, tokenizer = load_checkpoint(config.model)
    if config.interval is not None:
        require_interval(config.interval, model.config)
    with ExitStack() as files:
        # They are opened first, so that a missing folder is found before anything is computed.
        table = files.enter_context(output_table(config.output, TYPES))
        fasta = None if config.fasta is None else files.enter_context(output_file(config.fasta))
        with valid_options():
            designs = _design(config, model, tokenizer)
        rows = _rows(config, designs, model.config)
        table.write(list(rows[0]), [[*row.values()] for row in rows])
        if fasta is not None:
            fasta.writelines(f">{row['name']} {row['target']}\n{row['sequence']}\n" for row in rows)


def _design(config: DesignConfig, model: PreTrainedModel, tokenizer: ProformerTokenizer) -> list[Design]:
    names = {each.name for kind in config.groups if kind is not RunOptions for each in fields(kind)}
    arguments = {name: getattr(config, name) for name in names - {*OF_THE_COMMAND}}
    arguments["gc"] = config.gc or None
    arguments["quiet"] = config.quiet
    given = {name: list(_read(path, config.sequence)) for name in GIVEN if (path := getattr(config, name)) is not None}
    arguments["starts"] = _name_sequences(given["starts"]) if "starts" in given else None
    arguments["existing"] = [sequence for _, sequence in given.get("existing", ())]
    for name in ("training", "test"):
        if arguments[name] is not None:
            arguments[name] = _read_sound(arguments[name], config.sequence, tokenizer)
    held_out = Path(config.model or checkpoint_path()) / PREDICTIONS
    if config.training is not None and config.test is None and held_out.is_file():
        arguments["test"] = _read_sound(str(held_out), "sequence", tokenizer, split="test")
    try:
        return design(model, tokenizer, **arguments, **config.run_arguments)
    except GivenSequenceError as error:
        row, _ = given[error.argument][error.row]
        path = input_path(getattr(config, error.argument))
        raise cell_error(path, row, config.sequence, error.reason) from None


def _read(path: str, column: str) -> Iterator[tuple[Row, str]]:
    """
    Yield the rows and sequences of a file.

    Raises:
        InputError: the file or a sequence cannot be read.
    """
    path = input_path(path)
    for row in read_rows(path):
        require_columns(path, row.cells, [column])
        yield row, sequence_text(path, row, column)


def _read_sound(path: str, column: str, tokenizer: ProformerTokenizer, split: str | None = None) -> Iterator[str]:
    """Yield the sequences of a file, or of a split in it, that can be read; how many others there are is logged."""
    screening = Screening(tokenizer=tokenizer, sequence=column, on_error="skip", truncation=True)
    for rows in screening.read([input_path(path)], SCREENED_ROWS):
        kept = screening.keep(rows)
        yield from (each.sequence for each in kept if split is None or each.row.cells["split"] == split)


def _name_sequences(rows: Iterable[tuple[Row, str]]) -> dict[str, str]:
    """Return sequences by their names; one without a name of its own is called after its place in the file."""
    named: dict[str, str] = {}
    for row, sequence in rows:
        name = str(row.cells.get("name") or row.location)
        named[f"{name} ({row.location})" if name in named else name] = sequence
    return named


def _rows(config: DesignConfig, designs: Sequence[Design], model_config: ProformerConfig) -> list[dict[str, Any]]:
    """Return the cells of each design by their column."""
    outputs = [model_config.id2label[output] for output in range(model_config.num_labels)]
    # Not "predicted", so that `proformer predict` can add what another model predicts.
    names = [f"designed_{output}" for output in outputs]
    missed = [f"missed_{output}" for output in outputs]
    values = np.stack([each.predicted for each in designs])
    if config.interval is not None:
        names += [f"{name}_{end}" for name in names for end in ("low", "high")]
        values = append_interval(values, model_config, config.interval)
    rows = []
    for number, (each, numbers) in enumerate(zip(designs, values, strict=True), 1):
        row: dict[str, Any] = {
            "name": f"design_{number}",
            "target": each.target,
            "sequence": each.sequence,
            "insert": each.insert,
        }
        row |= dict(zip(names, numbers, strict=True)) | dict(zip(missed, each.missed, strict=True))
        if config.starts is not None:
            row |= {"start": each.start, "edits": each.edits}
        row["nearest_design"] = each.nearest_design
        if config.existing is not None:
            row["nearest_existing"] = each.nearest_existing
        if config.training is not None:
            row["distance_to_training"] = each.distance_to_training
        rows.append(row)
    return rows


KINDS = (DesignConfig,)
