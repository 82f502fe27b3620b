"""The command `proformer mutagenesis`."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import MISSING as REQUIRED
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from ..data.config import option
from ..motifs import Seqlet, name_motifs, read_motifs
from ..mutagenesis import Mutagenesis, mutate_file
from ..writing import FORMATS, output_file, output_table, table_suffix_of
from .common import INPUT, MODEL, NAME, ReadOptions, RunOptions, input_path, name_of, require_input


logger = logging.getLogger(__name__)

SEQLET_COLUMNS = ["name", "output", "start", "end", "sequence", "contribution"]
SEQLET_COLUMNS += ["motif", "motif_start", "motif_end", "strand", "p_value", "e_value"]
TYPES = {
    **dict.fromkeys(["position", "start", "end", "motif_start", "motif_end"], pa.int32()),
    **dict.fromkeys(["contribution", "p_value", "e_value"], pa.float32()),
}
# A name in the file name of a figure.
MAX_NAME_LENGTH = 60


@dataclass(kw_only=True)
class MutagenesisOptions:
    """Options that say what `proformer mutagenesis` reads and writes."""

    input: list[str] = option(INPUT, REQUIRED, positional=True)
    output: str | None = option(
        "File to write, with a row for each change of each sequence; its name ends in one of "
        f"{', '.join(FORMATS)}; by default TSV on the standard output.",
        aliases=["-o"],
        metavar="FILE",
    )
    model: str | None = option(MODEL)
    name: str | None = option(NAME, metavar="COLUMN")
    deletions: bool = option("Delete each base too.", False)
    figures: str | None = option(
        "Folder for a figure of each sequence and output: a heat map of the effects, and above it the logo of "
        "contributions (minus the mean effect of a base's substitutions). It is made if it is not there.",
        metavar="FOLDER",
    )
    max_figures: int = option("Draw this many figures at most.", 100)
    motifs: str | None = option(
        "File of known motifs in MEME's format: names those that resemble bases which contribute much, in the "
        "figures and in the table `seqlets`.",
        metavar="FILE",
    )
    seqlets: str | None = option(
        "File to write, in the formats of the output, with the consecutive bases that contribute much, and a row for "
        "each motif that resembles them.",
        metavar="FILE",
    )
    max_e_value: float = option(
        "Name a motif only if at most this number of motifs would be as similar by chance.", 0.1
    )


@dataclass(kw_only=True)
class MutagenesisConfig(MutagenesisOptions, ReadOptions, RunOptions):
    """
    Options of `proformer mutagenesis`.

    Raises:
        ValueError: an option is outside its range, or two contradict each other.
    """

    groups: ClassVar[tuple[type, ...]] = (MutagenesisOptions, ReadOptions, RunOptions)

    def __post_init__(self):
        super().__post_init__()
        require_input(self.input)
        table_suffix_of(self.output)
        if self.max_figures < 1:
            raise ValueError(f"`max_figures` is {self.max_figures}, but must be at least 1.")
        if not self.max_e_value > 0:
            raise ValueError(f"`max_e_value` is {self.max_e_value}, but must be above 0.")
        if self.seqlets is not None:
            table_suffix_of(self.seqlets)
            if self.motifs is None:
                raise ValueError("`seqlets` needs a file of motifs: give one with `motifs`.")
        elif self.motifs is not None and self.figures is None:
            raise ValueError("`motifs` names motifs in figures or in a table: give `figures`, `seqlets` or both.")


def run(config: MutagenesisConfig):
    """Write the effects of all single changes, and the motifs that they show, as tables and figures."""
    paths = [input_path(path) for path in config.input]
    motifs = None if config.motifs is None else read_motifs(config.motifs)
    figures = None if config.figures is None else _Figures(config.figures, config.max_figures)
    model, tokenizer = config.load(config.model)
    outputs = [model.config.id2label[output] for output in range(model.config.num_labels)]
    is_marked = config.on_error == "mark"
    columns = ["name", "position", "reference", "alternate"]
    columns += [f"{kind}_{output}" for kind in ("predicted", "effect") for output in outputs] + ["error"] * is_marked
    results = mutate_file(
        model, tokenizer, paths, deletions=config.deletions, **config.read_arguments, **config.run_arguments
    )
    with ExitStack() as stack:
        table = stack.enter_context(output_table(config.output, TYPES))
        seqlet_table = None if config.seqlets is None else stack.enter_context(output_table(config.seqlets, TYPES))
        progress = stack.enter_context(tqdm(unit=" sequences", disable=config.quiet))
        for row, result in results:
            progress.update()
            name = name_of(row, config.name, paths)
            if result is None:
                missing = [np.float32("nan")] * (2 * len(outputs))
                table.write(columns, [[name, None, None, None, *missing, config.name_flags(row.error)]])
                continue
            table.write(columns, [[name, *cells, *[""] * is_marked] for cells in _change_cells(result)])
            for output, label in enumerate(outputs):
                seqlets = []
                # Naming motifs is slow, so it is left out where nothing shows them.
                is_shown = seqlet_table is not None or (figures is not None and not figures.is_full)
                if motifs is not None and is_shown:
                    contributions = result.contributions[:, output]
                    seqlets = name_motifs(result.insert, contributions, motifs, max_e_value=config.max_e_value)
                if seqlet_table is not None:
                    cells_of = _seqlet_cells(result.insert, seqlets)
                    seqlet_table.write(SEQLET_COLUMNS, [[name, label, *cells] for cells in cells_of])
                if figures is not None:
                    figures.draw(name, result, seqlets, output, outputs)
    if figures is not None:
        figures.report()


def _change_cells(result: Mutagenesis) -> Iterator[list]:
    """Yield the cells of each change's row, after the name."""
    for position, reference, alternate, predicted, effects in result.changes():
        yield [position, reference, alternate, *predicted, *effects]


def _seqlet_cells(insert: str, seqlets: Sequence[Seqlet]) -> Iterator[list]:
    """Yield the cells of each match of a seqlet, or of a seqlet without one, after name and output."""
    for start, end, contribution, matches in seqlets:
        seqlet = [start + 1, end, insert[start:end], np.float32(contribution)]
        for match in matches:
            values = np.float32([match.p_value, match.e_value])
            yield [*seqlet, match.motif, match.start + 1, match.end, match.strand, *values]
        if not matches:
            yield [*seqlet, None, None, None, None, *np.float32([np.nan, np.nan])]


class _Figures:
    """Draws figures into a folder until there are `maximum` of them, and counts the others."""

    def __init__(self, folder: str, maximum: int):
        self.folder = Path(folder)
        self.maximum = maximum
        self.asked = 0

    @property
    def is_full(self) -> bool:
        """Return whether no more figures are drawn."""
        return self.asked >= self.maximum

    def draw(self, name: str, result: Mutagenesis, seqlets: Sequence[Seqlet], output: int, outputs: Sequence[str]):
        """Draw an output of a sequence."""
        from ..evaluation.mutagenesis_figure import mutagenesis_plot

        is_full = self.is_full
        self.asked += 1
        if is_full:
            return
        self.folder.mkdir(exist_ok=True)
        # Names may be equal, and may have any characters.
        words = [name, outputs[output]] if len(outputs) > 1 else [name]
        readable = re.sub(r"[^\w.-]+", "_", "_".join(words))[:MAX_NAME_LENGTH]
        title = f"{name}: {outputs[output]} {result.reference[output]:.3g}"
        with output_file(self.folder / f"{self.asked:04d}_{readable}.png", binary=True) as file:
            mutagenesis_plot(file, result, output=output, label=outputs[output], title=title, seqlets=seqlets)

    def report(self):
        """Log how many figures were not drawn."""
        if self.asked > self.maximum:
            logger.warning(
                f"Drew the first {self.maximum:,} of {self.asked:,} figures; `max_figures` allows for more."
            )


KINDS = (MutagenesisConfig,)
