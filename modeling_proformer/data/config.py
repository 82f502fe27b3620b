"""Options that say how a table becomes an assay: the Python keywords, flags, YAML keys and documentation at once."""

import difflib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from .cells import class_key


# The values of an option of each kind have this type, and errors call them by this name.
KINDS = {bool: (bool, "true or false"), int: (Integral, "a whole number"), float: (Real, "a number")}


def option(help: str, default=None, **metadata):
    """Return a dataclass field with its help text; a list is the default of a list-valued option."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help, **metadata})
    return field(default=default, metadata={"help": help, **metadata})


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Return a question that names the option that is most like an unknown one; "" if none is like it."""
    similar = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {similar[0]!r}?" if similar else ""


def count_of(count: int, noun: str) -> str:
    """Return "1 row", "2 rows" and so on."""
    return f"1 {noun}" if count == 1 else f"{count:,} {noun}s"


def require_types(options: Any):
    """
    Check that the numbers, truth values and choices among a dataclass's options are such.

    Raises:
        ValueError: one is not.
    """
    hints = get_type_hints(type(options))
    for each in fields(options):
        value, kind = getattr(options, each.name), hints[each.name]
        if isinstance(kind, UnionType):
            if value is None:
                continue
            (kind,) = (one for one in get_args(kind) if one is not NoneType)
        if get_origin(kind) is Literal:
            require_choice(each.name, value, get_args(kind))
        elif kind in KINDS:
            admitted, name = KINDS[kind]
            # In Python, a truth value is a whole number too.
            if not isinstance(value, admitted) or isinstance(value, bool) != (kind is bool):
                raise ValueError(f"`{each.name}` is {value!r}, but must be {name}.")


def require_choice(name: str, value: Any, choices: Sequence[str]):
    """
    Check that an option has one of its values.

    Raises:
        ValueError: it has not.
    """
    if value not in choices:
        raise ValueError(f"`{name}` is {value!r}, but must be {' or '.join(map(repr, choices))}.")


@dataclass(kw_only=True)
class ColumnOptions:
    """Which columns of a table hold what."""

    _argument_group_name: ClassVar[str] = "columns of the table"

    sequence: str = option("Column with the sequences, with or without the construct's flanks.", "sequence")
    iupac_as_n: bool = option("Read the IUPAC codes R Y S W K M B D H V as N.", False)
    on_error: Literal["refuse", "skip"] = option(
        "What to do with rows that cannot be read: refuse the table, or skip the rows.", "refuse"
    )
    targets: list[str] = option(
        "Columns with the measurements, one for each output; with bins, the reads counted in each sorting bin.",
        ["expression"],
    )
    bins: list[float] | None = option("Centres of the sorting bins, evenly spaced; the targets are then read counts.")
    classes: list[str] | None = option(
        "Names of the classes in the target column, such as low mid high, for finetune; the outputs are then the "
        "probabilities of the classes, which add up to 1."
    )
    rna: list[str] | None = option(
        "Columns with RNA reads of barcodes, one for each replicate, where an empty cell or NA is 0; instead of "
        "targets, the model predicts the activity, the log2 ratio of RNA to DNA."
    )
    dna: list[str] | None = option("Columns with DNA reads of barcodes, one for each of rna, or one for all.")
    barcode: str | None = option("Column with the barcode; by default each row is one.")
    min_barcodes: int = option("Leave out a sequence in a replicate where fewer of its barcodes were read.", 1)
    weight: str | None = option("Column with the weight of each row (replicates, reads), on any scale.")
    standard_error: str | None = option(
        "Column with the standard error of each measurement; rows are weighted by 1 / (error² + median error²)."
    )
    split: str | None = option("Column that assigns each row to train, validation or test.")
    group: str | None = option("Column with the group of each row; a group is never divided between splits.")


@dataclass(kw_only=True)
class ConstructOptions:
    """The construct of the assay: inserts that vary between flanks that do not."""

    _argument_group_name: ClassVar[str] = "construct (detected from the sequences unless given)"

    five_prime_flank: str | None = option('Constant bases before every insert; "" for none.')
    three_prime_flank: str | None = option('Constant bases after every insert; "" for none.')
    missing_flanks: Literal["keep", "cut", "refuse"] | None = option(
        "How to read a sequence without the exact flanks, see ProformerTokenizer; detected by default."
    )
    insert_width: int | None = option("Width that inserts are padded to; by default that of the longest insert.")
    too_long: Literal["refuse", "leave_out", "cut"] = option(
        "What to do with inserts longer than insert_width.", "refuse"
    )
    strands: Literal["both", "forward"] = option("Strands that the model reads; forward for assays of RNA.", "both")


@dataclass(kw_only=True)
class SplitOptions:
    """Which rows train the model, choose it and test it."""

    _argument_group_name: ClassVar[str] = "split"

    duplicates: Literal["refuse", "average", "keep"] = option(
        "What to do with different measurements of one insert; average also adds up their weights.", "refuse"
    )
    split_by: Literal["homology", "random"] = option(
        "How to split rows where no column says it: homology keeps related sequences in one split.", "homology"
    )
    validation_fraction: float = option("Share of the rows that choose the best step and calibrate intervals.", 0.15)
    test_fraction: float = option("Share of the rows that test the model.", 0.15)
    train_rows: int | None = option("Train on this many rows, chosen at random; the test rows stay the same.")
    validation_rows: int | None = option("Evaluate on this many of the validation rows, chosen at random.")


@dataclass(kw_only=True)
class DataConfig(ColumnOptions, ConstructOptions, SplitOptions):
    """
    How a table becomes an assay.

    Raises:
        ValueError: an option is outside its range, or two contradict each other.
    """

    # The groups of the command line, in their order.
    groups: ClassVar[tuple[type, ...]] = (ColumnOptions, ConstructOptions, SplitOptions)

    def __post_init__(self):
        require_types(self)
        if isinstance(self.targets, str):
            raise ValueError(f"`targets` is a list of columns, such as [{self.targets!r}].")
        self.targets = [str(target) for target in self.targets]
        if not self.targets:
            raise ValueError("`targets` names no column.")
        if repeated := [name for name in self.targets if self.targets.count(name) > 1]:
            raise ValueError(f"`targets` names the column {repeated[0]!r} more than once.")
        if self.bins is not None:
            self.bins = [float(centre) for centre in self.bins]
            if len(self.bins) != len(self.targets):
                raise ValueError(
                    f"`bins` has {len(self.bins)} centres for {count_of(len(self.targets), 'column')} of reads."
                )
            if len(self.bins) < 2 or not all(map(math.isfinite, self.bins)):
                raise ValueError(f"`bins` must be two or more finite numbers, got {self.bins}.")
        self._check_classes()
        self._check_counts()
        if self.weight and self.standard_error:
            raise ValueError("Give `weight` or `standard_error`, not both.")
        if self.too_long == "cut" and self.insert_width is None:
            raise ValueError("`too_long` 'cut' needs an `insert_width`.")
        if not 0 < self.validation_fraction < 1 or not 0 <= self.test_fraction < 1 - self.validation_fraction:
            raise ValueError(
                "`validation_fraction` must be above 0, `test_fraction` at least 0, and their sum below 1; they are "
                f"{self.validation_fraction} and {self.test_fraction}."
            )
        for name in ("insert_width", "train_rows", "validation_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` is {value}, but must be at least 1.")

    def _check_classes(self):
        """Check the names of classes."""
        if self.classes is None:
            return
        if isinstance(self.classes, str):
            raise ValueError(f"`classes` is a list of names, such as [{self.classes!r}].")
        self.classes = [str(name).strip() for name in self.classes]
        if len(self.classes) < 2 or not all(self.classes):
            raise ValueError(f"`classes` must be two or more names, got {self.classes}.")
        if len(self.class_numbers) < len(self.classes):
            repeated = next(
                name for number, name in enumerate(self.classes) if self.class_numbers[class_key(name)] != number
            )
            raise ValueError(f"`classes` names {repeated!r} more than once.")
        for name, value in (("bins", self.bins), ("rna", self.rna), ("standard_error", self.standard_error)):
            if value:
                raise ValueError(f"`{name}` is for numbers, not for classes; leave out `{name}` or `classes`.")
        if len(self.targets) > 1:
            raise ValueError(f"`classes` is for one column of targets, but there are {len(self.targets)}.")

    def _check_counts(self):
        """Check the options of RNA and DNA reads."""
        if not self.rna:
            for name in ("dna", "barcode"):
                if getattr(self, name):
                    raise ValueError(f"`{name}` needs `rna`, the columns with RNA reads.")
            if self.min_barcodes != 1:
                raise ValueError("`min_barcodes` needs `rna`, the columns with RNA reads.")
            return
        if not self.dna:
            raise ValueError("`rna` needs `dna`, the columns with DNA reads.")
        for name in ("rna", "dna"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"`{name}` is a list of columns, such as [{getattr(self, name)!r}].")
        if len(self.dna) not in (1, len(self.rna)):
            raise ValueError(
                f"`dna` has {len(self.dna)} columns for the {len(self.rna)} of `rna`; give as many, or one."
            )
        if repeated := [name for name in self.measured_columns if self.measured_columns.count(name) > 1]:
            raise ValueError(f"`rna` and `dna` name the column {repeated[0]!r} more than once.")
        given = ["targets"] if self.targets != ["expression"] else []
        given += [name for name in ("bins", "weight", "standard_error") if getattr(self, name)]
        if given:
            raise ValueError(f"Measurements and weights follow from `rna` and `dna`; leave out `{given[0]}`.")
        if self.min_barcodes < 1:
            raise ValueError(f"`min_barcodes` is {self.min_barcodes}, but must be at least 1.")

    @property
    def outputs(self) -> list[str]:
        """Names of what the model predicts."""
        if self.rna:
            return ["activity"]
        if self.classes:
            return self.classes
        return self.targets if self.bins is None else ["mean_bin"]

    @property
    def measured_columns(self) -> list[str]:
        """Names of the columns that measurements are read from: the targets, or those of RNA and then of DNA reads."""
        return [*self.rna, *(self.dna or [])] if self.rna else self.targets

    @property
    def class_numbers(self) -> dict[str, int]:
        """Number of each class by its `class_key`; of none, nothing."""
        return {class_key(name): number for number, name in enumerate(self.classes or [])}

    @property
    def counts_reads(self) -> bool:
        """Return whether these columns hold numbers of reads."""
        return bool(self.bins or self.rna)

    @property
    def columns(self) -> list[str]:
        """Names of the columns that are read."""
        others = (self.barcode, self.weight, self.standard_error, self.split, self.group)
        return list(dict.fromkeys([self.sequence, *self.measured_columns, *filter(None, others)]))


__all__ = [
    "ColumnOptions",
    "ConstructOptions",
    "DataConfig",
    "SplitOptions",
    "count_of",
    "did_you_mean",
    "option",
    "require_choice",
]
