"""The one row checker: rows of any source become an Arrow table with fixed columns, or an error that says where."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..tokenization import InvalidSequenceError, ProformerTokenizer
from .cells import IUPAC_CODES, IUPAC_REMEDY, IUPAC_TO_N, MARKED_NUMBER, MISSING, NUMBER, class_key, iupac_hint
from .config import DataConfig, did_you_mean
from .rows import (
    MAX_QUOTED,
    InputError,
    Row,
    cell_error,
    measured_value,
    name_columns,
    quote_rows,
    require_columns,
    sequence_text,
    weight_value,
)


BASES = re.compile("[ACGTUN]+", re.IGNORECASE | re.ASCII)
# Models are trained in float32, where a larger number would be infinite.
MAX_VALUE = float(np.finfo(np.float32).max)

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}


def checked_schema(config: DataConfig) -> pa.Schema:
    """
    Return the columns of a checked table.

    `sequence` is text without blanks at its ends; `labels` are the targets or the number of the class, NaN where
    missing; `weight` (or the standard errors, from which weights follow), `barcode`, `group` and `split` are there
    where the configuration names them; `ambiguous`, with `iupac_as_n`, says whether the sequence had IUPAC codes;
    `location` says where each row is, such as "line 7", and `error` what is wrong with it. A row without any
    measurement, or with an error, has empty text and weight 0.
    """
    columns = [("sequence", pa.string()), ("labels", pa.list_(pa.float64(), len(config.measured_columns)))]
    if config.weight or config.standard_error:
        columns.append(("weight", pa.float64()))
    columns += [(name, pa.string()) for name in ("barcode", "group", "split") if getattr(config, name)]
    if config.iupac_as_n:
        columns.append(("ambiguous", pa.bool_()))
    return pa.schema([*columns, ("location", pa.string()), ("error", pa.string())])


def check_rows(source: str, rows: Iterable[Row], config: DataConfig) -> pa.Table:
    """
    Return rows as a checked table, see `checked_schema`; `refuse_bad_rows` refuses those with an error.

    Raises:
        InputError: a column is missing.
    """
    checked: list[dict[str, Any]] = []
    unmeasured = {"sequence": "", "weight": 0.0, "barcode": "", "group": "", "split": "", "ambiguous": False}
    unmeasured |= {"labels": [float("nan")] * len(config.measured_columns)}
    classes, is_first = config.class_numbers, True
    for row in rows:
        require_columns(source, row.cells, config.columns)
        cells, error = None, ""
        try:
            cells = _check_cells(source, row, config, classes, is_first)
        except InputError as problem:
            error = problem.reason
        is_first &= cells is None and not error
        checked.append({**(cells or unmeasured), "location": row.location, "error": error})
    return pa.Table.from_pylist(checked, schema=checked_schema(config))


def _check_cells(
    source: str, row: Row, config: DataConfig, classes: Mapping[str, int], is_first: bool
) -> dict[str, Any] | None:
    """
    Return the checked cells of a row; None if it has no measurement.

    Raises:
        InputError: a cell is not a sequence, number, weight, group or split. The error names the source, the row and
            the column.
    """
    if classes:
        labels = [_class_number(source, row, config, classes)]
    else:
        labels = [
            _float32_value(source, row, column, _number(source, row, column, config, is_first))
            for column in config.measured_columns
        ]
    if config.counts_reads:
        labels = _checked_reads(source, row, config, labels)
    if np.isnan(labels).all():
        return None
    text = sequence_text(source, row, config.sequence)
    sequence = text.translate(IUPAC_TO_N) if config.iupac_as_n else text
    if not BASES.fullmatch(sequence):
        try:
            ProformerTokenizer.read_codes([sequence])
        except InvalidSequenceError as error:
            raise cell_error(source, row, config.sequence, error.reason + iupac_hint(sequence)) from None
    if not sequence.strip("Nn"):
        raise cell_error(source, row, config.sequence, "the sequence has no base but N.")
    cells: dict[str, Any] = {"sequence": sequence, "labels": labels}
    if config.iupac_as_n:
        cells["ambiguous"] = sequence != text
    if config.weight:
        cells["weight"] = _float32_value(source, row, config.weight, weight_value(source, row, config.weight))
    if config.standard_error:
        cells["weight"] = _standard_error(source, row, config.standard_error)
    if config.barcode:
        cells["barcode"] = _name(source, row, config.barcode, "barcode")
    if config.group:
        cells["group"] = _name(source, row, config.group, "group")
    if config.split:
        cells["split"] = _split_name(source, row, config.split)
    return cells


def find_bad_rows(table: Any) -> tuple[list[str], int]:
    """Return where the first rows with an error are in a checked table and what is wrong, and how many there are."""
    bad = np.flatnonzero(pc.not_equal(table.column("error"), ""))
    first = bad[:MAX_QUOTED]
    places, reasons = (table.column(name).take(first).to_pylist() for name in ("location", "error"))
    return [f"{place}, {reason}" for place, reason in zip(places, reasons, strict=True)], len(bad)


def refuse_bad_rows(source: str, table: Any, config: DataConfig, is_part: bool = False):
    """
    Refuse a checked table that has rows with errors, unless these are to be skipped and there are others. Of a table
    that is streamed, a part is refused.

    Raises:
        InputError: it has. The error says how many, where the first are and what is wrong with them.
    """
    found, count = find_bad_rows(table)
    rows = table.num_rows
    if not found or (config.on_error == "skip" and count < rows):
        return
    quoted = [each.removesuffix(f" {IUPAC_REMEDY}") for each in found]
    remedies = [IUPAC_REMEDY] if pc.any(pc.match_substring(table.column("error"), IUPAC_REMEDY)).as_py() else []
    if count < rows and not is_part:
        remedies.append('`on_error="skip"` leaves such rows out.')
    of_all = "" if count == 1 else f"{count:,} rows are bad: " if is_part else f"{count:,} of {rows:,} rows are bad: "
    raise InputError(" ".join([of_all + quote_rows([f"{source}, {each}" for each in quoted], count), *remedies]))


def _number(source: str, row: Row, column: str, config: DataConfig, is_first: bool) -> float:
    """Return a cell's number, NaN where missing; if no row before was sound, it may be a class, as the error says."""
    try:
        return measured_value(source, row, column)
    except InputError as error:
        cell = row.cells[column]
        is_name = isinstance(cell, str) and not any(kind.fullmatch(cell.strip()) for kind in (NUMBER, MARKED_NUMBER))
        alone = not config.counts_reads and len(config.targets) == 1
        if not (is_name and alone and is_first):
            raise
        hint = "If the column holds classes, name them with `classes`."
        raise InputError(f"{error} {hint}", f"{error.reason} {hint}") from None


def _class_number(source: str, row: Row, config: DataConfig, classes: Mapping[str, int]) -> float:
    """Return the number of the class in the target column, NaN where missing."""
    (column,) = config.targets
    cell = row.cells[column]
    number = _find_class(cell, classes)
    if number is None:
        names = config.outputs
        reason = f"{cell!r} is not one of the classes {name_columns(names)}.{did_you_mean(str(cell).strip(), names)}"
        raise cell_error(source, row, column, reason)
    return number


def _find_class(cell: Any, classes: Mapping[str, int]) -> float | None:
    """Return the number of a cell's class, NaN where it is missing; None if the cell holds something else."""
    key = class_key(cell)
    if key in classes:
        return float(classes[key])
    return float("nan") if key.lower() in MISSING else None


def _float32_value(source: str, row: Row, column: str, value: float) -> float:
    if abs(value) > MAX_VALUE:
        raise cell_error(source, row, column, f"{value:g} is too large for the float32 of a model.")
    return value


def _checked_reads(source: str, row: Row, config: DataConfig, reads: list[float]) -> list[float]:
    """Return the reads in each column, 0 where the cell is empty; NaN in all if there are no reads at all."""
    counted = np.nan_to_num(np.array(reads))
    if (counted < 0).any():
        column = config.measured_columns[int((counted < 0).argmax())]
        raise cell_error(source, row, column, f"there cannot be {counted.min():g} reads.")
    fractions = counted % 1 > 0
    if config.rna and fractions.any():
        first = int(fractions.argmax())
        reason = (
            f"{counted[first]:g} is no number of reads; give the numbers as they were before normalisation, without "
            "marks between thousands."
        )
        raise cell_error(source, row, config.measured_columns[first], reason)
    return counted.tolist() if counted.any() else [float("nan")] * len(reads)


def _standard_error(source: str, row: Row, column: str) -> float:
    error = _float32_value(source, row, column, measured_value(source, row, column, required=True))
    if error < 0:
        raise cell_error(source, row, column, f"the standard error is {error:g}, but must be at least 0.")
    return error


def _name(source: str, row: Row, column: str, kind: str) -> str:
    """Return the name of a group or barcode."""
    cell = row.cells[column]
    name = "" if cell is None else str(cell).strip()
    if name.lower() in MISSING:
        raise cell_error(source, row, column, f"the {kind} is missing.")
    return name


def _split_name(source: str, row: Row, column: str) -> str:
    written = str(row.cells[column]).strip()
    if written.lower() not in _SPLIT_OF:
        expected = ", ".join(SPLIT_NAMES)
        raise cell_error(source, row, column, f"{written!r} is not a split; expected one of {expected}.")
    return _SPLIT_OF[written.lower()]


def check_table(source: str, table: pa.Table, config: DataConfig, first_row: int = 0) -> pa.Table:
    """
    Return what `check_rows` returns for a table whose rows are numbered, all at once where nothing is wrong.

    Args:
        source: name of the table in errors.
        table: rows with the configuration's columns.
        config: names the columns.
        first_row: number of rows before these.
    """
    require_columns(source, dict.fromkeys(table.column_names), config.columns)
    checked = _check_at_once(table, config, first_row)
    if checked is None:
        numbered = enumerate(table.select(config.columns).to_pylist(), start=first_row + 1)
        checked = check_rows(source, (Row(f"row {number}", cells) for number, cells in numbered), config)
    return checked


def _check_at_once(table: pa.Table, config: DataConfig, first_row: int) -> pa.Table | None:
    """Return the checked table; None if a row or a type needs a closer look."""
    plain = {name: _without_dictionary(table[name]) for name in config.columns}
    sequences = plain[config.sequence]
    if not _is_text(sequences.type) or sequences.null_count:
        return None
    texts = sequences = pc.utf8_trim_whitespace(sequences).cast(pa.string())
    if pc.any(pc.is_in(pc.ascii_lower(sequences), value_set=pa.array(sorted(MISSING)))).as_py():
        return None
    if config.iupac_as_n:
        sequences = pc.replace_substring_regex(texts, f"(?i)[{IUPAC_CODES}]", "N")
    if pc.any(pc.equal(pc.binary_length(pc.ascii_trim(sequences, "Nn")), 0)).as_py():
        return None
    if pc.any(pc.not_equal(pc.binary_length(pc.ascii_trim(sequences, "ACGTUNacgtun")), 0)).as_py():
        return None

    numbers = {}
    weight = config.weight or config.standard_error
    for name in (*config.measured_columns, *([weight] if weight else [])):
        is_class = config.classes and name in config.measured_columns
        values = _class_numbers(plain[name], config.class_numbers) if is_class else _numbers(plain[name])
        if values is None or (np.abs(values) > MAX_VALUE).any():
            return None
        numbers[name] = values
    labels = np.stack([numbers[name] for name in config.measured_columns], axis=1)
    if config.counts_reads:
        labels = np.nan_to_num(labels)
        if (labels < 0).any() or (config.rna and (labels % 1).any()):
            return None
        labels[~labels.any(axis=1)] = np.nan
    measured = ~np.isnan(labels).all(axis=1)
    if weight and not (numbers[weight][measured] >= 0).all():
        return None

    location = pc.binary_join_element_wise(
        "row", pa.array(np.arange(first_row + 1, first_row + 1 + len(table))).cast(pa.string()), " "
    )
    flat = pa.array(labels.ravel(), type=pa.float64())
    checked = {
        "sequence": sequences,
        "labels": pa.FixedSizeListArray.from_arrays(flat, len(config.measured_columns)),
        "location": location,
        "error": pa.repeat(pa.scalar(""), len(table)),
    }
    if weight:
        checked["weight"] = pa.array(numbers[weight])
    if config.iupac_as_n:
        checked["ambiguous"] = pc.not_equal(sequences, texts)
    for name, names_of in (("barcode", _names), ("group", _names), ("split", _split_names)):
        if column := getattr(config, name):
            values = names_of(plain[column])
            if values is None:
                return None
            checked[name] = values
    schema = checked_schema(config)
    if not measured.all():
        for name in checked.keys() - {"labels", "location", "error"}:
            empty = {"weight": 0.0, "ambiguous": False}.get(name, "")
            checked[name] = pc.if_else(pa.array(measured), checked[name], empty)
    return pa.table([checked[name] for name in schema.names], schema=schema)


def _without_dictionary(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _numbers(column: pa.ChunkedArray) -> np.ndarray | None:
    """Return a column of numbers as float64, NaN where missing; None for other types and for infinite numbers."""
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind)):
        return None
    values = pc.fill_null(column.cast(pa.float64(), safe=False), float("nan")).to_numpy()
    return None if np.isinf(values).any() else values


def _class_numbers(column: pa.ChunkedArray, classes: Mapping[str, int]) -> np.ndarray | None:
    """Return the number of each row's class as float64, NaN where missing; None if a row or the type is different."""
    kind = column.type
    if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        return None
    encoded = column.dictionary_encode().combine_chunks()
    numbers = [_find_class(cell, classes) for cell in encoded.dictionary.to_pylist()]
    if None in numbers:
        return None
    return pc.fill_null(pa.array(numbers, pa.float64()).take(encoded.indices), float("nan")).to_numpy()


def _names(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    if column.null_count or not (_is_text(column.type) or pa.types.is_integer(column.type)):
        return None
    names = pc.utf8_trim_whitespace(column.cast(pa.string()))
    missing = pc.is_in(pc.utf8_lower(names), value_set=pa.array(sorted(MISSING)))
    return None if pc.any(missing).as_py() else names


def _split_names(column: pa.ChunkedArray) -> pa.Array | None:
    if not _is_text(column.type):
        return None
    encoded = column.dictionary_encode().combine_chunks()
    names = [_SPLIT_OF.get(str(name).strip().lower()) for name in encoded.dictionary.to_pylist()]
    return None if encoded.null_count or None in names else pa.array(names, pa.string()).take(encoded.indices)


__all__ = ["SPLIT_NAMES", "check_rows", "check_table", "checked_schema", "find_bad_rows", "refuse_bad_rows"]
