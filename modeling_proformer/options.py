"""Options of the commands: dataclasses become flags, and the lines of a YAML file become flags too."""

import argparse
import logging
import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import Field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers.hf_argparser import HfArgumentParser, string_to_bool

from .data.config import did_you_mean
from .data.tables import InputError, first_line


Options = TypeVar("Options")

# The help names the value of a flag after its type.
METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT"}
TRUTH_VALUES = {"yes", "true", "t", "y", "1", "no", "false", "f", "n", "0"}
# The commands set these options of the Trainer themselves.
SET_BY_COMMAND = {"output_dir", "do_train", "do_eval", "do_predict", "remove_unused_columns"}


class OptionParser(HfArgumentParser):
    """
    A parser whose flags are the fields of dataclasses, named as in Python; dashes work as well as underscores.

    A field whose metadata say `positional` may be given without its flag. `--config FILE` reads options from a YAML
    file, and flags on the command line win over them. A flag of a boolean needs no value.
    """

    def __init__(self, dataclass_types: Sequence[type] = (), **arguments):
        arguments.setdefault("formatter_class", _HelpFormatter)
        super().__init__(dataclass_types, allow_abbrev=False, **arguments)
        self.add_argument("--config", metavar="FILE", help="YAML file with options; flags win over it.")
        self.positionals = [
            option.name for kind in dataclass_types for option in fields(kind) if option.metadata.get("positional")
        ]
        self.usage = " ".join(["%(prog)s", *map(str.upper, self.positionals), "[OPTIONS]"])

    @staticmethod
    def _parse_dataclass_field(parser: argparse.ArgumentParser, field: Field):
        if field.name in SET_BY_COMMAND:
            return
        # The base class passes the metadata on to `add_argument`.
        field = copy(field)
        metadata = dict(field.metadata)
        if metadata.pop("positional", False):
            metadata["metavar"] = field.name.upper()
            field.default = None
        elif metavar := _metavar(field.type):
            metadata.setdefault("metavar", metavar)
        field.metadata = metadata  # type: ignore[assignment]  # the library reads it as a mapping
        HfArgumentParser._parse_dataclass_field(parser, field)

    def parse_known_args(self, args=None, namespace=None):
        """
        Parse the arguments of a command.

        Raises:
            InputError: the YAML file is not fit, see `read_config`.
        """
        words = [_underscored(word) for word in (sys.argv[1:] if args is None else args)]
        given, config = self._find_config(words)
        from_config = [] if config is None else read_config(config, self._names())
        arguments = [*from_config, *self._complete_booleans(given)]
        namespace, others = super().parse_known_args(arguments, namespace)
        del namespace.config
        words = [word for word in others if word == "-" or not word.startswith("-")]
        if unknown := [word for word in others if word not in words]:
            self.error(f"unrecognized option {unknown[0]}.{did_you_mean(unknown[0].partition('=')[0], self._flags())}")
        self._take_positionals(namespace, words, given)
        return namespace, []

    def _names(self) -> list[str]:
        """Return the names of the options that a YAML file may have."""
        return [action.dest for action in self._actions if action.dest not in ("help", "config")]

    def _flags(self) -> list[str]:
        return [flag for action in self._actions for flag in action.option_strings]

    def _find_config(self, arguments: list[str]) -> tuple[list[str], str | None]:
        """Return the other arguments, and the file that `--config` names."""
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        finder.add_argument("--config")
        try:
            found, others = finder.parse_known_args(arguments)
        except argparse.ArgumentError:
            self.error("--config needs the name of a file.")
        return others, found.config

    def _complete_booleans(self, arguments: list[str]) -> list[str]:
        """Give the flags of booleans their value, so that they do not take the next word for it."""
        booleans = {
            flag for action in self._actions if action.type is string_to_bool for flag in action.option_strings
        }
        return [
            f"{word}=true" if word in booleans and following.lower() not in TRUTH_VALUES else word
            for word, following in pairwise([*arguments, ""])
        ]

    def _take_positionals(self, namespace: argparse.Namespace, words: list[str], given: list[str]):
        """Store the words in those positional fields that have no flag on the command line."""
        flags = {word.partition("=")[0] for word in given}
        for action in self._actions:
            if action.dest not in self.positionals or flags.intersection(action.option_strings) or not words:
                continue
            # The last field takes all words if it is a list.
            taken = words if action.nargs == "+" else words[0]
            words = [] if action.nargs == "+" else words[1:]
            setattr(namespace, action.dest, taken)
        if words:
            self.error(f"unrecognized arguments: {' '.join(words)}")
        if missing := [name.upper() for name in self.positionals if getattr(namespace, name) is None]:
            self.error(f"the following arguments are required: {', '.join(missing)}")


def _underscored(word: str) -> str:
    """Return a flag with underscores for the dashes in its name."""
    flag = re.match(r"--\w[\w-]*", word)
    return word if flag is None else "--" + flag[0][2:].replace("-", "_") + word[flag.end() :]


class _HelpFormatter(argparse.HelpFormatter):
    """Shows each flag once, as it is named in Python, and its default only if there is one."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        flags = sorted((flag for flag in action.option_strings if "-" not in flag[2:]), key=len)
        if action.type is string_to_bool or action.nargs == 0:
            return ", ".join(flags)
        values = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(flags)} {values}"

    def _get_help_string(self, action: argparse.Action) -> str:
        default = action.default
        if default is None or default is False or default == [] or default == argparse.SUPPRESS:
            return action.help or ""
        text = " ".join(map(str, default)) if isinstance(default, list) else str(default)
        return f"{action.help} (default: {text.replace('%', '%%')})"


def _metavar(kind: Any) -> str | None:
    """Return what the help calls a value of this type; None leaves it to the base class."""
    arguments = [] if get_origin(kind) is Literal else [each for each in get_args(kind) if each is not type(None)]
    return _metavar(arguments[0]) if arguments else METAVARS.get(kind)


def make_options(kind: type[Options], namespace: argparse.Namespace, **others) -> Options:
    """
    Return a dataclass of options with the values that were parsed, and others.

    Raises:
        InputError: an option is outside its range, or two contradict each other.
    """
    given = vars(namespace)
    with valid_options():
        return kind(
            **{each.name: given[each.name] for each in fields(cast(Any, kind)) if each.name in given}, **others
        )


def read_config(path: str | os.PathLike, known: Collection[str]) -> list[str]:
    """
    Return the options in a YAML file as command-line arguments.

    Args:
        path: file with lines `option: value`, where a list is several values; dashes in names count as underscores.
        known: names of the options.

    Raises:
        InputError: there is no such file, it is not such YAML, an option is unknown, or it occurs twice.
    """
    try:
        # Values stay as they are written; in YAML, a bare `no` would be False.
        root = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not well-formed YAML ({first_line(error)}).") from error
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{path}: the file should consist of lines 'option: value'.")
    arguments: dict[str, list[str]] = {}
    for key, value in root.value:
        location = f"{path}, line {key.start_mark.line + 1}"
        name = str(key.value).replace("-", "_")
        if name not in known:
            raise InputError(f"{location}: there is no option {key.value!r}.{did_you_mean(name, known)}")
        if name in arguments:
            raise InputError(f"{location}: the option {name!r} occurs twice.")
        values = value.value if isinstance(value, yaml.SequenceNode) else [value]
        # A value that is empty needs quotes.
        if not values or not all(isinstance(each, yaml.ScalarNode) and (each.value or each.style) for each in values):
            raise InputError(f"{location}: the option {name!r} needs a value or a list of values.")
        texts = [each.value for each in values]
        arguments[name] = [f"--{name}={texts[0]}"] if len(texts) == 1 else [f"--{name}", *texts]
    return [argument for several in arguments.values() for argument in several]


def name_flags(message: str, names: Collection[str]) -> str:
    """Return a message of the library with its options as flags: `name="value"` is --name value."""
    message = re.sub(
        r'`(\w+)=(?:"([^"`]*)"|([\w.]+))`',
        lambda found: (
            found[0]
            if found[1] not in names
            else f"--{found[1]}" + ("" if found[3] == "True" else f" {found[2] or found[3]}")
        ),
        message,
    )
    return re.sub(r"`(\w+)`", lambda found: f"--{found[1]}" if found[1] in names else found[0], message)


class _FlagFormatter(logging.Formatter):
    """Formats messages of the library for a command."""

    def __init__(self, names: Collection[str]):
        super().__init__()
        self.names = names

    def format(self, record: logging.LogRecord) -> str:
        return name_flags(super().format(record), self.names)


@contextmanager
def log_flags(names: Collection[str]) -> Iterator[None]:
    """Show options as flags in what the package logs within the context."""
    handlers = logging.getLogger(__package__).handlers
    formatters = [handler.formatter for handler in handlers]
    for handler in handlers:
        handler.setFormatter(_FlagFormatter(names))
    try:
        yield
    finally:
        for handler, formatter in zip(handlers, formatters, strict=True):
            handler.setFormatter(formatter)


@contextmanager
def valid_options() -> Iterator[None]:
    """Turn what an invalid option raises, where a dataclass, tokenizer or model is made of it, into an InputError."""
    try:
        yield
    except (ValueError, StrictDataclassError) as error:
        raise InputError(" ".join(str(error).split())) from error


__all__ = ["OptionParser", "log_flags", "make_options", "name_flags", "read_config", "valid_options"]
