"""Makes data/motif_promoters.tsv, the demonstration's promoters: none of them was ever measured.

    python examples/make_motif_promoters.py

Random 80-letter inserts in the yeast construct of the Random Promoter DREAM Challenge, and each of them again with one
known motif of yeast put in at the same place.
"""

import csv
import random
from pathlib import Path


OUTPUT = Path(__file__).parent / "data" / "motif_promoters.tsv"
FIVE_PRIME_FLANK, THREE_PRIME_FLANK = "TGCATTTTTTTCACATC", "GGTTACGGCTGTT"
INSERT_LENGTH, POSITION, BACKGROUNDS, SEED = 80, 30, 250, 2022

# Consensus sites, as in reviews of yeast promoters and the JASPAR matrices of the factors.
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
