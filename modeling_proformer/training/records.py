"""A run that was interrupted resumes where it was, on the same tables with the same options, or not at all."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.sources import SourceTable
from ..data.tables import InputError, first_line
from .trainer import last_checkpoint


RECORD = "training.json"
# The record while it is being written.
UNFINISHED_RECORD = f"{RECORD}.new"


def checkpoint_to_resume(
    folder: str | os.PathLike, sources: Sequence[SourceTable], settings: Mapping[str, Any]
) -> str | None:
    """
    Return the checkpoint that a run in this folder resumes from, or None where training starts.

    Args:
        folder: of the run.
        sources: tables that are trained and evaluated on.
        settings: what else must stay the same, as JSON.

    Raises:
        InputError: a table differs in content, order or number, or a setting differs; resuming would mix two runs.
    """
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        return None
    path = Path(folder) / RECORD
    try:
        record = json.loads(path.read_text())
        before = [SourceTable(**table) for table in record["tables"]]
        settings_before = record["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} should say what the training in this folder began with, but cannot be read "
            f"({first_line(error)}). Train in another folder."
        ) from error
    for number in range(max(len(before), len(sources))):
        then, now = before[number : number + 1], list(sources[number : number + 1])
        # A file may have been moved.
        if [table._replace(name="") for table in then] != [table._replace(name="") for table in now]:
            found = f"{now[0].name} has changed since, or is new" if now else f"{then[0].name} is missing"
            raise InputError(
                f"{folder} holds a training on other tables: {found}. Give the tables as they were, or train in "
                "another folder."
            )
    for name, value in json.loads(json.dumps(dict(settings))).items():
        if value != settings_before.get(name):
            raise InputError(
                f"{folder} holds a training with {name} {settings_before.get(name)!r}, not {value!r}. Leave it as it "
                "was, or train in another folder."
            )
    return checkpoint


def record_run(folder: str | os.PathLike, sources: Sequence[SourceTable], settings: Mapping[str, Any]):
    """Write down what a run trains on and how, for `checkpoint_to_resume` and for whoever finds the folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    record = {"tables": [table._asdict() for table in sources], "settings": dict(settings)}
    unfinished = Path(folder) / UNFINISHED_RECORD
    unfinished.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(unfinished, Path(folder) / RECORD)


def run_digest(sources: Sequence[SourceTable], settings: Mapping[str, Any]) -> str:
    """Return a digest of what a run trains on and how, by which a finished run is recognised; names do not count."""
    tables = [table._replace(name="") for table in sources]
    return hashlib.blake2b(json.dumps([tables, dict(settings)]).encode(), digest_size=16).hexdigest()


__all__ = ["RECORD", "checkpoint_to_resume", "record_run", "run_digest"]
