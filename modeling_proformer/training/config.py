"""Options of fine-tuning and of training from new weights."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from ..data.config import ColumnOptions, ConstructOptions, DataConfig, SplitOptions, did_you_mean, option


# The best of several tried for each method.
LEARNING_RATES = {"full": 1e-3, "head": 1e-2, "lora": 2e-3}


def require_known_options(function: str, options: Iterable[str], known: Collection[str]):
    """
    Check the names of keyword arguments.

    Raises:
        TypeError: there is no such option.
    """
    for name in options:
        if name not in known:
            raise TypeError(f"{function}() has no option {name!r}.{did_you_mean(name, known)}")


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
    learning_rate: float | None = option(
        "Learning rate of the head; by default 1e-3 for the method full, 1e-2 for head and 2e-3 for lora."
    )
    layer_decay: float = option("Each block learns at this multiple of the rate of the block above it.", 0.8)
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

    groups: ClassVar[tuple[type, ...]] = (*DataConfig.groups, FinetuneOptions)

    def __post_init__(self):
        super().__post_init__()
        if self.split_by == "random" and self.group:
            raise ValueError(f"The column {self.group!r} splits the rows; leave out `split_by` or `group`.")
        for name in ("learning_rate", "layer_decay", "steps", "batch_size", "patience"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"`{name}` is {value}, but must be a number above 0.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"`seed` is {self.seed}, but must be 0 to {2**32 - 1:,}.")
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
        if self.classes and (self.transform or self.task == "regression"):
            name = "transform" if self.transform else "task"
            raise ValueError(f"`{name}` is for numbers, not for classes; leave out `{name}` or `classes`.")
        if self.rna and (self.transform or self.task == "classification"):
            name = "transform" if self.transform else "task"
            raise ValueError(f"The activity that follows from `rna` and `dna` is a logarithm; leave out `{name}`.")

    @property
    def keeps_all(self) -> bool:
        """Return whether training starts from the checkpoint as it is."""
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


@dataclass(kw_only=True)
class _TrainConstructOptions(ConstructOptions):
    insert_width: int | None = option(
        "Width that inserts are padded to; 100 is published, the longest insert's is fastest.", 100
    )
    too_long: Literal["refuse", "leave_out", "cut"] = option(
        "What to do with inserts longer than insert_width; leave_out is published.", "leave_out"
    )


@dataclass(kw_only=True)
class _TrainSplitOptions(SplitOptions):
    duplicates: Literal["refuse", "average", "keep"] = option(
        "What to do with several rows of one insert; average also adds up their weights.", "keep"
    )
    split_by: Literal["homology", "random"] = option(
        "How to split rows where no column says it: homology keeps related sequences in one split.", "random"
    )
    validation_fraction: float = option("Share of the rows that evaluate the model.", 0.05)
    test_fraction: float = option("Share of the rows that are held out for a test of your own.", 0.0)
    validation_rows: int | None = option("Evaluate on at most this many of the validation rows.", 5000)


@dataclass(kw_only=True)
class ModelOptions:
    """What to train; the defaults are the published model and its objective."""

    _argument_group_name: ClassVar[str] = "model"

    kmer_size: int = option("Bases in a k-mer token.", 10)
    kmer_stride: int = option("Bases from one k-mer to the next; 2 halves the tokens (with mask_probability 0).", 1)
    hidden_size: int = option("Width of the model.", 512)
    num_hidden_layers: int = option("Number of blocks.", 4)
    num_attention_heads: int = option("Number of attention heads.", 8)
    head_dim: int | None = option("Width of each head; by default that of the model.")
    num_expression_tokens: int = option("Pseudo-expression positions; 0 averages all k-mers instead.", 32)
    expression_bins: list[float] | None = option(
        "Centres of bins that expression is classified into, evenly spaced (0 1 2 … 17)."
    )
    hidden_dropout: float = option("Dropout; as published, none is in effect.", 0.0)
    mask_probability: float = option("Probability of masking a base.", 0.05)
    mask_strands: Literal["independently", "together"] = option(
        "Mask both strands independently, as published, or together.", "independently"
    )
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flex_attention"] | None = option(
        "Attention of the library; by default sdpa, or eager in bfloat16 on a CPU, where it trains faster."
    )
    published_optimization: bool = option(
        "Use the published Adam, schedule and clipping, whatever learning_rate, warmup_steps and optim say (not with "
        "FSDP).",
        False,
    )
    muon: bool = option(
        "Train the blocks' matrices with Muon and the rest with AdamW, whatever optim says; weight_decay is of all "
        "parameters (not with FSDP).",
        False,
    )
    early_stopping_patience: int | None = option(
        "Stop after this many evaluations without a better metric_for_best_model (load_best_model_at_end)."
    )


@dataclass(kw_only=True)
class TrainDataOptions:
    """Tables besides the one to train on."""

    _argument_group_name: ClassVar[str] = "tables"

    validation_data: str | None = option(
        "Table or Hub dataset to evaluate on; by default a part of the rows is held out."
    )
    streaming: bool = option(
        "Read the tables again in each epoch instead of copying them; needs validation_data and max_steps.", False
    )
    dream_pairs: list[str] = field(
        default_factory=list,
        metadata={
            "help": "The three tables of row pairs (SNV, motif perturbation, motif tiling) where validation_data is a "
            "test set of the DREAM challenge: evaluations then report pearson_score and spearman_score too."
        },
    )


# These options cannot be followed in a stream, whose rows are seen one after the other.
_NEED_ALL_ROWS = (
    "group",
    "split",
    "duplicates",
    "split_by",
    "validation_fraction",
    "test_fraction",
    "train_rows",
    "on_error",
)


@dataclass(kw_only=True)
class TrainConfig(_TrainConstructOptions, _TrainSplitOptions, DataConfig, TrainDataOptions, ModelOptions):
    """
    Everything that `train` and `proformer train` take besides `transformers.TrainingArguments`.

    Raises:
        ValueError: an option is outside its range, or two contradict each other.
    """

    groups: ClassVar[tuple[type, ...]] = (
        TrainDataOptions,
        ColumnOptions,
        _TrainConstructOptions,
        _TrainSplitOptions,
        ModelOptions,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.bins and self.expression_bins:
            raise ValueError("`bins` are the expression bins already; leave out `expression_bins`.")
        if self.classes:
            raise ValueError("`train` predicts measurements, not classes; leave out `classes`, or use `finetune`.")
        if self.rna and (self.streaming or self.validation_data is not None):
            name = "streaming" if self.streaming else "validation_data"
            raise ValueError(f"The barcodes of `rna` and `dna` are combined within one table; leave out `{name}`.")
        if self.streaming:
            self._check_stream()
        if self.dream_pairs and (self.validation_data is None or len(self.dream_pairs) != 3):
            raise ValueError("`dream_pairs` needs `validation_data` and three tables of pairs.")
        if self.dream_pairs and len(self.outputs) > 1:
            raise ValueError("`dream_pairs` is for a single output.")
        if not 1 <= self.kmer_stride <= self.kmer_size:
            raise ValueError(
                f"`kmer_stride` must be 1 to the `kmer_size` of {self.kmer_size}, got {self.kmer_stride}."
            )
        if self.mask_probability and self.kmer_stride != 1:
            raise ValueError("Masks need k-mers of every base; give `mask_probability` 0 or `kmer_stride` 1.")
        if self.muon and self.published_optimization:
            raise ValueError("`published_optimization` is Adam; leave out `muon`.")

    def _check_stream(self):
        if self.validation_data is None:
            raise ValueError("Nothing is held out of tables that are streamed; give `validation_data`.")
        if self.standard_error:
            raise ValueError("`streaming` cannot weight by `standard_error`, which needs all rows; give `weight`.")
        default = TrainConfig()
        for name in _NEED_ALL_ROWS:
            if getattr(self, name) != getattr(default, name):
                raise ValueError(f"`streaming` takes all rows as they are; leave out `{name}`.")


__all__ = ["FinetuneConfig", "FinetuneOptions", "TrainConfig", "require_known_options"]
