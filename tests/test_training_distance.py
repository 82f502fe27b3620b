"""How far designs are from the training sequences, beside test sequences."""

import copy
import logging
from collections import Counter

import numpy as np
import pytest
from tiny import TINY

from modeling_proformer import (
    ProformerConfig,
    ProformerForSequenceClassification,
    ProformerTokenizer,
    design,
    embed,
)
from modeling_proformer.modeling_proformer import construct_of
from modeling_proformer.starts import GivenSequenceError
from modeling_proformer.training_distance import TrainingDistance, _sample_inserts


FLANKS = ("TGCATTTT", "GGTTACGG")


@pytest.fixture
def tokenizer() -> ProformerTokenizer:
    return ProformerTokenizer(kmer_size=3, insert_width=12, five_prime_flank=FLANKS[0], three_prime_flank=FLANKS[1])


@pytest.fixture
def strict(tokenizer) -> ProformerTokenizer:
    """Return a tokenizer that refuses inserts without flanks."""
    return ProformerTokenizer(**tokenizer.init_kwargs | {"missing_flanks": "refuse"})


def random_inserts(count: int, seed: int) -> list[str]:
    return ["".join(bases) for bases in np.random.default_rng(seed).choice(list("ACGT"), (count, 12))]


def plain_distances(model, tokenizer, sequences, training) -> list[float]:
    known = [embed(model, tokenizer, [each])[0].tolist() for each in training]
    found = [embed(model, tokenizer, [each])[0].tolist() for each in sequences]
    return [min(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 for other in known) for one in found]


def test_a_distance_is_that_of_the_nearest_embedding_and_test_sequences_are_no_training(
    two_outputs, tokenizer, strict
):
    two_outputs = copy.deepcopy(two_outputs)
    two_outputs.config.construct = construct_of(tokenizer)
    training, test, others = random_inserts(20, 0), random_inserts(5, 1), random_inserts(4, 2)
    written = [each.lower().join(FLANKS) for each in (*training, test[0], "ACGT" * 4)]
    distance = TrainingDistance(two_outputs, strict, iter(written), (each.join(FLANKS) for each in test))
    # A sequence that does not fit is cut.
    training.append("ACGT" * 3)
    np.testing.assert_allclose(distance.test, plain_distances(two_outputs, tokenizer, test, training), atol=1e-5)
    assert distance.test.min() > 1e-3
    expected = plain_distances(two_outputs, tokenizer, [*others, training[3]], training)
    np.testing.assert_allclose(distance.measure([*others, training[3]]), expected, atol=1e-5)
    assert expected[-1] == 0


def test_designs_beyond_the_test_sequences_are_counted(two_outputs, tokenizer, caplog):
    training = random_inserts(100, 0)
    test = [*training[50:], "A" * 12]
    with caplog.at_level(logging.INFO):
        designs = design(
            two_outputs, tokenizer, ["LABEL_0=max"], number=6, rounds=5, training=training, test=test, seed=1
        )
    found = np.array([each.distance_to_training for each in designs])
    expected = plain_distances(two_outputs, tokenizer, [each.insert for each in designs], training[:50])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    of_test = np.array(plain_distances(two_outputs, tokenizer, test, training[:50]))
    beyond, unusual = (int((found > limit).sum()) for limit in (of_test.max(), np.quantile(of_test, 0.95)))
    assert 0 <= beyond <= unusual <= 6
    (message,) = (each.getMessage() for each in caplog.records if "further" in each.getMessage())
    assert message.startswith(
        f"{beyond} of 6 designs lie further from the training sequences than any of 51 test sequences (distance "
        f"{of_test.max():.3g}), and {unusual} further than 95% of them ({np.quantile(of_test, 0.95):.3g})."
    )


def test_without_test_sequences_nothing_is_counted(two_outputs, tokenizer, caplog):
    with caplog.at_level(logging.INFO):
        (found,) = design(two_outputs, tokenizer, ["LABEL_0=max"], number=1, rounds=1, training=random_inserts(5, 0))
    assert found.distance_to_training > 0 and "further" not in caplog.text
    (found,) = design(two_outputs, tokenizer, ["LABEL_0=max"], number=1, rounds=1)
    assert found.distance_to_training is None


def test_of_many_sequences_each_is_as_likely_to_be_chosen(tokenizer, monkeypatch):
    monkeypatch.setattr("modeling_proformer.training_distance.MAX_SEQUENCES", 5)
    sequences = random_inserts(20, 0)
    chosen = [_sample_inserts("training", iter(sequences), tokenizer, seed) for seed in range(400)]
    assert all(len({*each}) == 5 for each in chosen)
    # All test sequences count as such, those included that are not chosen.
    model = ProformerForSequenceClassification(ProformerConfig(**TINY))
    with pytest.raises(ValueError, match="`training` has no sequence that is not in `test` too"):
        TrainingDistance(model, tokenizer, sequences, sequences)
    counts = Counter(insert for each in chosen for insert in each)
    # Four standard deviations around 100.
    assert counts.keys() == {*sequences} and all(65 < count < 135 for count in counts.values())


def test_sequences_that_say_nothing_are_refused(two_outputs, tokenizer):
    with pytest.raises(ValueError, match="`training` has no sequence that is not in `test` too"):
        TrainingDistance(two_outputs, tokenizer, ["ACGT"], ["acgt"])
    with pytest.raises(GivenSequenceError, match=r"^`training`: sequence 2: 'X' at position 2"):
        TrainingDistance(two_outputs, tokenizer, ["ACGT", "AXGT"])
    with pytest.raises(ValueError, match="`test` is compared with the sequences of the training: give `training` too"):
        design(two_outputs, tokenizer, ["LABEL_0=max"], test=["ACGT"])
