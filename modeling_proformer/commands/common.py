"""What several commands share: help texts, and the options of those that run a model."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from ..configuration_proformer import ProformerConfig
from ..data.config import option
from ..data.tables import InputError, first_line
from ..data.text import STANDARD_INPUT
from ..intervals import prediction_interval


TABLE = "TSV or CSV (may be gzipped), Excel, Parquet or Arrow file"
MODEL = "Checkpoint, a folder or Hub repository; by default the embedded one."


@dataclass(kw_only=True)
class RunOptions:
    """
    How a command runs a model over sequences.

    Raises:
        ValueError: an option is outside its range.
    """

    _argument_group_name: ClassVar[str] = "computing"

    batch_size: int | None = option("Sequences at a time; by default 64 on a CPU, and 512 on other devices.")
    device: str | None = option('Where to compute, such as "cuda"; by default the CPU.')
    bf16: bool = option("Compute in bfloat16, which is faster where the hardware has it.", False)
    quiet: bool = option("Show no progress bar.", False)

    def __post_init__(self):
        if self.batch_size is not None and not 1 <= self.batch_size < 2**31:
            raise ValueError(f"`batch_size` is {self.batch_size}, but must be 1 to {2**31 - 1:,}.")
        if self.device is not None:
            available_device(self.device)

    @property
    def run_arguments(self) -> dict[str, Any]:
        """The arguments `batch_size`, `device` and `dtype` of `predict`."""
        dtype = torch.bfloat16 if self.bf16 else None
        return {"batch_size": self.batch_size, "device": self.device, "dtype": dtype}


def input_path(path: str) -> str:
    """Return the path of an input, for which "-" is the standard input."""
    return STANDARD_INPUT if path == "-" else path


def available_device(name: str) -> torch.device:
    """
    Return a device.

    Raises:
        ValueError: it cannot be used here.
    """
    try:
        torch.zeros(1, device=name).item()
        return torch.device(name)
    # Torch raises different errors for different kinds of device, and in different builds.
    except Exception as error:
        raise ValueError(f"`device` {name!r} cannot be used here: {first_line(error)}") from error


def require_interval(level: float, config: ProformerConfig):
    """
    Check that a model has prediction intervals for this level.

    Raises:
        InputError: it has none.
    """
    try:
        prediction_interval(np.zeros((1, config.num_labels)), config, level)
    except ValueError as error:
        raise InputError(f"`interval` {level}: {error}") from error


def append_interval(predicted: np.ndarray, config: ProformerConfig, level: float) -> np.ndarray:
    """Return predictions (rows, outputs), followed by both ends of the interval around each."""
    ends = np.stack(prediction_interval(predicted, config, level), axis=-1)
    return np.concatenate([predicted, ends.reshape(len(predicted), -1)], axis=1)
