"""Rows to train a model on from new weights: checked, split and memory-mapped, or streamed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.assay import measured_of, require_variation
from ..data.config import DataConfig
from ..data.prepare import prepare_assay
from ..data.sources import SourceTable, load_table
from ..data.streams import EndlessStream, load_first_rows, stream_table, version_of
from ..tokenization import ProformerTokenizer
from .config import TrainConfig
from .transfer import label_scale


if TYPE_CHECKING:
    import datasets


@dataclass
class TrainingRows:
    """
    What a model is trained and evaluated on.

    Attributes:
        train: rows or a stream of them, as `ProformerCollator` takes them.
        held_out: rows to evaluate on, likewise.
        groups: (held-out rows,) number of each one's group of related sequences.
        num_train: number of training rows; None for a stream.
        tokenizer: of the construct.
        label_mean, label_std: of each output over the training rows.
        mean_weight: over the training rows.
        sources: tables that the rows are from.
        findings: what was found and done, in sentences.
        config: options that the rows were made with.
        seen_in_training: number of held-out rows whose insert is also among the training rows; None if not counted.
    """

    train: "datasets.Dataset | EndlessStream"
    held_out: "datasets.Dataset"
    groups: np.ndarray
    num_train: int | None
    tokenizer: ProformerTokenizer
    label_mean: list[float]
    label_std: list[float]
    mean_weight: float
    sources: list[SourceTable]
    findings: list[str]
    config: DataConfig
    seen_in_training: int | None = None

    def measured_of(self, labels: np.ndarray) -> np.ndarray:
        """Return the measured values of labels, (rows, outputs), see `Assay.measured_of`."""
        return measured_of(labels, self.config)


def load_rows(
    data: Any, config: TrainConfig, seed: int, load: "Callable[[Any, DataConfig], datasets.Dataset]" = load_table
) -> TrainingRows:
    """Return rows that are checked, split and memory-mapped; `load` loads each table of `data`."""
    # The width is that of the table's construct; this one only has to be a multiple of the stride.
    reference = ProformerTokenizer(config.kmer_size, config.kmer_stride, insert_width=config.kmer_stride)
    assay = prepare_assay(data, config, reference, validation_data=config.validation_data, seed=seed, load=load)
    train, validation = assay.split.train, assay.split.validation
    for name, values in zip(config.outputs, assay.measured[validation].T, strict=True):
        require_variation("the validation rows", name, values)
    seen = None
    if config.validation_data is not None:
        seen = assay.inserts.take(validation).count_among(assay.inserts.take(train))
    mean, std = label_scale(config.outputs, assay.measured[train])
    return TrainingRows(
        train=assay.rows(train),
        held_out=assay.rows(validation),
        groups=assay.groups[validation],
        num_train=len(train),
        tokenizer=assay.tokenizer,
        label_mean=mean,
        label_std=std,
        mean_weight=1.0 if assay.weights is None else float(assay.weights[train].mean()),
        sources=assay.sources,
        findings=assay.findings,
        config=config,
        seen_in_training=seen,
    )


def stream_rows(
    data: Any, config: TrainConfig, seed: int, batch_size: int, data_seed: int | None = None
) -> TrainingRows:
    """
    Return rows that are read again in each epoch, see `EndlessStream`.

    The first 65,536 rows of each table stand for the others: the construct is detected in them, and the scale of the
    labels is estimated from them. `data_seed` is that of the order, by default `seed`.
    """
    rows = load_rows(data, config, seed, load=load_first_rows)
    names = list(data) if isinstance(data, list | tuple) else [data]
    files = {name: stream_table(name, config, rows.tokenizer) for name in dict.fromkeys(names)}
    *streamed, held_out = rows.sources
    sources = [
        source._replace(rows=0, left_out=0, digest=version_of(name))
        for source, name in zip(streamed, files, strict=True)
    ]
    found = "This is what the first rows of each table, and the validation table, say:"
    return replace(
        rows,
        train=EndlessStream(
            [file for name in names for file in files[name]],
            rows.held_out.column_names,
            batch_size,
            seed if data_seed is None else data_seed,
        ),
        num_train=None,
        sources=[*sources, held_out],
        findings=[found, *rows.findings],
        seen_in_training=None,
    )


__all__ = ["TrainingRows", "load_rows", "stream_rows"]
