"""Time that `proformer finetune` takes to find families of related sequences, and the near twins of test rows.

    python examples/benchmark_homology.py --sequences 100000 --lengths 80 230 --repeats 3

Half of the sequences are random, and half variants of these, of either strand, up to a fifth of whose letters differ.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from modeling_proformer.data.homology import homology_groups, near_twins


LETTERS = np.frombuffer(b"ACGT", np.uint8)


def related_sequences(number: int, length: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    parents = generator.integers(4, size=(number - number // 2, length))
    shares = generator.uniform(0, 0.2, (number // 2, 1))
    mutated = generator.random((number // 2, length)) < shares
    variants = (parents[: number // 2] + mutated * generator.integers(1, 4, mutated.shape)) % 4
    reverse = generator.random(len(variants)) < 0.5
    variants[reverse] = 3 - variants[reverse, ::-1]
    both = generator.permutation(np.concatenate([parents, variants]))
    return [row.tobytes().decode() for row in LETTERS[both]]


def seconds(work: Callable, *arguments) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=100_000, help="number of sequences")
    parser.add_argument("--lengths", type=int, nargs="+", default=[80, 230], help="letters in each")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each length")
    arguments = parser.parse_args()

    found = {length: [] for length in arguments.lengths}
    for repeat in range(arguments.repeats):
        for length, times in found.items():
            sequences = related_sequences(arguments.sequences, length, seed=repeat)
            tested = len(sequences) * 15 // 100
            families = seconds(homology_groups, sequences)
            times.append((families, seconds(near_twins, sequences[:tested], sequences[tested:])))
    print(f"{f'{arguments.sequences:,} sequences':24}{'families, s':>14}{'near twins, s':>14}{'both, s':>14}")
    for length, times in found.items():
        families, twins = (statistics.median(of) for of in zip(*times, strict=True))
        both = statistics.median(map(sum, times))
        print(f"{f'of {length} letters':24}{families:>14.1f}{twins:>14.1f}{both:>14.1f}")


if __name__ == "__main__":
    main()
