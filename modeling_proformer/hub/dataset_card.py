"""The card of a dataset: it tells people and the Hub what is in a table of sequences and measurements."""

import shlex
from bisect import bisect
from collections.abc import Iterator
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import DatasetCard, DatasetCardData

from ..data.assay import Assay, measured_of
from ..data.config import DataConfig
from ..data.prepare import prepare_assay
from ..data.sources import load_table
from ..data.tables import InputError, is_table, read_rows, table_suffix
from ..evaluation.cards import ENVIRONMENT, TAGS, code
from ..evaluation.report import distribution, shares
from ..tokenization import ProformerTokenizer


def dataset_card(data: str | PathLike, config: DataConfig, license: str) -> DatasetCard:
    """
    Return the card of a dataset that consists of one table.

    It is for the `README.md` in the table's folder.

    Args:
        data: TSV, CSV, Parquet or Arrow file.
        config: columns of the table, and what fine-tuning makes of it.
        license: identifier of the data's licence on the Hub, such as "cc-by-4.0".

    Raises:
        InputError: the Hub would not read the file as a table, or `prepare_assay` refuses it.
    """
    path = Path(data)
    if is_table(path) and table_suffix(path) == ".txt":
        raise InputError(f"{path}: the Hub reads a .txt file as plain text; call it .tsv.")
    # The published tokenizer stands for that of any checkpoint: k-mers make no difference to construct and split.
    assay = prepare_assay(path, config, ProformerTokenizer())
    labels = np.array(load_table(path, config).with_format("numpy")["labels"][:])
    name = path.name.removesuffix(".gz").rpartition(".")[0]
    text = ENVIRONMENT.get_template("dataset_card.md").render(
        card_data=_card_data(name, path.name, license, len(labels)),
        name=name,
        folder=path.resolve().parent.name,
        rows=len(labels),
        unmeasured=int(np.isnan(labels).all(axis=1).sum()),
        config=config,
        centres=[f"{centre:g}" for centre in config.bins or []],
        columns=[{"column": code(column), "content": content} for column, content in _describe_columns(config)],
        others=[column for column in next(read_rows(path)).cells if column not in config.columns],
        measurements=_describe_classes(labels, config)
        if config.classes
        else [
            {"column": code(target), "missing": int(np.isnan(values).sum()), **distribution(values)}
            for target, values in zip(config.measured_columns, labels.T, strict=True)
        ],
        used=len(assay),
        inserts=len(np.unique(assay.inserts.numbers)),
        findings=[line for finding in assay.findings for line in finding.splitlines()],
        splits=list(_describe_splits(assay)),
        command=_finetune_command(path.name, config),
    )
    return DatasetCard(text)


def _describe_classes(labels: np.ndarray, config: DataConfig) -> list[dict[str, Any]]:
    """Return how many of the measured rows are of each class."""
    measured = measured_of(labels[~np.isnan(labels[:, 0])], config)
    return [{"class": code(name), **shares(values)} for name, values in zip(config.outputs, measured.T, strict=True)]


def _card_data(name: str, file: str, license: str, rows: int) -> DatasetCardData:
    """Return metadata by which the Hub lists the dataset and shows the file."""
    return DatasetCardData(
        license=license,
        pretty_name=name,
        size_categories=[size_category(rows)],
        task_categories=["text-classification"],
        tags=TAGS,
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": file}]}],
    )


def size_category(rows: int) -> str:
    """Return the Hub's name for a number of rows, such as "1K<n<10K"."""
    names = ["1K", "10K", "100K", "1M", "10M", "100M"]
    number = bisect([10**power for power in range(3, 3 + len(names))], rows)
    if number == 0:
        return "n<1K"
    return f"{names[number - 1]}<n<{names[number]}"


def _describe_columns(config: DataConfig) -> Iterator[tuple[str, str]]:
    """Yield each column that is read, and what it holds."""
    yield config.sequence, "DNA sequence, from 5′ to 3′"
    for number, target in enumerate(config.measured_columns):
        if config.rna:
            content = f"{'RNA' if number < len(config.rna) else 'DNA'} reads of a barcode"
        else:
            content = f"reads in the bin with the centre {config.bins[number]:g}" if config.bins else "measurement"
        if config.classes:
            content = f"class: {', '.join(map(code, config.classes))}"
        yield target, content
    for column, content in (
        (config.barcode, "barcode"),
        (config.weight, "weight of the row"),
        (config.standard_error, "standard error of the measurement"),
        (config.split, "split of the row: train, validation or test"),
        (config.group, "group of the row; a group is never divided between splits"),
    ):
        if column:
            yield column, content


def _describe_splits(assay: Assay) -> Iterator[dict[str, Any]]:
    """Yield the numbers of rows and of groups in each split, as far as these are known."""
    for name, rows in assay.split._asdict().items():
        groups = assay.groups[rows]
        yield {
            "split": name,
            "rows": len(rows),
            "groups": len(np.unique(groups)) if (groups >= 0).all() else "not known",
        }


def _finetune_command(table: str, config: DataConfig) -> str:
    """Return the command `proformer finetune` with those options that are not the defaults."""
    defaults, words = DataConfig(), ["proformer", "finetune", table]
    for field in fields(DataConfig):
        value = getattr(config, field.name)
        if value != getattr(defaults, field.name):
            values = value if isinstance(value, list) else [value]
            words += [
                f"--{field.name}",
                *(f"{each:.15g}" if isinstance(each, float) else str(each) for each in values),
            ]
    return shlex.join([*words, "--output", "fine-tuned"])


__all__ = ["dataset_card"]
