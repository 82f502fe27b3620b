"""Constraints of a lab, computed slowly in plain Python."""

from itertools import combinations


BASES_OF = {
    "A": "A", "C": "C", "G": "G", "T": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC",
    "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT",
}  # fmt: skip
SITES = {"BsaI": "GGTCTC", "BsmBI": "CGTCTC", "EcoRI": "GAATTC", "BanI": "GGYRCC"}


def reverse_complement(text: str) -> str:
    return text[::-1].translate(str.maketrans("ACGT", "TGCA"))


def broken_constraints(
    insert: str,
    flanks: tuple[str, str] = ("", ""),
    *,
    avoid=(),
    avoid_forward=(),
    gc=None,
    max_homopolymer=None,
    max_repeat=None,
) -> set[str]:
    """Return the names of the constraints that an insert breaks."""
    construct = flanks[0] + insert + flanks[1]
    inside = range(len(flanks[0]), len(flanks[0]) + len(insert))
    broken = set()

    def windows(size: int) -> list[tuple[str, bool]]:
        """Return all windows of the construct, and whether they have a base of the insert."""
        return [
            (construct[start : start + size], any(position in inside for position in range(start, start + size)))
            for start in range(len(construct) - size + 1)
        ]

    for option, motifs in (("avoid", avoid), ("avoid_forward", avoid_forward)):
        for motif in (SITES.get(name, name) for name in motifs):
            for text, is_inside in windows(len(motif)):
                strands = [text, reverse_complement(text)] if option == "avoid" else [text]
                found = any(all(b in BASES_OF[m] for b, m in zip(strand, motif, strict=True)) for strand in strands)
                if is_inside and found:
                    broken.add(option)
    if gc is not None and not gc[0] <= 100 * sum(base in "GC" for base in insert) / len(insert) <= gc[1]:
        broken.add("gc")
    if max_homopolymer is not None and any(len(set(t)) == 1 and is_in for t, is_in in windows(max_homopolymer + 1)):
        broken.add("max_homopolymer")
    if max_repeat is not None:
        for (one, one_inside), (other, other_inside) in combinations(windows(max_repeat + 1), 2):
            if (one_inside or other_inside) and one in (other, reverse_complement(other)):
                broken.add("max_repeat")
    return broken


def differing(insert: str, other: str) -> int:
    """Return how many bases of an insert differ from another sequence where it fits best without gaps."""
    return min(
        sum(not 0 <= index + shift < len(other) or base != other[index + shift] for index, base in enumerate(insert))
        for shift in (
            range(len(other) - len(insert) + 1) if len(other) >= len(insert) else range(len(other) - len(insert), 1)
        )
    )
