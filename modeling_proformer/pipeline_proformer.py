"""The pipeline `promoter-expression`: DNA in, the expression of each output by its name out.

This file travels to the Hub with a checkpoint: it imports only files that do so too, numpy, torch and transformers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import BatchEncoding, Pipeline, PreTrainedModel, PreTrainedTokenizer
from transformers.dynamic_module_utils import custom_object_save

# All three, although one needs the others anyway: transformers 5.4 fetches only what is named here.
from .configuration_proformer import EXPRESSION_PIPELINE
from .intervals import prediction_interval
from .modeling_proformer import predictions, require_expression_head


class PromoterExpressionPipeline(Pipeline):
    """
    Expression of DNA sequences, in the units the model was trained on; of classes, their probabilities.

    Args:
        model: a `ProformerForSequenceClassification` or `ProformerForPreTraining`; put in evaluation mode.
        tokenizer: the one saved beside the model.
        batch_size: sequences computed at a time.
        kwargs: `truncation` and `level`, see `__call__`; `device` and what else `transformers.Pipeline` takes.

    Raises:
        TypeError: the model does not predict expression.
        ValueError: the model has no prediction intervals for this level.

    Example:

    >>> from transformers import pipeline

    >>> import modeling_proformer
    >>> pipe = pipeline("promoter-expression", model=modeling_proformer.checkpoint_path(), device="cpu")
    >>> round(pipe("TGACTCA" * 8)["expression"]["value"], 2)
    4.56
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
        require_expression_head(model)
        super().__init__(model=model.eval(), tokenizer=tokenizer, task=task, batch_size=batch_size, **kwargs)

    def __call__(
        self,
        sequences: str | Iterable[str],
        batch_size: int | None = None,
        truncation: bool | None = None,
        level: float | None = None,
    ) -> dict[str, dict[str, float]] | list[dict] | Iterator[dict]:
        """
        What is not given here is as the pipeline was made with.

        Args:
            sequences: one sequence, or several: inserts or whole constructs, as the tokenizer takes them.
            batch_size: sequences computed at a time; as many are taken from a generator before its first result.
            truncation: cut inserts that are longer than the construct, instead of refusing them.
            level: of confidence of the prediction intervals; one that the model holds half widths for. By default
                0.9, or else the highest that it holds.

        Returns:
            of one sequence, for each output by its name `{"value": ..., "low": ..., "high": ...}`: the prediction and
            both ends of its interval, these only where the model has intervals. Of a list, or anything else of known
            length, a list of such. Of a generator or a torch dataset, an iterator that computes as it goes.

        Raises:
            InvalidSequenceError: a sequence cannot be tokenized; `row` counts through all the sequences.
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
        results = self._results(iter(sequences), batch_size, parameters)
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
                # Told by its row: the tokenizer's error is one class in the package, and another in remote code.
                if not hasattr(error, "row"):
                    raise
                raise type(error)(row + error.row, error.reason) from None
            yield from results
            row += len(batch)

    def _sanitize_parameters(
        self, truncation: bool | None = None, level: float | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if level is not None:
            # Refuses a level now, not after the first sequences.
            prediction_interval(np.empty((0, self.model.config.num_labels)), self.model.config, level)
        preprocess = {} if truncation is None else {"truncation": truncation}
        postprocess = {} if level is None else {"level": level}
        return preprocess, {}, postprocess

    def preprocess(self, sequences: list[str], truncation: bool = False) -> BatchEncoding:
        # No attention mask: a construct has no padding, and without one faster attention can be chosen.
        return self.tokenizer(sequences, return_tensors="pt", truncation=truncation, return_attention_mask=False)

    def _forward(self, inputs: BatchEncoding) -> torch.Tensor:
        return predictions(self.model(**inputs).logits, self.model.config)

    def postprocess(self, predicted: torch.Tensor, level: float | None = None) -> list[dict[str, dict[str, float]]]:
        config = self.model.config
        values = {"value": predicted.float().numpy()}
        levels = config.interval_half_widths or {}
        if level is None and levels:
            level = "0.9" if "0.9" in levels else max(levels, key=float)
        if level is not None:
            values["low"], values["high"] = prediction_interval(values["value"], config, level)
        names = [config.id2label[output] for output in range(config.num_labels)]
        return [
            {name: {kind: float(x[row, output]) for kind, x in values.items()} for output, name in enumerate(names)}
            for row in range(len(predicted))
        ]

    def save_pretrained(self, save_directory: str | PathLike, **kwargs):
        """
        Saves model and tokenizer, with the code of both and of this pipeline: where this package is not installed,
        `pipeline("promoter-expression", model=save_directory, trust_remote_code=True)` opens the folder.

        Args:
            save_directory: folder, made if it is not there.
            kwargs: what `save_pretrained` of models takes.
        """
        # The base class would leave out the code of a pipeline that was itself loaded as remote code.
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        custom_object_save(self, save_directory)
        self.tokenizer.save_pretrained(save_directory, **kwargs)
        config = self.model.config
        config.custom_pipelines = {
            EXPRESSION_PIPELINE: {
                "impl": f"{type(self).__module__.split('.')[-1]}.{type(self).__name__}",
                "pt": ["AutoModelForSequenceClassification"],
            }
        }
        try:
            self.model.save_pretrained(save_directory, **kwargs)
        finally:
            del config.custom_pipelines


__all__ = ["PromoterExpressionPipeline"]
