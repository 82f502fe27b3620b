"""The command `proformer finetune`."""

from dataclasses import MISSING as REQUIRED
from dataclasses import dataclass

from ..data.config import option
from ..training.config import FinetuneConfig
from .common import TABLE, input_path


@dataclass(kw_only=True)
class FinetuneFiles:
    """Files of `proformer finetune`."""

    data: str = option(f"{TABLE}, or dataset on the Hub; - is the standard input.", REQUIRED, positional=True)
    output: str = option("Folder to write.", REQUIRED, aliases=["-o"], metavar="FOLDER")


def run(files: FinetuneFiles, config: FinetuneConfig):
    """Fine-tune a checkpoint on a table."""
    from ..training.finetune import run_finetuning

    run_finetuning(input_path(files.data), files.output, config)


KINDS = (
    FinetuneFiles,
    FinetuneConfig,
)
