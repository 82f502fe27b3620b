"""The model on one-hot sequences, which attribution and design libraries read."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from .modeling_proformer import (
    evaluation_mode,
    predict_from_logits,
    require_same_kmers,
    unwrap_expression_model,
)
from .tokenization import ProformerTokenizer
from .tokenization.tokenization_proformer import COMPLEMENT, NUCLEOTIDE_N


class OneHotModel(nn.Module):
    """
    A Proformer that reads one-hot inserts; `as_one_hot` makes it. It shares its weights with the model.

    Attributes:
        model: the Proformer.
        tokenizer: its tokenizer, whose construct the inserts fill.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: ProformerTokenizer):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        # Tools put a module back into the mode in which they found it, and with it the model.
        self.training = model.training

    def forward(self, one_hot: torch.Tensor) -> torch.Tensor:
        """
        Return what `predict` does, (batch, outputs), with gradients.

        Args:
            one_hot: (batch, 4, bases of an insert) for A C G T, as `one_hot_inserts` returns it. Inserts that are
                shorter than the construct's lie where the tokenizer puts them. A position of zeros is N; values
                between 0 and 1 are mixtures, and what is missing to a sum of 1 is N.

        Raises:
            ValueError: the input has another shape, or is longer than the construct's insert.
        """
        tokenizer = self.tokenizer
        if one_hot.dim() != 3 or one_hot.shape[1] != 4 or not 1 <= one_hot.shape[2] <= tokenizer.insert_width:
            raise ValueError(
                f"The input must be (batch, 4, bases), with at most the construct's {tokenizer.insert_width} bases, "
                f"but is {tuple(one_hot.shape)}."
            )
        before = int(tokenizer.insert_starts(np.array(one_hot.shape[2])))
        one_hot = F.pad(one_hot, (before, tokenizer.insert_width - before - one_hot.shape[2]))
        bases = torch.cat([one_hot, 1 - one_hot.sum(dim=1, keepdim=True)], dim=1)
        if tokenizer.num_strands == 2:
            complement = torch.as_tensor(COMPLEMENT[1 : NUCLEOTIDE_N + 1].astype("int64") - 1, device=bases.device)
            bases = torch.cat([bases, bases[:, complement].flip(2)], dim=2)
        # The masked base M, if the model knows it, is nowhere.
        config = self.model.config
        bases = F.pad(bases, (0, 0, 0, config.alphabet_size - bases.shape[1]))
        padding = max(tokenizer.kmer_size - tokenizer.kmer_stride, 0)
        bases = F.pad(bases, (padding // 2, padding - padding // 2))
        # (batch, bases, k-mers, positions in the k-mer) to (batch, k-mers, positions and bases).
        kmers = bases.unfold(2, tokenizer.kmer_size, tokenizer.kmer_stride).permute(0, 2, 3, 1).flatten(2)
        kmers = kmers[:, : tokenizer.num_tokens]
        strands = torch.from_numpy(tokenizer.token_type_ids(len(kmers))).to(kmers.device)
        with evaluation_mode(self.model):
            logits = self.model(kmers.to(self.model.dtype), token_type_ids=strands, return_dict=True).logits
        return predict_from_logits(logits, config)


def as_one_hot(model: PreTrainedModel, tokenizer: ProformerTokenizer) -> OneHotModel:
    """
    Return the model as a module from one-hot inserts, (batch, 4, bases), to predictions, (batch, outputs).

    It is differentiable and predicts the same as `predict`, so libraries that read one-hot sequences can use it:
    tangermeme, captum, ledidi. It predicts in evaluation mode, whatever mode the model is in.

    Args:
        model: a `ProformerForSequenceClassification` or `ProformerForPreTraining`.
        tokenizer: the tokenizer that was saved with the model.

    Raises:
        TypeError: the model does not predict expression.
        ValueError: the model cannot read the tokenizer's k-mers.
    """
    model = unwrap_expression_model(model)
    require_same_kmers(model.config, tokenizer)
    return OneHotModel(model, tokenizer)


def one_hot_inserts(
    tokenizer: ProformerTokenizer, sequences: Sequence[str], *, truncation: bool = False
) -> torch.Tensor:
    """
    Return the inserts of sequences as `as_one_hot` reads them, (sequences, 4, bases of the longest insert) of float32
    for A C G T.

    Shorter inserts lie where the tokenizer puts them in a construct; N and positions outside of an insert are zeros.

    Args:
        tokenizer: gives the construct.
        sequences: inserts or whole constructs.
        truncation: cut inserts that are longer than the construct.

    Raises:
        InvalidSequenceError: a sequence cannot be tokenized.
    """
    codes = tokenizer.encode_letters(sequences, truncation=truncation)
    longest = min(int(tokenizer.insert_lengths(sequences).max(initial=1)), tokenizer.insert_width)
    first = int(tokenizer.insert_starts(np.array(longest)))
    bases = torch.from_numpy(codes[:, first : first + longest])
    return (bases[:, None] == torch.arange(1, 5)[:, None]).float()


__all__ = ["OneHotModel", "as_one_hot", "one_hot_inserts"]
