"""Compare the speed of `score_variants` with that of the model alone, and of two predictions for each variant.

    python examples/benchmark_variants.py --variants 100000 --offsets 10

The SNVs lie at random positions of a genome of random bases, or there are all three of consecutive positions, which
share their references. A hundred thousand take an hour and more on one core; `--only scores dense` leaves out the
rest.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from modeling_proformer import load_checkpoint, predict, score_variants
from modeling_proformer.data.genome import Genome
from modeling_proformer.data.vcf import Variant, VcfFile
from modeling_proformer.prediction import predict_tokens, prepare_model, token_batches
from timing import Line, describe_processor, take_turns


# The benchmark measures these next to the model alone. Each has a name in the table, and one offset or several.
WAYS = {
    "pairs": ("`predict` of both windows of each variant", False),
    "scores": ("`score_variants` of a VCF", False),
    "dense": ("`score_variants` of all SNVs of a region", False),
    "offsets": ("a VCF, {} offsets", True),
    "dense_offsets": ("all SNVs, {} offsets", True),
}

# The rate of the model alone does not depend on the number of windows, so no more than these are computed.
WINDOWS_ALONE = 20_000


def write_inputs(folder: Path, bases: int, variants: int) -> tuple[Path, Path]:
    """Write a genome of one chromosome and a sorted VCF of SNVs in it."""
    rng = np.random.default_rng(0)
    genome = "".join(rng.choice(list("ACGT"), bases))
    lines = "\n".join(genome[start : start + 60] for start in range(0, bases, 60))
    (folder / "genome.fa").write_text(f">chrI\n{lines}\n")
    draw = random.Random(0)
    with open(folder / "variants.vcf", "w") as vcf:
        vcf.write("##fileformat=VCFv4.2\n##contig=<ID=chrI>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n")
        for position in sorted(rng.integers(200, bases - 200, variants).tolist()):
            reference = genome[position - 1]
            alternate = draw.choice([base for base in "ACGT" if base != reference])
            vcf.write(f"chrI\t{position}\t.\t{reference}\t{alternate}\t.\t.\t.\n")
    return folder / "genome.fa", folder / "variants.vcf"


def all_variants(genome: Genome, count: int) -> list[Variant]:
    """Return all SNVs of consecutive positions, so many of them."""
    bases = genome.fetch("chrI", 200, 200 + count)
    every = (
        Variant(base, other, "chrI", 201 + n) for n, base in enumerate(bases) for other in "ACGT" if other != base
    )
    return [*islice(every, count)]


def read_windows(genome: Genome, variants: list[Variant], width: int) -> Iterator[str]:
    """Yield the windows of both alleles of SNVs, with the variant in the middle."""
    for variant in variants:
        start = variant.position - 1 - width // 2
        window = genome.fetch(variant.chromosome, start, start + width)
        yield window
        yield window[: width // 2] + variant.alternate + window[width // 2 + 1 :]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="checkpoint; by default the embedded one")
    parser.add_argument("--variants", type=int, default=100_000)
    parser.add_argument("--genome-bases", type=int, default=12_000_000)
    parser.add_argument("--offsets", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS), help="measure these alone")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--processor-time", action="store_true", help="measure the processor's time, where it has other work to do"
    )
    arguments = parser.parse_args()
    model, tokenizer = load_checkpoint(arguments.model)
    model, batch_size = prepare_model(model, tokenizer, (), arguments.batch_size, arguments.device)
    run = {"batch_size": batch_size}
    clock = time.process_time if arguments.processor_time else time.perf_counter

    def time_rate(task: Callable[[], object], count: float) -> Callable[[], float]:
        def timed() -> float:
            start = clock()
            task()
            return count / (clock() - start)

        return timed

    with tempfile.TemporaryDirectory() as folder:
        fasta, vcf = write_inputs(Path(folder), arguments.genome_bases, arguments.variants)
        genome = Genome(fasta)
        plain = list(VcfFile(vcf))
        # Each takes as many windows as there are offsets, so fewer variants take the same time.
        few = max(1, len(plain) // arguments.offsets)
        windows = [*islice(read_windows(genome, plain, tokenizer.insert_width), batch_size)]
        (tokens,) = token_batches(tokenizer, windows, batch_size, False)
        batches = max(1, min(2 * len(plain), WINDOWS_ALONE) // len(windows))

        def predict_alone():
            for _ in range(batches):
                predict_tokens(model, tokens)

        def predict_pairs():
            predict(model, tokenizer, read_windows(genome, plain, tokenizer.insert_width), **run)

        def score(variants, offsets: int = 1):
            for _ in score_variants(model, tokenizer, variants, genome, offsets=offsets, **run):
                pass

        dense, offsets = all_variants(genome, len(plain)), arguments.offsets
        tasks = {
            "pairs": time_rate(predict_pairs, len(plain)),
            "scores": time_rate(lambda: score(vcf), len(plain)),
            "dense": time_rate(lambda: score(dense), len(dense)),
            "offsets": time_rate(lambda: score(plain[:few], offsets), few),
            "dense_offsets": time_rate(lambda: score(dense[:few], offsets), few),
        }
        score(plain[: 2 * batch_size])  # to warm up
        rates = take_turns(
            {
                "alone": time_rate(predict_alone, batches * len(windows)),
                **{name: tasks[name] for name in arguments.only},
            },
            arguments.repeats,
            warm_up=False,
        )
    alone = statistics.median(rates["alone"])

    print(f"{describe_processor(arguments.device)}, {torch.get_num_threads()} threads, batches of {batch_size}\n")
    print("| what | median | range | unit | |\n|---|---|---|---|---|")
    print(Line("the model alone, on the tokens of one batch", rates.pop("alone"), remark="the measure"))
    for name, found in rates.items():
        what, several = WAYS[name]
        share = statistics.median(found) * 2 * (offsets if several else 1) / alone
        print(Line(what.format(offsets), found, "variants/s", f"{share:.0%} of the model alone"))


if __name__ == "__main__":
    main()
