"""Compare the speed of `score_variants` with that of the model alone, and of two predictions for each variant.

    python examples/benchmark_variants.py --variants 100000 --offsets 10

The SNVs lie at random positions of a genome of random bases, or there are all three of consecutive positions, which
share their references. The model alone computes as many windows as the variants have.
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
from modeling_proformer.data.vcf import Variant
from modeling_proformer.prediction import predict_tokens, prepare_model, token_batches
from timing import Line, describe_processor, take_turns


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
        plain = [score.variant for score in score_variants(model, tokenizer, vcf, genome, **run)]
        # Each takes as many windows as there are offsets, so fewer variants take the same time.
        few = max(1, len(plain) // arguments.offsets)
        windows = [*islice(read_windows(genome, plain, tokenizer.insert_width), batch_size)]
        (tokens,) = token_batches(tokenizer, windows, batch_size, False)

        def predict_alone():
            for _ in range(max(1, 2 * len(plain) // len(windows))):
                predict_tokens(model, tokens)

        def predict_pairs():
            predict(model, tokenizer, read_windows(genome, plain, tokenizer.insert_width), **run)

        def score(variants, offsets: int = 1):
            for _ in score_variants(model, tokenizer, variants, genome, offsets=offsets, **run):
                pass

        dense, offsets = all_variants(genome, len(plain)), arguments.offsets

        rates = take_turns(
            {
                "forward": time_rate(predict_alone, max(1, 2 * len(plain) // len(windows)) * len(windows)),
                "pairs": time_rate(predict_pairs, len(plain)),
                "scores": time_rate(lambda: score(vcf), len(plain)),
                "dense": time_rate(lambda: score(dense), len(dense)),
                "offsets": time_rate(lambda: score(plain[:few], offsets), few),
                "dense offsets": time_rate(lambda: score(dense[:few], offsets), few),
            },
            arguments.repeats,
        )
    forward = statistics.median(rates["forward"])

    def share(name: str, windows: int) -> str:
        return f"{statistics.median(rates[name]) * windows / forward:.0%} of the model alone"

    print(f"{describe_processor(arguments.device)}, {torch.get_num_threads()} threads, batches of {batch_size}\n")
    print("| what | median | range | unit | |\n|---|---|---|---|---|")
    unit = "variants/s"
    print(Line("the model alone, on the tokens of one batch", rates["forward"], remark="the measure"))
    print(Line("`predict` of both windows of each variant", rates["pairs"], unit, share("pairs", 2)))
    print(Line("`score_variants` of a VCF", rates["scores"], unit, share("scores", 2)))
    print(Line("`score_variants` of all SNVs of a region", rates["dense"], unit, share("dense", 2)))
    print(Line(f"a VCF, {offsets} offsets", rates["offsets"], unit, share("offsets", 2 * offsets)))
    print(Line(f"all SNVs, {offsets} offsets", rates["dense offsets"], unit, share("dense offsets", 2 * offsets)))


if __name__ == "__main__":
    main()
