"""Write data/motif_promoters.tsv, the promoters of the demonstration, which were never measured.

    python examples/make_motif_promoters.py

They are random inserts of 80 bases in the yeast construct of the Random Promoter DREAM Challenge, each of them once as
it is and once with each of six known yeast motifs at the same position.
"""

import csv
import random
from pathlib import Path


OUTPUT = Path(__file__).parent / "data" / "motif_promoters.tsv"
FIVE_PRIME_FLANK, THREE_PRIME_FLANK = "TGCATTTTTTTCACATC", "GGTTACGGCTGTT"
INSERT_LENGTH, POSITION, BACKGROUNDS, SEED = 80, 30, 250, 2022

# Consensus sites from reviews of yeast promoters and the JASPAR matrices of the factors.
MOTIFS = {
    "none": "",
    "TATA box": "TATAAAAA",
    "Reb1": "TTACCCGG",
    "Abf1": "ATCACTATATACGA",
    "Rap1": "ACACCCATACATT",
    "poly(dA:dT)": "A" * 20,
    "Ume6": "TCGGCGGCTA",
}


def main():
    generator = random.Random(SEED)
    with open(OUTPUT, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["name", "background", "motif", "sequence"])
        for background in range(1, BACKGROUNDS + 1):
            random_insert = "".join(generator.choices("ACGT", k=INSERT_LENGTH))
            for motif, site in MOTIFS.items():
                insert = random_insert[:POSITION] + site + random_insert[POSITION + len(site) :]
                sequence = FIVE_PRIME_FLANK + insert + THREE_PRIME_FLANK
                writer.writerow([f"random_{background}/{motif}", background, motif, sequence])


if __name__ == "__main__":
    main()
