"""`examples/race.py` trains both models on the same rows and scores them."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from modeling_proformer.evaluation.metrics import DREAM_PAIRS, DREAM_SUBSETS


EXAMPLES = Path(__file__).parents[2] / "examples"
SEQUENCES = ["".join(each) for each in np.random.default_rng(0).choice(list("ACGT"), (64, 80))]


@pytest.fixture(scope="module")
def race():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("race")


def test_legnet_reads_the_other_strand_as_a_sequence_of_its_own(race):
    torch.manual_seed(0)
    model = race.LegNet().eval()
    complements = [sequence.translate(str.maketrans("ACGT", "TGCA"))[::-1] for sequence in SEQUENCES[:3]]
    ours, theirs = (race.one_hot_inserts(race.TOKENIZER, each) for each in (SEQUENCES[:3], complements))
    read = []
    model.scores.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    model.strand(ours, reverse=True)
    assert torch.equal(read[0][:, :4], theirs) and read[0][:, 4].eq(1).all() and read[0][:, 5].eq(0).all()


def test_legnets_loss_is_least_where_the_scores_are_those_of_the_measurement(race):
    """The published targets are a normal distribution of width 0.5 around the measurement, in bins one wide."""
    model = race.LegNet()
    expression = torch.tensor([0.0, 8.5, 17.0])
    edges = torch.tensor([-1e9, *np.arange(0.5, 17), 1e9])
    shares = torch.distributions.Normal(expression[:, None], 0.5).cdf(edges).diff(dim=1)
    model.strand = lambda bases, reverse: shares.log().clamp(min=-50)
    entropy = -(shares * shares.clamp(min=1e-30).log()).sum(dim=1).mean()
    assert model.loss(SEQUENCES[:3], expression).item() == pytest.approx(entropy.item(), abs=1e-4)


@pytest.mark.parametrize("name", ["Proformer", "LegNet"])
def test_the_rate_follows_the_time_that_is_used(race, monkeypatch, name):
    """The clock goes on by a quarter of the time from step to step."""
    monkeypatch.setattr(race.time, "process_time", iter(range(10)).__next__)
    model = race.Proformer(10.0, 1.5) if name == "Proformer" else race.LegNet()
    whole, step, found = model.optimizer.param_groups[0]["lr"], model.optimizer.step, []

    def recorded_step():
        found.append(model.optimizer.param_groups[0]["lr"] / whole)
        step()

    model.optimizer.step = recorded_step
    before = [parameter.clone() for parameter in model.parameters()]
    table = pd.DataFrame({"sequence": SEQUENCES, "expression": [sequence.count("G") for sequence in SEQUENCES]})
    # The clock is read once before the first step.
    assert race.train(model, table, seconds=4, seed=1) == 3 * race.BATCH_SIZE
    assert found == pytest.approx([model.rate(part / 4) for part in (1, 2, 3)]) and model.rate(1) < 1e-9
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_the_table_has_a_row_for_each_seed_and_a_mean(race, tmp_path, monkeypatch, capsys):
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"sequence": SEQUENCES, "expression": generator.uniform(0, 17, 64), "row": range(64)})
    frame.to_parquet(tmp_path / "table.parquet")
    frame.assign(**{name: generator.random(64) < 0.5 for name in DREAM_SUBSETS}).to_csv(
        tmp_path / "test.csv", index=False
    )
    pairs = pd.DataFrame(np.arange(20).reshape(10, 2), columns=["row_a", "row_b"])
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    files = [tmp_path / name for name in ("table.parquet", "test.csv")]
    arguments = [*files, "--pairs", *[tmp_path / "pairs.csv"] * len(DREAM_PAIRS), "--minutes", 0.001, "--seeds", 4, 5]
    monkeypatch.setattr(sys, "argv", ["race.py", *map(str, arguments)])
    race.main()
    printed = capsys.readouterr().out
    rows = re.findall(r"^\| (\w+) \| [\d,]+ \| (\d) \| [\d,]+ \| (\S+) \| (\S+) \|$", printed, re.MULTILINE)
    assert [row[:2] for row in rows] == [("Proformer", "4"), ("LegNet", "4"), ("Proformer", "5"), ("LegNet", "5")]
    for name in ("Proformer", "LegNet"):
        (mean,) = re.findall(rf"^\| \*\*{name}\*\*, mean \| \| \| \| (\S+) \|", printed, re.MULTILINE)
        assert float(mean) == pytest.approx(np.mean([float(row[2]) for row in rows if row[0] == name]), abs=1e-3)
