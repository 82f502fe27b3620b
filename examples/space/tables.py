"""Predictions as tables: HTML for the page, and TSV to download. Text of the user is escaped."""

import base64
import csv
import html
import io
from collections.abc import Iterable, Sequence

import numpy as np
from figures import Training, strongest
from sequences import Entries, Prediction

from modeling_proformer.data.tables import InputError
from modeling_proformer.designing import Design
from modeling_proformer.mutagenesis import BASES
from modeling_proformer.targets import read_targets


MAX_NAME_LENGTH = 60


def short(name: str) -> str:
    """Cut a name that is too long to show."""
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"


def number(value: float, sign: str = "") -> str:
    """Format a number; with `sign="+"`, positive numbers get a sign too."""
    return f"{value:{sign}.2f}".replace("-", "−")


def expression_table(
    caption: str,
    label_name: str,
    labels: Sequence[str],
    names: Sequence[str],
    prediction: Prediction,
    training: Training | None,
) -> str:
    """Return a table with a row for each sequence, labelled as in the figure."""
    header = [label_name, "Sequence"]
    for output in prediction.outputs:
        header.append(f"Predicted {output}")
        if prediction.level is not None:
            header.append(f"{prediction.level:.0%} interval")
    if training is not None:
        kind = next(iter(training.counts))
        header.append(f"Measured {kind} below it")
    rows = []
    for row, (label, name) in enumerate(zip(labels, names, strict=True)):
        cells = [label, short(name)]
        for output, value in enumerate(prediction.values[row]):
            cells.append(number(value))
            if prediction.level is not None:
                cells.append(f"{number(prediction.low[row, output])} to {number(prediction.high[row, output])}")
        if training is not None:
            cells.append(f"{training.share_below(kind, prediction.values[row, 0]):.0%}")
        rows.append(cells)
    return table(caption, header, rows)


def designs_table(designs: Sequence[Design], prediction: Prediction) -> str:
    """Return a table with a row for each design."""
    header = ["No.", "Insert", *(f"Predicted {output}" for output in prediction.outputs)]
    # A design cannot miss "max" or "min".
    bounded = read_targets([designs[0].target], prediction.outputs)[0].is_bounded
    # A phone has room for a narrow column.
    title = "Misses target by" if len(bounded) == 1 else "{} misses target by"
    header += [title.format(output) for output in np.array(prediction.outputs)[bounded]]
    columns = {"Changed bases": "edits", "Bases from the nearest other": "nearest_design"}
    columns = {title: name for title, name in columns.items() if getattr(designs[0], name) is not None}
    rows = [
        [
            str(row),
            each.insert,
            *map(number, each.predicted),
            *map(number, each.missed[bounded]),
            *(str(getattr(each, name)) for name in columns.values()),
        ]
        for row, each in enumerate(designs, start=1)
    ]
    return table("Designed sequences", [*header, *columns], rows)


def designs_link(designs: Sequence[Design], prediction: Prediction) -> str:
    """Return a link to a table of designs with their flanks."""
    header = ["insert", "sequence", "target"]
    header += [f"{kind}_{output}" for kind in ("predicted", "missed") for output in prediction.outputs]
    rows = [
        [each.insert, each.sequence, each.target, *(f"{value:.6g}" for value in (*each.predicted, *each.missed))]
        for each in designs
    ]
    return download_link("Download the designs (TSV)", "designs.tsv", header, rows)


def designs_fasta(designs: Sequence[Design]) -> str:
    """Return a link to a FASTA file of designs with their flanks, ready to order."""
    records = "".join(f">design_{number}\n{each.sequence}\n" for number, each in enumerate(designs, start=1))
    return data_link("Download them with their flanks (FASTA)", "designs.fasta", "text/plain", records)


def strongest_changes(insert: str, expression: np.ndarray, changes: np.ndarray, output: str) -> str:
    """Return a table of the greatest changes of a saturation mutagenesis, (bases, 4), written as for a variant."""
    rows = []
    for position, column in zip(*strongest(changes, 5), strict=True):
        name = f"{insert[position]}{position + 1}{BASES[column]}"
        values = number(expression[position, column]), number(changes[position, column], "+")
        rows.append([str(len(rows) + 1), name, *values])
    return table("The strongest single changes", ["No.", "Change", f"Predicted {output}", "Difference"], rows)


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as HTML. The second cell of each row is its header; a large table scrolls, by keyboard too."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    body = ""
    for cells in rows:
        first, name, *others = map(html.escape, cells)
        body += f'<tr><td>{first}</td><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{html.escape(caption)}"><table>'
        f"<caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def predictions_link(entries: Entries, prediction: Prediction) -> str:
    """
    Return a link to the user's table with the columns that `proformer predict` adds.

    Raises:
        InputError: the table has a column of such a name already.
    """
    new_columns, values = [], []
    for output, name in enumerate(prediction.outputs):
        new_columns.append(f"predicted_{name}")
        values.append(prediction.values[:, output])
        if prediction.level is not None:
            new_columns += [f"predicted_{name}_low", f"predicted_{name}_high"]
            values += [prediction.low[:, output], prediction.high[:, output]]
    columns = list(entries.rows[0].cells)
    if taken := [name for name in new_columns if name in columns]:
        raise InputError(f"{entries.source}: rename the column {taken[0]!r}: the column of predictions has this name.")
    rows = [
        [*row.cells.values(), *(f"{value:.6g}" for value in predicted)]
        for row, predicted in zip(entries.rows, np.stack(values, axis=1), strict=True)
    ]
    return download_link("Download the table (TSV)", "expression.tsv", [*columns, *new_columns], rows)


def mutagenesis_link(insert: str, expression: np.ndarray) -> str:
    """Return a link to a table of a saturation mutagenesis, (bases, 4)."""
    rows = [
        [position, base, *(f"{value:.6g}" for value in values)]
        for position, (base, values) in enumerate(zip(insert, expression, strict=True), start=1)
    ]
    name = "saturation_mutagenesis.tsv"
    return download_link("Download all single changes (TSV)", name, ["position", "reference", *BASES], rows)


def download_link(text: str, name: str, header: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Return a link that contains the file itself, so that the server does not keep it."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return data_link(text, name, "text/tab-separated-values", file.getvalue())


def data_link(text: str, name: str, kind: str, content: str) -> str:
    """Return a link that contains a file of this media type."""
    data = base64.b64encode(content.encode("utf-8", "replace")).decode()
    return f'<a class="download" download="{name}" href="data:{kind};base64,{data}">{text}</a>'
