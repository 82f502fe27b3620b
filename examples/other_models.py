"""Other models of the same task with random weights, to time next to Proformer; `benchmark.py --only engines` does.

They are written anew. DREAM-CNN and DREAM-RNN (Rafi et al. 2024, doi 10.1038/s41587-024-02414-w) have the sizes of the
code published with them, and so has LegNet (Penzar et al. 2023, doi 10.1093/bioinformatics/btad457), with the blocks
that DREAM-CNN has of it. LegNet's own code (autosome-ru/LegNet) has by default one block more, narrower ones at the
end, kernels of 5, a bilinear gate, and SiLU before the mean. They serve for speed alone. They read one strand of 150
bases; both publications average two passes, one for each strand. The DREAM Challenge's LegNet is reported with
1.85 million parameters, 7 % more than this one has; we found no published numbers for the others.
"""

from itertools import pairwise

import torch
from torch import nn


# The bases, whether the strand is the reverse one, and whether the measurement is of a single cell.
CHANNELS, WIDTH = 6, 150
BINS = 18


def convolution(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, kernel, padding="same", groups=groups, bias=False),
        nn.BatchNorm1d(outputs),
        nn.SiLU(),
    )


class Gate(nn.Module):
    """Squeeze and excitation: a weight for each channel, from the means of all."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.weights = nn.Sequential(nn.Linear(channels, inner), nn.SiLU(), nn.Linear(inner, channels), nn.Sigmoid())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * self.weights(inputs.mean(dim=2)).unsqueeze(2)


class InvertedResidual(nn.Module):
    """LegNet's block: its input and four times as many channels as the output has, joined by a convolution."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        wide = 4 * outputs
        self.inner = nn.Sequential(
            convolution(inputs, wide, 1),
            convolution(wide, wide, 7, groups=wide // 2),
            Gate(wide, inputs // 4),
            convolution(wide, inputs, 1),
        )
        self.resize = convolution(2 * inputs, outputs, 7)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.resize(torch.cat([inputs, self.inner(inputs)], dim=1))


class TwoKernels(nn.Module):
    """Motifs of 9 and of 15 bases, half of the channels each."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.convolutions = nn.ModuleList(
            [nn.Conv1d(inputs, outputs // 2, kernel, padding="same") for kernel in (9, 15)]
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([each(inputs).relu() for each in self.convolutions], dim=1)


class Recurrent(nn.Module):
    """A bidirectional LSTM."""

    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True, bidirectional=True)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.lstm(inputs.transpose(1, 2))[0].transpose(1, 2)


class Expression(nn.Module):
    """The mean of the sorting bins under their scores."""

    def __init__(self, inputs: int):
        super().__init__()
        self.scores = nn.Conv1d(inputs, BINS, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        scores = self.scores(inputs).mean(dim=2).softmax(dim=1)
        return (scores * torch.arange(BINS, device=scores.device)).sum(dim=1)


def _residual_blocks(inputs: int) -> list[nn.Module]:
    sizes = [inputs, 128, 128, 64, 64, 64, 64]
    return [InvertedResidual(before, after) for before, after in pairwise(sizes)]


def make_models() -> dict[str, nn.Module]:
    """Return the models by their names; each takes (batch, CHANNELS, WIDTH)."""
    models = {
        "LegNet": [convolution(CHANNELS, 256, 7), *_residual_blocks(256), Expression(64)],
        "DREAM-CNN": [TwoKernels(CHANNELS, 320), *_residual_blocks(320), Expression(64)],
        "DREAM-RNN": [TwoKernels(CHANNELS, 320), Recurrent(320, 320), TwoKernels(640, 320), Expression(320)],
    }
    return {name: nn.Sequential(*modules).eval() for name, modules in models.items()}
