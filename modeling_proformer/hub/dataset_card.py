"""The card of a dataset: what is in a table of sequences and measurements, told to people and to the Hub."""

import os
import shlex
from bisect import bisect
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import DatasetCard, DatasetCardData

from ..data.assay import AssayTable, Preparation, TableColumns, prepare_assay, read_table
from ..data.tables import InputError, is_table, read_rows, table_suffix
from ..evaluation.cards import ENVIRONMENT, TAGS, code, distribution
from ..tokenization import ProformerTokenizer
from .checks import LICENSES


# How options of `proformer finetune` are called that have other names in the library.
OPTIONS = {"targets": "target", "split": "split-column", "group": "group-column", "split_by": "split"}


def dataset_card(
    table: str | os.PathLike, columns: TableColumns, license: str, preparation: Preparation | None = None
) -> DatasetCard:
    """
    The card of a dataset that is one table, for the README.md in the table's folder.

    Args:
        table: TSV, CSV, Parquet or Arrow file.
        columns: of the table.
        license: of the data, by its identifier on the Hub, such as "cc-by-4.0".
        preparation: what fine-tuning is to make of the table.

    Raises:
        InputError: the Hub does not know the license, or would not read the file as a table; or see `prepare_assay`.
    """
    path, preparation = Path(table), preparation or Preparation()
    if license not in LICENSES:
        raise InputError(f"{license!r} is no license of https://huggingface.co/docs/hub/repositories-licenses.")
    if is_table(path) and table_suffix(path) == ".txt":
        raise InputError(f"{path}: the Hub reads a .txt file as plain text; call it .tsv.")
    read = read_table(path, columns)
    # The published tokenizer stands for any checkpoint: the k-mers make no difference to what is found.
    assay = prepare_assay(path, columns, preparation, ProformerTokenizer())
    inserts = assay.tokenizer.inserts(read.sequences)
    header = next(read_rows(path)).cells
    name = path.name.removesuffix(".gz").rpartition(".")[0]
    rows = len(read) + read.unmeasured
    text = ENVIRONMENT.get_template("dataset_card.md").render(
        card_data=card_data(name, path.name, license, rows),
        name=name,
        folder=path.resolve().parent.name,
        rows=rows,
        unmeasured=read.unmeasured,
        columns=columns,
        column_rows=[{"column": code(column), "holds": meaning} for column, meaning in meanings(columns)],
        others=[column for column in header if column not in columns.named()],
        measurements=measurement_rows(read, columns),
        repeats=len(inserts) - len(set(inserts)),
        findings=[line for finding in assay.findings for line in finding.splitlines()],
        sides={
            side: {"rows": len(numbers), "families": len(np.unique(assay.families[numbers]))}
            for side, numbers in assay.split._asdict().items()
        },
        command=finetune_command(path.name, columns, preparation),
    )
    return DatasetCard(text)


def card_data(name: str, file: str, license: str, rows: int) -> DatasetCardData:
    """Metadata by which the Hub lists the dataset, and shows the file."""
    return DatasetCardData(
        license=license,
        pretty_name=name,
        size_categories=[size_category(rows)],
        task_categories=["text-classification"],
        tags=TAGS,
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": file}]}],
    )


def size_category(rows: int) -> str:
    names = ["1K", "10K", "100K", "1M", "10M", "100M"]
    number = bisect([10**power for power in range(3, 3 + len(names))], rows)
    if number == 0:
        return "n<1K"
    return f"{names[number - 1]}<n<{names[number]}"


def meanings(columns: TableColumns) -> Iterator[tuple[str, str]]:
    """What each column holds."""
    yield columns.sequence, "DNA sequence, from 5′ to 3′"
    for number, target in enumerate(columns.targets):
        yield target, f"reads in the bin with the centre {columns.bins[number]:g}" if columns.bins else "measurement"
    for column, meaning in (
        (columns.weight, "how much the row counts"),
        (columns.standard_error, "standard error of the measurement"),
        (columns.split, "side of the row: train, validation or test"),
        (columns.group, "family of the row, which is not to be divided between sides"),
    ):
        if column:
            yield column, meaning


def measurement_rows(table: AssayTable, columns: TableColumns) -> list[dict[str, str]]:
    """Where the measurements in each column lie, and how many are missing, as cells of a table."""
    return [
        {
            "column": code(target),
            "missing": f"{np.isnan(values).sum() + table.unmeasured:,}",
            **distribution(values),
        }
        for target, values in zip(columns.targets, table.labels.T, strict=True)
    ]


def finetune_command(table: str, columns: TableColumns, preparation: Preparation) -> str:
    """`proformer finetune` with these columns and this preparation."""
    options: list[Any] = []
    for given in (columns, preparation):
        for field in fields(given):
            value = getattr(given, field.name)
            if value != field.default:
                options.append(f"--{OPTIONS.get(field.name, field.name.replace('_', '-'))}")
                options += value if isinstance(value, list | tuple) else [value]
    return shlex.join(["proformer", "finetune", table, *map(str, options), "--output", "fine-tuned"])


__all__ = ["dataset_card"]
