"""The pipeline `promoter-expression`: it takes DNA and returns the expression of each output by its name.

This file travels to the Hub with a checkpoint, so it imports only numpy, torch, transformers and other such files.
"""

from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import islice
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import BatchEncoding, Pipeline, PreTrainedModel, PreTrainedTokenizer

# All three are named here, although one imports the others: transformers 5.4 fetches only what is named.
from .configuration_proformer import EXPRESSION_PIPELINE
from .intervals import prediction_interval
from .modeling_proformer import (
    evaluation_mode,
    predict_from_logits,
    require_same_kmers,
    unwrap_expression_model,
)


class PromoterExpressionPipeline(Pipeline):
    """
    Predicts the expression of DNA sequences, in the assay's units; a classifier predicts probabilities of its classes.

    Args:
        model: a `ProformerForSequenceClassification` or `ProformerForPreTraining`, also in a wrapper such as
            `DistributedDataParallel`. It predicts in evaluation mode, whatever mode it is in.
        tokenizer: the tokenizer that was saved with the model.
        batch_size: number of sequences computed at a time.
        kwargs: `truncation` and `level`, see `__call__`; `device` and other arguments of `transformers.Pipeline`,
            which moves the model to its device.

    Raises:
        TypeError: the model does not predict expression.
        ValueError: the model cannot read the tokenizer's k-mers, or has no prediction intervals for this level.

    Example:

    >>> from transformers import pipeline

    >>> import modeling_proformer
    >>> pipe = pipeline("promoter-expression", model=modeling_proformer.checkpoint_path(), device="cpu")
    >>> round(pipe("TGACTCA" * 8)["expression"]["value"], 2)
    4.92
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizer,
        task: str = EXPRESSION_PIPELINE,
        batch_size: int = 32,
        **kwargs,
    ):
        model = unwrap_expression_model(model)
        require_same_kmers(model.config, tokenizer)
        super().__init__(model=model, tokenizer=tokenizer, task=task, batch_size=batch_size, **kwargs)

    def __call__(
        self,
        sequences: str | Iterable[str],
        batch_size: int | None = None,
        truncation: bool | None = None,
        level: float | None = None,
        num_workers: int | None = None,
    ) -> dict[str, dict[str, float]] | list[dict] | Iterator[dict]:
        """
        Return the expression of one sequence or of several. Arguments that are not given here are those with which
        the pipeline was made.

        Args:
            sequences: one sequence, or several: inserts or whole constructs, as the tokenizer reads them.
            batch_size: number of sequences computed at a time; as many are taken from a generator before its first
                result.
            truncation: cut inserts that are longer than the construct instead of raising an error.
            level: confidence level of the prediction intervals, one for which the model has half widths. By default
                0.9, or the highest level that it has.
            num_workers: taken as by other pipelines, without effect: sequences are tokenized in this process, which
                takes less time than to send them to another.

        Returns:
            for one sequence, a dictionary that maps the name of each output to `{"value": ..., "low": ...,
            "high": ...}`: the prediction, and both ends of its interval if the model has intervals. For a list, or
            anything else of known length, a list of such dictionaries. For a generator or a torch dataset, an
            iterator that computes them on demand.

        Raises:
            InvalidSequenceError: a sequence cannot be tokenized; `row` is its index among all the sequences.
            TypeError: a sequence is not a string.
            ValueError: `batch_size` is below 1, or the model has no prediction intervals for this level.
        """
        batch_size = self._batch_size if batch_size is None else batch_size
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        defaults = (self._preprocess_params, self._forward_params, self._postprocess_params)
        asked = self._sanitize_parameters(truncation, level)
        parameters = [default | of_call for default, of_call in zip(defaults, asked, strict=True)]
        if isinstance(sequences, str):
            return next(self._results(iter([sequences]), batch_size, parameters))
        if isinstance(sequences, Mapping | bytes) or not isinstance(sequences, Iterable | Dataset):
            raise TypeError(f"Expected DNA as a string, or several in a list, got {type(sequences).__name__}.")
        results = self._results(_iterate(sequences), batch_size, parameters)
        return list(results) if isinstance(sequences, Sized) and not isinstance(sequences, Dataset) else results

    def _results(
        self, sequences: Iterator[str], batch_size: int, parameters: list[dict[str, Any]]
    ) -> Iterator[dict[str, dict[str, float]]]:
        row = 0
        while batch := list(islice(sequences, batch_size)):
            for number, sequence in enumerate(batch, start=row + 1):
                if not isinstance(sequence, str):
                    raise TypeError(f"Sequence {number}: expected DNA as a string, got {type(sequence).__name__}.")
            try:
                results = self.run_single(batch, *parameters)
            except ValueError as error:
                # Recognised by its row: the tokenizer of remote code has another class of this name.
                if not hasattr(error, "row"):
                    raise
                raise type(error)(row + error.row, error.reason) from None  # type: ignore[attr-defined]
            yield from results
            row += len(batch)

    def _sanitize_parameters(
        self, truncation: bool | None = None, level: float | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if level is not None:
            # Refuse an unknown level now, not after the first sequences.
            prediction_interval(np.empty((0, self.model.config.num_labels)), self.model.config, level)
        preprocess = {} if truncation is None else {"truncation": truncation}
        postprocess = {} if level is None else {"level": level}
        return preprocess, {}, postprocess

    def preprocess(self, sequences: list[str], truncation: bool = False) -> BatchEncoding:
        # No attention mask: a construct has no padding, and without a mask faster attention can be chosen.
        return self.tokenizer(sequences, return_tensors="pt", truncation=truncation, return_attention_mask=False)

    def _forward(self, inputs: BatchEncoding) -> torch.Tensor:
        with evaluation_mode(self.model):
            return predict_from_logits(self.model(**inputs, return_dict=True).logits, self.model.config)

    def postprocess(self, predicted: torch.Tensor, level: float | None = None) -> list[dict[str, dict[str, float]]]:
        config = self.model.config
        values = {"value": predicted.float().numpy()}
        levels = config.interval_half_widths or {}
        if level is None and levels:
            level = 0.9 if "0.9" in levels else float(max(levels, key=float))
        if level is not None:
            values["low"], values["high"] = prediction_interval(values["value"], config, level)
        names = [config.id2label[output] for output in range(config.num_labels)]
        return [
            {name: {kind: float(x[row, output]) for kind, x in values.items()} for output, name in enumerate(names)}
            for row in range(len(predicted))
        ]

    def save_pretrained(self, save_directory: str | PathLike, **kwargs):
        """
        Save model and tokenizer, with the code of both and of this pipeline. Without this package,
        `pipeline("promoter-expression", model=save_directory, trust_remote_code=True)` opens the folder.

        Args:
            save_directory: folder, made if it does not exist.
            kwargs: arguments of `PreTrainedModel.save_pretrained`.
        """
        # Not the method of the base class, which copies no code of a pipeline that was itself loaded as remote code.
        self.tokenizer.save_pretrained(save_directory, **kwargs)
        self.model.save_pretrained(save_directory, **kwargs)


def _iterate(sequences: Iterable[str] | Dataset) -> Iterator[str]:
    """Yield the sequences; those of a torch dataset that has only `__getitem__` and `__len__` up to its length."""
    if isinstance(sequences, Iterable):
        return iter(sequences)
    return (sequences[row] for row in range(len(sequences)))


__all__ = ["PromoterExpressionPipeline"]
