"""Measure the time that `proformer finetune` takes to group related sequences and to find homologs of test rows.

    python examples/benchmark_homology.py --sequences 100000 --lengths 80 230 --repeats 3

Half of the sequences are random. The others are variants of these, on either strand, with up to a fifth of the bases
changed.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from modeling_proformer.data.homology import find_homologs, homology_groups


BASES = np.frombuffer(b"ACGT", np.uint8)


def related_sequences(number: int, length: int, seed: int) -> list[str]:
    """Return random sequences and variants of them, in random order."""
    generator = np.random.default_rng(seed)
    parents = generator.integers(4, size=(number - number // 2, length))
    shares = generator.uniform(0, 0.2, (number // 2, 1))
    mutated = generator.random((number // 2, length)) < shares
    variants = (parents[: number // 2] + mutated * generator.integers(1, 4, mutated.shape)) % 4
    reverse = generator.random(len(variants)) < 0.5
    variants[reverse] = 3 - variants[reverse, ::-1]
    both = generator.permutation(np.concatenate([parents, variants]))
    return [row.tobytes().decode() for row in BASES[both]]


def measure(work: Callable, *arguments) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=100_000, help="number of sequences")
    parser.add_argument("--lengths", type=int, nargs="+", default=[80, 230], help="bases in each sequence")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each length; medians are reported")
    arguments = parser.parse_args()

    found = {length: [] for length in arguments.lengths}
    for repeat in range(arguments.repeats):
        for length, times in found.items():
            sequences = related_sequences(arguments.sequences, length, seed=repeat)
            num_test = len(sequences) * 15 // 100
            grouping = measure(homology_groups, sequences)
            times.append((grouping, measure(find_homologs, sequences[:num_test], sequences[num_test:])))
    print(f"{f'{arguments.sequences:,} sequences':24}{'groups, s':>14}{'homologs, s':>14}{'both, s':>14}")
    for length, times in found.items():
        grouping, homologs = (statistics.median(column) for column in zip(*times, strict=True))
        both = statistics.median(map(sum, times))
        print(f"{f'of {length} bases':24}{grouping:>14.1f}{homologs:>14.1f}{both:>14.1f}")


if __name__ == "__main__":
    main()
