"""The `proformer` command: turns its arguments into options, calls the library, and prints what comes of it."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging

from .data.tables import InputError
from .options import OptionParser, log_flags, make_options, name_flags
from .signals import Stopped, stop_on_signals
from .version import __version__


class Command(NamedTuple):
    """
    A command of `proformer`.

    Attributes:
        help: a line in the list of commands.
        description: what its own help says first.
        module: its module among `commands`, which is imported only when the command is asked for.
        resumes: whether the command goes on where it was stopped.
    """

    help: str
    description: str
    module: str
    resumes: bool = False

    @property
    def kinds(self) -> tuple[type, ...]:
        """The dataclasses of its options."""
        return self._import().KINDS

    def run(self, *options):
        """Run the command with one of each of its dataclasses."""
        self._import().run(*options)

    def _import(self) -> ModuleType:
        return import_module(f".commands.{self.module}", __package__)


COMMANDS = {
    "predict": Command(
        "predict the expression of the sequences in a FASTA file or table",
        "Write the table that is given (that of a FASTA file has the columns name and sequence), with the predicted "
        "expression of each sequence, in the units of the model's assay, as its last columns.",
        "predict",
    ),
    "variants": Command(
        "predict the effect of the variants in a VCF or table on expression",
        "Write the predicted expression of the reference and the alternate allele of each variant, and their "
        "difference, in windows of a genome, in its promoters, or in pairs of sequences. Variants that cannot be "
        "scored are marked with the reason, and counted at the end.",
        "variants",
    ),
    "design": Command(
        "design sequences of a wanted expression, under the constraints of a lab",
        "Design sequences whose predicted expression is a number, within a range, or as great or small as can be, "
        "from random starts or from given ones, and write them as a table and a FASTA file. None of them breaks a "
        "constraint.",
        "design",
    ),
    "mutagenesis": Command(
        "predict the effect of every single change of sequences, and draw it",
        "Write a table with the effect of every substitution, and with --deletions of every deletion, of the bases of "
        "each sequence. --figures draws them, with the contribution of each base, and --motifs names known motifs.",
        "mutagenesis",
    ),
    "embed": Command(
        "write the model's internal representation of sequences",
        "Write a vector, or with --positions all a vector for each k-mer, of each sequence in a FASTA file or table.",
        "embed",
    ),
    "finetune": Command(
        "make a model of your own assay from a table of sequences and measurements",
        "Fine-tune a checkpoint on a table, and write a folder with the model, its card, metrics, figures, and "
        "predictions of the validation and test rows. A run that was interrupted resumes when it is given again.",
        "finetune",
        resumes=True,
    ),
    "train": Command(
        "train a model from new weights, on any number of processes",
        "Train a model from new weights, with the published architecture and objective by default, and write it with "
        "its card into a folder. A run that was interrupted resumes when it is given again.",
        "train",
        resumes=True,
    ),
    "export": Command(
        "export a model to ONNX, 8-bit ONNX or torch.export, to serve it",
        "Write a folder with a model for servers, its configuration and its tokenizer; then predict sequences with it "
        "and with the checkpoint, and print how much their predictions and their speed differ.",
        "export",
    ),
    "publish": Command(
        "publish a model on the Hugging Face Hub",
        "Make a release of a model that others can use without this package, check it, and upload it in one commit "
        "with the next of the tags v1, v2 and so on. A release that is published again replaces the last one. One of "
        "the checks runs the first example of the model's card.",
        "publish",
    ),
    "dataset-card": Command(
        "write a README.md for a table of sequences and measurements",
        "Describe a table as a dataset on the Hub: its columns, its construct, its measurements, how fine-tuning "
        "splits it, and the metadata that the Hub needs to show it. The options are those of fine-tuning.",
        "dataset_card",
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
    kinds = COMMANDS[asked].kinds if asked else ()
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
    return {option.name for kind in (COMMANDS[asked].kinds if asked else ()) for option in fields(kind)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit status; that of a signal is 128 and its number."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        # Sequences, names and help are text of any alphabet, whatever the locale.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    command, names = None, set()
    try:
        with stop_on_signals():
            names = _names_of_options(arguments)
            command, options = parse(arguments)
            # Our own messages are shown, those of the libraries are not.
            logging.set_verbosity_error()
            logging.disable_progress_bar()
            hub_logging.set_verbosity_error()
            with log_flags(names):
                command.run(*options)
    except BrokenPipeError:
        # The reader of our output has stopped; spare the user the interpreter's complaint when it closes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as error:
        stopped = error.signal if isinstance(error, Stopped) else signal.SIGINT
        again = ""
        if command and command.resumes:
            again = " The same command resumes from the last checkpoint, if there is one."
        print(f"proformer: stopped by {stopped.name}.{again}", file=sys.stderr)
        return 128 + stopped
    # torch raises a RuntimeError for example when memory does not suffice.
    except (InputError, OSError, ImportError, RuntimeError) as error:
        # All processes of a training find the same fault in the input; one of them reports it.
        if not (isinstance(error, InputError) and int(os.environ.get("RANK", 0))):
            message = name_flags(" ".join(str(error).split()), names)
            print(f"proformer: {message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
