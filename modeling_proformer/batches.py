"""
Arrow tables in, the same tables with more columns out: what Ray Data and other engines run on many machines.

An engine makes an object of one of these classes in each of its processes, which loads the model once, and calls it
with one batch of rows after another. A row that cannot be predicted has the reason in the column `error`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from .data.rows import Row, require_columns, require_new_columns
from .data.screening import Findings, ScreenedRow, Screening
from .data.variants import VariantColumns, rows_to_variants
from .embedding import Positions, embedding_computation, encoder_of
from .loading import MissingFlanks, load_with_flanks
from .prediction import (
    Computation,
    Orientation,
    compute_rows,
    expression_computation,
    place_model,
)
from .variant_scores import ScoreColumns, VariantScoring


# Errors call every table by this name.
BATCH = "the batch"


class _SequenceFunction:
    """Adds what is computed of the sequences in a column, and the column `error`."""

    def __init__(self, computation: Computation, sequence: str, iupac_as_n: bool, batch_size: int):
        self._computation, self._batch_size = computation, batch_size
        self._screening = Screening(
            tokenizer=computation.tokenizer,
            sequence=sequence,
            on_error="mark",
            iupac_as_n=iupac_as_n,
            truncation=computation.truncation,
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        """
        Return the table with the columns that are added.

        Raises:
            InputError: there is no column of sequences, a column of the table has the name of one that is added, or a
                prediction is not finite.
        """
        require_columns(BATCH, table.column_names, [self._screening.sequence])
        rows: list[Row] = []
        batches = [np.empty((0, *self._computation.shape), dtype=np.float32)]
        for several, values in compute_rows(self._computation, self._screening, self._screen(table)):
            rows += several
            batches.append(values)
        errors = pa.array([row.error for row in rows], pa.string())
        added = self._make_columns(np.concatenate(batches), pc.not_equal(errors, "")) | {"error": errors}
        require_new_columns(BATCH, table.column_names, [*added])
        for name, column in added.items():
            table = table.append_column(name, column)
        return table

    def _screen(self, table: pa.Table) -> Iterator[list[ScreenedRow]]:
        name = self._screening.sequence
        for first in range(0, len(table), self._batch_size):
            cells = table[name].slice(first, self._batch_size).to_pylist()
            rows = [Row(f"row {number}", {name: cell}) for number, cell in enumerate(cells, start=first + 1)]
            yield self._screening.screen_rows(BATCH, rows, Findings())

    def _make_columns(self, values: np.ndarray, is_bad: pa.Array) -> dict[str, pa.Array]:
        """Return the columns of what was computed, (rows, *shape)."""
        raise NotImplementedError


class PromoterPredictor(_SequenceFunction):
    """
    Adds the expression of sequences to Arrow tables, with the columns of `proformer predict --on_error mark`.

    For Ray Data, give the class to `Dataset.map_batches` with `batch_format="pyarrow"`.

    Args:
        model: a checkpoint, see `load_checkpoint`; by default the embedded one. Each machine has to reach it.
        sequence, iupac_as_n, orientation, batch_size, device, dtype, truncation: see `predict_file`.
        missing_flanks: see `ProformerTokenizer`; by default as the model was trained.

    Raises:
        FileNotFoundError, ImportError, InputError: see `load_checkpoint`; or there are no flanks to miss.
        ValueError: `missing_flanks` or `orientation` is something else.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        sequence: str = "sequence",
        iupac_as_n: bool = False,
        missing_flanks: MissingFlanks | None = None,
        orientation: Orientation = "given",
        batch_size: int | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        truncation: bool = False,
    ):
        loaded, tokenizer = load_with_flanks(model, missing_flanks)
        placed, batch_size = place_model(loaded, tokenizer, (), batch_size, device)
        computation = expression_computation(placed, tokenizer, dtype, truncation, orientation)
        super().__init__(computation, sequence, iupac_as_n, batch_size)

    def _make_columns(self, values: np.ndarray, is_bad: pa.Array) -> dict[str, pa.Array]:
        config = self._computation.model.config
        return {
            f"predicted_{config.id2label[output]}": pa.array(values[:, output], pa.float32(), from_pandas=True)
            for output in range(config.num_labels)
        }


class PromoterEmbedder(_SequenceFunction):
    """
    Adds the embeddings of sequences to Arrow tables, with the columns of `proformer embed --on_error mark`.

    Args:
        model, sequence, iupac_as_n, missing_flanks, batch_size, device, dtype, truncation: see `PromoterPredictor`.
        positions: see `embed`.

    Raises:
        FileNotFoundError, ImportError, InputError, ValueError: see `PromoterPredictor` and `embed`.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        positions: Positions = "mean",
        sequence: str = "sequence",
        iupac_as_n: bool = False,
        missing_flanks: MissingFlanks | None = None,
        batch_size: int | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        truncation: bool = False,
    ):
        loaded, tokenizer = load_with_flanks(model, missing_flanks)
        placed, batch_size = place_model(encoder_of(loaded), tokenizer, (), batch_size, device)
        computation = embedding_computation(placed, tokenizer, positions, dtype, truncation)
        super().__init__(computation, sequence, iupac_as_n, batch_size)

    def _make_columns(self, values: np.ndarray, is_bad: pa.Array) -> dict[str, pa.Array]:
        column = pa.array(values.ravel())
        for size in reversed(values.shape[2:]):
            column = pa.FixedSizeListArray.from_arrays(column, size)
        return {"embedding": pa.FixedSizeListArray.from_arrays(column, values.shape[1], mask=is_bad)}


class VariantScorer:
    """
    Adds the expression of both alleles of variants to Arrow tables, with the columns of `proformer variants`. With
    promoters, a variant has a row for each promoter that holds it.

    Args:
        model, missing_flanks, batch_size, device, dtype, truncation: see `PromoterPredictor`.
        genome, promoters, offsets, width: see `score_variants`. Each machine has to reach these files.
        columns: columns with the variants; by default, they are recognised by their names.

    Raises:
        FileNotFoundError, ImportError, InputError, ValueError: see `PromoterPredictor` and `score_variants`.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        genome: str | os.PathLike | None = None,
        promoters: str | os.PathLike | None = None,
        columns: VariantColumns | None = None,
        offsets: int = 1,
        width: int | None = None,
        missing_flanks: MissingFlanks | None = None,
        batch_size: int | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        truncation: bool = False,
    ):
        loaded, tokenizer = load_with_flanks(model, missing_flanks)
        self._columns = columns
        self._scoring = VariantScoring(
            loaded,
            tokenizer,
            genome,
            promoters=promoters,
            offsets=offsets,
            width=width,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            truncation=truncation,
        )
        self._added = ScoreColumns(
            loaded.config, genome=genome is not None, promoters=promoters is not None, offsets=offsets
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        """
        Return the rows of the table with the columns that are added; a row with several alternate alleles occurs once
        for each of them.

        Raises:
            InputError: the table has not the columns of variants, a column of it has the name of one that is added, a
                prediction is not finite, or too many of the first reference alleles are not those of the genome.
        """
        require_new_columns(BATCH, table.column_names, self._added.names)
        rows = (Row(f"row {number}", cells) for number, cells in enumerate(table.to_pylist(), start=1))
        scores = [*self._scoring.score(rows_to_variants(BATCH, rows, self._columns))]
        scored = pa.Table.from_pylist([score.variant.source.cells for score in scores], table.schema)
        cells = [self._added.cells(score) for score in scores]
        for number, (name, kind) in enumerate(self._added.types.items()):
            column = [row[number] for row in cells]
            values = np.array(column, np.float32) if kind == pa.float32() else column
            scored = scored.append_column(name, pa.array(values, kind, from_pandas=kind == pa.float32()))
        return scored


__all__ = ["PromoterEmbedder", "PromoterPredictor", "VariantScorer"]
