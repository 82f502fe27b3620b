"""The command `proformer train`."""

from dataclasses import MISSING as REQUIRED
from dataclasses import dataclass

from ..data.config import option
from ..options import valid_options
from ..training.config import TrainConfig
from ..training.pretrain import TrainerOptions, run_training
from .common import TABLE, input_path


@dataclass(kw_only=True)
class TrainFiles:
    """Files of `proformer train`."""

    data: list[str] = option(
        f"One or more tables, each a {TABLE}, or dataset on the Hub; one that is given twice counts twice.",
        REQUIRED,
        positional=True,
    )
    output: str = option("Folder to write.", REQUIRED, aliases=["-o"], metavar="FOLDER")


def run(files: TrainFiles, config: TrainConfig, arguments: TrainerOptions):
    """Train a model from new weights."""
    with valid_options():
        run_training([input_path(table) for table in files.data], config, arguments)


KINDS = (
    TrainFiles,
    TrainConfig,
    TrainerOptions,
)
