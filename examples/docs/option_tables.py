"""
Write the tables of options into the pages of the documentation: `python examples/docs/option_tables.py`.

A row holds an option's help text, which is written once, in the dataclass of the options. A table stands in a page
between the lines `<!-- options of COMMAND -->` and `<!-- end of options -->`.
"""

import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path

from transformers import TrainingArguments

from modeling_proformer.cli import COMMANDS


FOLDER = Path(__file__).parent
TABLE = re.compile(r"(<!-- options of ([\w-]+) -->\n).*?(<!-- end of options -->)", re.DOTALL)


def option_groups(command: str) -> Iterator[tuple[str | None, list[Field]]]:
    """Yield the groups of a command's options, each with its name, without the options of the library's Trainer."""
    for kind in COMMANDS[command].kinds:
        if issubclass(kind, TrainingArguments):
            continue
        for group in getattr(kind, "groups", [kind]):
            yield getattr(group, "_argument_group_name", None), list(fields(group))


def render_table(command: str) -> str:
    """Return the Markdown table of a command's options."""
    lines = ["| option | what it is | default |", "|---|---|---|"]
    for name, options in option_groups(command):
        if name:
            lines.append(f"| **{name}** | | |")
        lines += [f"| {_flags(option)} | {_help(option)} | {_default(option)} |" for option in options]
    return "\n".join(lines) + "\n"


def _flags(option: Field) -> str:
    if option.metadata.get("positional"):
        return f"`{option.name.upper()}`"
    return ", ".join(f"`{flag}`" for flag in [*option.metadata.get("aliases", []), f"--{option.name}"])


def _help(option: Field) -> str:
    return option.metadata["help"].replace("|", "\\|")


def _default(option: Field) -> str:
    default = option.default if option.default_factory is MISSING else option.default_factory()
    if default is MISSING:
        return "required"
    if default is None or default is False or default == []:
        return ""
    return f"`{' '.join(map(str, default)) if isinstance(default, list) else default}`"


def with_tables(page: str) -> str:
    """Return the text of a page with its tables of options made again."""
    return TABLE.sub(lambda found: found[1] + render_table(found[2]) + found[3], page)


def main():
    for path in sorted(FOLDER.glob("*.md")):
        before = path.read_text(encoding="utf-8")
        after = with_tables(before)
        if after != before:
            path.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
