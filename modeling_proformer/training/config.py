"""Options of fine-tuning and of training from new weights."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ..data.config import ColumnOptions, ConstructOptions, DataConfig, SplitOptions, option


# The best of several tried for each method.
LEARNING_RATES = {"full": 1e-3, "head": 1e-2, "lora": 2e-3}


@dataclass(kw_only=True)
class FinetuneOptions:
    """How a checkpoint is fine-tuned."""

    _argument_group_name: ClassVar[str] = "training"

    model: str | None = option("Checkpoint to start from, a folder or Hub repository; by default the embedded one.")
    method: Literal["full", "head", "lora"] = option(
        "What is trained: all weights, the head alone, or low-rank updates of the matrices (with peft).", "full"
    )
    from_scratch: bool = option("Start from new weights, to measure what the checkpoint contributes.", False)
    keep: float | None = option(
        "Share of the checkpoint's matrices to start from, mixed with new weights (shrink and perturb, Ash and Adams "
        "2020, arXiv 1910.08475); by default chosen from how well the checkpoint predicts the training rows."
    )
    learning_rate: float | None = option("Highest learning rate, that of the head; by default one for the method.")
    layer_decay: float = option("Factor of the learning rate from each block to the one below it.", 0.8)
    dropout: float = option("Dropout in the feed-forward layers during training.", 0.2)
    steps: int | None = option("Maximum number of weight updates; by default it follows from the number of rows.")
    batch_size: int = option("Sequences in each training step.", 32)
    patience: int = option("Stop after this many evaluations, of about 20 in all, without improvement.", 6)
    transform: Literal["log", "log1p"] | None = option("Train on logarithms of the measurements.")
    task: Literal["regression", "classification"] | None = option(
        "Kind of model; by default classification where every measurement is 0 or 1, else regression."
    )
    bf16: bool = option("Compute in bfloat16, which is faster where the hardware has it.", False)
    seed: int = option("Seed of the split, the new weights and the order of rows.", 0)


@dataclass(kw_only=True)
class FinetuneConfig(DataConfig, FinetuneOptions):
    """
    Everything that `finetune` and `proformer finetune` take.

    Raises:
        ValueError: an option is outside its range, or two contradict each other.
    """

    # The groups of the command line, in their order.
    groups: ClassVar[tuple[type, ...]] = (ColumnOptions, ConstructOptions, SplitOptions, FinetuneOptions)

    def __post_init__(self):
        super().__post_init__()
        for name in ("learning_rate", "layer_decay", "steps", "batch_size", "patience"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` is {value}, but must be above 0.")
        if self.seed < 0:
            raise ValueError(f"`seed` is {self.seed}, but must be at least 0.")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ValueError(f"`keep` is {self.keep}, but must be above 0 and at most 1.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` is {self.dropout}, but must be at least 0 and below 1.")
        if self.from_scratch and self.keep is not None:
            raise ValueError("`from_scratch` keeps nothing of the checkpoint; leave out `keep` or `from_scratch`.")
        if self.method != "full" and not self.keeps_all:
            other = "from_scratch" if self.from_scratch else "keep"
            raise ValueError(f"The method {self.method!r} needs the whole checkpoint; leave out `{other}`.")
        if self.bins and self.task == "classification":
            raise ValueError("Reads in bins are a regression; leave out `task` or `bins`.")

    @property
    def keeps_all(self) -> bool:
        """Whether training starts from the checkpoint as it is."""
        return not self.from_scratch and self.keep in (None, 1)

    @property
    def highest_rate(self) -> float:
        """The learning rate that was given, or the one for the method."""
        return LEARNING_RATES[self.method] if self.learning_rate is None else self.learning_rate

    def max_steps(self, rows: int) -> int:
        """
        Return the number of steps that was given, or one for this number of rows: ten passes over them, but at least
        400, and at most 2,000 or two passes.
        """
        passes = rows / 32
        return int(np.clip(10 * passes, 400, max(2000, 2 * passes))) if self.steps is None else self.steps


__all__ = ["FinetuneConfig", "FinetuneOptions"]
