"""What several commands share: help texts, and the options of those that run a model."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from transformers import PreTrainedModel

from ..configuration_proformer import ProformerConfig
from ..data.config import option
from ..data.tables import InputError, Row, require_columns
from ..data.text import STANDARD_INPUT
from ..devices import available_device
from ..evaluation.metrics import correlation
from ..intervals import prediction_interval
from ..loading import load_with_flanks
from ..options import name_flags
from ..tokenization import ProformerTokenizer
from ..writing import table_suffix_of


TABLE = "TSV or CSV (may be gzipped), Excel, Parquet or Arrow file"
MODEL = "Checkpoint, a folder or Hub repository; by default the embedded one."
MISSING_FLANKS = (
    "How to read a sequence without the exact flanks, see ProformerTokenizer; by default as the model was trained."
)
WIDTH = "Bases of a window; by default as many as the tokenizer has room for."
INTERVAL = (
    "Add the ends of the interval that covers the measurement with this probability, such as 0.9; the model has to be "
    "fine-tuned on enough rows."
)
INPUT = f"One or more files with the same columns, each a FASTA, {TABLE}; - is the standard input."
NAME = (
    "Column with the names of the sequences; by default the column name if there is one, and otherwise the sequences "
    "are called after their place in the file, such as line 7."
)


@dataclass(kw_only=True)
class ReadOptions:
    """How a command reads sequences, and what it does with those that cannot be predicted."""

    _argument_group_name: ClassVar[str] = "reading"

    sequence: str = option("Column with the sequences.", "sequence", metavar="COLUMN")
    on_error: Literal["refuse", "skip", "mark"] = option(
        "What to do with rows that cannot be predicted: refuse the files before anything is computed, skip the rows, "
        "or mark them with the reason in a column error.",
        "refuse",
    )
    iupac_as_n: bool = option("Read the IUPAC codes R Y S W K M B D H V as N.", False)
    missing_flanks: Literal["keep", "cut", "refuse"] | None = option(MISSING_FLANKS)
    truncation: bool = option("Cut inserts that are longer than the model's construct.", False)

    @property
    def read_arguments(self) -> dict[str, Any]:
        """The arguments `sequence`, `on_error`, `iupac_as_n` and `truncation` of `predict_file`."""
        return {name: getattr(self, name) for name in ("sequence", "on_error", "iupac_as_n", "truncation")}

    def load(self, checkpoint: str | None) -> tuple[PreTrainedModel, ProformerTokenizer]:
        """Load a checkpoint, whose tokenizer then treats missing flanks as these options say."""
        return load_with_flanks(checkpoint, self.missing_flanks)


def require_input(paths: Sequence[str]):
    """
    Check the option `input`.

    Raises:
        ValueError: it is not a list, or names the standard input more than once.
    """
    if isinstance(paths, str):
        raise ValueError(f"`input` is a list of files, such as [{paths!r}].")
    if sum(path in ("-", STANDARD_INPUT) for path in paths) > 1:
        raise ValueError("`input` names the standard input more than once.")


def name_of(row: Row, column: str | None, paths: Sequence[str]) -> str:
    """
    Return the name of a row's sequence, see `NAME`.

    Raises:
        InputError: there is no such column, or the place in a file would be ambiguous.
    """
    if column is not None:
        require_columns(paths[0], row.cells, [column])
        return str(row.cells[column])
    if "name" in row.cells:
        return str(row.cells["name"])
    if len(paths) > 1:
        raise InputError(f"{paths[0]}: sequences of several files need names; say which column has them with `name`.")
    return row.location


@dataclass(kw_only=True)
class RunOptions:
    """
    How a command runs a model over sequences.

    Raises:
        ValueError: an option is outside its range.
    """

    _argument_group_name: ClassVar[str] = "computing"

    batch_size: int | None = option("Sequences at a time; by default 64 on a CPU, and 512 on other devices.")
    device: str | None = option('Where to compute, such as "cuda"; by default the CPU.')
    bf16: bool = option("Compute in bfloat16, which is faster where the hardware has it.", False)
    quiet: bool = option("Show no progress bar.", False)

    def __post_init__(self):
        if self.batch_size is not None and not 1 <= self.batch_size < 2**31:
            raise ValueError(f"`batch_size` is {self.batch_size}, but must be 1 to {2**31 - 1:,}.")
        if self.device is not None:
            available_device(self.device)

    @property
    def run_arguments(self) -> dict[str, Any]:
        """The arguments `batch_size`, `device` and `dtype` of `predict`."""
        dtype = torch.bfloat16 if self.bf16 else None
        return {"batch_size": self.batch_size, "device": self.device, "dtype": dtype}

    def name_flags(self, message: str) -> str:
        """Return a message of the library with the options of this command as flags."""
        return name_flags(message, [each.name for each in fields(self)])


def input_path(path: str) -> str:
    """Return the path of an input, for which "-" is the standard input."""
    return STANDARD_INPUT if path == "-" else path


def require_interval(level: float, config: ProformerConfig):
    """
    Check that a model has prediction intervals for this level.

    Raises:
        InputError: it has none.
    """
    try:
        prediction_interval(np.zeros((1, config.num_labels)), config, level)
    except ValueError as error:
        raise InputError(f"`interval` {level}: {error}") from error


def append_interval(predicted: np.ndarray, config: ProformerConfig, level: float) -> np.ndarray:
    """Return predictions (rows, outputs), followed by both ends of the interval around each."""
    ends = np.stack(prediction_interval(predicted, config, level), axis=-1)
    return np.concatenate([predicted, ends.reshape(len(predicted), -1)], axis=1)


def require_one_output(names: Sequence[str], option: str = "measured"):
    """
    Check that there is one column for an option that takes one.

    Raises:
        InputError: there are several.
    """
    if len(names) > 1:
        raise InputError(f"`{option}` takes one output, but this model has {len(names)}: {', '.join(names)}.")


def report_agreement(
    place: str, label: str, measured: Sequence[float], predicted: Sequence[float], output: str, things: str
):
    """
    Print Pearson's r and Spearman's ρ, and draw a figure next to the output.

    Args:
        place: file and column of the measurements, for an error.
        label: name of what was measured.
        measured: NaN where there is no measurement.
        predicted: as many.
        output: name of the table with the predictions; the figure's name ends in .png instead.
        things: what the rows are.

    Raises:
        InputError: there are no two different values.
    """
    from ..evaluation.figures import scatter_plot

    suffix = table_suffix_of(output)
    figure = Path(f"{output[: -len(suffix)] if output.lower().endswith(suffix) else output}.png")
    is_measured = ~np.isnan(measured)
    measured, predicted = (np.array(values)[is_measured] for values in (measured, predicted))
    agreement = correlation(measured, predicted)
    if np.isnan(agreement.pearson_r):
        raise InputError(
            f"{place}: a correlation needs at least two different values; the predictions are in {output}."
        )
    scatter_plot(figure, measured, predicted, agreement, label=label)
    missing = int((~is_measured).sum())
    without = f" (and {missing:,} without a measurement)" if missing else ""
    print(
        f"Pearson r {agreement.pearson_r:.4f}, Spearman ρ {agreement.spearman_rho:.4f} over {agreement.count:,} "
        f"{things}{without}; figure: {figure}",
        file=sys.stderr,
    )
