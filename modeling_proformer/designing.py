"""Inserts of a wanted expression, under a lab's constraints: in-silico evolution of many lineages at a time."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from .constraints import ConstraintChecker, Constraints, decode_bases, encode_bases
from .prediction import predict, prepare_model, require_finite
from .starts import Start, nearest, read_existing, read_starts
from .targets import Goals, Target, read_positions, read_targets
from .tokenization import ProformerTokenizer
from .training_distance import TrainingDistance


logger = logging.getLogger(__name__)

# Children of a lineage in each round, the share of them with a part of another lineage, and their further mutations.
CHILDREN = 8
CROSSOVER_SHARE = 0.5
MORE_MUTATIONS = 0.5
# Distances from a target are in standard deviations of the predictions of so many random inserts. A number counts as
# reached within REACHED of it; a target is refused if no insert comes within NEAR of it.
RANDOM_INSERTS = 256
REACHED, NEAR = 0.01, 0.1
# If a target has an extreme too, its numbers and ranges may be missed by this much at first, and by less and less
# until this share of the rounds is over. Without slack, the search stays near the first insert that meets them.
SLACK, SLACK_SHARE = 1, 0.3
# Attempts to find a start that fulfils all constraints and is far enough from all others.
MAX_ATTEMPTS = 100


@dataclass(frozen=True)
class Design:
    """
    A designed insert.

    Attributes:
        insert: its bases.
        sequence: the insert between the flanks of the construct, as it is ordered.
        target: what was asked for, as text.
        predicted: (outputs,) of float32, in the units of `predict`.
        missed: (outputs,) how far the prediction is from the number or outside of the range that was asked for, in the
            same units; 0 where the target is reached (a number within 1 % of the standard deviation of the
            predictions of random inserts), and where there is none, or "max" or "min".
        start: name of the sequence that it was made of, or None.
        edits: number of bases that differ from this sequence, or None.
        nearest_design: number of bases that differ from the most similar other design; None if there is no other.
        nearest_existing: the same for `existing`.
        distance_to_training: distance from the nearest of the sequences that the model was trained on, see
            `TrainingDistance`; None if they were not given.
    """

    insert: str
    sequence: str
    target: str
    predicted: np.ndarray
    missed: np.ndarray
    start: str | None
    edits: int | None
    nearest_design: int | None
    nearest_existing: int | None
    distance_to_training: float | None = None


def design(
    model: PreTrainedModel,
    tokenizer: ProformerTokenizer,
    targets: Sequence[Target],
    *,
    number: int = 10,
    length: int | None = None,
    starts: Mapping[str, str] | Sequence[str] | None = None,
    max_edits: int | None = None,
    keep: Sequence[int | str] = (),
    min_distance: int = 1,
    existing: Iterable[str] = (),
    training: Iterable[str] | None = None,
    test: Iterable[str] | None = None,
    rounds: int = 50,
    seed: int = 0,
    quiet: bool = True,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    **constraints,
) -> list[Design]:
    """
    Return inserts whose predicted expression is as wanted, found by in-silico evolution (Vaishnav et al. 2022,
    doi 10.1038/s41586-022-04506-6). They are in the order of the targets, and for each target in that of the starts.

    Each design is the end of a lineage. In each round, a lineage has children with new mutations, half of them also
    with a part of another lineage of the same target, and the best child that fulfils everything takes its place if it
    is nearer to the target.

    Args:
        model, tokenizer, batch_size, device, dtype: see `predict`.
        targets: what to design, each a number, the ends of a range, "max" or "min"; for a model of several outputs, a
            mapping from names of outputs to these, where the others may be anything. Text is read too: "6:8" and
            "developmental=2,housekeeping=min". Numbers and ranges come before "max" and "min" of other outputs.
            Designs that miss a number or range are logged and say so in `missed`.
        number: designs for each target, and for each start.
        length: bases of an insert, by default as many as the construct has room for.
        starts: sequences to start from, by name or in order, instead of random ones.
        max_edits: most bases that may differ from the start.
        keep: positions of each start, from 1, that stay as they are, such as 7 and "10-20".
        min_distance: least number of bases that differ between two designs, and from `existing`. Sequences of other
            lengths are compared where they fit best without gaps.
        existing: sequences that exist already.
        training: sequences that the model was trained on. Each design then says how far it is from the nearest one,
            as the model sees them; see `TrainingDistance`.
        test: sequences that the model was tested on. It is then logged how many designs are further from the training
            sequences than any of these.
        rounds: rounds of evolution at most.
        seed: equal seeds give equal designs.
        quiet: show no progress bar.
        constraints: the fields of `Constraints`.

    Raises:
        ImportError: dnachisel is not installed.
        TypeError: there is no such constraint.
        ValueError: an argument is outside its range, a sequence cannot be read, constraints contradict each other, or
            no design from a random start is near its target. The error says which.
    """
    if unknown := set(constraints) - {each.name for each in fields(Constraints)}:
        raise TypeError(f"design() has no argument {min(unknown)!r}.")
    asked = Constraints(**constraints)
    outputs = [model.config.id2label[output] for output in range(model.config.num_labels)]
    goals = read_targets(targets, outputs)
    _check_numbers(number=number, rounds=rounds, min_distance=min_distance, max_edits=max_edits)
    if starts is None:
        if max_edits is not None or keep:
            raise ValueError(f"`{'keep' if keep else 'max_edits'}` needs sequences to start from: give `starts`.")
        if length is not None and not 1 <= length <= tokenizer.insert_width:
            raise ValueError(f"`length` is {length}, but the construct has room for 1 to {tokenizer.insert_width}.")
        begins = [Start(None, length or tokenizer.insert_width, None)]
    elif length is not None:
        raise ValueError("`starts` have lengths of their own; leave out `length`.")
    else:
        begins = read_starts(starts, tokenizer)
    for name, size, _ in begins:
        if min_distance > size:
            whose = "an insert" if name is None else f"the insert of the start {name!r}"
            raise ValueError(f"`min_distance` is {min_distance}, but {whose} has only {size} bases.")
    if test is not None and training is None:
        raise ValueError("`test` is compared with the sequences of the training: give `training` too.")
    kept = {size: read_positions(keep, size, name) for name, size, _ in begins}
    model, batch_size = prepare_model(model, tokenizer, (), batch_size, device)
    flanks = [
        (flank or "").upper().replace("U", "T") for flank in (tokenizer.five_prime_flank, tokenizer.three_prime_flank)
    ]

    def predict_inserts(codes: np.ndarray) -> np.ndarray:
        sequences = (decode_bases(insert).join(flanks) for insert in codes)
        predicted = predict(model, tokenizer, sequences, batch_size=batch_size, dtype=dtype)
        require_finite(predicted, model, dtype)
        return predicted

    known = read_existing(existing, tokenizer)
    distance = None
    if training is not None:
        distance = TrainingDistance(
            model, tokenizer, training, test or (), seed=seed, quiet=quiet, batch_size=batch_size, dtype=dtype
        )
    generator = np.random.default_rng(seed)
    lineages = [_Lineage(begin, each) for each in goals for begin in begins for _ in range(number)]
    done: list[_Evolution] = []
    with tqdm(unit=" rounds", disable=quiet) as progress:
        # Short inserts come last: they may be nearer to a part of a long one than the long one is to them.
        for size in sorted(kept, reverse=True):
            evolution = _Evolution(
                [lineage for lineage in lineages if lineage.start.size == size],
                ConstraintChecker(asked, size, *flanks),
                predict_inserts,
                generator,
                kept=kept[size],
                max_edits=max_edits,
                min_distance=min_distance,
                others=[*known, *(each.codes for each in done)],
            )
            evolution.draw_starts()
            evolution.run(rounds, progress)
            done.append(evolution)
    _report_misses(done, goals, outputs, is_free=starts is None)
    found = {evolution.checker.length: _finish(evolution, flanks, known, done) for evolution in done}
    designs = [next(found[lineage.start.size]) for lineage in lineages]
    if distance is not None:
        distances = distance.measure([each.insert for each in designs])
        distance.report(distances)
        designs = [
            replace(each, distance_to_training=value) for each, value in zip(designs, distances.tolist(), strict=True)
        ]
    return designs


class _Lineage(NamedTuple):
    """A lineage: it starts from a sequence, and evolves towards a target."""

    start: Start
    goals: Goals


class _Evolution:
    """
    Lineages of inserts of one length.

    Attributes:
        lineages: where each begins, and its target.
        codes: (lineages, bases) the inserts, 0 to 3 for A C G T.
        predicted: (lineages, outputs).
    """

    def __init__(
        self,
        lineages: Sequence[_Lineage],
        checker: ConstraintChecker,
        predict_inserts: Callable[[np.ndarray], np.ndarray],
        generator: np.random.Generator,
        *,
        kept: Sequence[int],
        max_edits: int | None,
        min_distance: int,
        others: Sequence[np.ndarray],
    ):
        self.lineages, self.checker, self.generator = lineages, checker, generator
        self.predict_inserts = predict_inserts
        self.kept, self.max_edits, self.min_distance, self.others = kept, max_edits, min_distance, others
        self.free = np.setdiff1d(np.arange(checker.length), kept)
        self.low, self.high, self.direction = (
            np.stack([getattr(lineage.goals, name) for lineage in lineages]) for name in ("low", "high", "direction")
        )
        self.has_extreme = self.direction.any(axis=1)
        # A range is reached exactly.
        self.tolerance = np.where(self.low == self.high, REACHED, 0)
        pools: dict[tuple, list[int]] = {}
        for index, lineage in enumerate(lineages):
            pools.setdefault((lineage.start.name, lineage.goals.text), []).append(index)
        self.pools = [pools[lineage.start.name, lineage.goals.text] for lineage in lineages]
        self.scale = predict_inserts(generator.integers(0, 4, (RANDOM_INSERTS, checker.length), dtype=np.uint8)).std(0)
        self.scale[self.scale == 0] = 1
        self.codes = np.empty((0, checker.length), dtype=np.uint8)

    def draw_starts(self):
        """
        Find a first insert for each lineage.

        Raises:
            ValueError: there is none for some lineage. The error says which constraints contradict each other.
        """
        for lineage in self.lineages:
            for attempt in range(MAX_ATTEMPTS):
                insert = self._draw_start(lineage, attempt)
                if insert is not None and self._is_far(insert):
                    self.codes = np.concatenate([self.codes, insert[None]])
                    break
                if insert is None and attempt == 0:
                    self._refuse_contradictions(lineage)
            else:
                limits = [f"`min_distance` {self.min_distance}"] if len(self.codes) or self.others else []
                limits += [] if self.max_edits is None else [f"`max_edits` {self.max_edits}"]
                raise ValueError(
                    f"{' and '.join(limits or ['the constraints'])}: only {len(self.codes):,} of "
                    f"{len(self.lineages):,} designs were found{_of_start(lineage)}. Loosen this, or ask for fewer."
                )
        self.predicted = self.predict_inserts(self.codes)

    def _draw_start(self, lineage: _Lineage, attempt: int) -> np.ndarray | None:
        generator, start = self.generator, lineage.start.codes
        if start is None:
            insert = generator.integers(0, 4, self.checker.length, dtype=np.uint8)
        else:
            insert = start.copy()
            limit = len(self.free) if self.max_edits is None else min(self.max_edits, len(self.free))
            # The first is the start itself.
            places = generator.choice(self.free, generator.integers(limit + 1) if attempt else 0, replace=False)
            insert[places] = (insert[places] + generator.integers(1, 4, len(places))) % 4
        if not self.checker.passes(insert[None])[0]:
            text = self.checker.repair(decode_bases(insert), self.kept, int(generator.integers(2**32)))
            if text is None:
                return None
            insert = self._undo_needless(encode_bases(text), insert)
        if self.max_edits is not None and (insert != start).sum() > self.max_edits:
            return None
        return insert

    def _undo_needless(self, repaired: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Return a repaired insert without the edits of DNA Chisel that the constraints do not need."""
        for position in np.flatnonzero(repaired != before):
            undone = repaired.copy()
            undone[position] = before[position]
            if self.checker.passes(undone[None])[0]:
                repaired = undone
        return repaired

    def _is_far(self, insert: np.ndarray, replaced: int | None = None) -> bool:
        """Return whether an insert is far enough from all others and all lineages, but the one that it replaces."""
        differing = (self.codes != insert).sum(axis=1)
        if replaced is not None:
            differing[replaced] = self.min_distance
        return bool((differing >= self.min_distance).all()) and nearest(insert, self.others) >= self.min_distance

    def _refuse_contradictions(self, lineage: _Lineage):
        start = lineage.start.codes
        insert = decode_bases(self.generator.integers(0, 4, self.checker.length) if start is None else start)
        if forbidden := self.checker.forbidden_kept(insert, self.kept):
            rule, first, end = forbidden
            raise ValueError(
                f"`keep` protects {insert[first:end]} at positions {first + 1} to {end} of the start "
                f"{lineage.start.name!r}, which {rule.name} forbids; leave out one of both."
            )
        if names := self.checker.conflict(insert, self.kept):
            names += ["`keep`"] if self.kept else []
            verdict = "contradict each other" if len(names) > 1 else "cannot be fulfilled"
            raise ValueError(
                f"{' and '.join(names)} {verdict}: no insert of {self.checker.length} bases was "
                f"found{_of_start(lineage)}."
            )

    def misses(self) -> np.ndarray:
        """Return by how much each lineage misses its numbers and ranges, 0 where it reaches them; as `predicted`."""
        owners = np.arange(len(self.codes))
        return self._misses(self._distances(self.predicted, owners), owners)

    def _distances(self, predicted: np.ndarray, owners: np.ndarray) -> np.ndarray:
        return np.maximum(self.low[owners] - predicted, 0) + np.maximum(predicted - self.high[owners], 0)

    def _misses(self, distances: np.ndarray, owners: np.ndarray, slack: float = 0) -> np.ndarray:
        allowed = np.maximum(self.tolerance[owners], slack * self.has_extreme[owners, None])
        return np.where(distances > allowed * self.scale, distances, 0)

    def _losses(self, predicted: np.ndarray, owners: np.ndarray, slack: float) -> list[tuple[float, float]]:
        """
        Return how bad predictions (batch, outputs) are for the targets of lineages. The first number says how far the
        numbers and ranges are missed; the second, which decides between equals, includes the extremes.
        """
        distances = self._distances(predicted, owners)
        missed = self._misses(distances, owners, slack) / self.scale
        wanted = (distances - self.direction[owners] * predicted) / self.scale
        return list(zip(missed.sum(axis=1).tolist(), wanted.sum(axis=1).tolist(), strict=True))

    def run(self, rounds: int, progress: tqdm):
        """Evolve the lineages until all of them have reached their targets."""
        for done in range(rounds if len(self.free) else 0):
            slack = SLACK * max(1 - done / (SLACK_SHARE * rounds), 0)
            active = np.flatnonzero(self.has_extreme | self.misses().any(axis=1))
            if not len(active):
                break
            self._evolve(np.repeat(active, CHILDREN), slack)
            progress.set_postfix(searching=len(active), refresh=False)
            progress.update()

    def _evolve(self, owners: np.ndarray, slack: float):
        own = self._losses(self.predicted, np.arange(len(self.codes)), slack)
        children = self._breed(owners)
        fit = self.checker.passes(children) & (children != self.codes[owners]).any(axis=1)
        children, owners = children[fit], owners[fit]
        predicted = self.predict_inserts(children)
        losses = self._losses(predicted, owners, slack)
        replaced = set()
        for child in sorted(range(len(losses)), key=losses.__getitem__):
            owner = int(owners[child])
            if losses[child] < own[owner] and owner not in replaced and self._is_far(children[child], owner):
                replaced.add(owner)
                self.codes[owner], self.predicted[owner] = children[child], predicted[child]

    def _breed(self, owners: np.ndarray) -> np.ndarray:
        """Return a child of each owner: mutated, and perhaps with a part of another lineage of its pool."""
        generator, length = self.generator, self.checker.length
        children = self.codes[owners]
        mates = np.array([generator.choice(self.pools[owner]) for owner in owners])
        ends = np.sort(generator.integers(0, length + 1, (len(owners), 2)), axis=1)
        positions = np.arange(length)
        crossed = (positions >= ends[:, :1]) & (positions < ends[:, 1:])
        crossed &= generator.random((len(owners), 1)) < CROSSOVER_SHARE
        children[crossed] = self.codes[mates][crossed]
        mutated = np.zeros(children.shape, dtype=bool)
        mutated[:, self.free] = _choose(
            generator,
            np.ones((len(owners), len(self.free)), dtype=bool),
            1 + generator.poisson(MORE_MUTATIONS, len(owners)),
        )
        children[mutated] = (children[mutated] + generator.integers(1, 4, mutated.sum())) % 4
        if self.max_edits is not None:
            starts = np.stack([self.lineages[owner].start.codes for owner in owners])
            edited = children != starts
            reverted = _choose(generator, edited, edited.sum(axis=1) - self.max_edits)
            children[reverted] = starts[reverted]
        return children


def _of_start(lineage: _Lineage) -> str:
    return "" if lineage.start.name is None else f" from the start {lineage.start.name!r}"


def _choose(generator: np.random.Generator, among: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Choose in each row of `among`, (rows, columns) of bool, this many of those that are True."""
    ranks = np.where(among, generator.random(among.shape), 1).argsort(axis=1).argsort(axis=1)
    return among & (ranks < counts[:, None])


def _check_numbers(**values: int | None):
    for name, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"`{name}` is {value}, but must be at least 1.")


def _report_misses(done: Sequence[_Evolution], goals: Sequence[Goals], outputs: Sequence[str], is_free: bool):
    """Log how many designs miss their target, or raise an error if all that had every freedom miss it by far."""
    for each in goals:
        rows = [(evolution, [lineage.goals is each for lineage in evolution.lineages]) for evolution in done]
        missed = np.concatenate(
            [(evolution.misses() / evolution.scale)[chosen].sum(axis=1) for evolution, chosen in rows]
        )
        predicted = np.concatenate([evolution.predicted[chosen] for evolution, chosen in rows])
        nearest_text, farthest_text = (
            ", ".join(
                f"{value:.4g}" if len(outputs) == 1 else f"{name} {value:.4g}"
                for name, value, is_asked in zip(outputs, predicted[row], each.is_bounded, strict=True)
                if is_asked
            )
            for row in (missed.argmin(), missed.argmax())
        )
        if is_free and missed.min() > NEAR:
            raise ValueError(
                f"`targets` {each.text}: no insert that was found comes near this; the nearest has the prediction "
                f"{nearest_text}. Ask for what the model predicts, or loosen the constraints."
            )
        if count := int((missed > 0).sum()):
            logger.warning(
                f"{count:,} of {len(missed):,} designs miss the target {each.text}; the worst has the prediction "
                f"{farthest_text}, and the nearest {nearest_text}."
            )


def _finish(
    evolution: _Evolution, flanks: Sequence[str], known: Sequence[np.ndarray], done: Sequence[_Evolution]
) -> Iterator[Design]:
    """Yield the designs of lineages, each checked once more by DNA Chisel."""
    misses = evolution.misses()
    for index, (lineage, codes) in enumerate(zip(evolution.lineages, evolution.codes, strict=True)):
        insert = decode_bases(codes)
        if broken := evolution.checker.broken(insert):
            raise RuntimeError(f"{insert} breaks {', '.join(broken)}: please report this.")
        others = [each.codes if each is not evolution else np.delete(each.codes, index, axis=0) for each in done]
        yield Design(
            insert=insert,
            sequence=insert.join(flanks),
            target=lineage.goals.text,
            predicted=evolution.predicted[index],
            missed=misses[index].astype(np.float32),
            start=lineage.start.name,
            edits=None if lineage.start.codes is None else int((codes != lineage.start.codes).sum()),
            nearest_design=nearest(codes, others) if any(map(len, others)) else None,
            nearest_existing=nearest(codes, known) if known else None,
        )


__all__ = ["Design", "design"]
