"""The command `proformer dataset-card`."""

import sys
from dataclasses import MISSING as REQUIRED
from dataclasses import dataclass
from pathlib import Path

from ..data.config import DataConfig, option
from ..data.tables import is_stream
from ..writing import is_standard, output_file
from .common import TABLE


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


def run(files: DatasetCardFiles, config: DataConfig):
    """Write the card of a dataset."""
    from ..hub.dataset_card import dataset_card

    named = not is_standard(files.output)
    if named and Path(files.output).exists():
        raise FileExistsError(f"{files.output}: this file exists and may have been edited; name another one.")
    card = dataset_card(files.data, config, files.license)
    with output_file(files.output) as file:
        file.write(str(card))
    if named:
        name = Path(files.data).name
        print(f"Put {files.output} next to {name} in the repository of the dataset.", file=sys.stderr)


KINDS = (
    DatasetCardFiles,
    DataConfig,
)
