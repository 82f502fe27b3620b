"""Constraints of a lab on designed inserts: defined in DNA Chisel, and checked for many inserts at once."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .data.config import did_you_mean
from .tokenization.tokenization_proformer import codes_of


BASES = "ACGT"
# A pattern is checked base by base, and a repeat by its number in base 4.
MAX_PATTERN = 100
MAX_KMER = 31
# DNA Chisel searches at random; constraints count as contradictory after so many searches that find nothing.
SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """
    What a lab asks of an insert between its flanks.

    Attributes:
        avoid: restriction enzymes by name, or motifs in IUPAC codes, that may be on neither strand.
        avoid_forward: motifs that may not be on the forward strand, such as ATG.
        gc: least and greatest GC content of the insert, in percent.
        max_homopolymer: the longest run of one base.
        max_repeat: the longest subsequence that may occur twice, on either strand.

    Patterns, runs and repeats count where at least one of their bases is in the insert: over the junctions with the
    flanks too, but not within the flanks.

    Raises:
        ImportError: dnachisel is not installed.
        ValueError: a constraint is outside its range, or there is no such enzyme.
    """

    avoid: Sequence[str] = ()
    avoid_forward: Sequence[str] = ()
    gc: Sequence[float] | None = None
    max_homopolymer: int | None = None
    max_repeat: int | None = None

    def __post_init__(self):
        _chisel()
        for name in ("avoid", "avoid_forward"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"`{name}` is a list, such as [{getattr(self, name)!r}].")
            for each in getattr(self, name):
                _patterns(name, each)
        if self.gc is not None:
            if len(self.gc) != 2 or not 0 <= self.gc[0] <= self.gc[1] <= 100:
                raise ValueError(
                    "`gc` is the least and the greatest GC content in percent, such as 30 60, but is "
                    f"{' '.join(f'{value:g}' for value in self.gc)}."
                )
            if 0 < self.gc[1] <= 1:
                raise ValueError(
                    f"`gc` is in percent, and not a share: write {100 * self.gc[1]:g} for {self.gc[1]:g}."
                )
        if self.max_homopolymer is not None and not 1 <= self.max_homopolymer < MAX_PATTERN:
            raise ValueError(f"`max_homopolymer` is {self.max_homopolymer}, but must be 1 to {MAX_PATTERN - 1}.")
        if self.max_repeat is not None and not 1 <= self.max_repeat < MAX_KMER:
            raise ValueError(f"`max_repeat` is {self.max_repeat}, but must be 1 to {MAX_KMER - 1}.")


class Rule(NamedTuple):
    """
    One constraint on the constructs of one length.

    Attributes:
        name: its option and value, for messages.
        specification: the constraint in DNA Chisel.
        passes: returns which constructs fulfil it, (batch,) of bool, for their codes, (batch, bases).
        pattern: the IUPAC codes that it forbids, if it does.
    """

    name: str
    specification: Any
    passes: Callable[[np.ndarray], np.ndarray]
    pattern: str = ""


class ConstraintChecker:
    """
    Checks the inserts of one length, and repairs them.

    Args:
        constraints: what is asked.
        length: bases of an insert.
        five_prime_flank, three_prime_flank: the bases around it.
    """

    def __init__(self, constraints: Constraints, length: int, five_prime_flank: str = "", three_prime_flank: str = ""):
        self.length = length
        self.flanks = five_prime_flank, three_prime_flank
        self.first = len(five_prime_flank)
        self.rules = list(self._make_rules(constraints))

    def _make_rules(self, constraints: Constraints) -> Iterator[Rule]:
        for option in ("avoid", "avoid_forward"):
            for each in getattr(constraints, option):
                for pattern in _patterns(option, each):
                    yield self._pattern_rule(f"`{option}` {each}", pattern, both=option == "avoid")
        if constraints.max_homopolymer is not None:
            for base in BASES:
                run = _chisel().HomopolymerPattern(base, constraints.max_homopolymer + 1)
                yield self._pattern_rule(f"`max_homopolymer` {constraints.max_homopolymer}", run, both=False)
        if constraints.gc is not None:
            low, high = (value / 100 for value in constraints.gc)
            insert = slice(self.first, self.first + self.length)

            def has_gc(codes: np.ndarray) -> np.ndarray:
                content = ((codes[:, insert] == 1) | (codes[:, insert] == 2)).sum(axis=1) / self.length
                return (content >= low) & (content <= high)

            yield Rule(
                f"`gc` {constraints.gc[0]:g} {constraints.gc[1]:g}",
                _chisel().EnforceGCContent(low, high, location=(insert.start, insert.stop)),
                has_gc,
            )
        if constraints.max_repeat is not None and constraints.max_repeat + 1 <= self.length + sum(
            map(len, self.flanks)
        ):
            size = constraints.max_repeat + 1
            specification = _chisel().UniquifyAllKmers(size, location=self._around(size))
            yield Rule(
                f"`max_repeat` {constraints.max_repeat}", specification, lambda codes: self._has_no_repeat(codes, size)
            )

    def _around(self, size: int) -> tuple[int, int]:
        """Return the part of the construct whose windows of this size have a base of the insert."""
        last = self.first + self.length
        return max(self.first - size + 1, 0), min(last + size - 1, last + len(self.flanks[1]))

    def _pattern_rule(self, name: str, pattern: Any, both: bool) -> Rule:
        start, end = self._around(pattern.size)
        masks = [_masks(pattern.sequence)]
        if both and not pattern.is_palyndromic:
            # The bit of a base and of its complement add up to the place of the four.
            masks.append(np.array([int(f"{mask:04b}"[::-1], 2) for mask in masks[0][::-1]], dtype=np.uint8))

        def lacks(codes: np.ndarray) -> np.ndarray:
            bits = (1 << codes[:, start:end]).astype(np.uint8)
            windows = max(bits.shape[1] - pattern.size + 1, 0)
            found = np.zeros(len(codes), dtype=bool)
            for strand in masks:
                matches = np.ones((len(codes), windows), dtype=bool)
                for offset, mask in enumerate(strand):
                    matches &= (bits[:, offset : offset + windows] & mask) != 0
                found |= matches.any(axis=1)
            return ~found

        specification = _chisel().AvoidPattern(pattern, location=(start, end), strand=0 if both else 1)
        return Rule(name, specification, lacks, pattern.sequence)

    def _has_no_repeat(self, codes: np.ndarray, size: int) -> np.ndarray:
        start, end = self._around(size)
        columns = codes.shape[1] - size + 1
        forward = np.zeros((len(codes), columns), dtype=np.int64)
        reverse = np.zeros_like(forward)
        for offset in range(size):
            part = codes[:, offset : offset + columns].astype(np.int64)
            forward = forward * 4 + part
            reverse += (3 - part) << (2 * offset)
        kmers = np.minimum(forward, reverse)
        # A k-mer may repeat within the flanks, so each one that lies there counts once.
        flanks = [*range(start), *range(end - size + 1, columns)]
        _, once = np.unique(kmers[0, flanks], return_index=True) if len(codes) else (None, [])
        kept = [*(flanks[index] for index in once), *range(start, end - size + 1)]
        ordered = np.sort(kmers[:, kept], axis=1)
        return (ordered[:, 1:] != ordered[:, :-1]).all(axis=1)

    def passes(self, inserts: np.ndarray) -> np.ndarray:
        """Return which inserts fulfil all constraints, (batch,) of bool; codes 0 to 3 for A C G T, (batch, length)."""
        constructs = self._constructs(inserts)
        passed = np.ones(len(inserts), dtype=bool)
        for rule in self.rules:
            passed[passed] = rule.passes(constructs[passed])
        return passed

    def _constructs(self, inserts: np.ndarray) -> np.ndarray:
        five, three = (np.tile(encode_bases(flank), (len(inserts), 1)) for flank in self.flanks)
        return np.concatenate([five, inserts, three], axis=1)

    def broken(self, insert: str) -> list[str]:
        """Return the constraints that an insert breaks, as DNA Chisel evaluates them."""
        problem = self._problem(insert, self.rules, ())
        return [
            rule.name
            for rule, constraint in zip(self.rules, problem.constraints, strict=False)
            if not constraint.evaluate(problem).passes
        ]

    def repair(self, insert: str, kept: Sequence[int], seed: int, rules: Sequence[Rule] | None = None) -> str | None:
        """
        Return an insert that is like this one and fulfils the constraints, or None if DNA Chisel finds none.

        Args:
            insert: its bases.
            kept: positions that stay as they are, from 0.
            seed: of the search.
            rules: those to fulfil, by default all.
        """
        rules = self.rules if rules is None else rules
        problem = self._problem(insert, rules, kept)
        # DNA Chisel draws from NumPy's global generator.
        state = np.random.get_state()
        np.random.seed(seed)
        try:
            with contextlib.suppress(_chisel().NoSolutionError):
                problem.resolve_constraints()
                return problem.sequence[self.first : self.first + self.length]
        finally:
            np.random.set_state(state)
        return None

    def _problem(self, insert: str, rules: Sequence[Rule], kept: Sequence[int]) -> Any:
        five, three = self.flanks
        construct = five + insert + three
        last = self.first + self.length
        fixed = [*range(self.first), *(self.first + position for position in kept), *range(last, len(construct))]
        unchanged = [_chisel().AvoidChanges(indices=fixed)] if fixed else []
        specifications = [*(rule.specification for rule in rules), *unchanged]
        return _chisel().DnaOptimizationProblem(construct, constraints=specifications, logger=None)

    def forbidden_kept(self, insert: str, kept: Sequence[int]) -> tuple[Rule, int, int] | None:
        """Return a rule whose pattern lies in kept positions and flanks alone, and where it starts and ends."""
        fixed = np.ones(len(insert) + sum(map(len, self.flanks)), dtype=bool)
        fixed[self.first : self.first + self.length] = False
        fixed[[self.first + position for position in kept]] = True
        problem = self._problem(insert, self.rules, ())
        for rule, constraint in zip(self.rules, problem.constraints, strict=False):
            for place in constraint.evaluate(problem).locations if rule.pattern else ():
                if fixed[place.start : place.end].all():
                    return rule, max(place.start - self.first, 0), min(place.end - self.first, self.length)
        return None

    def conflict(self, insert: str, kept: Sequence[int]) -> list[str]:
        """
        Return the names of constraints that contradict each other; none if DNA Chisel finds an insert that fulfils
        all. It finds no insert that fulfils the named ones together, but one as soon as any of them is left out.
        """
        if self._is_solvable(insert, kept, self.rules):
            return []
        needed = dict.fromkeys(rule.name for rule in self.rules)
        for name in list(needed):
            if not self._is_solvable(
                insert, kept, [rule for rule in self.rules if rule.name in needed and rule.name != name]
            ):
                del needed[name]
        return list(needed)

    def _is_solvable(self, insert: str, kept: Sequence[int], rules: Sequence[Rule]) -> bool:
        begins = [insert] * SEEDS
        if not kept:
            # Extreme constraints may allow little but inserts of one base, which searches from others do not find.
            begins += [base * self.length for base in BASES]
        return any(self.repair(begin, kept, seed, rules) is not None for seed, begin in enumerate(begins))


def encode_bases(text: str) -> np.ndarray:
    """Return the codes of A C G T, 0 to 3, (bases,) of uint8."""
    return codes_of(text) - 1


def decode_bases(codes: np.ndarray) -> str:
    """Return the text of an insert's codes."""
    return np.frombuffer(BASES.encode(), dtype=np.uint8)[codes].tobytes().decode()


def _chisel() -> Any:
    try:
        import dnachisel
    except ImportError as error:
        raise ImportError("Designing needs dnachisel: pip install 'modeling-proformer[design]'") from error
    return dnachisel


def _patterns(option: str, name: str) -> list[Any]:
    """Return DNA Chisel's patterns of a restriction enzyme, by its name, or of a motif."""
    chisel = _chisel()
    from Bio.Restriction.Restriction_Dictionary import rest_dict
    from dnachisel.biotools import IUPAC_NOTATION

    if name in rest_dict and option == "avoid":
        # A few enzymes have two sites.
        return [chisel.DnaNotationPattern(site) for site in str(rest_dict[name]["site"]).split("|")]
    motif = name.upper().replace("U", "T")
    if not motif or not set(motif) <= set(IUPAC_NOTATION):
        if option != "avoid":
            raise ValueError(f"`{option}` {name!r} is not a motif in IUPAC codes.")
        names = {each.lower(): each for each in rest_dict}
        similar = names.get(name.lower())
        hint = f" Did you mean {similar!r}?" if similar else did_you_mean(name, rest_dict)
        raise ValueError(f"`{option}` {name!r} is neither a restriction enzyme nor a motif in IUPAC codes.{hint}")
    if not set(motif) - {"N"} or len(motif) > MAX_PATTERN:
        raise ValueError(f"`{option}` {name!r}: a motif has 1 to {MAX_PATTERN} bases, and not N alone.")
    return [chisel.DnaNotationPattern(motif)]


def _masks(motif: str) -> np.ndarray:
    """Return which bases each position of a motif stands for: bits 0 to 3 for A C G T."""
    from dnachisel.biotools import IUPAC_NOTATION

    return np.array([sum(1 << BASES.index(base) for base in IUPAC_NOTATION[code]) for code in motif], dtype=np.uint8)


__all__ = ["ConstraintChecker", "Constraints", "Rule"]
