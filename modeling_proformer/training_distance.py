"""How far sequences are from those that a model was trained on, as the model sees them."""

import logging
import random
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from .embedding import embed
from .starts import GivenSequenceError
from .tokenization import InvalidSequenceError, ProformerTokenizer


logger = logging.getLogger(__name__)

# At most this many sequences are embedded, chosen at random: more take long, and change the distances little.
MAX_SEQUENCES = 20_000
# Sequences whose distances from all training sequences are computed at a time.
ROWS_PER_BATCH = 256
# The furthest of many test sequences may be an odd one, so designs are also compared with this share of them.
ALMOST_ALL = 0.95


class TrainingDistance:
    """
    Measures how far sequences are from the nearest training sequence: the Euclidean distance of their embeddings, the
    means over positions of the model's hidden states (see `embed`).

    Args:
        model, tokenizer, batch_size, dtype: see `predict`.
        training: sequences that the model was trained on. Those that are also in `test` do not count.
        test: sequences that it was tested on, whose distances say what is usual; perhaps none.
        seed: of the choice of at most `MAX_SEQUENCES` of each.
        quiet: show no progress bar.

    Attributes:
        test: (test sequences,) the distances of those.

    Raises:
        GivenSequenceError: a sequence cannot be read.
        ValueError: there is no training sequence that is not a test sequence.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: ProformerTokenizer,
        training: Iterable[str],
        test: Iterable[str] = (),
        *,
        seed: int = 0,
        quiet: bool = True,
        batch_size: int | None = None,
        dtype: torch.dtype | None = None,
    ):
        flanks = [tokenizer.five_prime_flank or "", tokenizer.three_prime_flank or ""]

        def embed_inserts(inserts: Sequence[str]) -> torch.Tensor:
            constructs = (insert.join(flanks) for insert in tqdm(inserts, unit=" sequences", disable=quiet))
            # Training cuts inserts that do not fit, or leaves them out.
            embedded = embed(model, tokenizer, constructs, batch_size=batch_size, dtype=dtype, truncation=True)
            return torch.from_numpy(embedded).double()

        self._embed = embed_inserts
        tested = _read_inserts("test", enumerate(test), tokenizer)
        trained = sorted({*_sample_inserts("training", training, tokenizer, seed)} - {*tested})
        if len(tested) > MAX_SEQUENCES:
            tested = random.Random(seed).sample(tested, MAX_SEQUENCES)
        if not trained:
            raise ValueError("`training` has no sequence that is not in `test` too.")
        self._training = embed_inserts(trained)
        self.test = self.measure(tested) if tested else np.empty(0)

    def measure(self, inserts: Sequence[str]) -> np.ndarray:
        """Return the distance of each insert from the nearest training sequence, (inserts,)."""
        batches = self._embed(inserts).split(ROWS_PER_BATCH)
        return torch.cat([torch.cdist(batch, self._training).amin(dim=1) for batch in batches]).numpy()

    def report(self, distances: np.ndarray):
        """Log how many designs lie further from the training sequences than test sequences, if there are any."""
        if not len(self.test):
            return
        greatest, usual = self.test.max(), np.quantile(self.test, ALMOST_ALL)
        beyond, unusual = (int((distances > limit).sum()) for limit in (greatest, usual))
        logger.log(
            logging.WARNING if unusual else logging.INFO,
            f"{beyond:,} of {len(distances):,} designs lie further from the training sequences than any of "
            f"{len(self.test):,} test sequences (distance {greatest:.3g}), and {unusual:,} further than "
            f"{ALMOST_ALL:.0%} of them ({usual:.3g}). Errors of such predictions were not measured.",
        )


def _sample_inserts(argument: str, sequences: Iterable[str], tokenizer: ProformerTokenizer, seed: int) -> list[str]:
    """Return the inserts of at most `MAX_SEQUENCES` of the sequences, each equally likely."""
    generator, chosen = random.Random(seed), []
    for row, sequence in enumerate(sequences):
        if row < MAX_SEQUENCES:
            chosen.append((row, sequence))
        elif (place := generator.randrange(row + 1)) < MAX_SEQUENCES:
            chosen[place] = (row, sequence)
    return _read_inserts(argument, chosen, tokenizer)


def _read_inserts(argument: str, rows: Iterable[tuple[int, str]], tokenizer: ProformerTokenizer) -> list[str]:
    """Return the inserts of sequences, which are given with their rows."""
    chosen = list(rows)
    try:
        return tokenizer.inserts([sequence for _, sequence in chosen]) if chosen else []
    except InvalidSequenceError as error:
        row = chosen[error.row][0]
        raise GivenSequenceError(argument, row, f"`{argument}`: sequence {row + 1:,}", error.reason) from None


__all__ = ["TrainingDistance"]
