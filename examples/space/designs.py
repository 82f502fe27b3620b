"""Turn what a visitor asks of new sequences into arguments of `design`."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from modeling_proformer.data.tables import InputError
from modeling_proformer.designing import Design, design
from modeling_proformer.tokenization import ProformerTokenizer


MAX_DESIGNS = 10
# How the page calls the library's arguments, of which the library's errors speak.
LABELS = {
    "targets": "Expression",
    "number": "Sequences",
    "length": "Length",
    "starts": "Start from",
    "max_edits": "Most changed bases",
    "avoid": "Sites to avoid",
    "gc": "GC content in percent",
    "max_homopolymer": "Longest run of one base",
}


class Wishes(NamedTuple):
    """The fields of the page; an empty one is "" or None."""

    target: str
    number: float | None
    length: float | None
    start: str
    max_edits: float | None
    avoid: str
    gc: str
    max_homopolymer: float | None


def find_designs(model: PreTrainedModel, tokenizer: ProformerTokenizer, wishes: Wishes) -> Sequence[Design]:
    """
    Return designs as wished.

    Raises:
        InputError: a field is not as it should be, or the constraints cannot be fulfilled.
    """
    arguments: dict[str, Any] = {
        "number": whole_number(wishes.number, "number"),
        "avoid": wishes.avoid.replace(",", " ").split(),
        "max_homopolymer": whole_number(wishes.max_homopolymer, "max_homopolymer"),
    }
    if (arguments["number"] or 0) > MAX_DESIGNS:
        raise InputError(f"“{LABELS['number']}”: this page makes at most {MAX_DESIGNS} at a time.")
    if wishes.gc.strip():
        arguments["gc"] = [float(text) for text in re.findall(r"\d+(?:\.\d+)?", wishes.gc)]
    start = "".join(wishes.start.split())
    if start:
        arguments |= {"starts": {"your sequence": start}, "max_edits": whole_number(wishes.max_edits, "max_edits")}
    else:
        arguments["length"] = whole_number(wishes.length, "length")
    if not wishes.target.strip():
        raise InputError(f"“{LABELS['targets']}”: write a number, a range such as 6:8, max or min.")
    try:
        return design(model, tokenizer, [wishes.target.strip()], **arguments)
    except ValueError as error:
        raise InputError(name_fields(str(error))) from error


def whole_number(value: float | None, name: str) -> int | None:
    """Return the number in a field; None if it is empty."""
    if value is None:
        return None
    if value != int(value):
        raise InputError(f"“{LABELS[name]}” is {value:g}, but must be a whole number.")
    return int(value)


def name_fields(message: str) -> str:
    """Return a message of the library with the page's fields instead of arguments."""
    return re.sub(r"`(\w+)`", lambda found: f"“{LABELS[found[1]]}”" if found[1] in LABELS else found[0], message)
