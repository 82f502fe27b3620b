"""The `proformer` command: turns its arguments into options, calls the library, and prints what comes of it."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING as REQUIRED
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging

from .data.config import DataConfig, option
from .data.tables import InputError, is_stream
from .options import OptionParser, make_options, name_flags, valid_options
from .predict_command import MODEL, TABLE, PredictConfig, input_path, run_predict
from .prediction import load_checkpoint
from .signals import Stopped, stop_on_signals
from .version import __version__
from .writing import is_standard, output_file


if TYPE_CHECKING:
    from .training.config import FinetuneConfig, TrainConfig
    from .training.pretrain import TrainerOptions


@dataclass(kw_only=True)
class FinetuneFiles:
    """Files of `proformer finetune`."""

    data: str = option(f"{TABLE}, or dataset on the Hub; - is the standard input.", REQUIRED, positional=True)
    output: str = option("Folder to write.", REQUIRED, aliases=["-o"], metavar="FOLDER")


@dataclass(kw_only=True)
class TrainFiles:
    """Files of `proformer train`."""

    data: list[str] = option(
        f"One or more tables, each a {TABLE}, or dataset on the Hub; one that is given twice counts twice.",
        REQUIRED,
        positional=True,
    )
    output: str = option("Folder to write.", REQUIRED, aliases=["-o"], metavar="FOLDER")


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


@dataclass(kw_only=True)
class PublishConfig:
    """Options of `proformer publish`."""

    checkpoint: str = option("Folder of a model with its card, README.md.", REQUIRED, positional=True)
    repo_id: str = option("Repository, ACCOUNT/NAME; it is created if there is none.", REQUIRED, positional=True)
    license: str | None = option("Identifier of the licence for the card, such as cc-by-4.0.")
    private: bool = option("Create the repository as one that only its owners see.", False)
    create_pr: bool = option("Open a pull request instead, without a tag.", False)
    dry_run: bool = option("Do everything but the upload; this needs no network.", False)


@dataclass(kw_only=True)
class DatasetCardFiles:
    """
    Files and licence of `proformer dataset-card`.

    Raises:
        ValueError: the table has no name that a card could describe.
    """

    data: str = option(f"{TABLE}.", REQUIRED, positional=True)
    output: str | None = option("File to write; by default the standard output.", aliases=["-o"], metavar="FILE")
    license: str = option("Identifier of the data's licence, such as cc-by-4.0.", REQUIRED)

    def __post_init__(self):
        if self.data == "-" or is_stream(self.data):
            raise ValueError(f"{self.data}: a card describes a table in a file of its own; give the file's name.")


def run_finetune(files: FinetuneFiles, config: "FinetuneConfig"):
    """Fine-tune a checkpoint on a table."""
    from .training.finetune import run_finetuning

    run_finetuning(input_path(files.data), files.output, config)


def run_train(files: TrainFiles, config: "TrainConfig", arguments: "TrainerOptions"):
    """Train a model from new weights."""
    from .training.pretrain import run_training

    with valid_options():
        run_training([input_path(table) for table in files.data], config, arguments)


def run_export(config: ExportConfig):
    """Export a model, and print how it compares with its checkpoint."""
    from .exporting import export, read_sequences

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


def run_publish(config: PublishConfig):
    """Publish a model on the Hub."""
    from .hub.publish import publish

    publish(**asdict(config))


def run_dataset_card(files: DatasetCardFiles, config: DataConfig):
    """Write the card of a dataset."""
    from .hub.dataset_card import dataset_card

    named = not is_standard(files.output)
    if named and Path(files.output).exists():
        raise FileExistsError(f"{files.output}: this file exists and may have been edited; name another one.")
    card = dataset_card(files.data, config, files.license)
    with output_file(files.output) as file:
        file.write(str(card))
    if named:
        name = Path(files.data).name
        print(f"Put {files.output} next to {name} in the repository of the dataset.", file=sys.stderr)


class Command(NamedTuple):
    """
    A command of `proformer`.

    Attributes:
        help: a line in the list of commands.
        description: what its own help says first.
        kinds: returns the dataclasses of its options; they are imported only when the command is asked for.
        run: is called with one of each.
        resumes: whether the command goes on where it was stopped.
    """

    help: str
    description: str
    kinds: Callable[[], tuple[type, ...]]
    run: Callable[..., None]
    resumes: bool = False


def _finetune_kinds() -> tuple[type, ...]:
    from .training.config import FinetuneConfig

    return FinetuneFiles, FinetuneConfig


def _train_kinds() -> tuple[type, ...]:
    from .training.config import TrainConfig
    from .training.pretrain import TrainerOptions

    return TrainFiles, TrainConfig, TrainerOptions


COMMANDS = {
    "predict": Command(
        "predict the expression of the sequences in a FASTA file or table",
        "Write the table that is given (that of a FASTA file has the columns name and sequence), with the predicted "
        "expression of each sequence, in the units of the model's assay, as its last columns.",
        lambda: (PredictConfig,),
        run_predict,
    ),
    "finetune": Command(
        "make a model of your own assay from a table of sequences and measurements",
        "Fine-tune a checkpoint on a table, and write a folder with the model, its card, metrics, figures, and "
        "predictions of the validation and test rows. A run that was interrupted resumes when it is given again.",
        _finetune_kinds,
        run_finetune,
        resumes=True,
    ),
    "train": Command(
        "train a model from new weights, on any number of processes",
        "Train a model from new weights, with the published architecture and objective by default, and write it with "
        "its card into a folder. A run that was interrupted resumes when it is given again.",
        _train_kinds,
        run_train,
        resumes=True,
    ),
    "export": Command(
        "export a model to ONNX, 8-bit ONNX or torch.export, to serve it",
        "Write a folder with a model for servers, its configuration and its tokenizer; then predict sequences with it "
        "and with the checkpoint, and print how much their predictions and their speed differ.",
        lambda: (ExportConfig,),
        run_export,
    ),
    "publish": Command(
        "publish a model on the Hugging Face Hub",
        "Make a release of a model that others can use without this package, check it, and upload it in one commit "
        "with the next of the tags v1, v2 and so on. A release that is published again replaces the last one. One of "
        "the checks runs the first example of the model's card.",
        lambda: (PublishConfig,),
        run_publish,
    ),
    "dataset-card": Command(
        "write a README.md for a table of sequences and measurements",
        "Describe a table as a dataset on the Hub: its columns, its construct, its measurements, how fine-tuning "
        "splits it, and the metadata that the Hub needs to show it. The options are those of fine-tuning.",
        lambda: (DatasetCardFiles, DataConfig),
        run_dataset_card,
    ),
}


def parse(arguments: Sequence[str]) -> tuple[Command, list[Any]]:
    """
    Return a command, and the dataclasses of its options.

    Raises:
        InputError: an option is outside its range, two contradict each other, or `--config` is not fit.
        SystemExit: the arguments are not those of a command, or ask for help or the version.
    """
    parser = argparse.ArgumentParser(prog="proformer", description="Proformer: DNA in, gene expression out.")
    parser.add_argument("--version", action="version", version=f"proformer {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=OptionParser)
    asked = _command_of(arguments)
    kinds = COMMANDS[asked].kinds() if asked else ()
    for name, command in COMMANDS.items():
        groups = [group for kind in kinds for group in getattr(kind, "groups", [kind])] if name == asked else []
        commands.add_parser(name, help=command.help, description=command.description, dataclass_types=groups)
    namespace = parser.parse_args(arguments)
    # The Trainer has another name for the output.
    namespace.output_dir = getattr(namespace, "output", None)
    return COMMANDS[namespace.command], [make_options(kind, namespace) for kind in kinds]


def _command_of(arguments: Sequence[str]) -> str | None:
    return next((word for word in arguments if word in COMMANDS), None)


def _names_of_options(arguments: Sequence[str]) -> set[str]:
    """Return the names of the options of the command that is asked for."""
    asked = _command_of(arguments)
    return {option.name for kind in (COMMANDS[asked].kinds() if asked else ()) for option in fields(kind)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit status; that of a signal is 128 and its number."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        # Sequences, names and help are text of any alphabet, whatever the locale.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    command = None
    try:
        with stop_on_signals():
            command, options = parse(arguments)
            # Our own messages are shown, those of the libraries are not.
            logging.set_verbosity_error()
            logging.disable_progress_bar()
            hub_logging.set_verbosity_error()
            command.run(*options)
    except BrokenPipeError:
        # The reader of our output has stopped; spare the user the interpreter's complaint when it closes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as error:
        stopped = error.signal if isinstance(error, Stopped) else signal.SIGINT
        again = (
            " Give the same command again to resume from the last checkpoint." if command and command.resumes else ""
        )
        print(f"proformer: stopped by {stopped.name}.{again}", file=sys.stderr)
        return 128 + stopped
    # torch raises a RuntimeError for example when memory does not suffice.
    except (InputError, OSError, ImportError, RuntimeError) as error:
        # All processes of a training find the same fault in the input; one of them reports it.
        if not (isinstance(error, InputError) and int(os.environ.get("RANK", 0))):
            message = name_flags(" ".join(str(error).split()), _names_of_options(arguments))
            print(f"proformer: {message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
