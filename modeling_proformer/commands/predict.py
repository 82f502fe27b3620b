"""The command `proformer predict`."""

import sys
from collections.abc import Iterable
from dataclasses import MISSING as REQUIRED
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from tqdm.auto import tqdm

from ..data.config import option
from ..data.tables import InputError, Row, column_types, is_stream, measured_value
from ..data.text import STANDARD_INPUT
from ..evaluation.metrics import correlation
from ..prediction import load_checkpoint, predict_file
from ..tokenization import ProformerTokenizer
from ..writing import FORMATS, is_standard, output_table, table_suffix_of
from .common import MODEL, TABLE, RunOptions, append_interval, input_path, require_interval


@dataclass(kw_only=True)
class PredictOptions:
    """What `proformer predict` reads, how, and what it writes."""

    input: list[str] = option(
        f"One or more files with the same columns, each a FASTA, {TABLE}; - is the standard input.",
        REQUIRED,
        positional=True,
    )
    output: str | None = option(
        f"File to write, whose name ends in one of {', '.join(FORMATS)}; by default TSV on the standard output.",
        aliases=["-o"],
        metavar="FILE",
    )
    model: str | None = option(MODEL)
    sequence: str = option("Column with the sequences.", "sequence", metavar="COLUMN")
    measured: str | None = option(
        "Column with measurements to compare with, which may have empty cells: prints Pearson's r and Spearman's ρ, "
        "and draws a figure with the name of the output and the ending .png.",
        metavar="COLUMN",
    )
    interval: float | None = option(
        "Add the ends of the interval that covers the measurement with this probability, such as 0.9; the model has "
        "to be fine-tuned on enough rows."
    )
    on_error: Literal["refuse", "skip", "mark"] = option(
        "What to do with rows that cannot be predicted: refuse the files before anything is computed, skip the rows, "
        "or mark them with the reason in a column error.",
        "refuse",
    )
    iupac_as_n: bool = option("Read the IUPAC codes R Y S W K M B D H V as N.", False)
    missing_flanks: Literal["keep", "cut", "refuse"] | None = option(
        "How to read a sequence without the exact flanks, see ProformerTokenizer; by default as the model was trained."
    )
    truncation: bool = option("Cut inserts that are longer than the model's construct.", False)


@dataclass(kw_only=True)
class PredictConfig(PredictOptions, RunOptions):
    """
    Options of `proformer predict`.

    Raises:
        ValueError: an option is outside its range, or two contradict each other.
    """

    groups: ClassVar[tuple[type, ...]] = (PredictOptions, RunOptions)

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.input, str):
            raise ValueError(f"`input` is a list of files, such as [{self.input!r}].")
        if sum(path in ("-", STANDARD_INPUT) for path in self.input) > 1:
            raise ValueError("`input` names the standard input more than once.")
        table_suffix_of(self.output)
        if self.measured is not None and is_standard(self.output):
            raise ValueError("`measured` draws a figure next to the table, so give the table's name with `output`.")

    @property
    def suffix(self) -> str:
        """End of the output's name that says its format."""
        return table_suffix_of(self.output)

    @property
    def figure(self) -> Path:
        """File of the figure, next to the table."""
        name = self.output[: -len(self.suffix)] if self.output.lower().endswith(self.suffix) else self.output
        return Path(f"{name}.png")


def run(config: PredictConfig):
    """Write a table with the predicted expression of each sequence, and compare it with measurements."""
    paths = [input_path(path) for path in config.input]
    model, tokenizer = load_checkpoint(config.model)
    if config.missing_flanks is not None:
        _set_missing_flanks(tokenizer, config.missing_flanks)
    outputs = [model.config.id2label[output] for output in range(model.config.num_labels)]
    new_columns = [f"predicted_{output}" for output in outputs]
    if config.measured is not None and len(outputs) > 1:
        raise InputError(
            f"`measured` compares one output, but this model has {len(outputs)}: {', '.join(new_columns)}."
        )
    if config.interval is not None:
        require_interval(config.interval, model.config)
        new_columns += [f"{name}_{end}" for name in new_columns for end in ("low", "high")]
    if config.on_error == "mark":
        new_columns.append("error")
    batches = predict_file(
        model,
        tokenizer,
        paths,
        sequence=config.sequence,
        measured=config.measured,
        on_error=config.on_error,
        iupac_as_n=config.iupac_as_n,
        truncation=config.truncation,
        **config.run_arguments,
    )
    types = column_types(paths[0]) if config.suffix == ".parquet" and not is_stream(paths[0]) else {}
    measured, predicted = [], []
    with output_table(config.output, types) as table, tqdm(unit=" sequences", disable=config.quiet) as progress:
        for rows, values in batches:
            columns = [*rows[0].cells]
            _require_new(paths[0], columns, new_columns)
            if config.measured is not None:
                measured += [measured_value(paths[0], row, config.measured) for row in rows if not row.error]
                predicted += [value for value, row in zip(values[:, 0], rows, strict=True) if not row.error]
            if config.interval is not None:
                values = append_interval(values, model.config, config.interval)
            table.write([*columns, *new_columns], _cells(rows, values, is_marked=config.on_error == "mark"))
            progress.update(len(rows))
    if config.measured is not None:
        _report_agreement(config, np.array(measured), np.array(predicted))


def _set_missing_flanks(tokenizer: ProformerTokenizer, missing_flanks: str):
    if not (tokenizer.five_prime_flank or tokenizer.three_prime_flank):
        raise InputError("`missing_flanks`: the construct of this model has no flanks.")
    tokenizer.missing_flanks = missing_flanks


def _require_new(path: str, columns: list[str], new_columns: list[str]):
    if taken := [name for name in new_columns if name in columns]:
        raise InputError(f"{path}: rename the column {taken[0]!r}, because predictions take that name.")


def _cells(rows: list[Row], values: np.ndarray, is_marked: bool) -> list[list]:
    errors: Iterable[list[str]] = ([row.error] if is_marked else [] for row in rows)
    return [[*row.cells.values(), *numbers, *error] for row, numbers, error in zip(rows, values, errors, strict=True)]


def _report_agreement(config: PredictConfig, measured: np.ndarray, predicted: np.ndarray):
    from ..evaluation.figures import scatter_plot

    is_measured = ~np.isnan(measured)
    agreement = correlation(measured[is_measured], predicted[is_measured])
    if np.isnan(agreement.pearson_r):
        raise InputError(
            f"{', '.join(config.input)}, column {config.measured!r}: a correlation needs at least two different "
            f"values; the predictions are in {config.output}."
        )
    scatter_plot(config.figure, measured[is_measured], predicted[is_measured], agreement, label=config.measured)
    without = f" ({(~is_measured).sum():,} others have no measurement)" if not is_measured.all() else ""
    print(
        f"Pearson r {agreement.pearson_r:.4f}, Spearman ρ {agreement.spearman_rho:.4f} over {agreement.count:,} "
        f"sequences{without}; figure: {config.figure}",
        file=sys.stderr,
    )


KINDS = (PredictConfig,)
