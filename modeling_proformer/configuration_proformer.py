"""Configuration of Proformer.

This file travels to the Hub with every checkpoint, so it imports only transformers and huggingface_hub.
"""

import math
from itertools import pairwise
from typing import Literal

from transformers.utils.versions import require_version


# Nothing else checks the requirements of remote code: without this line an older library fails on an import below.
require_version("transformers>=5.4.0", "Proformer needs transformers 5.4 or newer: pip install -U 'transformers>=5.4'")

from huggingface_hub.dataclasses import strict  # noqa: E402
from transformers import PreTrainedConfig  # noqa: E402
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME  # noqa: E402
from transformers.utils.type_validators import interval, probability  # noqa: E402


# Fields that belong to the outputs with which a checkpoint was saved, and not to others.
LABEL_FIELDS = ("label_mean", "label_std", "expression_bins", "label_transform", "interval_half_widths")

# Limits far above any model, so that a damaged or hostile config.json is refused before anything is computed.
MAX_LAYERS = 1_000
MAX_SIZE = 1_000_000
MAX_OUTPUTS = 100_000
MAX_ENTRIES = {
    **dict.fromkeys(("id2label", "label2id", "label_mean", "label_std"), MAX_OUTPUTS),
    "expression_bins": 10_000,
    "interval_half_widths": 1_000,
}

# Two constructs differ if one of these arguments of their tokenizers does.
CONSTRUCT_FIELDS = ("insert_width", "five_prime_flank", "three_prime_flank", "strands")

# Name of the pipeline that travels with a checkpoint, see `pipeline_proformer.py`.
EXPRESSION_PIPELINE = "promoter-expression"


@strict
class ProformerConfig(PreTrainedConfig):
    r"""
    Configuration of a Proformer model. The defaults are the model published by Kwak et al., *BMC Bioinformatics*
    2024 (doi 10.1186/s12859-024-05645-5), as its code computes it; `ProformerForPreTraining(ProformerConfig())` has
    exactly 47,425,543 parameters.

    Args:
        kmer_size (`int`, defaults to 10):
            Bases in one k-mer token, 1 to 22 (token ids of larger ones do not fit 64 bits).
        kmer_stride (`int`, defaults to 1):
            Bases from the start of one k-mer to the start of the next.
        alphabet_size (`int`, defaults to 6):
            6 embeds A C G T N M. 5 leaves out M (masked), which then contributes nothing to a k-mer.
        max_position_embeddings (`int`, defaults to 200):
            Largest number of k-mer tokens, over all strands. `model.resize_position_embeddings` changes it.
        num_expression_tokens (`int`, defaults to 32):
            Number of pseudo-expression positions before the k-mers; the prediction is their mean. With 0 it is the
            mean over the k-mers (the paper's ablation "pooling").
        hidden_size (`int`, defaults to 512):
            Width of the residual stream.
        num_hidden_layers (`int`, defaults to 4):
            Number of macaron blocks: half a feed-forward layer, separable convolution, attention, half a feed-forward
            layer.
        num_attention_heads (`int`, defaults to 8):
            Number of attention heads.
        head_dim (`int`, *optional*):
            Width of *each* head. By default it is `hidden_size`: in the published code every head has the full width,
            so 71 % of the parameters are in the attention.
        intermediate_size (`int`, *optional*):
            Width of the gated product in the feed-forward layers. By default it is `2 * hidden_size`, as published
            (a projection to `4 * hidden_size`, which is split in halves).
        conv_kernel_size (`int`, defaults to 15):
            Number of positions that the depthwise convolution covers.
        hidden_dropout (`float`, defaults to 0.0):
            Dropout inside the feed-forward layers and before the expression head. The published code sets 0.1 but
            never enables it during training, so the published behaviour is 0.
        layer_norm_eps (`float`, defaults to 1e-6):
            Epsilon of every layer normalisation. The published code uses 1e-6, not the default of Keras (1e-3) or
            torch (1e-5). It matters because the expression tokens start as zero vectors.
        label_mean (`list[float]`, *optional*):
            Mean of each output over the training rows, in the assay's units. With `label_std` it makes the model
            predict in those units while it is trained on standardised values. By default 0.
        label_std (`list[float]`, *optional*):
            Standard deviation of each output over the training rows. By default 1.
        expression_bins (`list[float]`, *optional*):
            Centres of expression bins, ascending and evenly spaced, in the assay's units (`list(range(18))` for
            18 sorting bins). With them each output scores the bins and predicts their mean under these scores. It is
            trained by cross-entropy against a normal distribution around the measurement (soft classification, as in
            LegNet, doi 10.1093/bioinformatics/btad457), or against the reads counted in each bin. They replace
            `label_mean` and `label_std`.
        label_transform (`str`, *optional*):
            `"log"` or `"log1p"`: the model is trained on the natural logarithm of the measurements, or of the
            measurements plus one, but predicts in the assay's units. `label_mean` and `label_std` are then those of
            the logarithms.
        interval_half_widths (`dict[str, list[float]]`, *optional*):
            Half the width of each output's prediction interval at some confidence levels, such as `{"0.9": [1.3]}`,
            computed on rows that the model was not trained on. It is in the assay's units, or in those of
            `label_transform`; see `modeling_proformer.intervals`.
        construct (`dict`, *optional*):
            The construct that the model was trained on: `insert_width`, `five_prime_flank`, `three_prime_flank` (""
            for none) and `strands` of its tokenizer. A tokenizer of another construct is then refused, and so is an
            input that has not a k-mer for each position. By default it is not known, and not compared.
        problem_type (`str`, defaults to `"regression"`):
            `"regression"`, `"single_label_classification"` or `"multi_label_classification"`. A regression of several
            outputs that is given integers as labels, one for each sequence, becomes a
            `"single_label_classification"`, as with the library's own models.
        pad_token_id (`int`, defaults to 0):
            Id of `[PAD]`, the k-mer that lies wholly outside a sequence.
        tie_word_embeddings (`bool`, defaults to `False`):
            Always `False`: k-mers go in and bases come out.

    `num_labels` (1 by default) is the number of outputs, `id2label` their names.

    Raises:
        StrictDataclassFieldValidationError: a field has a wrong type or is outside its range.
        StrictDataclassClassValidationError: fields contradict each other.
    """

    model_type = "proformer"
    keys_to_ignore_at_inference = ["position_logits", "nucleotide_logits", "hidden_states", "attentions"]

    kmer_size: int = interval(min=1, max=22)(default=10)
    kmer_stride: int = interval(min=1, max=MAX_SIZE)(default=1)
    alphabet_size: Literal[5, 6] = 6
    max_position_embeddings: int = interval(min=1, max=MAX_SIZE)(default=200)
    num_expression_tokens: int = 32
    hidden_size: int = interval(min=1, max=MAX_SIZE)(default=512)
    num_hidden_layers: int = interval(min=1, max=MAX_LAYERS)(default=4)
    num_attention_heads: int = interval(min=1, max=MAX_SIZE)(default=8)
    head_dim: int | None = None
    intermediate_size: int | None = None
    conv_kernel_size: int = interval(min=1, max=MAX_SIZE)(default=15)
    hidden_dropout: float | int = probability(default=0.0)
    layer_norm_eps: float = 1e-6
    label_mean: list[float | int] | None = None
    label_std: list[float | int] | None = None
    expression_bins: list[float | int] | None = None
    label_transform: Literal["log", "log1p"] | None = None
    interval_half_widths: dict[str, list[float | int]] | None = None
    construct: dict[str, int | str] | None = None
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] = "regression"
    pad_token_id: int = 0
    tie_word_embeddings: Literal[False] = False

    def __post_init__(self, **kwargs):
        if self.head_dim is None:
            self.head_dim = self.hidden_size
        if self.intermediate_size is None:
            self.intermediate_size = 2 * self.hidden_size
        if self.id2label is None and kwargs.get("num_labels") is None:
            kwargs["num_labels"] = 1
        if (kwargs.get("num_labels") or 0) > MAX_OUTPUTS:
            raise ValueError(f"`num_labels` is {kwargs['num_labels']:,}, but at most {MAX_OUTPUTS:,} are possible.")
        # Otherwise a saved model would name only its own class, and the folder would not open with the others.
        kwargs["auto_map"] = {
            "AutoConfig": "configuration_proformer.ProformerConfig",
            "AutoModel": "modeling_proformer.ProformerModel",
            "AutoModelForPreTraining": "modeling_proformer.ProformerForPreTraining",
            "AutoModelForSequenceClassification": "modeling_proformer.ProformerForSequenceClassification",
            "AutoModelForMaskedLM": "modeling_proformer.ProformerForMaskedLM",
        } | (kwargs.get("auto_map") or {})
        super().__post_init__(**kwargs)

    @property
    def vocab_size(self) -> int:
        """Number of k-mers over the alphabet - A C G T N M."""
        return 7**self.kmer_size

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        for name, limit in MAX_ENTRIES.items():
            value = config_dict.get(name)
            if isinstance(value, list | dict) and len(value) > limit:
                raise ValueError(f"`{name}` has {len(value):,} entries, but at most {limit:,} are possible.")
        # The label scale of a checkpoint does not belong to outputs other than those with which it was saved.
        names = config_dict.get("id2label") or {0: "LABEL_0"}
        outputs = kwargs.get("num_labels", len(kwargs.get("id2label") or names))
        if outputs != len(names) or kwargs.get("problem_type", "regression") != "regression":
            config_dict = {**config_dict, **dict.fromkeys(LABEL_FIELDS)}
        pipelines = dict(config_dict.get("custom_pipelines") or {})
        # If the pipeline is named here, the library asks for trust in the checkpoint's code, although the package has
        # registered the pipeline.
        if EXPRESSION_PIPELINE in pipelines and not cls.__module__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME):
            del pipelines[EXPRESSION_PIPELINE]
            config_dict = {**config_dict, "custom_pipelines": pipelines}
        return super().from_dict(config_dict, **kwargs)

    def to_diff_dict(self) -> dict:
        # Saving leaves out the library's default, which is two outputs; ours is one.
        return {**super().to_diff_dict(), "id2label": self.id2label, "label2id": self.label2id}

    def validate_sizes(self):
        # Not an `interval` of the field: in transformers 5.4 it ignores a limit of 0, and cannot exclude its limits.
        for name, least in (("head_dim", 1), ("intermediate_size", 1), ("num_expression_tokens", 0)):
            if not least <= getattr(self, name) <= MAX_SIZE:
                raise ValueError(
                    f"`{name}` must be at least {least} and at most {MAX_SIZE:,}, got {getattr(self, name)}."
                )
        if self.layer_norm_eps <= 0:
            raise ValueError(f"`layer_norm_eps` must be positive, got {self.layer_norm_eps}.")

    def validate_construct(self):
        if self.construct is not None and set(self.construct) != set(CONSTRUCT_FIELDS):
            raise ValueError(f"`construct` must have {', '.join(CONSTRUCT_FIELDS)}, got {', '.join(self.construct)}.")

    def validate_expression_bins(self):
        bins = self.expression_bins
        if bins is None:
            return
        if self.problem_type != "regression":
            raise ValueError(f"`expression_bins` is for regression, but `problem_type` is {self.problem_type!r}.")
        if any(value is not None for value in (self.label_mean, self.label_std, self.label_transform)):
            raise ValueError(
                "`expression_bins` have the assay's units: leave out `label_mean`, `label_std` and `label_transform`."
            )
        steps = [following - centre for centre, following in pairwise(bins)]
        if not steps or not min(steps) > 0 or max(steps) - min(steps) > 1e-6 * max(steps):
            raise ValueError(f"`expression_bins` must be two or more, ascending and evenly spaced, got {bins}.")

    def validate_label_scale(self):
        for name in ("label_mean", "label_std"):
            values = getattr(self, name)
            if values is None:
                continue
            if self.problem_type != "regression":
                raise ValueError(f"`{name}` is for regression, but `problem_type` is {self.problem_type!r}.")
            if len(values) != self.num_labels:
                raise ValueError(
                    f"`{name}` has {len(values)} values for {self.num_labels} outputs; give one for each, or None."
                )
            if not all(math.isfinite(value) for value in values):
                raise ValueError(f"`{name}` must be finite, got {values}.")
        if self.label_std is not None and min(self.label_std) <= 0:
            raise ValueError(f"`label_std` must be positive, got {self.label_std}.")
        if self.label_transform is not None and self.problem_type != "regression":
            raise ValueError(f"`label_transform` is for regression, but `problem_type` is {self.problem_type!r}.")

    def validate_intervals(self):
        for level, half_widths in (self.interval_half_widths or {}).items():
            try:
                possible = 0 < float(level) < 1
            except ValueError:
                possible = False
            if not possible:
                raise ValueError(f"`interval_half_widths` are for levels between 0 and 1, got {level!r}.")
            if self.problem_type != "regression":
                raise ValueError(
                    f"`interval_half_widths` are for regression, but `problem_type` is {self.problem_type!r}."
                )
            if len(half_widths) != self.num_labels or not min(half_widths) >= 0:
                raise ValueError(
                    f"`interval_half_widths` must be one positive number for each of {self.num_labels} outputs, got "
                    f"{half_widths} at {level}."
                )


__all__ = ["ProformerConfig"]
