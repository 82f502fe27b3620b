"""A script's options: recipes, which are small YAML files of them, and what is wrong with them."""

import argparse
import difflib
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from huggingface_hub.errors import StrictDataclassError

from .data.tables import InputError, first_line


def with_recipe(arguments: Sequence[str], options: Collection[str]) -> list[str]:
    """
    Command-line arguments in which `--recipe FILE` has been replaced by the options in the file. They come first, so
    that options given beside the recipe win.

    Args:
        arguments: of the command line.
        options: that there are.

    Raises:
        InputError: see `read_recipe`.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--recipe")
    try:
        found, others = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise InputError("--recipe needs the name of a file.") from error
    return others if found.recipe is None else [*read_recipe(found.recipe, options), *others]


def read_recipe(path: str | os.PathLike, known: Collection[str]) -> list[str]:
    """
    A recipe's options as command-line arguments.

    Args:
        path: a YAML file of `option: value`; a list is several values.
        known: the options that there are.

    Raises:
        InputError: there is no such file, it is not such YAML, or an option is unknown.
    """
    try:
        # Every value as it is written: in YAML, a bare `no` would be False.
        recipe = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not well-formed YAML ({first_line(error)}{place_of(error)}).") from error
    if not isinstance(recipe, dict):
        raise InputError(f"{path}: a recipe consists of lines 'option: value'.")
    arguments = []
    for option, value in recipe.items():
        if option not in known:
            similar = difflib.get_close_matches(str(option), known, n=1)
            hint = f" Did you mean {similar[0]!r}?" if similar else ""
            raise InputError(f"{path}: there is no option {option!r}.{hint}")
        values = value if isinstance(value, list) else [value]
        if any(isinstance(each, dict | list) or each == "" for each in values):
            raise InputError(f"{path}: the option {option!r} needs a value or a list of values, got {value!r}.")
        arguments += [f"--{option}", *values]
    return arguments


def place_of(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark else ""


@contextmanager
def valid_options() -> Iterator[None]:
    """Turns what options raise where they are parsed, or a tokenizer or model is made of them, into an InputError."""
    try:
        yield
    except (ValueError, StrictDataclassError) as error:
        raise InputError(" ".join(str(error).split())) from error


__all__ = ["read_recipe", "valid_options", "with_recipe"]
