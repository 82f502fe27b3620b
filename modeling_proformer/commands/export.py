"""The command `proformer export`."""

from dataclasses import MISSING as REQUIRED
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..data.config import option
from ..loading import load_checkpoint
from .common import MODEL, input_path


@dataclass(kw_only=True)
class ExportConfig:
    """
    Options of `proformer export`.

    Raises:
        ValueError: two options contradict each other.
    """

    model: str | None = option(MODEL)
    format: Literal["onnx", "int8", "torch"] = option(
        "Format of the model; int8 is ONNX with 8-bit weights, an approximation for CPUs.", "onnx"
    )
    output: str = option("New or empty folder to write.", REQUIRED, aliases=["-o"], metavar="FOLDER")
    sequences: str | None = option(
        "FASTA file or table with sequences to compare on; by default random inserts.", metavar="FILE"
    )
    sequence: str | None = option('Column with the sequences; by default "sequence".', metavar="COLUMN")
    truncation: bool = option("Cut inserts that are longer than the model's construct.", False)

    def __post_init__(self):
        if self.sequences is None and (self.truncation or self.sequence is not None):
            raise ValueError("`truncation` and `sequence` tell how to read a file, so name the file with `sequences`.")


def run(config: ExportConfig):
    """Export a model, and print how it compares with its checkpoint."""
    from ..exporting import export, read_sequences

    model, tokenizer = load_checkpoint(config.model)
    sequences = None
    if config.sequences is not None:
        sequences = read_sequences(
            input_path(config.sequences),
            tokenizer,
            sequence=config.sequence or "sequence",
            truncation=config.truncation,
        )
    comparison = export(
        model, tokenizer, config.output, format=config.format, sequences=sequences, truncation=config.truncation
    )
    for path in sorted(Path(config.output).iterdir()):
        print(f"{path}  {path.stat().st_size:,} bytes")
    kind = "random inserts" if sequences is None else f"sequences of {config.sequences}"
    print(f"Compared with the checkpoint on {comparison.sequences:,} {kind}:")
    for output, name in model.config.id2label.items():
        print(
            f"{name}: differs by at most {comparison.greatest_difference[output]:.2g}, on average by "
            f"{comparison.mean_difference[output]:.2g} (standard deviation of the predictions: "
            f"{comparison.standard_deviation[output]:.2g})"
        )
    low, median, high = comparison.speed_ratios
    print(
        f"speed: {median:.2f} times the checkpoint's, {comparison.sequences_per_second:,.0f} against "
        f"{comparison.checkpoint_sequences_per_second:,.0f} sequences a second (medians of alternating batches of "
        f"{comparison.batch_size}; half of the ratios lie between {low:.2f} and {high:.2f}; "
        f"{comparison.threads} threads)"
    )


KINDS = (ExportConfig,)
