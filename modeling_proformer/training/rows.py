"""Rows to train a model on from new weights: checked, split and memory-mapped, or streamed."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from ..data.assay import encode_table, measured_of, require_variation
from ..data.constructs import construct_tokenizer, detect_construct
from ..data.homology import homology_groups
from ..data.prepare import prepare_assay
from ..data.sequences import Sequences
from ..data.sources import (
    SourceTable,
    content_digest,
    first_rows,
    flat_numbers,
    load_table,
    require_datasets,
    stream_table,
)
from ..data.splits import sample_rows
from ..data.tables import READ_ROWS, InputError
from ..tokenization import InvalidSequenceError, ProformerTokenizer
from .config import TrainConfig
from .transfer import label_scale


if TYPE_CHECKING:
    import datasets


# Rows of a stream by which its labels' scale is estimated, and among which it is shuffled.
SHUFFLE_BUFFER = 65_536


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
        bins: centres of the sorting bins, if the labels are reads.
        seen_in_training: number of held-out rows whose insert is also among the training rows; None if not counted.
    """

    train: "datasets.Dataset | datasets.IterableDataset"
    held_out: "datasets.Dataset"
    groups: np.ndarray
    num_train: int | None
    tokenizer: ProformerTokenizer
    label_mean: list[float]
    label_std: list[float]
    mean_weight: float
    sources: list[SourceTable]
    findings: list[str]
    bins: list[float] | None = None
    seen_in_training: int | None = None

    def measured_of(self, labels: np.ndarray) -> np.ndarray:
        """Return the measured values of labels, (rows, outputs), see `Assay.measured_of`."""
        return measured_of(labels, self.bins)


def load_rows(data: Any, config: TrainConfig, seed: int) -> TrainingRows:
    """Return rows that are checked, split and memory-mapped."""
    assay = prepare_assay(
        data, config, ProformerTokenizer(config.kmer_size), validation_data=config.validation_data, seed=seed
    )
    train, validation = assay.split.train, assay.split.validation
    _require_variation_held_out(config, assay.measured[validation])
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
        bins=config.bins,
        seen_in_training=seen,
    )


def _require_variation_held_out(config: TrainConfig, measured: np.ndarray):
    for name, values in zip(config.outputs, measured.T, strict=True):
        require_variation("the validation rows", name, values)


def stream_rows(data: Any, config: TrainConfig, seed: int) -> TrainingRows:
    """
    Return rows that are read again in each epoch.

    The construct is detected, and the scale of the labels estimated, from the first 65,536 rows of each table; the
    stream is shuffled among as many. The order depends on the seed, the epoch and the number of loader workers. One
    process reads the rows and sends the others theirs, so the batches do not depend on the number of processes, and a
    run that is resumed reads again up to where it was.
    """
    datasets = require_datasets()
    names = [str(table) for table in (data if isinstance(data, list | tuple) else [data])]
    streams = {name: stream_table(name, config) for name in dict.fromkeys(names)}
    samples = {name: first_rows(stream, SHUFFLE_BUFFER) for name, stream in streams.items()}
    sequences: list[str] = []
    for name, sample in samples.items():
        sequences += sample["sequence"].to_pylist()
        encode_table(sample["sequence"].to_pylist(), partial(_location, name, sample["location"]), config.sequence)
    construct = detect_construct(sequences, config.five_prime_flank, config.three_prime_flank, config.missing_flanks)
    tokenizer = construct_tokenizer(construct, config.kmer_size, 1, config.insert_width, config.strands)
    columns = ["sequence", "labels", *(["weight"] if config.weight else [])]
    fitting = [
        streams[name].filter(
            _fits,
            batched=True,
            batch_size=READ_ROWS,
            fn_kwargs={"name": name, "tokenizer": tokenizer, "config": config},
        )
        for name in names
    ]
    stream = datasets.concatenate_datasets(fitting).select_columns(columns)
    sample = pa.concat_tables(samples.values())
    labels = flat_numbers(sample["labels"]).reshape(-1, len(config.targets))
    mean, std = label_scale(config.outputs, measured_of(labels, config.bins))
    held_out, inserts, source = _load_validation(config, tokenizer, seed)
    return TrainingRows(
        train=EndlessStream(stream.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)),
        held_out=held_out.select_columns(columns),
        groups=homology_groups(inserts),
        num_train=None,
        tokenizer=tokenizer,
        label_mean=mean,
        label_std=std,
        mean_weight=float(sample["weight"].to_numpy().mean()) if config.weight else 1.0,
        sources=[*(SourceTable(name, names.count(name), 0, 0, "") for name in streams), source],
        findings=construct.describe().splitlines(),
        bins=config.bins,
    )


class EndlessStream(torch.utils.data.IterableDataset):
    """
    The rows of a stream, epoch after epoch, each in its own order and with the number of its `epoch`.

    Without an end, there is no incomplete last batch, and the Trainer, which cannot know how long an epoch is, resumes
    where it was.
    """

    def __init__(self, stream: "datasets.IterableDataset"):
        self.stream = stream

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for epoch in itertools.count():
            self.stream.set_epoch(epoch)
            for row in self.stream:
                yield {**row, "epoch": epoch}


def _location(name: str, locations: Any, row: int) -> str:
    return f"{name}, {locations[row]}"


def _load_validation(
    config: TrainConfig, tokenizer: ProformerTokenizer, seed: int
) -> tuple["datasets.Dataset", Sequences, SourceTable]:
    """Return the validation rows that fit the construct, with their inserts and their table."""
    table = load_table(config.validation_data, config, split="validation")
    measured = table.select(np.flatnonzero([sequence != "" for sequence in table["sequence"]]))
    constructs = encode_table(
        measured["sequence"][:], partial(_location, config.validation_data, measured["location"]), config.sequence
    )
    inserts = constructs.inserts(tokenizer)
    fits = np.flatnonzero(inserts.lengths <= tokenizer.insert_width)
    chosen = sample_rows(fits, config.validation_rows or len(fits), seed)
    held_out = measured.select(chosen)
    _require_variation_held_out(config, measured_of(np.array(held_out["labels"][:], dtype=np.float64), config.bins))
    source = SourceTable(config.validation_data, 1, len(table), len(table) - len(fits), content_digest(table))
    return held_out, inserts.take(chosen), source


def _fits(batch: dict[str, list], name: str, tokenizer: ProformerTokenizer, config: TrainConfig) -> list[bool]:
    """Return which rows of a stream fit the construct."""
    try:
        lengths = tokenizer.insert_lengths(batch["sequence"])
    except InvalidSequenceError as error:
        place = f"{name}, {batch['location'][error.row]}, column {config.sequence!r}"
        raise InputError(f"{place}: {error.reason}") from error
    longer = lengths > tokenizer.insert_width
    if config.too_long == "refuse" and longer.any():
        row = int(longer.argmax())
        raise InputError(f"{name}, {batch['location'][row]}: the insert has {lengths[row]} bases, too many.")
    return [True] * len(lengths) if config.too_long == "cut" else (~longer).tolist()


__all__ = ["TrainingRows", "load_rows", "stream_rows"]
