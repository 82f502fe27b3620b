"""Proformer: a macaron transformer over k-mers of both DNA strands that predicts expression.

Kwak et al., *BMC Bioinformatics* 2024, doi 10.1186/s12859-024-05645-5. Where the paper and the published code
disagree, this file follows the code. It travels to the Hub with every checkpoint, so it imports only its
configuration, torch and transformers.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from shutil import copymode
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple, logging
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs


if __name__ == "modeling_proformer":
    # Python finds the copy of this file before the installed package of the same name.
    raise ImportError(
        f"{Path(__file__).parent} is the folder of a saved model, which hides the package modeling_proformer. Start "
        "Python in another folder, or open the model with AutoModel.from_pretrained(folder, trust_remote_code=True)."
    )

from .configuration_proformer import CONSTRUCT_FIELDS, EXPRESSION_PIPELINE, LABEL_FIELDS, ProformerConfig


if TYPE_CHECKING:
    # Never imported here. The library saves and fetches every file that is named in such a line together with this
    # one; by this, a saved model can be opened as a pipeline.
    from .intervals import prediction_interval  # noqa: F401
    from .pipeline_proformer import PromoterExpressionPipeline  # noqa: F401


logger = logging.get_logger(__name__)

# The label that the library ignores; its Trainer counts all others.
IGNORED = -100

# Functions from the assay's units to those in which a model is trained, and back, by `label_transform`.
TRANSFORMS = {None: lambda labels: labels, "log": torch.log, "log1p": torch.log1p}
INVERSE_TRANSFORMS = {None: lambda scores: scores, "log": torch.exp, "log1p": torch.expm1}


@dataclass
class ProformerExpressionOutput(ModelOutput):
    """
    Output of a model that predicts expression.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*):
            Mean squared error in units of `label_std` (regression) or cross-entropy (classification, bins).
        logits (`torch.FloatTensor` of shape `(batch, outputs)`):
            Expression in the assay's units (regression) or class scores.
        position_logits (`torch.FloatTensor` of shape `(batch, expression tokens, outputs)`):
            Prediction of each pseudo-expression position or, without such positions, of each k-mer; `logits` is
            their mean. With `label_transform` they are in units of the logarithm. With `expression_bins` they are
            scores of the bins, `(batch, expression tokens, outputs, bins)`.
        hidden_states (`tuple[torch.FloatTensor]`, *optional*):
            The input of the first block and the output of each.
        attentions (`tuple[torch.FloatTensor]`, *optional*):
            Attention weights of each block; only with `attn_implementation="eager"`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    position_logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class ProformerPreTrainingOutput(ProformerExpressionOutput):
    """
    Output of a model that predicts expression and masked bases. The other fields are those of
    `ProformerExpressionOutput`; `loss` is the sum of the expression loss and the nucleotide loss.

    Args:
        nucleotide_logits (`torch.FloatTensor` of shape `(batch, positions, bases)`):
            Scores of A C G T N (and M) for the base of each k-mer.
    """

    nucleotide_logits: torch.FloatTensor | None = None


def _check_in_graph(holds: torch.Tensor, message: str):
    """
    Check a condition without a graph break, and on a GPU without waiting for it.

    Args:
        holds: the condition, () of bool.
        message: what is wrong if it does not hold.

    Raises:
        ValueError: it does not hold. A compiled or exported model raises a RuntimeError, and so does a GPU, later.
    """
    if torch.compiler.is_compiling() or holds.is_cuda:
        torch._assert_async(holds, message)
    elif holds.device.type == "cpu" and not holds:
        raise ValueError(message)


class ProformerEmbeddings(nn.Module):
    """Embeds expression tokens, followed by k-mers with their positions and strands."""

    def __init__(self, config: ProformerConfig):
        super().__init__()
        self.config = config
        self.kmer_size = config.kmer_size
        self.alphabet_size = config.alphabet_size
        self.num_expression_tokens = config.num_expression_tokens
        self.kmer_projection = nn.Linear(config.kmer_size * config.alphabet_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.strand_embeddings = nn.Embedding(2, config.hidden_size)
        if config.num_expression_tokens > 0:
            # Every expression token is this layer applied to 0, which is its bias. The weight has no effect, but the
            # published model has it and counts it.
            self.expression_projection = nn.Linear(1, config.hidden_size)

    def one_hot_bases(self, input_ids: torch.Tensor) -> torch.Tensor:
        """
        Return the one-hot encoded bases of k-mer ids, (batch, positions) to (batch, positions, kmer_size *
        alphabet_size). A base outside the sequence (code 0) or the alphabet (M if `alphabet_size` is 5) is a zero
        vector.

        Raises:
            TypeError: the ids are not integers.
            ValueError: a number is not the id of a k-mer, see `_check_in_graph`.
        """
        if input_ids.is_floating_point() or input_ids.dtype == torch.bool:
            raise TypeError(f"`input_ids` must be integers, got {input_ids.dtype}, which cannot hold the ids exactly.")
        place_values = torch.tensor([7**power for power in reversed(range(self.kmer_size))], device=input_ids.device)
        codes = input_ids.unsqueeze(-1) // place_values
        # The first base of a k-mer is not below "-" or above M.
        _check_in_graph(
            ((codes[..., 0] >= 0) & (codes[..., 0] < 7)).all(),
            f"`input_ids` hold a number that is not the id of a {self.kmer_size}-mer: ids go from 0 to "
            f"{7**self.kmer_size - 1}. Use the tokenizer that was saved with the model.",
        )
        codes = codes % 7
        bases = torch.arange(1, self.alphabet_size + 1, device=input_ids.device)
        # Not the type of the projection's weight, which is an integer in a quantized model.
        return (codes.unsqueeze(-1) == bases).flatten(-2).to(self.position_embeddings.weight.dtype)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None) -> torch.Tensor:
        batch_size, length = input_ids.shape[:2]
        num_positions = len(self.position_embeddings.weight)
        # Without its construct, a model may have positions that were never trained.
        if length > num_positions or (length < num_positions and self.config.construct is not None):
            raise ValueError(
                f"The input has {length} k-mers, but the model has {num_positions} "
                "positions (`max_position_embeddings`). Use the tokenizer that was saved with this checkpoint, or "
                "resize the positions with `model.resize_position_embeddings`."
            )
        positions = torch.arange(length, device=input_ids.device)
        if token_type_ids is None:
            token_type_ids = (positions >= length // 2).long().expand(batch_size, length)
        kmers = self.kmer_projection(self.one_hot_bases(input_ids) if input_ids.dim() == 2 else input_ids)
        kmers = kmers + self.position_embeddings(positions) + self.strand_embeddings(token_type_ids)
        if self.num_expression_tokens == 0:
            return kmers
        expression_tokens = self.expression_projection(kmers.new_zeros(batch_size, self.num_expression_tokens, 1))
        return torch.cat([expression_tokens.to(kmers.dtype), kmers], dim=1)


class ProformerFeedForward(nn.Module):
    """
    Gated feed-forward layer (SwiGLU). Quirk: the first half of `dense_in` is the value and the second half the gate.
    """

    def __init__(self, config: ProformerConfig):
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dense_in = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.dense_out = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        value, gate = self.dense_in(self.layer_norm(hidden_states)).chunk(2, dim=-1)
        return self.dropout(self.dense_out(self.dropout(value * F.silu(gate))))


class DepthwiseConvolution(nn.Conv1d):
    """Convolves each channel of (batch, channels, positions) by itself."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if inputs.device.type != "cpu":
            return super().forward(inputs)
        # A transposed (batch, positions, channels) is an image with channels last. oneDNN convolves it as it is, over
        # ten times as fast as `conv1d`, which copies it first. In bfloat16, with AVX-512 and up to 16 channels, it
        # never ends, so it is computed in float32 at least.
        dtype = torch.promote_types(inputs.dtype, torch.float32)
        with torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext():
            image, weight = (each.unsqueeze(2).to(dtype) for each in (inputs, self.weight))
            return F.conv2d(image, weight, padding="same", groups=self.groups).squeeze(2).to(inputs.dtype)


class ProformerConvolution(nn.Module):
    """
    Separable convolution over expression tokens and k-mers alike, without a nonlinearity between its two halves.
    """

    def __init__(self, config: ProformerConfig):
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        # Torch pads an even kernel with one position less on the left, as Keras does.
        self.depthwise = DepthwiseConvolution(
            config.hidden_size,
            config.hidden_size,
            config.conv_kernel_size,
            padding="same",
            groups=config.hidden_size,
            bias=False,
        )
        self.pointwise = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor, padding_mask: torch.Tensor | None) -> torch.Tensor:
        hidden_states = self.layer_norm(hidden_states)
        if padding_mask is not None:
            hidden_states = hidden_states * padding_mask.unsqueeze(-1).to(hidden_states.dtype)
        hidden_states = self.depthwise(hidden_states.transpose(1, 2)).transpose(1, 2)
        return F.relu(self.pointwise(hidden_states))


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = F.dropout(F.softmax(weights, dim=-1), p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class ProformerAttention(nn.Module):
    """Multi-head attention with heads of any width; in the published model each head is as wide as the model."""

    def __init__(self, config: ProformerConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.head_dim = config.head_dim
        self.scaling = config.head_dim**-0.5
        self.is_causal = False
        width = config.num_attention_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width)
        self.k_proj = nn.Linear(config.hidden_size, width)
        self.v_proj = nn.Linear(config.hidden_size, width)
        self.o_proj = nn.Linear(width, config.hidden_size)
        # Keras stores these kernels in three dimensions and counts the first as a receptive field. Each projection
        # stores its own fans, because the library's initialisation visits only modules that have weights.
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            projection.fans = (config.hidden_size * config.num_attention_heads, config.hidden_size * config.head_dim)
        self.o_proj.fans = (width, config.num_attention_heads * config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        num_queries: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what the first `num_queries` positions, by default all, attend to, and with which weights."""
        head_shape = (hidden_states.shape[0], -1, self.num_heads, self.head_dim)
        query = self.q_proj(hidden_states[:, :num_queries]).view(head_shape).transpose(1, 2)
        key = self.k_proj(hidden_states).view(head_shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(head_shape).transpose(1, 2)

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended, weights = attention_interface(
            self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs
        )
        return self.o_proj(attended.flatten(2)), weights


class ProformerLayer(GradientCheckpointingLayer):
    """Macaron block: half a feed-forward layer, convolution, attention, half a feed-forward layer."""

    def __init__(self, config: ProformerConfig):
        super().__init__()
        self.feed_forward1 = ProformerFeedForward(config)
        self.convolution = ProformerConvolution(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = ProformerAttention(config)
        self.feed_forward2 = ProformerFeedForward(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
        num_outputs: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """Return the first `num_outputs` positions, by default all; each depends on every position of the input."""
        hidden_states = torch.add(hidden_states, self.feed_forward1(hidden_states), alpha=0.5)
        hidden_states = hidden_states + self.convolution(hidden_states, padding_mask)
        # Quirk: the normalised tensor replaces the residual stream.
        hidden_states = self.layer_norm(hidden_states)
        attended, _ = self.self_attn(hidden_states, attention_mask, num_outputs, **kwargs)
        hidden_states = hidden_states[:, :num_outputs] + attended
        return torch.add(hidden_states, self.feed_forward2(hidden_states), alpha=0.5)


class ProformerExpressionHead(nn.Module):
    """
    Predicts expression at each pseudo-expression position, or at each k-mer if there are no such positions, and
    averages over positions.
    """

    def __init__(self, config: ProformerConfig):
        super().__init__()
        # The number of outputs may have changed since the configuration was made.
        config.validate_label_scale()
        self.config = config
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.dense = nn.Linear(config.hidden_size, config.num_labels * len(config.expression_bins or [None]))

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Return the scores of each sequence and of each of its positions.

        Args:
            hidden_states: (batch, expression tokens + k-mers, hidden).
            attention_mask: (batch, k-mers), 0 for `[PAD]`, which the mean leaves out.

        Returns:
            scores (batch, outputs) in the assay's units, after `label_transform` if there is one, and the scores of
            each position (batch, positions, outputs). With `expression_bins` both have one more dimension.
        """
        if self.config.num_expression_tokens > 0:
            hidden_states, attention_mask = hidden_states[:, : self.config.num_expression_tokens], None
        # In float32 whatever the model's dtype: bfloat16 would round an expression of 10 to steps of 0.06.
        scores = self.dense(self.dropout(hidden_states)).float()
        if self.config.expression_bins is not None:
            scores = scores.unflatten(-1, (self.config.num_labels, len(self.config.expression_bins)))
        if self.config.label_std is not None:
            scores = scores * scores.new_tensor(self.config.label_std)
        if self.config.label_mean is not None:
            scores = scores + scores.new_tensor(self.config.label_mean)
        if attention_mask is None:
            return scores.mean(dim=1), scores
        weights = attention_mask.reshape(attention_mask.shape + (1,) * (scores.dim() - 2)).to(scores.dtype)
        return (scores * weights).sum(dim=1) / weights.sum(dim=1), scores

    def expression(self, scores: torch.Tensor) -> torch.Tensor:
        """Return predictions (batch, outputs) in the assay's units; of bins, the mean under their scores."""
        if self.config.expression_bins is not None:
            # Not a matrix product, which autocast would compute in lower precision.
            return (scores.softmax(dim=-1) * scores.new_tensor(self.config.expression_bins)).sum(dim=-1)
        return INVERSE_TRANSFORMS[self.config.label_transform](scores)


def expression_loss(
    scores: torch.Tensor,
    labels: torch.Tensor,
    config: ProformerConfig,
    sample_weights: torch.Tensor | None = None,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """
    Return the loss of predictions against measurements, for every `problem_type`. Missing labels, NaN or -100, are
    left out. Without any label there is no mean, and the loss is NaN; where it has a gradient, it is 0, so that it
    does not spoil the weights. Labels that are class numbers change the `problem_type`, see `infer_classification`.

    Args:
        scores: (batch, outputs), or (batch, outputs, bins) with `expression_bins`.
        labels: (batch, outputs), or (batch,) for one output or for class numbers. With `expression_bins` they may
            also be the reads counted in each bin, (batch, bins) or (batch, outputs, bins); only their shares matter.
        config: gives `problem_type` and, for regression, `label_transform` and the `label_std` that makes errors
            comparable between outputs.
        sample_weights: (batch,) weight of each sequence. Weights should be 1 on average over all training rows,
            because the loss is divided by the number of labels and not by the sum of weights.
        num_items_in_batch: number of labels in the whole step, over all its micro-batches and processes. The Trainer
            counts every label but -100, and does not average over micro-batches and processes itself: without this
            divisor the gradient would be too large by their number. It counts NaN too, so it is corrected by the share
            of this batch's labels that are there. With several micro-batches, that is exact where missing labels are
            -100, which is what `ProformerCollator` writes; otherwise it is a mean over the micro-batches' means.

    Raises:
        ValueError: the shape of `labels` or `sample_weights` does not fit.
    """
    scores = scores.float()
    infer_classification(config, labels, len(scores))
    classes = config.problem_type == "single_label_classification"
    counted = config.expression_bins is not None and labels.numel() == scores.numel()
    shape = scores.shape if counted else scores.shape[:1] if classes else scores.shape[:2]
    if labels.numel() != shape.numel():
        raise ValueError(f"Labels of shape {tuple(labels.shape)} for predictions of shape {tuple(scores.shape)}.")
    labels = labels.to(scores.device).reshape(shape)
    present = ~labels.isnan() & (labels != IGNORED)
    num_labels = (labels != IGNORED).sum()
    labels = torch.where(present, labels, 0)
    if classes:
        losses = F.cross_entropy(scores, labels.long(), reduction="none")
    elif config.problem_type == "multi_label_classification":
        losses = F.binary_cross_entropy_with_logits(scores, labels.float(), reduction="none")
    elif config.expression_bins is not None:
        if counted:
            shares = labels.float() / labels.sum(dim=-1, keepdim=True)
            present = present.all(dim=-1) & (labels.sum(dim=-1) > 0)
            num_labels = num_labels / len(config.expression_bins)
            if num_items_in_batch is not None:
                num_items_in_batch = num_items_in_batch / len(config.expression_bins)
        else:
            shares = bin_probabilities(labels.float(), config.expression_bins)
        losses = -(shares * scores.log_softmax(dim=-1)).sum(dim=-1)
    else:
        scale = 1.0 if config.label_std is None else scores.new_tensor(config.label_std)
        transform = TRANSFORMS[config.label_transform]
        losses = ((scores - torch.where(present, transform(labels.float()), 0)) / scale) ** 2
    if sample_weights is not None:
        if sample_weights.shape != scores.shape[:1]:
            raise ValueError(f"Weights of shape {tuple(sample_weights.shape)} for {len(scores)} sequences.")
        losses = losses * sample_weights.to(losses).reshape(-1, *[1] * (losses.dim() - 1))
    divisor = present.sum()
    if num_items_in_batch is not None:
        # The share is exactly 1 where no label is NaN.
        divisor = num_items_in_batch * (1 - (num_labels - divisor) / num_labels.clamp(min=1))
    if scores.requires_grad:
        divisor = torch.where(present.any(), divisor, 1)
    return torch.where(present, losses, 0.0).sum() / divisor


def infer_classification(config: ProformerConfig, labels: torch.Tensor, sequences: int):
    """
    Set the `problem_type` to "single_label_classification" if the labels are class numbers: one integer for each
    sequence, although there are several outputs. A regression would have a label for each output.

    Args:
        config: is changed, unless it has a scale, bins or intervals of measurements.
        labels: labels of the batch.
        sequences: number of sequences in the batch.
    """
    if (
        config.problem_type == "regression"
        and config.num_labels > 1
        and labels.numel() == sequences
        and not labels.is_floating_point()
        and all(getattr(config, name) is None for name in LABEL_FIELDS)
    ):
        config.problem_type = "single_label_classification"


def bin_probabilities(labels: torch.Tensor, bins: list[float]) -> torch.Tensor:
    """
    Return soft labels (…, bins): the share of a normal distribution around each measurement that falls into each bin.
    Its standard deviation is half a bin, as in LegNet's training; the outermost bins include the tails.
    """
    centres = labels.new_tensor(bins)
    edges = (centres[1:] + centres[:-1]) / 2
    below = torch.special.ndtr((edges - labels.unsqueeze(-1)) / (0.5 * (centres[1] - centres[0])))
    return F.pad(below, (0, 1), value=1.0) - F.pad(below, (1, 0), value=0.0)


def masked_nucleotide_loss(
    logits: torch.Tensor, targets: torch.Tensor, num_masked_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """
    Return the cross-entropy over masked bases, divided by their number plus one, as published. A batch without masked
    bases gives 0.

    Args:
        logits: (batch, positions, bases).
        targets: (batch, positions), 0 to 5 for A C G T N M, -100 where nothing was masked.
        num_masked_in_batch: number of masked bases in the whole step, over all its micro-batches and processes.
    """
    summed = F.cross_entropy(
        logits.flatten(0, 1).float(), targets.to(logits.device).flatten(), ignore_index=IGNORED, reduction="sum"
    )
    if num_masked_in_batch is None:
        num_masked_in_batch = (targets != IGNORED).sum()
    return summed / (num_masked_in_batch + 1)


def unwrap_expression_model(model: nn.Module) -> PreTrainedModel:
    """
    Return the model that predicts expression, without a wrapper such as `DistributedDataParallel`, `DataParallel` or
    `AveragedModel`.

    Raises:
        TypeError: the model does not predict expression.
    """
    while not hasattr(model, "expression_head") and isinstance(getattr(model, "module", None), nn.Module):
        model = model.module
    if not hasattr(model, "expression_head"):
        raise TypeError(
            f"{type(model).__name__} does not predict expression: load it as a ProformerForSequenceClassification."
        )
    return model


def construct_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | str]:
    """Return the construct of a tokenizer as `ProformerConfig.construct` has it."""
    values = {name: getattr(tokenizer, name) or "" for name in CONSTRUCT_FIELDS}
    flanks = ("five_prime_flank", "three_prime_flank")
    return values | {name: values[name].upper().replace("U", "T") for name in flanks}


def require_same_kmers(config: ProformerConfig, tokenizer: PreTrainedTokenizerBase):
    """
    Check that a model can read the k-mers of a tokenizer and was trained on its construct, and warn if it was made for
    more k-mers.

    Raises:
        ValueError: the tokenizer makes other k-mers, or more than the model has positions; or the model knows its
            construct, and the tokenizer has another.
    """
    if not hasattr(tokenizer, "kmer_size"):
        raise ValueError(
            f"{type(tokenizer).__name__} makes no k-mers; use the tokenizer that was saved with the model."
        )
    found, expected = ((made.kmer_size, made.kmer_stride) for made in (tokenizer, config))
    tokens, positions = tokenizer.num_tokens, config.max_position_embeddings
    if found != expected or tokens > positions:
        raise ValueError(
            f"The tokenizer makes {tokens} k-mers of {found[0]} bases with a stride of {found[1]}, but the model "
            f"reads at most {positions} of {expected[0]} bases with a stride of {expected[1]}. Use the tokenizer that "
            "was saved with the model."
        )
    # An earlier configuration has no such field.
    trained_on, construct = getattr(config, "construct", None), construct_of(tokenizer)
    if trained_on is not None and construct != trained_on:
        differing = [name for name in CONSTRUCT_FIELDS if construct[name] != trained_on[name]]
        others = " and the ".join(f"{name} {construct[name]!r}" for name in differing)
        own = " and ".join(repr(trained_on[name]) for name in differing)
        raise ValueError(
            f"The tokenizer has the {others}, but the model was trained with {own}. Use the tokenizer that was saved "
            "with the model. If the model was trained with this one, set `model.config.construct = None`."
        )
    if tokens < positions:
        logger.warning_once(
            f"The tokenizer makes {tokens} k-mers, but the model has {positions} positions. Predictions are wrong "
            f"unless the model was trained with this tokenizer; then `model.resize_position_embeddings({tokens}, "
            f"{tokens})` drops the other positions."
        )


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode within the context; afterwards, each submodule has its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def predict_from_logits(logits: torch.Tensor, config: ProformerConfig) -> torch.Tensor:
    """
    Return predictions (batch, outputs): the logits themselves for regression, probabilities for classification.
    """
    if config.problem_type == "multi_label_classification":
        return logits.sigmoid()
    if config.problem_type == "single_label_classification":
        return logits.softmax(dim=-1)
    return logits


def _init_glorot_uniform(weight: torch.Tensor, fan_in: int, fan_out: int):
    limit = math.sqrt(6 / (fan_in + fan_out))
    init.uniform_(weight, -limit, limit)


class ProformerPreTrainedModel(PreTrainedModel):
    """Base of every Proformer class: loading, saving, initialisation and position embeddings."""

    config: ProformerConfig
    config_class = ProformerConfig
    base_model_prefix = "proformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ProformerEmbeddings", "ProformerLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": ProformerLayer, "attentions": ProformerAttention}

    def __init__(self, config: ProformerConfig, *args, **kwargs):
        # `save_pretrained` adds this field; it is a property of the folder, not of the model.
        config.__dict__.pop("custom_pipelines", None)
        super().__init__(config, *args, **kwargs)

    def save_pretrained(self, save_directory: str | PathLike, **kwargs):
        """
        Save the model, with the code of its classes and of the pipeline `promoter-expression`.

        `pipeline("promoter-expression", model=save_directory, trust_remote_code=True)` opens the folder without this
        package, if the tokenizer is saved there too. The weights get the permissions of `config.json`.

        Args:
            save_directory: folder, made if it does not exist.
            kwargs: arguments of `PreTrainedModel.save_pretrained`.
        """
        if hasattr(self, "expression_head"):
            self.config.custom_pipelines = {
                EXPRESSION_PIPELINE: {
                    "impl": "pipeline_proformer.PromoterExpressionPipeline",
                    "pt": ["AutoModelForSequenceClassification"],
                }
            }
        try:
            super().save_pretrained(save_directory, **kwargs)
        finally:
            self.config.__dict__.pop("custom_pipelines", None)
        # safetensors lets only the owner read a file, but folders of models are shared.
        settings = Path(save_directory, "config.json")
        for weights in Path(save_directory).glob("model*.safetensors") if settings.exists() else ():
            with suppress(PermissionError):
                copymode(settings, weights)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """
        Initialise with Keras' defaults, as published: Glorot-uniform kernels with Keras' fans, zero biases, small
        embeddings.
        """
        if isinstance(module, nn.Linear):
            _init_glorot_uniform(module.weight, *getattr(module, "fans", (module.in_features, module.out_features)))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.uniform_(module.weight, -0.05, 0.05)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d):  # depthwise
            _init_glorot_uniform(module.weight, module.kernel_size[0] * module.in_channels, module.kernel_size[0])

    def train(self, mode: bool = True):
        """
        Set training or evaluation mode, as torch does. Training mode removes the prediction intervals from the
        configuration, because they hold for the weights before training.
        """
        if mode and self.config.interval_half_widths is not None:
            self.config.interval_half_widths = None
            logger.warning(
                "The model goes into training, so its prediction intervals no longer hold: it has none now."
            )
        return super().train(mode)

    def get_position_embeddings(self) -> nn.Embedding:
        """Return the embeddings of the positions, those of the forward strand first."""
        return self.base_model.embeddings.position_embeddings

    @torch.no_grad()
    def resize_position_embeddings(
        self,
        new_num_position_embeddings: int,
        num_position_embeddings: int | None = None,
        num_strands: int = 2,
        new_num_strands: int | None = None,
    ):
        """
        Resize the position embeddings in place, for constructs of another length. The positions of each strand are
        interpolated linearly, so what the model has learned about the ends and the middle of an insert stays there.
        The configuration's `max_position_embeddings` changes too, and its `construct` is no longer known. Make a new
        optimizer afterwards.

        Args:
            new_num_position_embeddings: number of positions to make, over all strands; the `num_tokens` of the new
                tokenizer.
            num_position_embeddings: number of positions to use, over all strands; the `num_tokens` of the old
                tokenizer. Further positions of the model have never been trained and are dropped. By default all.
            num_strands: number of strands that the model reads now; the `num_strands` of the old tokenizer.
            new_num_strands: number of strands that it will read; the `num_strands` of the new tokenizer. 1 keeps only
                the forward strand. By default `num_strands`.

        Raises:
            ValueError: the model has fewer positions or strands than asked for, or strands would differ in length.
        """
        embeddings = self.get_position_embeddings()
        if num_position_embeddings is None:
            num_position_embeddings = embeddings.num_embeddings
        if new_num_strands is None:
            new_num_strands = num_strands
        if num_position_embeddings > embeddings.num_embeddings:
            raise ValueError(
                f"`num_position_embeddings` is {num_position_embeddings}, but the model has only "
                f"{embeddings.num_embeddings} positions."
            )
        if not 1 <= new_num_strands <= num_strands:
            raise ValueError(
                f"`new_num_strands` is {new_num_strands}, but must be 1 to {num_strands}: there are no embeddings to "
                "make those of another strand from."
            )
        for name, positions, strands in (
            ("num_position_embeddings", num_position_embeddings, num_strands),
            ("new_num_position_embeddings", new_num_position_embeddings, new_num_strands),
        ):
            if positions < strands or positions % strands:
                raise ValueError(f"`{name}` must be a positive multiple of the {strands} strands, got {positions}.")

        weight = embeddings.weight
        # (strands, hidden, positions), in at least float32.
        resized = weight[:num_position_embeddings].to(torch.promote_types(weight.dtype, torch.float32))
        resized = resized.unflatten(0, (num_strands, -1))[:new_num_strands].transpose(1, 2)
        resized = F.interpolate(resized, size=new_num_position_embeddings // new_num_strands, mode="linear")
        resized = resized.transpose(1, 2).flatten(0, 1).to(weight.dtype).contiguous()
        embeddings.weight = nn.Parameter(resized, requires_grad=weight.requires_grad)
        embeddings.num_embeddings = new_num_position_embeddings
        self.config.max_position_embeddings = new_num_position_embeddings
        self.config.construct = None


class ProformerModel(ProformerPreTrainedModel):
    """Encoder alone: takes k-mers and returns one vector for each expression token and k-mer."""

    _keys_to_ignore_on_load_unexpected = [r"^expression_head\.", r"^nucleotide_head\."]

    def __init__(self, config: ProformerConfig):
        super().__init__(config)
        self.embeddings = ProformerEmbeddings(config)
        self.layers = nn.ModuleList([ProformerLayer(config) for _ in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.kmer_projection

    def set_input_embeddings(self, value: nn.Module):
        self.embeddings.kmer_projection = value

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        expression_tokens_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        r"""
        Return the hidden states of expression tokens and k-mers.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, positions)`):
                k-mer ids, from `ProformerTokenizer`; or the one-hot bases of each k-mer, `(batch, positions,
                kmer_size * alphabet_size)`, which have gradients.
            token_type_ids (`torch.LongTensor` of shape `(batch, positions)`, *optional*):
                Strand of each k-mer: 0 forward, 1 reverse. By default the first half of the positions is forward.
            attention_mask (`torch.Tensor` of shape `(batch, positions)`, *optional*):
                0 for `[PAD]` positions, which then have no effect on the others. The N that fill a construct are not
                padding: as published, they are ordinary bases that the model attends to.
            expression_tokens_only (`bool`, defaults to `False`):
                Leave out in the last block what only serves the k-mers. `last_hidden_state` has the expression tokens
                alone, and so have the last of `hidden_states` and the queries of the last `attentions`.

        Returns:
            `BaseModelOutput`: `last_hidden_state` of shape `(batch, expression tokens + positions, hidden)`, the
            expression tokens first. As published, there is no final normalisation.

        Raises:
            TypeError: the ids are not integers.
            ValueError: there are more k-mers than `max_position_embeddings`; there are fewer, and the configuration
                has the `construct`; or a number is not the id of a k-mer. Of such a number, a compiled model and a GPU
                report a RuntimeError.
        """
        hidden_states = self.embeddings(input_ids, token_type_ids)
        padding_mask = None
        if attention_mask is not None:
            padding_mask = F.pad(attention_mask, (self.config.num_expression_tokens, 0), value=1)
        attention_mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=padding_mask
        )
        *layers, last_layer = self.layers
        for layer in layers:
            hidden_states = layer(hidden_states, attention_mask, padding_mask, **kwargs)
        num_outputs = self.config.num_expression_tokens if expression_tokens_only else None
        if attention_mask is not None and num_outputs is not None:
            attention_mask = attention_mask[:, :, :num_outputs]
        hidden_states = last_layer(hidden_states, attention_mask, padding_mask, num_outputs, **kwargs)
        return BaseModelOutput(last_hidden_state=hidden_states)


class ProformerForSequenceClassification(ProformerPreTrainedModel):
    """
    Predicts the expression of a sequence; this is the everyday class. It is a regression unless `problem_type` says
    otherwise; the name is the one that the library's Auto classes and pipelines look for.
    """

    _keys_to_ignore_on_load_unexpected = [r"^nucleotide_head\."]

    def __init__(self, config: ProformerConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.proformer = ProformerModel(config)
        self.expression_head = ProformerExpressionHead(config)
        self.post_init()

    @property
    def peft_config(self) -> dict:
        """Return the configurations of PEFT's adapters by their names; a model without adapters has no such field."""
        if "peft_config" not in self.__dict__:
            raise AttributeError("This model has no adapters of PEFT.")
        return self.__dict__["peft_config"]

    @peft_config.setter
    def peft_config(self, configs: dict):
        # PEFT sets this before it looks for the head of a sequence classifier, which it then trains and saves. It only
        # knows the names `classifier` and `score`: without ours, a new head would be lost without a word.
        for config in configs.values():
            modules = getattr(config, "modules_to_save", None)
            if modules is not None and {"classifier", "score"} <= set(modules) and "expression_head" not in modules:
                modules.append("expression_head")
        self.__dict__["peft_config"] = configs

    @peft_config.deleter
    def peft_config(self):
        del self.__dict__["peft_config"]

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        sample_weights: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ProformerExpressionOutput:
        r"""
        Return the predicted expression and, with `labels`, the loss.

        `input_ids`, `token_type_ids` and `attention_mask` are those of `ProformerModel.forward`.

        Args:
            labels (`torch.Tensor` of shape `(batch, outputs)` or `(batch,)`, *optional*):
                Measurements in the assay's units, NaN or -100 where missing; or classes.
            sample_weights (`torch.Tensor` of shape `(batch,)`, *optional*):
                Weight of each sequence; see `expression_loss`.
            num_items_in_batch (`int`, *optional*):
                See `expression_loss`; the Trainer passes it.
        """
        # Who asks for what the blocks compute gets it for all positions.
        recorded = any(
            kwargs.get(name, getattr(self.config, name)) for name in ("output_hidden_states", "output_attentions")
        )
        outputs = self.proformer(
            input_ids,
            token_type_ids,
            attention_mask,
            expression_tokens_only=self.config.num_expression_tokens > 0 and not recorded,
            **(kwargs | {"return_dict": True}),
        )
        scores, position_logits = self.expression_head(outputs.last_hidden_state, attention_mask)
        loss = None
        if labels is not None:
            loss = expression_loss(scores, labels, self.config, sample_weights, num_items_in_batch)
        return ProformerExpressionOutput(
            loss=loss,
            logits=self.expression_head.expression(scores),
            position_logits=position_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class ProformerForPreTraining(ProformerPreTrainedModel):
    """Predicts expression together with the bases under the masks, which is the published objective."""

    def __init__(self, config: ProformerConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.proformer = ProformerModel(config)
        self.expression_head = ProformerExpressionHead(config)
        self.nucleotide_head = nn.Linear(config.hidden_size, config.alphabet_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        masked_nucleotides: torch.Tensor | None = None,
        sample_weights: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        num_masked_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ProformerPreTrainingOutput:
        r"""
        Return the predicted expression, the scores of masked bases and, with labels, the loss.

        `input_ids`, `token_type_ids` and `attention_mask` are those of `ProformerModel.forward`.

        Args:
            labels (`torch.Tensor` of shape `(batch, outputs)` or `(batch,)`, *optional*):
                Measurements in the assay's units, NaN or -100 where missing.
            masked_nucleotides (`torch.LongTensor` of shape `(batch, positions)`, *optional*):
                Base under each mask, 0 to 4 for A C G T N; -100 where nothing was masked.
            sample_weights (`torch.Tensor` of shape `(batch,)`, *optional*):
                Weight of each sequence; see `expression_loss`.
            num_items_in_batch (`int`, *optional*):
                See `expression_loss`; the Trainer passes it.
            num_masked_in_batch (`int`, *optional*):
                Number of masked bases in the whole step, over all its micro-batches and processes; `ProformerTrainer`
                passes it. Without it, in a step of several batches, each batch counts by its share of the labels,
                which is right on average, and exact if all batches have the same number of masked bases.
        """
        outputs = self.proformer(input_ids, token_type_ids, attention_mask, **(kwargs | {"return_dict": True}))
        scores, position_logits = self.expression_head(outputs.last_hidden_state, attention_mask)
        nucleotide_logits = self.nucleotide_head(outputs.last_hidden_state[:, self.config.num_expression_tokens :])

        losses = []
        if labels is not None:
            losses.append(expression_loss(scores, labels, self.config, sample_weights, num_items_in_batch))
        if masked_nucleotides is not None:
            nucleotide_loss = masked_nucleotide_loss(nucleotide_logits, masked_nucleotides, num_masked_in_batch)
            if num_masked_in_batch is None and num_items_in_batch is not None and labels is not None:
                nucleotide_loss = nucleotide_loss * (labels != IGNORED).sum() / num_items_in_batch
            losses.append(nucleotide_loss)
        return ProformerPreTrainingOutput(
            loss=sum(losses) if losses else None,
            logits=self.expression_head.expression(scores),
            position_logits=position_logits,
            nucleotide_logits=nucleotide_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class ProformerForMaskedLM(ProformerPreTrainedModel):
    """Predicts masked bases alone, for sequences without measurements."""

    _keys_to_ignore_on_load_unexpected = [r"^expression_head\."]

    def __init__(self, config: ProformerConfig):
        super().__init__(config)
        self.proformer = ProformerModel(config)
        self.nucleotide_head = nn.Linear(config.hidden_size, config.alphabet_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        r"""
        Return the scores of masked bases and, with `labels`, the loss.

        `input_ids`, `token_type_ids` and `attention_mask` are those of `ProformerModel.forward`.

        Args:
            labels (`torch.LongTensor` of shape `(batch, positions)`, *optional*):
                Base under each mask, 0 to 4 for A C G T N; -100 where nothing was masked.
            num_items_in_batch (`int`, *optional*):
                Number of masked bases in the whole step, over all its micro-batches and processes; the Trainer passes
                it.
        """
        outputs = self.proformer(input_ids, token_type_ids, attention_mask, **(kwargs | {"return_dict": True}))
        logits = self.nucleotide_head(outputs.last_hidden_state[:, self.config.num_expression_tokens :])
        loss = None
        if labels is not None:
            loss = masked_nucleotide_loss(logits, labels, num_items_in_batch)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


__all__ = [
    "ProformerForMaskedLM",
    "ProformerForPreTraining",
    "ProformerForSequenceClassification",
    "ProformerModel",
    "ProformerPreTrainedModel",
]
