"""The command `proformer embed`."""

import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import MISSING as REQUIRED
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from ..data.config import option
from ..data.rows import require_new_columns
from ..data.tables import Row, column_types, is_stream
from ..embedding import embed_file, embedding_shape
from ..writing import output_file, output_table
from .common import (
    INPUT,
    MODEL,
    NAME,
    ReadOptions,
    RunOptions,
    input_path,
    name_of,
    require_input,
)


Batches: TypeAlias = Iterator[tuple[list[Row], np.ndarray]]

COLUMN = "embedding"


@dataclass(kw_only=True)
class EmbedOptions:
    """Options that say what `proformer embed` reads and writes."""

    input: list[str] = option(INPUT, REQUIRED, positional=True)
    output: str = option(
        "File to write. Its name ends in .parquet, for the columns of the input and a column embedding of lists of "
        "fixed size; or in .npz, for the arrays name and embedding.",
        REQUIRED,
        aliases=["-o"],
        metavar="FILE",
    )
    model: str | None = option(MODEL)
    positions: Literal["mean", "expression", "all"] = option(
        "Embed the mean over k-mers, the mean over the expression tokens, or each k-mer.", "mean"
    )
    name: str | None = option(f"For .npz: {NAME[0].lower()}{NAME[1:]}", metavar="COLUMN")


@dataclass(kw_only=True)
class EmbedConfig(EmbedOptions, ReadOptions, RunOptions):
    """
    Options of `proformer embed`.

    Raises:
        ValueError: an option is outside its range, or two contradict each other.
    """

    groups: ClassVar[tuple[type, ...]] = (EmbedOptions, ReadOptions, RunOptions)

    def __post_init__(self):
        super().__post_init__()
        require_input(self.input)
        if not self.output.lower().endswith((".parquet", ".npz")):
            raise ValueError(f"{self.output}: the name says the format, so it must end in .parquet or .npz.")
        if self.name is not None and self.output.lower().endswith(".parquet"):
            raise ValueError("`name` is for .npz; a Parquet file has all columns of the input.")


def run(config: EmbedConfig):
    """Write the embedding of each sequence."""
    paths = [input_path(path) for path in config.input]
    model, tokenizer = config.load(config.model)
    shape = embedding_shape(model, tokenizer, config.positions)
    batches = embed_file(
        model, tokenizer, paths, positions=config.positions, **config.read_arguments, **config.run_arguments
    )
    write = _write_npz if config.output.lower().endswith(".npz") else _write_parquet
    with tqdm(unit=" sequences", disable=config.quiet) as progress:
        write(config, paths, shape, _count(batches, progress))


def _count(batches: Batches, progress: tqdm) -> Batches:
    """Yield the same batches, and show how many sequences there were."""
    for rows, values in batches:
        yield rows, values
        progress.update(len(rows))


def _write_parquet(config: EmbedConfig, paths: Sequence[str], shape: tuple[int, ...], batches: Batches):
    kind: pa.DataType = pa.float32()
    for size in reversed(shape):
        kind = pa.list_(kind, size)
    errors = ["error"] if config.on_error == "mark" else []
    types = {} if is_stream(paths[0]) else column_types(paths[0])
    with output_table(config.output, types | {COLUMN: kind}) as table:
        for rows, values in batches:
            columns = [*rows[0].cells]
            require_new_columns(paths[0], columns, [COLUMN, *errors])
            # Arrow takes arrays as lists, if they have one dimension.
            embedded = (None if row.error else [*value] for row, value in zip(rows, values, strict=True))
            cells = [
                [*row.cells.values(), value, *([config.name_flags(row.error)] if errors else [])]
                for row, value in zip(rows, embedded, strict=True)
            ]
            table.write([*columns, COLUMN, *errors], cells)


def _write_npz(config: EmbedConfig, paths: Sequence[str], shape: tuple[int, ...], batches: Batches):
    """Write an archive as `numpy.savez` does, with no more than a batch in memory."""
    names = []
    with output_file(config.output, binary=True) as file, tempfile.TemporaryFile() as data:
        for rows, values in batches:
            names += [name_of(row, config.name, paths) for row in rows]
            data.write(values.astype("<f4").tobytes())
        data.seek(0)
        with zipfile.ZipFile(file, "w") as archive:
            with archive.open("name.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.array(names), allow_pickle=False)
            with archive.open(f"{COLUMN}.npy", "w", force_zip64=True) as entry:
                header = {"descr": "<f4", "fortran_order": False, "shape": (len(names), *shape)}
                np.lib.format.write_array_header_1_0(entry, header)
                shutil.copyfileobj(data, entry)


KINDS = (EmbedConfig,)
