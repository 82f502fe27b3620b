"""The command `proformer variants`."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING as REQUIRED
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, ClassVar, Literal

import pyarrow as pa
from tqdm.auto import tqdm

from ..data.config import option
from ..data.rows import InputError, measured_value, require_columns, require_new_columns
from ..data.tables import column_types, is_stream
from ..data.variants import COLUMN_NAMES, VariantColumns, read_variants
from ..data.vcf import Variant, VcfFile, is_vcf
from ..loading import load_with_flanks
from ..variant_scores import ScoreColumns, VariantScore, score_variants
from ..writing import FORMATS, is_standard, output_table, output_vcf, table_suffix_of
from .common import (
    MISSING_FLANKS,
    MODEL,
    TABLE,
    WIDTH,
    RunOptions,
    input_path,
    report_agreement,
    require_one_output,
)


VCF_OUTPUTS = (".vcf", ".vcf.gz")

# Rows of the table that are written at a time.
ROWS_WRITTEN = 1024


@dataclass(kw_only=True)
class VariantsOptions:
    """Options that say what `proformer variants` reads, how, and what it writes."""

    input: str = option(
        "VCF (may be compressed by bgzip or gzip) or BCF; or a table of variants or of pairs of sequences, a "
        f"{TABLE}; - is a table on the standard input.",
        REQUIRED,
        positional=True,
    )
    genome: str | None = option(
        "FASTA file of the genome, which may be compressed by bgzip; not for pairs of sequences.", metavar="FILE"
    )
    promoters: str | None = option(
        "BED file of promoters; each variant is then read in the promoters that hold it, on their strands (column 6).",
        metavar="FILE",
    )
    output: str | None = option(
        f"File to write, whose name ends in one of {', '.join((*FORMATS, *VCF_OUTPUTS))}; by default TSV on the "
        "standard output. A VCF is that of the input with INFO fields.",
        aliases=["-o"],
        metavar="FILE",
    )
    model: str | None = option(MODEL)
    chromosome: str | None = option(
        "Column with the chromosomes; by default chromosome, chrom or chr.", metavar="COLUMN"
    )
    position: str | None = option(
        "Column with the positions, counted from 1; by default position or pos.", metavar="COLUMN"
    )
    reference: str | None = option(
        "Column with the reference alleles, or with the sequences that hold them; by default reference or ref.",
        metavar="COLUMN",
    )
    alternate: str | None = option(
        "Column with the alternate alleles, or with the sequences that hold them; by default alternate or alt.",
        metavar="COLUMN",
    )
    offsets: int = option(
        "Number of windows to average over, in which the variant lies at evenly spaced positions; adds their number, "
        "which is smaller in a short promoter, and the standard deviation of the difference over them.",
        1,
    )
    width: int | None = option(WIDTH)
    measured: str | None = option(
        "Column with measured differences to compare with, which may have empty cells: prints Pearson's r and "
        "Spearman's ρ, and draws a figure with the name of the output and the ending .png.",
        metavar="COLUMN",
    )
    interval: float | None = option(
        "Add the ends of an interval that covers the difference of the two measurements with at least this "
        "probability, such as 0.9; the model has to be fine-tuned on enough rows."
    )
    missing_flanks: Literal["keep", "cut", "refuse"] | None = option(f"For pairs of sequences: {MISSING_FLANKS}")
    truncation: bool = option("Cut sequences of pairs that are longer than the model's construct.", False)


@dataclass(kw_only=True)
class VariantsConfig(VariantsOptions, RunOptions):
    """
    Options of `proformer variants`.

    Raises:
        ValueError: an option is outside its range, or two contradict each other.
    """

    groups: ClassVar[tuple[type, ...]] = (VariantsOptions, RunOptions)

    def __post_init__(self):
        super().__post_init__()
        if self.writes_vcf:
            if not is_vcf(self.input):
                raise ValueError(f"`output` {self.output}: only a VCF or BCF becomes a VCF; write a table instead.")
        else:
            table_suffix_of(self.output)
        if is_vcf(self.input) and self.genome is None:
            raise ValueError("`genome`: a VCF has no sequences, so name the FASTA file of its genome.")
        if is_vcf(self.input) and (given := [name for name in COLUMN_NAMES if getattr(self, name) is not None]):
            raise ValueError(f"`{given[0]}` is a column of a table, and a VCF has its own.")
        if self.genome is not None:
            for name in ("missing_flanks", "truncation"):
                if getattr(self, name):
                    raise ValueError(f"`{name}` is for pairs of sequences, which need no `genome`.")
        if self.measured is not None and (is_vcf(self.input) or is_standard(self.output)):
            raise ValueError(
                "`measured` is a column of a table, and draws a figure next to the table that `output` names."
            )
        if self.interval is not None and self.offsets > 1:
            raise ValueError("`interval` is of one window; a mean over several `offsets` has none.")

    @property
    def writes_vcf(self) -> bool:
        """Return whether the output is a VCF."""
        return not is_standard(self.output) and self.output.lower().endswith(VCF_OUTPUTS)


def run(config: VariantsConfig):
    """Write the expression of both alleles of each variant."""
    model, tokenizer = load_with_flanks(config.model, config.missing_flanks)
    columns = ScoreColumns(
        model.config,
        genome=config.genome is not None,
        promoters=config.promoters is not None,
        offsets=config.offsets,
        interval=config.interval,
    )
    if config.measured is not None:
        require_one_output([name for name in columns.numbers if name.startswith("difference_")])
    path = input_path(config.input)
    names = VariantColumns(
        chromosome=config.chromosome,
        position=config.position,
        reference=config.reference,
        alternate=config.alternate,
    )
    vcf = VcfFile(path) if is_vcf(path) else None
    variants: Iterable[Variant] = vcf or read_variants(path, names)
    if config.measured is not None:
        variants = _check_measured(path, variants, config.measured)
    scores = score_variants(
        model,
        tokenizer,
        variants,
        config.genome,
        promoters=config.promoters,
        offsets=config.offsets,
        width=config.width,
        truncation=config.truncation,
        **config.run_arguments,
    )
    with tqdm(unit=" variants", disable=config.quiet) as progress:
        shown = _count(scores, progress)
        if config.writes_vcf and vcf is not None:
            _write_vcf(config.output, vcf, columns, shown)
        else:
            _write_table(config, path, columns, shown)


def _check_measured(path: str, variants: Iterable[Variant], column: str) -> Iterator[Variant]:
    """Yield the rows of a table, with an error where the measurement is no number."""
    for variant in variants:
        require_columns(path, variant.source.cells, [column])
        try:
            measured_value(path, variant.source, column)
        except InputError as error:
            variant = variant._replace(error=variant.error or f"unreadable measurement: {error.reason}")
        yield variant


def _count(scores: Iterable[VariantScore], progress: tqdm) -> Iterator[VariantScore]:
    for score in scores:
        yield score
        progress.update()


def _info_fields(columns: ScoreColumns) -> dict[str, tuple[str, str, str]]:
    """
    Return the INFO fields of a VCF; with promoters, an allele has as many values as it has promoters.

    Raises:
        InputError: two columns would be one field.
    """
    has_promoters = "promoter" in columns.texts
    number = "." if has_promoters else "A"
    allele = {"allele": "alternate allele of each value"} if has_promoters else {}
    kinds = [
        (number, "String", allele | columns.texts),
        # A record without an alternate allele has an error too.
        (".", "String", {"error": "why there is no prediction"}),
        (number, "Integer", columns.counts),
        (number, "Float", {name: f"predicted expression: {text}" for name, text in columns.numbers.items()}),
    ]
    fields: dict[str, tuple[str, str, str]] = {}
    names: dict[str, str] = {}
    for count, kind, texts in kinds:
        for name, text in texts.items():
            if (field := _field(name)) in fields:
                raise InputError(
                    f"The columns {names[field]!r} and {name!r} would both be the INFO field {field}; rename an "
                    "output of the model in its configuration (id2label), or write a table."
                )
            fields[field], names[field] = (count, kind, text), name
    return fields


def _field(column: str) -> str:
    """Return the name of an INFO field, in which only these characters are allowed."""
    return f"proformer_{re.sub('[^0-9A-Za-z_.]', '_', column)}"


def _write_vcf(output: str, vcf: VcfFile, columns: ScoreColumns, scores: Iterable[VariantScore]):
    fields = _info_fields(columns)
    vcf.declare(fields)
    with output_vcf(output, vcf) as writer:
        for _, group in groupby(scores, key=lambda score: score.variant.location):
            of_record = list(group)
            record = of_record[0].variant.source
            cells = [columns.cells(score) for score in of_record]
            transposed = map(list, zip(*cells, strict=True))
            values: dict[str, list] = dict(zip(map(_field, columns.names), transposed, strict=True))
            # Its kind says enough, and the details have characters that a VCF has not.
            values[_field("error")] = [score.error.partition(":")[0] for score in of_record]
            values[_field("allele")] = [score.variant.alternate for score in of_record]
            names = [_field("error")] if record.alts is None else fields
            writer.write(record, {name: values[name] for name in names})


def _write_table(config: VariantsConfig, path: str, columns: ScoreColumns, scores: Iterator[VariantScore]):
    is_table = not is_vcf(path)
    types = {"position": pa.int64()}
    if is_table:
        types = column_types(path) if table_suffix_of(config.output) == ".parquet" and not is_stream(path) else {}
    types |= dict.fromkeys(columns.counts, pa.int64())
    measured, predicted = [], []
    with output_table(config.output, types) as table:
        while several := list(islice(scores, ROWS_WRITTEN)):
            several = [score._replace(error=config.name_flags(score.error)) for score in several]
            given = [score.variant.source.cells if is_table else _cells(score.variant) for score in several]
            require_new_columns(path, given[0], columns.names)
            if config.measured is not None:
                scored = [score for score in several if not score.error]
                measured += [measured_value(path, score.variant.source, config.measured) for score in scored]
                predicted += [score.difference[0] for score in scored]
            rows = [[*cells.values(), *columns.cells(score)] for cells, score in zip(given, several, strict=True)]
            table.write([*given[0], *columns.names], rows)
    if config.measured is not None:
        place = f"{config.input}, column {config.measured!r}"
        report_agreement(place, config.measured, measured, predicted, config.output, "variants")


def _cells(variant: Variant) -> dict[str, Any]:
    return {
        "chromosome": variant.chromosome,
        "position": variant.position,
        "id": variant.id,
        "reference": variant.reference,
        "alternate": variant.alternate or "",
    }


KINDS = (VariantsConfig,)
