"""Data that the tests of the Space's functions and of its page share."""

import sys
from pathlib import Path

from tiny import save_tiny


ROOT = Path(__file__).parents[1]
SPACE = ROOT / "examples" / "space"
# Its modules import each other by their bare names, as on the Hub.
sys.path.insert(0, str(SPACE))

FIVE_PRIME_FLANK, THREE_PRIME_FLANK = "TGCATTTTTTTCACATC", "GGTTACGGCTGTT"
EXAMPLE = (SPACE / "example.fasta").read_text()
REB1 = 2  # its third sequence
SCRIPT = "<script>hacked = 1</script><img src=x onerror='hacked = 2'>"

BAD_TEXTS = [
    (" \n", "There are no sequences yet"),
    ("ACGT\nhello", "Your text, line 2: 'h' at position 1 is not one of A C G T U N"),
    ("ACGT\n\n" + "A" * 85, "Your text, line 3: the insert has 85 bases, but this model takes at most 84."),
    ("A" * 99 + "\n" + "A" * 85, "line 1: the insert has 99 bases, but this model takes at most 84; 2 sequences"),
    (FIVE_PRIME_FLANK + "ACGT", "Your text, line 1: the 3′ flank GGTTACGGCTGTT is missing"),
    (">empty\n>second\nACGT", "Your text, line 1, column 'sequence': the sequence is empty"),
    ("first,ACGTACG\nsecond,GGGG", "Your text: the first line should name the columns of the table, but 'ACGTACG'"),
    ("name\tsequence", "Your text: there are no rows in it"),
    ("id\tnote\na\tnone", "Your text: no column has only sequences; name the one to read “sequence”"),
    ("name,sequence\na,ACGT\nb,hello", "Your text, line 3: 'h' at position 1 is not one of A C G T U N"),
    ("ACGT, GGGG", "Your text, line 1: ',' at position 5 is not one of A C G T U N"),
    ("ACGTM", "Your text, line 1: 'M' at position 5 is not one of A C G T U N. Write N for an unknown base"),
    ("ACGT\n" * 10_000, "takes at most 1,000 sequences at a time. .* “proformer predict FILE”"),
    ("A" * 5_000_001, "takes at most 5 MB of sequences at a time"),
]

BAD_FILES = [
    ("table.xlsx", b"PK\x03\x04", "^table.xlsx: this page reads FASTA, CSV and TSV files; their names end in"),
    ("table.tsv.gz", b"\x1f\x8b", "^table.tsv.gz: this page reads FASTA, CSV and TSV files"),
    ("table.csv", b"", "^table.csv: the file is empty"),
    ("table.csv", b"sequence,y\nACGT,1\nACGT\n", "^table.csv, line 3: 1 cell under a header of 2 columns"),
    ("table.csv", b"sequence,y\nACGT,1\n,2\n", "^table.csv, line 3, column 'sequence': the sequence is empty"),
    ("table.csv", b"first,ACGTACG\nsecond,GGGG\n", "^table.csv: the first line should name the columns of the table"),
    ("reads.fasta", bytes(range(256)), "^reads.fasta, line 2: this is not UTF-8 text"),
    (
        "large.tsv",
        b"sequence\n" + b"ACGTACGT\n" * 600_000,
        "^large.tsv: this page takes at most 5 MB of sequences",
    ),
]


def make_tuned(folder: Path) -> Path:
    """Save a model as fine-tuning does, with two outputs and intervals."""
    return save_tiny(
        folder,
        num_labels=2,
        id2label={0: "ypd", 1: "must"},
        interval_half_widths={"0.5": [0.2, 0.3], "0.9": [0.5, 0.75], "0.95": [1.0, 1.5]},
    )


def minus(text: str) -> str:
    """Replace the minus as the page does."""
    return text.replace("-", "−")
