"""A small file of motifs in MEME's format."""

from collections.abc import Mapping
from pathlib import Path


# Consensus sequences of yeast; N is any base.
CONSENSUS = {
    "M1 REB1": "TTACCCGG",
    "M2 RAP1": "ACACCCATACATT",
    "M3 ABF1": "TCACNNNNNACG",
    "polyA": "AAAAAAAAAA",
    "M5 GCN4": "ATGACTCAT",
    "M6 CBF1": "GTCACGTG",
    "M7 TBP": "TATAAA",
    "M8 UME6": "TAGCCGCCGA",
}


def write_meme(path: Path, consensus: Mapping[str, str] = CONSENSUS) -> Path:
    """Write motifs whose positions have their base with a probability of 0.91, and return the path."""
    lines = ["MEME version 4", "", "ALPHABET= ACGT", "", "strands: + -", ""]
    for name, bases in consensus.items():
        lines += [f"MOTIF {name}", f"letter-probability matrix: alength= 4 w= {len(bases)} nsites= 20 E= 0"]
        for base in bases:
            lines.append(" ".join("0.25" if base == "N" else "0.91" if each == base else "0.03" for each in "ACGT"))
        lines.append("")
    path.write_text("\n".join(lines))
    return path
