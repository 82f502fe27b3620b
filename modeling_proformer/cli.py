"""The `proformer` command: parses, calls the library, prints."""

import argparse
import contextlib
import csv
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from huggingface_hub.utils import logging as hub_logging
from tqdm.auto import tqdm
from transformers.utils import logging

from .configuration_proformer import ProformerConfig
from .data.tables import InputError, first_line, measured_value, require_columns
from .evaluation.metrics import correlation
from .intervals import prediction_interval
from .prediction import load_checkpoint, predict_file


def predict_command(arguments: argparse.Namespace):
    if arguments.measured is not None and not arguments.output:
        raise InputError("--measured draws a figure beside the table: say where with --output.")
    if arguments.measured is not None and figure_path(arguments.output) == arguments.output:
        raise InputError(f"{arguments.output}: --measured draws a figure of this name; name the table otherwise.")
    model, tokenizer = load_checkpoint(arguments.model)
    names = [f"predicted_{model.config.id2label[output]}" for output in range(model.config.num_labels)]
    new_columns = list(names)
    if arguments.interval is not None:
        require_interval(arguments.interval, model.config)
        new_columns += [f"{name}_{end}" for name in names for end in ("low", "high")]
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
                if taken := [name for name in new_columns if name in header]:
                    raise InputError(f"{arguments.input}: rename the column {taken[0]!r}; predictions take that name.")
                if arguments.measured is not None:
                    require_columns(arguments.input, rows[0].cells, [arguments.measured])
                writer.writerow([*header, *new_columns])
            if arguments.measured is not None:
                measured += [measured_value(arguments.input, row, arguments.measured, required=True) for row in rows]
                predicted.append(values[:, 0])
            if arguments.interval is not None:
                values = with_interval(values, model.config, arguments.interval)
            for row, outputs in zip(rows, values, strict=True):
                writer.writerow([*row.cells.values(), *(f"{value:.6g}" for value in outputs)])
            progress.update(len(rows))
    if arguments.measured is not None:
        report_agreement(arguments, np.array(measured), np.concatenate(predicted))


def require_interval(level: float, config: ProformerConfig):
    try:
        prediction_interval(np.zeros((1, config.num_labels)), config, level)
    except ValueError as error:
        raise InputError(f"--interval {level}: {error}") from error


def with_interval(predicted: np.ndarray, config: ProformerConfig, level: float) -> np.ndarray:
    """Predictions (rows, outputs), and behind them the ends of the interval around each."""
    ends = np.stack(prediction_interval(predicted, config, level), axis=-1)
    return np.concatenate([predicted, ends.reshape(len(predicted), -1)], axis=1)


def finetune_command(arguments: argparse.Namespace):
    from .data.assay import Preparation, TableColumns
    from .training.finetune import Recipe, finetune
    from .training.trainer import CheckpointError

    try:
        finetune(
            arguments.table,
            options(TableColumns, arguments),
            arguments.output,
            checkpoint=arguments.checkpoint,
            preparation=options(Preparation, arguments),
            recipe=options(Recipe, arguments),
            show=lambda sentence: print(sentence, file=sys.stderr),
        )
    except CheckpointError as error:
        raise InputError(str(error)) from error
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from the last evaluation.", file=sys.stderr)
        raise


def publish_command(arguments: argparse.Namespace):
    from .hub.publish import publish

    publish(
        arguments.checkpoint,
        arguments.repo_id,
        license=arguments.license,
        private=arguments.private,
        create_pr=arguments.pr,
        dry_run=arguments.dry_run,
    )


def export_command(arguments: argparse.Namespace):
    from .export import export, read_sequences

    if arguments.sequences is None and (arguments.truncate or arguments.sequence_column is not None):
        raise InputError("--truncate and --sequence-column say how to read a file: give it with --sequences.")
    model, tokenizer = load_checkpoint(arguments.model)
    sequences = None
    if arguments.sequences is not None:
        column = arguments.sequence_column or "sequence"
        sequences = read_sequences(arguments.sequences, tokenizer, column, arguments.truncate)
    comparison = export(model, tokenizer, arguments.output, arguments.format, sequences, arguments.truncate)
    for path in sorted(arguments.output.iterdir()):
        print(f"{path}  {path.stat().st_size:,} bytes")
    kind = "random inserts" if sequences is None else f"sequences of {arguments.sequences}"
    print(f"Compared with the checkpoint on {comparison.sequences:,} {kind}:")
    for output, name in model.config.id2label.items():
        print(
            f"{name}: differs by {comparison.greatest_difference[output]:.2g} at most, "
            f"{comparison.mean_difference[output]:.2g} on average (standard deviation of the predictions: "
            f"{comparison.standard_deviation[output]:.2g})"
        )
    low, median, high = comparison.speed_ratios
    print(
        f"speed: {median:.2f} times the checkpoint's, {comparison.sequences_per_second:,.0f} sequences a second to "
        f"{comparison.checkpoint_sequences_per_second:,.0f} (medians of alternating batches of "
        f"{comparison.batch_size}, half of the ratios between {low:.2f} and {high:.2f}; "
        f"{comparison.threads} threads)"
    )


def options(kind: type, arguments: argparse.Namespace) -> Any:
    """A dataclass of those of its options that were given."""
    given = vars(arguments)
    return kind(**{field.name: given[field.name] for field in fields(kind) if field.name in given})


def dataset_card_command(arguments: argparse.Namespace):
    from .data.assay import Preparation, TableColumns
    from .hub.dataset_card import dataset_card

    if arguments.output and arguments.output.exists():
        raise InputError(f"{arguments.output}: there is one already, which may have been edited; name another file.")
    columns, preparation = options(TableColumns, arguments), options(Preparation, arguments)
    card = dataset_card(arguments.table, columns, arguments.license, preparation)
    with output_file(arguments.output) as file:
        file.write(str(card))
    if arguments.output:
        print(f"Put {arguments.output} beside {arguments.table.name} in the dataset's repository.", file=sys.stderr)


def figure_path(output: Path) -> Path:
    return output.with_suffix(".png")


def report_agreement(arguments: argparse.Namespace, measured: np.ndarray, predicted: np.ndarray):
    from .evaluation.figures import scatter_plot

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


def positive_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def share(text: str) -> float:
    value = positive_float(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is more than 1")
    return value


def seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**32 - 1:,}")
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
    predict.add_argument(
        "--interval",
        type=float,
        metavar="LEVEL",
        help="add the ends of the interval that covers the measurement with this probability, such as 0.9, where the "
        "model was fine-tuned and knows it",
    )
    predict.add_argument("--truncate", action="store_true", help="cut inserts longer than the model's construct")
    predict.add_argument(
        "--batch-size", type=positive_int, help="sequences at a time (default: 64 on a CPU, 512 on other devices)"
    )
    predict.add_argument("--device", type=available_device, help='where to compute, such as "cuda" (default: the CPU)')
    predict.add_argument("--bf16", action="store_true", help="compute in bfloat16: faster where the hardware has it")
    predict.add_argument("--quiet", action="store_true", help="no progress bar")
    predict.set_defaults(run=predict_command)
    add_finetune(commands)
    add_dataset_card(commands)
    add_publish(commands)
    add_export(commands)
    return command


def add_finetune(commands: argparse._SubParsersAction):
    finetune = commands.add_parser(
        "finetune",
        help="a model of your own assay, from a table of sequences and measurements",
        description="Fine-tunes a checkpoint on a table, and writes a folder with the model, its card, metrics and "
        "predictions of the rows held out, and figures. Given again after an interruption, it goes on.",
        # What is not given is left to the library's defaults.
        argument_default=argparse.SUPPRESS,
    )
    finetune.add_argument("table", type=Path, help="TSV or CSV (also gzipped) or Parquet file; before the options")
    finetune.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    finetune.add_argument("--from", dest="checkpoint", default=None, help="folder or Hub repository to start from")

    add_columns(finetune)
    table = add_preparation(finetune)
    table("--strands", choices=["both", "forward"], help="forward alone for assays of RNA (default: both)")
    table("--train-rows", type=positive_int, metavar="ROWS", help="train on so many, to see what more of them bring")

    recipe = finetune.add_argument_group("training").add_argument
    recipe("--method", choices=["full", "head", "lora"], help="what is trained (default: full)")
    recipe("--from-scratch", action="store_true", help="new weights, to see what the checkpoint is worth")
    recipe(
        "--keep",
        type=share,
        metavar="SHARE",
        help="of the encoder's matrices to start from, mixed with new weights (default: 1 where the checkpoint ranks "
        "the training rows better than a ridge regression on k-mers, else 0.6)",
    )
    recipe("--transform", choices=["log", "log1p"], help="train on logarithms of the measurements")
    recipe("--task", choices=["regression", "classification"], help="default: what the measurements look like")
    recipe("--learning-rate", type=positive_float, help="highest rate")
    recipe("--steps", type=positive_int, help="weight updates at most")
    recipe("--batch-size", type=positive_int, help="sequences in a step")
    recipe("--patience", type=positive_int, help="evaluations that are no better, of 20 in all, to stop after")
    recipe("--bf16", action="store_true", help="compute in bfloat16: faster where the hardware has it")
    recipe("--seed", type=seed, help="of the split, the weights and the order of rows (default: 0)")
    finetune.set_defaults(run=finetune_command)


def add_publish(commands: argparse._SubParsersAction):
    publish = commands.add_parser(
        "publish",
        help="a model to the Hugging Face Hub",
        description="Makes a release of a model, with all that others need to use it without this package, checks it, "
        "and uploads it in one commit with the next of the tags v1, v2 and so on. Given again, it puts a new release "
        "in the place of the old one. The first example of the model's card is run as one of the checks.",
    )
    publish.add_argument("checkpoint", metavar="DIR", type=Path, help="folder of a model with its card, README.md")
    publish.add_argument("repo_id", metavar="REPO_ID", help="repository, ACCOUNT/NAME; made if it is not there")
    publish.add_argument("--license", metavar="ID", help="licence to put into the card, such as cc-by-4.0")
    publish.add_argument("--private", action="store_true", help="make a new repository that is not for all to see")
    publish.add_argument("--pr", action="store_true", help="open a pull request instead, without a tag")
    publish.add_argument("--dry-run", action="store_true", help="do all but the upload; needs no network")
    publish.set_defaults(run=publish_command)


def add_export(commands: argparse._SubParsersAction):
    export = commands.add_parser(
        "export",
        help="a model as ONNX, 8-bit ONNX or a torch.export program, to serve it",
        description="Writes a folder with a model for servers, its configuration and its tokenizer; then predicts "
        "sequences by it and by the checkpoint, and says how much they differ, and which is how much faster.",
    )
    export.add_argument("--model", help="folder or Hub repository; by default the checkpoint within this package")
    export.add_argument(
        "--format",
        choices=["onnx", "int8", "torch"],
        default="onnx",
        help="int8 is ONNX with 8-bit weights, an approximation for CPUs (default: onnx)",
    )
    export.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="new or empty folder to write")
    export.add_argument(
        "--sequences", metavar="FILE", type=Path, help="FASTA or table to compare on; random inserts by default"
    )
    export.add_argument("--sequence-column", help="column of the sequences (default: sequence)")
    export.add_argument("--truncate", action="store_true", help="cut inserts longer than the model's construct")
    export.set_defaults(run=export_command)


def add_columns(command: argparse.ArgumentParser):
    columns = command.add_argument_group("columns of the table").add_argument
    columns("--sequence", required=True, metavar="COLUMN", help="sequences, with or without flanks")
    columns(
        "--target", dest="targets", nargs="+", required=True, metavar="COLUMN", help="measurements; several outputs"
    )
    columns(
        "--bins", nargs="+", type=float, metavar="CENTRE", help="the targets are reads counted in these sorting bins"
    )
    columns("--weight", metavar="COLUMN", help="how much each row counts (replicates, reads)")
    columns("--standard-error", metavar="COLUMN", help="of the measurements, from which the weights follow")
    columns("--split-column", dest="split", metavar="COLUMN", help="side of each row: train, validation or test")
    columns("--group-column", dest="group", metavar="COLUMN", help="family of each row, never divided between sides")


def add_preparation(command: argparse.ArgumentParser) -> Callable:
    """Returns what adds more options to the same group."""
    table = command.add_argument_group("what to make of it (constructs are detected)").add_argument
    table("--five-prime-flank", metavar="LETTERS", help='constant letters before every insert; "" for none')
    table("--three-prime-flank", metavar="LETTERS", help='constant letters after every insert; "" for none')
    table("--insert-width", type=positive_int, metavar="LETTERS", help="width that inserts are padded to")
    table("--too-long", choices=["refuse", "leave_out", "cut"], help="inserts longer than --insert-width")
    table("--duplicates", choices=["refuse", "average"], help="different measurements of one insert (default: refuse)")
    table("--split", dest="split_by", choices=["homology", "random"], help="sides of the rows (default: homology)")
    table("--validation-fraction", type=float, metavar="SHARE", help="of the rows (default: 0.15)")
    table("--test-fraction", type=float, metavar="SHARE", help="of the rows (default: 0.15)")
    return table


def add_dataset_card(commands: argparse._SubParsersAction):
    card = commands.add_parser(
        "dataset-card",
        help="a README.md for a table of sequences and measurements",
        description="Describes a table as a dataset of the Hub: its columns, its construct, what was measured, how "
        "fine-tuning splits it, and the metadata by which the Hub shows it. The options are those of fine-tuning.",
        argument_default=argparse.SUPPRESS,
    )
    card.add_argument("table", type=Path, help="TSV or CSV (also gzipped) or Parquet file; before the options")
    card.add_argument("-o", "--output", type=Path, default=None, help="file to write; standard output by default")
    card.add_argument("--license", required=True, metavar="ID", help="of the data, such as cc-by-4.0")
    add_columns(card)
    add_preparation(card)
    card.set_defaults(run=dataset_card_command)


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
