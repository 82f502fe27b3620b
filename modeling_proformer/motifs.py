"""Known motifs in the bases that a prediction depends on: seqlets, named by TOMTOM with a file of motifs."""

import logging
import os
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from .data.tables import InputError, MissingFileError, first_line
from .mutagenesis import BASES


logger = logging.getLogger(__name__)

# Bases within a seqlet of this length or more all have unusual contributions, with this p-value.
MIN_SEQLET_BASES = 4
MAX_SEQLET_P_VALUE = 0.05
# TOMTOM compares this many bases on both sides of a seqlet too: the ends of a motif contribute little.
SEQLET_MARGIN = 2
# A seqlet is named after so many motifs at most: the motifs of related proteins are often the same.
MAX_MATCHES = 3
# TOMTOM takes its background from the motifs themselves. With fewer of them, its p-values are not reliable.
MIN_MOTIFS = 25
# A motif's probabilities may be rounded.
MAX_ROUNDING = 0.05


class MotifMatch(NamedTuple):
    """
    A known motif that resembles a seqlet.

    Attributes:
        motif: its name in the file.
        start, end: where the whole motif lies in the insert, counted from 0; it may reach beyond it.
        strand: "+", or "-" for its reverse complement.
        p_value: probability that a motif is as similar by chance.
        e_value: number of motifs of the file that would be as similar by chance.
    """

    motif: str
    start: int
    end: int
    strand: str
    p_value: float
    e_value: float

    @property
    def short_name(self) -> str:
        """The motif's name without its identifier: RAP1 for "MA0359.3 RAP1"."""
        return self.motif.split()[-1]


class Seqlet(NamedTuple):
    """
    Consecutive bases that all contribute to a prediction in the same direction.

    Attributes:
        start, end: where it lies in the insert, counted from 0.
        contribution: sum over its bases.
        matches: the motifs that resemble it, the most similar first.
    """

    start: int
    end: int
    contribution: float
    matches: tuple[MotifMatch, ...]

    @property
    def label(self) -> str:
        """The short names of the two most similar motifs; "" without a match."""
        return "/".join(list(dict.fromkeys(each.short_name for each in self.matches))[:2])


def read_motifs(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """
    Return the motifs of a file in MEME's format, each as the probabilities of A C G T, (4, positions).

    Raises:
        ImportError: tangermeme, which brings the reader, is missing.
        InputError: there is no such file, it is not in this format, or it has no motifs.
    """
    _, _, read_meme = _import_libraries()
    if not os.path.isfile(path):
        raise MissingFileError(f"{path}: no such file.")
    try:
        motifs = read_meme(os.fspath(path))
        with open(path, encoding="utf-8") as file:
            named = sum(line.startswith("MOTIF") for line in file)
    # The reader checks nothing: what goes wrong depends on the line.
    except Exception as error:
        raise InputError(f"{path}: not a readable MEME file of DNA motifs ({first_line(error)}).") from error
    if not motifs:
        raise InputError(f"{path}: there are no motifs in it; a file in MEME's format has a line MOTIF for each.")
    if len(motifs) != named:
        raise InputError(
            f"{path}: there are {named:,} lines MOTIF, but {len(motifs):,} motifs; the file is cut short, or names "
            "a motif twice."
        )
    for name, probabilities in motifs.items():
        if (probabilities < 0).any() or (np.abs(probabilities.sum(axis=0) - 1) > MAX_ROUNDING).any():
            raise InputError(f"{path}, motif {name!r}: the probabilities of a position do not add up to 1.")
    if len(motifs) < MIN_MOTIFS:
        logger.warning(
            f"{path} has {len(motifs)} motifs. With fewer than {MIN_MOTIFS}, TOMTOM's p-values are not reliable; use "
            "the motifs of a whole database."
        )
    return motifs


def name_motifs(
    insert: str, contributions: np.ndarray, motifs: Mapping[str, np.ndarray], *, max_e_value: float = 0.1
) -> list[Seqlet]:
    """
    Return the seqlets of an insert and the motifs that resemble them.

    tangermeme finds seqlets: consecutive bases whose contributions are unusual among those of this insert. memelite's
    TOMTOM compares the bases of each with the motifs, on both strands.

    Args:
        insert: bases A C G T N.
        contributions: (bases,), see `Mutagenesis.contributions`.
        motifs: probabilities, (4, positions), as `read_motifs` returns them.
        max_e_value: name a motif only if fewer of them would be as similar by chance.

    Raises:
        ImportError: tangermeme is missing.
    """
    tomtom, recursive_seqlets, _ = _import_libraries()
    spans = _find_seqlets(recursive_seqlets, contributions)
    if not spans:
        return []
    one_hot = np.array([[float(base == each) if base != "N" else 0.25 for base in insert] for each in BASES])
    names = list(motifs)
    starts = [max(start - SEQLET_MARGIN, 0) for start, _ in spans]
    # TOMTOM is compiled for each layout of its arrays, which takes half a minute.
    queries = [
        np.ascontiguousarray(one_hot[:, start : end + SEQLET_MARGIN])
        for start, (_, end) in zip(starts, spans, strict=True)
    ]
    targets = [np.ascontiguousarray(motifs[name], dtype=np.float64) for name in names]
    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            # `read_motifs` has said it.
            warnings.simplefilter("ignore")
            p_values, _, offsets, _, strands, indices = tomtom(queries, targets, n_nearest=MAX_MATCHES, n_jobs=1)
    finally:
        # numba sets OpenMP's number of threads, which torch shares, to the number of cores.
        torch.set_num_threads(threads)
    found = []
    for row, (start, end) in enumerate(spans):
        matches = []
        for column, index in enumerate(indices[row].astype(int)):
            p_value = float(p_values[row, column])
            if p_value * len(names) <= max_e_value:
                first = starts[row] - int(offsets[row, column])
                strand = "-" if strands[row, column] else "+"
                last = first + targets[index].shape[1]
                matches.append(MotifMatch(names[index], first, last, strand, p_value, p_value * len(names)))
        found.append(Seqlet(start, end, float(contributions[start:end].sum()), tuple(matches)))
    return found


def _find_seqlets(recursive_seqlets, contributions: np.ndarray) -> list[tuple[int, int]]:
    """Return where the seqlets of one sequence start and end, in order, none of them overlapping."""
    spans: list[tuple[int, int]] = []
    if len(contributions) < MIN_SEQLET_BASES or np.ptp(contributions) == 0:
        return spans
    # Those that raise expression come first, so that they win where others overlap them.
    for values in (contributions, -contributions):
        found = recursive_seqlets(
            values[None].astype(np.float64), threshold=MAX_SEQLET_P_VALUE, min_seqlet_len=MIN_SEQLET_BASES
        )
        for start, end in found[["start", "end"]].to_numpy(dtype=int).tolist():
            # Also among bases that all lower expression, some are unusual because they lower it least.
            if values[start:end].sum() > 0 and all(end <= other or start >= beyond for other, beyond in spans):
                spans.append((start, end))
    return sorted(spans)


def _import_libraries():
    try:
        from memelite.io import read_meme
        from memelite.tomtom import tomtom
        from tangermeme.seqlet import recursive_seqlets
    except ImportError as error:
        raise ImportError("Motifs need tangermeme: pip install 'modeling-proformer[motifs]'") from error
    return tomtom, recursive_seqlets, read_meme


__all__ = ["MotifMatch", "Seqlet", "name_motifs", "read_motifs"]
