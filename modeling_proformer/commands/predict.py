"""The command `proformer predict`."""

from collections.abc import Iterable, Sequence
from dataclasses import MISSING as REQUIRED
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from ..data.config import option
from ..data.genome import Genome, read_bed
from ..data.rows import require_new_columns
from ..data.screening import is_bed
from ..data.tables import InputError, Row, column_types, is_stream, measured_value
from ..devices import available_device
from ..prediction import predict_file
from ..writing import FORMATS, is_standard, output_bedgraph, output_table, table_suffix_of
from .common import (
    INPUT,
    INTERVAL,
    MODEL,
    WIDTH,
    ReadOptions,
    RunOptions,
    append_interval,
    input_path,
    report_agreement,
    require_input,
    require_interval,
    require_one_output,
)


TRACKS = (".bedgraph", ".bdg")


@dataclass(kw_only=True)
class PredictOptions:
    """Options that say what `proformer predict` reads, how, and what it writes."""

    input: list[str] = option(
        f"{INPUT} A BED file has regions of the genome, which are read on their strands.", REQUIRED, positional=True
    )
    output: str | None = option(
        f"File to write, whose name ends in one of {', '.join(FORMATS)}; by default TSV on the standard output. With "
        f"windows, it may be a track, whose name ends in {' or '.join(TRACKS)}.",
        aliases=["-o"],
        metavar="FILE",
    )
    model: str | None = option(MODEL)
    genome: str | None = option(
        "FASTA file of the genome for a BED file, which may be compressed by bgzip.", metavar="FILE"
    )
    windows: int | None = option(
        "Predict windows of the insert's width along each sequence, which start so many bases after each other; for "
        "sequences longer than the insert.",
        metavar="STRIDE",
    )
    width: int | None = option(WIDTH)
    orientation: Literal["given", "reverse", "both"] = option(
        "Read the inserts as they are given, as their reverse complements, or both ways; then the mean is predicted.",
        "given",
    )
    measured: str | None = option(
        "Column with measurements to compare with, which may have empty cells: prints Pearson's r and Spearman's ρ, "
        "and draws a figure with the name of the output and the ending .png.",
        metavar="COLUMN",
    )
    interval: float | None = option(INTERVAL)
    devices: list[str] | None = option(
        "Several devices of this machine, such as cuda:0 cuda:1, or how many GPUs; a process on each of them computes "
        "some of the batches.",
        metavar="DEVICE",
    )


@dataclass(kw_only=True)
class PredictConfig(PredictOptions, ReadOptions, RunOptions):
    """
    Options of `proformer predict`.

    Raises:
        ValueError: an option is outside its range, or two contradict each other.
    """

    groups: ClassVar[tuple[type, ...]] = (PredictOptions, ReadOptions, RunOptions)

    def __post_init__(self):
        super().__post_init__()
        require_input(self.input)
        if self.devices is not None:
            if self.device is not None:
                raise ValueError("Give one `device` or several `devices`, but not both.")
            if len(self.devices) == 1 and self.devices[0].isdecimal():
                self.devices = [f"cuda:{number}" for number in range(int(self.devices[0]))]
            if not self.devices:
                raise ValueError("`devices` must name at least one.")
            for name in self.devices:
                available_device(name, "devices")
        if self.windows is not None and self.windows < 1:
            raise ValueError(f"`windows` is {self.windows}, but must be at least 1.")
        if self.width is not None and self.windows is None:
            raise ValueError("`width` is of `windows`, so give their stride.")
        if self.writes_track:
            if self.windows is None:
                raise ValueError(f"`output` {self.output}: a track is of `windows`, so give their stride.")
        else:
            table_suffix_of(self.output)
        if self.genome is not None and not any(map(is_bed, self.input)):
            raise ValueError("`genome` is for BED files, and there is none.")
        if self.missing_flanks is not None and (self.windows is not None or all(map(is_bed, self.input))):
            raise ValueError("`missing_flanks`: in windows and regions of a genome, flanks are not looked for.")
        if self.interval is not None and self.orientation != "given":
            raise ValueError("`interval` is of inserts as they were measured; take the `orientation` 'given'.")
        if self.measured is not None and self.windows is not None:
            raise ValueError("`measured` is of whole sequences, and not of `windows`.")
        if self.measured is not None and is_standard(self.output):
            raise ValueError("`measured` draws a figure next to the table, so give the table's name with `output`.")

    @property
    def writes_track(self) -> bool:
        """Return whether the output is a bedGraph file."""
        return not is_standard(self.output) and self.output.lower().endswith(TRACKS)


def run(config: PredictConfig):
    """Write a table with the predicted expression of each sequence, and compare it with measurements."""
    paths = [input_path(path) for path in config.input]
    model, tokenizer = config.load(config.model)
    outputs = [model.config.id2label[output] for output in range(model.config.num_labels)]
    new_columns = [f"predicted_{output}" for output in outputs]
    if config.measured is not None or config.writes_track:
        require_one_output(new_columns, "measured" if config.measured else "output")
    if config.interval is not None:
        require_interval(config.interval, model.config)
        new_columns += [f"{name}_{end}" for name in new_columns for end in ("low", "high")]
    if config.on_error == "mark":
        new_columns.append("error")
    if config.writes_track and config.genome is not None and is_bed(paths[0]):
        _require_no_overlap(paths, Genome(config.genome))
    batches = predict_file(
        model,
        tokenizer,
        paths,
        measured=config.measured,
        genome=config.genome,
        windows=config.windows,
        width=config.width,
        orientation=config.orientation,
        devices=config.devices or (),
        **config.read_arguments,
        **config.run_arguments,
    )
    if config.writes_track:
        _write_track(config, batches)
        return
    types = {"start": pa.int64(), "end": pa.int64()} if is_bed(paths[0]) or config.windows is not None else {}
    if table_suffix_of(config.output) == ".parquet" and not is_stream(paths[0]) and not is_bed(paths[0]):
        types = column_types(paths[0]) | types
    measured, predicted = [], []
    with output_table(config.output, types) as table, tqdm(unit=" sequences", disable=config.quiet) as progress:
        for rows, values in batches:
            columns = [*rows[0].cells]
            require_new_columns(paths[0], columns, new_columns)
            if config.measured is not None:
                measured += [measured_value(paths[0], row, config.measured) for row in rows if not row.error]
                predicted += [value for value, row in zip(values[:, 0], rows, strict=True) if not row.error]
            if config.interval is not None:
                values = append_interval(values, model.config, config.interval)
            table.write([*columns, *new_columns], _cells(config, rows, values))
            progress.update(len(rows))
    if config.measured is not None:
        place = f"{', '.join(config.input)}, column {config.measured!r}"
        report_agreement(place, config.measured, measured, predicted, config.output, "sequences")


def _require_no_overlap(paths: Sequence[str], genome: Genome):
    """
    Check that no two regions of BED files have a base in common, whichever strand they are of.

    Raises:
        InputError: two have, or a file cannot be read twice.
    """
    regions = []
    for path in paths:
        if is_stream(path):
            raise InputError(f"{path}: the regions of a track are read twice, so write them to a file first.")
        regions += [
            (region.chromosome, region.start, region.end, f"{path}, {region.location}")
            for region in read_bed(path, genome)
            if not region.error
        ]
    regions.sort()
    for (name, start, end, place), (other_name, other_start, other_end, other_place) in pairwise(regions):
        if name == other_name and other_start < end:
            raise InputError(
                f"{place} ({name}:{start + 1}-{end}) and {other_place} ({name}:{other_start + 1}-{other_end}) "
                "overlap, and a base of a track has one value; write a table, or a track of each."
            )


def _write_track(config: PredictConfig, batches: Iterable[tuple[list[Row], np.ndarray]]):
    of_genome = is_bed(config.input[0])
    last: dict[str, tuple[str, int]] = {}
    with (
        output_bedgraph(config.output) as track,
        tqdm(unit=" windows", disable=config.quiet) as progress,
    ):
        for rows, values in batches:
            for row, value in zip(rows, values[:, 0], strict=True):
                if row.error:
                    continue
                names = str(row.cells["chromosome"] if of_genome else row.cells.get("name") or "").split()
                if not names:
                    raise InputError(
                        f"{row.location}: a track needs the name of each sequence; give a FASTA or BED file."
                    )
                name, start, bases = names[0], row.cells["start"], row.cells[config.sequence]
                if of_genome:
                    bases = bases[::-1] if row.cells["strand"] == "-" else bases
                else:
                    record = row.location.rpartition(", bases ")[0]
                    # Records of two files may have the same number, and then the second starts anew.
                    last_record, last_start = last.get(name, (record, -1))
                    if record != last_record or start <= last_start:
                        raise InputError(
                            f"{record}: the name of another sequence begins with {name!r} too, and a base of a track "
                            "has one value; rename one of them."
                        )
                    last[name] = record, start
                track.write(name, start, bases, value)
            progress.update(len(rows))


def _cells(config: PredictConfig, rows: list[Row], values: np.ndarray) -> list[list]:
    is_marked = config.on_error == "mark"
    errors: Iterable[list[str]] = ([config.name_flags(row.error)] if is_marked else [] for row in rows)
    return [[*row.cells.values(), *numbers, *error] for row, numbers, error in zip(rows, values, errors, strict=True)]


KINDS = (PredictConfig,)
