"""Train Proformer and LegNet on the same promoters for the same time of one core, and score both.

    examples/learning_per_minute.sh DATA OUTPUT     # writes OUTPUT/table.parquet
    python examples/race.py OUTPUT/table.parquet DATA/dream_public.tsv --minutes 5 --seeds 1 2 3 \
        --pairs DATA/dream_public_pairs_{snv,motif_perturbation,motif_tiling}.tsv

Of learning_per_minute.sh, only the table is needed, which it writes at once; stop it then. Proformer has the width
and depth of recipes/twenty_minutes.yaml, a stride of 2 and Muon. LegNet has the shape of `other_models.py` and the
rates of its authors (Penzar et al. 2023, doi 10.1093/bioinformatics/btad457), which were not tuned for such times: a
channel that tells the strands apart, soft classification into 18 bins, AdamW and a one-cycle schedule. But its steps
have 64 promoters on a strand drawn at random, instead of 1,024 on both, because there is time for few, and it reads
the insert alone.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from modeling_proformer import ProformerConfig, ProformerForSequenceClassification, ProformerTokenizer
from modeling_proformer.attribution import one_hot_inserts
from modeling_proformer.evaluation import dream_score, read_dream_test
from modeling_proformer.evaluation.metrics import DREAM_PAIRS
from modeling_proformer.modeling_proformer import bin_probabilities
from modeling_proformer.training.muon import Muon
from other_models import BINS, CHANNELS, make_models


BATCH_SIZE = 64
TOKENIZER = ProformerTokenizer(
    kmer_stride=2, insert_width=80, five_prime_flank="TGCATTTTTTTCACATC", three_prime_flank="GGTTACGGCTGTT"
)


class Proformer(nn.Module):
    """Proformer on lists of sequences, with its loss and optimizer."""

    def __init__(self, mean: float, std: float):
        super().__init__()
        self.model = ProformerForSequenceClassification(
            ProformerConfig(
                kmer_stride=TOKENIZER.kmer_stride,
                max_position_embeddings=TOKENIZER.num_tokens,
                hidden_size=64,
                num_attention_heads=2,
                num_hidden_layers=2,
                head_dim=32,
                num_expression_tokens=8,
                label_mean=[mean],
                label_std=[std],
            )
        )
        self.optimizer = Muon(self.model, lr=3e-3)

    def forward(self, sequences: Sequence[str]) -> torch.Tensor:
        return self.model(**TOKENIZER(sequences, truncation=True, return_tensors="pt")).logits.squeeze(1)

    def loss(self, sequences: Sequence[str], expression: torch.Tensor) -> torch.Tensor:
        return self.model(**TOKENIZER(sequences, truncation=True, return_tensors="pt"), labels=expression).loss

    def rate(self, progress: float) -> float:
        """Return the share of the learning rate: a short warm-up and a cosine."""
        return min(1.0, 50 * progress) * (1 + math.cos(math.pi * progress)) / 2


class LegNet(nn.Module):
    """LegNet on lists of sequences, with its loss and optimizer; it predicts the mean bin, averaged over strands."""

    def __init__(self):
        super().__init__()
        *layers, expression = make_models()["LegNet"]
        self.scores = nn.Sequential(*layers, expression.scores)
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=5e-3, weight_decay=0.01)

    def strand(self, bases: torch.Tensor, reverse: bool) -> torch.Tensor:
        bases = bases.flip(1, 2) if reverse else bases  # A C G T backwards are its complements.
        channels = bases.new_zeros(len(bases), CHANNELS - 4, bases.shape[2])
        channels[:, 0] = float(reverse)
        return self.scores(torch.cat([bases, channels], dim=1)).mean(dim=2)

    def forward(self, sequences: Sequence[str]) -> torch.Tensor:
        bases = one_hot_inserts(TOKENIZER, sequences, truncation=True)
        shares = torch.stack([self.strand(bases, reverse).softmax(dim=1) for reverse in (False, True)]).mean(dim=0)
        return (shares * torch.arange(BINS)).sum(dim=1)

    def loss(self, sequences: Sequence[str], expression: torch.Tensor) -> torch.Tensor:
        bases = one_hot_inserts(TOKENIZER, sequences, truncation=True)
        scores = self.strand(bases, reverse=bool(torch.rand(()) < 0.5))
        return F.cross_entropy(scores, bin_probabilities(expression, list(range(BINS))))

    def rate(self, progress: float) -> float:
        """Return the share of the learning rate: one cycle, as in `torch.optim.lr_scheduler.OneCycleLR`."""
        if progress < 0.3:
            return 0.04 + 0.96 * (1 - math.cos(math.pi * progress / 0.3)) / 2
        return (1 + math.cos(math.pi * (progress - 0.3) / 0.7)) / 2


def train(model: "Proformer | LegNet", table: pd.DataFrame, seconds: float, seed: int) -> int:
    """Train for this processor time; return the number of promoters."""
    sequences, expression = table["sequence"].to_numpy(), torch.tensor(table["expression"].to_numpy(np.float32))
    generator, seen, started = np.random.default_rng(seed), 0, time.process_time()
    rates = [group["lr"] for group in model.optimizer.param_groups]
    model.train()
    while (progress := (time.process_time() - started) / seconds) < 1:
        for group, rate in zip(model.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * model.rate(progress)
        rows = generator.integers(len(table), size=BATCH_SIZE)
        model.loss(list(sequences[rows]), expression[rows]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        model.optimizer.step()
        model.optimizer.zero_grad()
        seen += BATCH_SIZE
    return seen


@torch.no_grad()
def predict(model: "Proformer | LegNet", sequences: Sequence[str]) -> np.ndarray:
    model.eval()
    batches = [model(sequences[start : start + 256]) for start in range(0, len(sequences), 256)]
    return torch.cat(batches).double().numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", help="Parquet file to train on: sequence, expression (0 to 17)")
    parser.add_argument("test", help="the challenge's test set, as dream_score.py reads it")
    parser.add_argument("--pairs", nargs=3, required=True, metavar=tuple(map(str.upper, DREAM_PAIRS)))
    parser.add_argument("--minutes", type=float, default=5, help="of processor time for each model (default: 5)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    table = pd.read_parquet(arguments.table)
    test = read_dream_test(arguments.test, dict(zip(DREAM_PAIRS, arguments.pairs, strict=True)))
    scale = float(table["expression"].mean()), float(table["expression"].std())
    models: dict[str, Callable[[], Proformer | LegNet]] = {"Proformer": lambda: Proformer(*scale), "LegNet": LegNet}
    print("| model | parameters | seed | promoters | Pearson score | Spearman score |\n|---|---|---|---|---|---|")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for seed in arguments.seeds:
        for name, make in models.items():
            torch.manual_seed(seed)
            model = make()
            seen = train(model, table, 60 * arguments.minutes, seed)
            score = dream_score(test.measured, predict(model, test.sequences), test.subsets, test.pairs)
            found[name].append((score.pearson_score, score.spearman_score))
            parameters = sum(each.numel() for each in model.parameters())
            figures = f"{score.pearson_score:.3f} | {score.spearman_score:.3f}"
            print(f"| {name} | {parameters:,} | {seed} | {seen:,} | {figures} |", flush=True)
    for name, scores in found.items():
        means = " | ".join(f"{statistics.mean(each):.3f}" for each in zip(*scores, strict=True))
        print(f"| **{name}**, mean | | | | {means} |")


if __name__ == "__main__":
    main()
