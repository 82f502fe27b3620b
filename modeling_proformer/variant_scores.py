"""Expression of the two alleles of variants, in windows of a genome or in pairs of sequences."""

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from transformers import BatchEncoding, PreTrainedModel

from .configuration_proformer import ProformerConfig
from .data.genome import Genome, Region
from .data.rows import InputError
from .data.screening import Screening
from .data.variants import read_variants
from .data.vcf import Variant
from .data.windows import Promoters, VariantLocator, VariantWindows
from .intervals import prediction_interval
from .prediction import (
    predict_tokens,
    prefetch,
    prepare_model,
    require_finite,
    token_batches,
    window_width,
    without_flanks,
)
from .tokenization import ProformerTokenizer


logger = logging.getLogger(__name__)

# Windows whose predictions are kept for later variants, which share a reference if they are near each other.
WINDOWS_KEPT = 2**14
# Variants without windows of their own that are returned at a time.
MAX_WAITING = 2**12


class VariantScore(NamedTuple):
    """
    What a model predicts for the two alleles of a variant.

    Attributes:
        variant: the variant.
        error: why it has no predictions, with the kind before the first colon; empty if it has some.
        promoter: the promoter that it was read in; None without promoters.
        window: where the windows of the reference allele lie, such as "chrI:101-180", from the first base of the first
            to the last base of the last, counted from 1; empty for a pair of sequences.
        strand: the strand that was read.
        reference, alternate: (outputs,) of float32, means over the windows. NaN if there is an error.
        difference: (outputs,), alternate minus reference.
        spread: (outputs,), standard deviation of the difference over the windows; NaN if there is only one.
        windows: number of windows of each allele; 0 if there is an error.
    """

    variant: Variant
    error: str
    promoter: Region | None
    window: str
    strand: str
    reference: np.ndarray
    alternate: np.ndarray
    difference: np.ndarray
    spread: np.ndarray
    windows: int


def score_variants(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    variants: str | os.PathLike | Iterable[Variant],
    genome: str | os.PathLike | Genome | None = None,
    *,
    promoters: str | os.PathLike | Sequence[Region] | None = None,
    offsets: int = 1,
    width: int | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    truncation: bool = False,
) -> Iterator[VariantScore]:
    """
    Yield the expression of both alleles of each variant, in the order of the variants.

    Without promoters, a window has the width of an insert, the variant is in its middle, and it is read on the
    forward strand. With promoters, the window is the promoter that holds the variant, on its strand; of a promoter
    that is longer than the insert, it is the part around the variant. A variant has a result for each promoter that
    holds it. The windows of both alleles are of one width and end with the same base of the genome: an insertion
    pushes bases out at the end that is read first, the 5′ end, and a deletion draws bases in there. An insertion or
    deletion that can be written in several places lies in the leftmost one, for promoters on both strands.

    A variant that cannot be scored has an `error`, and the next one follows. At the end, their numbers are logged.
    Every distinct window within reach is predicted once, and both alleles of a window in one batch.

    Args:
        model, tokenizer, batch_size, device, dtype, truncation: see `predict`; only sequences of pairs are cut.
        variants: a VCF, a BCF, a table (see `read_variants`), or variants.
        genome: FASTA file; without it, the variants are pairs of sequences.
        promoters: BED file, or regions of the genome.
        offsets: number of windows of each variant, in which it lies at evenly spaced positions. A promoter that fits
            the insert has one window, and one that is a little longer has fewer than these.
        width: bases of a window, if it is to have fewer than the tokenizer has room for.

    Raises:
        ImportError: a genome or VCF needs pysam.
        InputError: a file cannot be read, more than half of the first thousand reference alleles are not those of the
            genome, there is not one variant that can be scored, or a prediction is not finite; `width` or
            `offsets` is outside its range, or an argument needs a genome.
    """
    scoring = VariantScoring(
        model,
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
    findings = _Findings()
    for score in scoring.score(read_variants(variants) if isinstance(variants, str | os.PathLike) else variants):
        findings.add(score)
        yield score
    findings.report()


class VariantScoring:
    """
    Scores variants, some at a time.

    Args:
        model, tokenizer, genome, promoters, offsets, width, batch_size, device, dtype, truncation: see
            `score_variants`.

    Raises:
        ImportError, InputError: see `score_variants`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: ProformerTokenizer,
        genome: str | os.PathLike | Genome | None = None,
        *,
        promoters: str | os.PathLike | Sequence[Region] | None = None,
        offsets: int = 1,
        width: int | None = None,
        batch_size: int | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        truncation: bool = False,
    ):
        needing = {"promoters": promoters is not None, "offsets": offsets > 1, "width": width is not None}
        if genome is None and any(needing.values()):
            raise InputError(f"`{max(needing, key=lambda name: needing[name])}` needs the `genome`.")
        width = window_width(tokenizer, width)
        if not 1 <= offsets <= width:
            raise InputError(f"`offsets` is {offsets}, but must be 1 to {width}, the bases of a window.")
        self.model, self.batch_size = prepare_model(model, tokenizer, (), batch_size, device)
        self.dtype, self.truncation = dtype, truncation
        self._locate: Callable[[Iterable[Variant]], Iterator[VariantWindows]]
        if genome is None:
            self.tokenizer = tokenizer
            screening = Screening(tokenizer=tokenizer, truncation=truncation)
            self._locate = partial(_read_pairs, screening=screening, count=self.batch_size)
        else:
            genome = genome if isinstance(genome, Genome) else Genome(genome)
            regions = None if promoters is None else Promoters(genome, promoters)
            self._locate = VariantLocator(genome, regions, width, offsets).locate_all
            # A window is an insert, also if it begins like a flank by chance.
            self.tokenizer = without_flanks(tokenizer)

    def score(self, variants: Iterable[Variant]) -> Iterator[VariantScore]:
        """Yield the expression of both alleles of each variant, in the order of the variants."""

        def read() -> Iterator[tuple[_Batch, BatchEncoding | None]]:
            for batch in _gather(self._locate(variants), self.batch_size):
                sequences = token_batches(self.tokenizer, batch.windows, max(self.batch_size, 2), self.truncation)
                yield batch, next(sequences, None)

        for batch, inputs in prefetch(read()):
            if inputs is not None:
                predicted = predict_tokens(self.model, inputs, self.dtype)
                require_finite(predicted, self.model, self.dtype)
                for window, values in zip(batch.windows.values(), predicted, strict=True):
                    window.values = values
            for each, windows in batch.complete:
                yield _score(each, windows, self.model.config.num_labels)


def difference_interval(
    reference: np.ndarray, alternate: np.ndarray, config: ProformerConfig, level: float = 0.9
) -> tuple[np.ndarray, np.ndarray]:
    """
    Return both ends of an interval around the difference of two predictions, alternate minus reference.

    It covers the difference of the two measurements with a probability of about `level` or more, if both sequences
    are like those of the assay that the model was fine-tuned on. It goes from the lowest to the highest difference of
    values in the intervals of both alleles (`prediction_interval`), each at the level halfway from `level` to 1.
    Both miss together at most as often as one and the other (Bonferroni), however their errors depend on each other.
    The errors of two alleles are usually alike, so the interval is wider than it would have to be.

    Args:
        reference, alternate: (variants, outputs), as `predict` returns them.
        config: configuration of the model.
        level: confidence level, such as 0.9, for which the model needs half widths at 0.95.

    Raises:
        ValueError: the model has no half width for that level.
    """
    of_each = round((1 + level) / 2, 10)
    try:
        (reference_low, reference_high), (alternate_low, alternate_high) = (
            prediction_interval(predicted, config, of_each) for predicted in (reference, alternate)
        )
    except ValueError as error:
        raise ValueError(
            f"A difference at the level {level} needs those of both alleles at {of_each}: {error}"
        ) from None
    return alternate_low - reference_high, alternate_high - reference_low


class ScoreColumns:
    """
    The columns that scores add to a table.

    Args:
        config: configuration of the model.
        genome: whether the variants are in a genome.
        promoters: whether they are read in promoters.
        offsets: see `score_variants`.
        interval: level of the interval around the difference, if there is one.

    Attributes:
        texts, counts, numbers: names of the columns of each type, and what they hold.

    Raises:
        InputError: the model has no such intervals.
    """

    def __init__(
        self,
        config: ProformerConfig,
        *,
        genome: bool = False,
        promoters: bool = False,
        offsets: int = 1,
        interval: float | None = None,
    ):
        self.config, self.offsets, self.interval = config, offsets, interval
        outputs = [config.id2label[output] for output in range(config.num_labels)]
        kinds = {
            "reference_{}": "reference allele",
            "alternate_{}": "alternate allele",
            "difference_{}": "alternate minus reference allele",
        }
        if interval is not None:
            kinds |= {
                f"difference_{{}}_{end}": f"{end} end of the difference's interval at the level {interval}"
                for end in ("low", "high")
            }
            self._interval(np.zeros((2, config.num_labels)))
        if offsets > 1:
            kinds["spread_{}"] = "standard deviation of the difference over the windows; missing if there is only one"
        self.numbers = {kind.format(output): text for kind, text in kinds.items() for output in outputs}
        self.texts = {}
        if promoters:
            self.texts["promoter"] = "promoter that was read"
        if genome:
            self.texts |= {"window": "where the windows of the reference allele lie", "strand": "strand that was read"}
        self.counts = {"windows": "number of windows"} if offsets > 1 else {}

    @property
    def types(self) -> dict[str, pa.DataType]:
        """Types of the columns, in their order."""
        kinds = [(self.texts, pa.string()), (self.counts, pa.int64()), (self.numbers, pa.float32())]
        return {name: kind for names, kind in kinds for name in names} | {"error": pa.string()}

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return [*self.types]

    def cells(self, score: VariantScore) -> list[Any]:
        """Return the cells of a row."""
        texts = {"promoter": _name_region(score.promoter), "window": score.window, "strand": score.strand}
        numbers = [score.reference, score.alternate, score.difference]
        if self.interval is not None:
            numbers += self._interval(np.stack([score.reference, score.alternate]))
        if self.offsets > 1:
            numbers.append(score.spread)
        counts = [score.windows for _ in self.counts]
        return [*(texts[name] for name in self.texts), *counts, *np.concatenate(numbers), score.error]

    def _interval(self, alleles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            return difference_interval(alleles[0], alleles[1], self.config, self.interval)
        except ValueError as error:
            raise InputError(f"`interval` {self.interval}: {error}") from error


def _name_region(region: Region | None) -> str:
    return "" if region is None else region.name or f"{region.chromosome}:{region.start + 1}-{region.end}"


def _read_pairs(variants: Iterable[Variant], screening: Screening, count: int) -> Iterator[VariantWindows]:
    """Yield pairs of sequences, `count` of which are checked at a time."""
    variants = iter(variants)
    while several := list(islice(variants, count)):
        errors = {number: each.error for number, each in enumerate(several) if each.error}
        if any(each.chromosome is not None for each in several):
            raise InputError("The variants are alleles at positions of a genome: give its FASTA file with `genome`.")
        for allele in ("reference", "alternate"):
            sound = [number for number in range(len(several)) if number not in errors]
            found = screening.find_errors([getattr(several[number], allele) for number in sound])
            errors |= {sound[number]: f"unreadable sequence: {allele}: {why}" for number, why in found.items()}
        for number, each in enumerate(several):
            error = errors.get(number, "")
            yield VariantWindows(each, () if error else [(each.reference, each.alternate)], error=error)


@dataclass
class _Window:
    """A window, which has values once it is predicted."""

    values: np.ndarray | None = None


@dataclass
class _Batch:
    """Windows to predict, and the variants that are complete with them."""

    windows: dict[str, _Window] = field(default_factory=dict)
    complete: list[tuple[VariantWindows, list[tuple[_Window, _Window]]]] = field(default_factory=list)


def _gather(located: Iterable[VariantWindows], batch_size: int) -> Iterator[_Batch]:
    """Yield batches with both windows of each pair; a window that is among the last ones is in none again."""
    kept: OrderedDict[str, _Window] = OrderedDict()
    batch = _Batch()
    for each in located:
        pairs = []
        for pair in each.pairs:
            new = [window for window in dict.fromkeys(pair) if window not in kept]
            for window in set(pair).difference(new):
                kept.move_to_end(window)
            if len(batch.windows) + len(new) > max(batch_size, 2):
                yield batch
                batch = _Batch()
                _forget_oldest(kept)
            for window in new:
                kept[window] = batch.windows[window] = _Window()
            pairs.append((kept[pair[0]], kept[pair[1]]))
        batch.complete.append((each, pairs))
        if len(batch.complete) == MAX_WAITING:
            yield batch
            batch = _Batch()
            _forget_oldest(kept)
    yield batch


def _forget_oldest(kept: OrderedDict[str, _Window]):
    """Remove the windows that were used longest ago. None of them may be in a batch that is still filled."""
    while len(kept) > WINDOWS_KEPT:
        kept.popitem(last=False)


def _score(each: VariantWindows, windows: Sequence[tuple[_Window, _Window]], outputs: int) -> VariantScore:
    if windows:
        # (alleles, windows, outputs)
        references, alternates = np.array([[window.values for window in pair] for pair in windows]).swapaxes(0, 1)
        differences = alternates - references
        reference, alternate, difference = (values.mean(axis=0) for values in (references, alternates, differences))
        spread = differences.std(axis=0) if len(windows) > 1 else np.full_like(difference, np.nan)
    else:
        reference = alternate = difference = spread = np.full(outputs, np.nan, dtype=np.float32)
    return VariantScore(
        variant=each.variant,
        error=each.error,
        promoter=each.promoter,
        window=each.window,
        strand=each.strand,
        reference=reference,
        alternate=alternate,
        difference=difference,
        spread=spread,
        windows=len(windows),
    )


@dataclass
class _Findings:
    """How many variants have no score, by the kind of the reason."""

    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, each: VariantScore):
        self.rows += 1
        if each.error:
            kind, _, detail = each.error.partition(": ")
            self.counts[kind] = self.counts.get(kind, 0) + 1
            location = each.variant.location or f"row {self.rows:,}"
            self.first.setdefault(kind, f"first {location}{f': {detail}' if detail else ''}".rstrip("."))

    def report(self):
        """
        Log what was found.

        Raises:
            InputError: no variant has a score.
        """
        refused = sum(self.counts.values())
        if not refused:
            return
        kinds = "; ".join(f"{count:,} {kind} ({self.first[kind]})" for kind, count in self.counts.items())
        if refused == self.rows:
            raise InputError(f"None of {self.rows:,} rows can be scored: {kinds}.")
        logger.warning(f"{refused:,} of {self.rows:,} rows have no score: {kinds}.")


__all__ = ["ScoreColumns", "VariantScore", "VariantScoring", "difference_interval", "score_variants"]
