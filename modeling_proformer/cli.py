"""The `proformer` command: parses, calls the library, prints."""

import argparse
import contextlib
import csv
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from huggingface_hub.utils import logging as hub_logging
from tqdm.auto import tqdm
from transformers.utils import logging

from .assays import InputError, first_line, measured_value, require_columns
from .metrics import correlation
from .prediction import load_checkpoint, predict_file


def predict_command(arguments: argparse.Namespace):
    if arguments.measured is not None and not arguments.output:
        raise InputError("--measured draws a figure beside the table: say where with --output.")
    if arguments.measured is not None and figure_path(arguments.output) == arguments.output:
        raise InputError(f"{arguments.output}: --measured draws a figure of this name; name the table otherwise.")
    model, tokenizer = load_checkpoint(arguments.model)
    names = [f"predicted_{model.config.id2label[output]}" for output in range(model.config.num_labels)]
    if arguments.measured is not None and len(names) > 1:
        raise InputError(f"--measured compares one output, but this model has {len(names)}: {', '.join(names)}.")
    batches = predict_file(
        model,
        tokenizer,
        arguments.input,
        sequence_column=arguments.sequence_column,
        batch_size=arguments.batch_size,
        device=arguments.device,
        dtype=torch.bfloat16 if arguments.bf16 else None,
        truncation=arguments.truncate,
    )
    measured, predicted = [], []
    with output_file(arguments.output) as file, tqdm(unit=" sequences", disable=arguments.quiet) as progress:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        header = None
        for rows, values in batches:
            if header is None:
                header = list(rows[0].cells)
                if taken := [name for name in names if name in header]:
                    raise InputError(f"{arguments.input}: rename the column {taken[0]!r}; predictions take that name.")
                if arguments.measured is not None:
                    require_columns(arguments.input, rows[0].cells, [arguments.measured])
                writer.writerow([*header, *names])
            if arguments.measured is not None:
                measured += [measured_value(arguments.input, row, arguments.measured, required=True) for row in rows]
                predicted.append(values[:, 0])
            for row, outputs in zip(rows, values, strict=True):
                writer.writerow([*row.cells.values(), *(f"{value:.6g}" for value in outputs)])
            progress.update(len(rows))
    if arguments.measured is not None:
        report_agreement(arguments, np.array(measured), np.concatenate(predicted))


def figure_path(output: Path) -> Path:
    return output.with_suffix(".png")


def report_agreement(arguments: argparse.Namespace, measured: np.ndarray, predicted: np.ndarray):
    from .report import scatter_plot

    agreement = correlation(measured, predicted)
    if np.isnan(agreement.pearson_r):
        raise InputError(
            f"{arguments.input}, column {arguments.measured!r}: no correlation with fewer than two different values; "
            f"the predictions are in {arguments.output}."
        )
    figure = figure_path(arguments.output)
    scatter_plot(figure, measured, predicted, agreement, label=arguments.measured)
    print(
        f"Pearson r {agreement.pearson_r:.4f}, Spearman ρ {agreement.spearman_rho:.4f} over {agreement.count:,} "
        f"sequences; figure: {figure}",
        file=sys.stderr,
    )


@contextlib.contextmanager
def output_file(path: Path | None) -> Iterator[TextIO]:
    """A file that takes its name only once it is complete; standard output if no name is given."""
    if path is None:
        yield sys.stdout
        return
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent} to write to.")
    if path.is_dir():
        raise InputError(f"{path}: this is a folder; name a file in it.")
    if path.exists() and not path.is_file():
        # A pipe or a device, such as /dev/null: there is nothing to complete it beside.
        with open(path, "w", encoding="utf-8", newline="") as file:
            yield file
        return
    # What a link points to is written, not the link.
    path = path.resolve()
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w", encoding="utf-8", newline="") as file:
            yield file
        # mkstemp's files are the user's alone; the result has the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(unfinished, 0o666 & ~mask)
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


def positive_int(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {2**31 - 1:,}")
    return int(text)


def available_device(text: str) -> torch.device:
    try:
        torch.zeros(1, device=text).item()
        return torch.device(text)
    # What torch raises differs with the kind of device and with how torch was built.
    except Exception as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used here: {first_line(error)}") from error


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(prog="proformer", description="Proformer: DNA in, gene expression out.")
    commands = command.add_subparsers(required=True, metavar="COMMAND")
    predict = commands.add_parser(
        "predict",
        help="expression of the sequences in a FASTA file or table",
        description="Writes the table it is given (a FASTA file's has the columns name and sequence), with the "
        "predicted expression of each sequence, in the units of the model's assay, as its last columns.",
    )
    predict.add_argument("input", type=Path, help="FASTA, TSV or CSV (also gzipped), or Parquet file")
    predict.add_argument("-o", "--output", type=Path, help="TSV file to write; standard output by default")
    predict.add_argument("--model", help="folder or Hub repository; by default the checkpoint within this package")
    predict.add_argument("--sequence-column", default="sequence", help="column of the sequences (default: sequence)")
    predict.add_argument(
        "--measured",
        metavar="COLUMN",
        help="column of measurements to compare with: prints Pearson's r and Spearman's ρ, and draws a figure of the "
        "output's name with the ending .png",
    )
    predict.add_argument("--truncate", action="store_true", help="cut inserts longer than the model's construct")
    predict.add_argument("--batch-size", type=positive_int, default=256, help="sequences at a time (default: 256)")
    predict.add_argument("--device", type=available_device, help='where to compute, such as "cuda" (default: the CPU)')
    predict.add_argument("--bf16", action="store_true", help="compute in bfloat16: faster where the hardware has it")
    predict.add_argument("--quiet", action="store_true", help="no progress bar")
    predict.set_defaults(run=predict_command)
    return command


def main(arguments: list[str] | None = None) -> int:
    parsed = parser().parse_args(arguments)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub_logging.set_verbosity_error()
    try:
        parsed.run(parsed)
    except BrokenPipeError:
        # The reader of our output has seen enough; spare it the interpreter's complaint at closing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    # A RuntimeError is torch's, such as memory that does not suffice.
    except (InputError, OSError, RuntimeError) as error:
        print(f"proformer: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
