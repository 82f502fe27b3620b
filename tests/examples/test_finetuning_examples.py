"""The examples of fine-tuning run on a table."""

import csv
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from processes import run_script
from tiny import save_tiny

from modeling_proformer import load_checkpoint


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def files(tmp_path) -> tuple[Path, Path]:
    """Return a table of 200 inserts of 16 bases, whose expression is the number of Gs, and a small checkpoint."""
    generator = np.random.default_rng(0)
    sequences = ["".join(bases) for bases in generator.choice(list("ACGT"), (200, 16))]
    noise = generator.normal(0, 0.3, 200)
    table = pd.DataFrame({"sequence": sequences, "expression": [s.count("G") for s in sequences] + noise})
    table.to_csv(tmp_path / "assay.csv", index=False)
    return tmp_path / "assay.csv", save_tiny(tmp_path / "checkpoint", label_mean=[9.0], label_std=[4.0])


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*command) -> str:
        """Run a script in this process, and return what it prints."""
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        runpy.run_path(str(command[0]), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_step_by_step(tmp_path, files, run):
    table, checkpoint = files
    options = "--sequence sequence --targets expression --num_train_epochs 16 --learning_rate 1e-2 --report_to none"
    command = [EXAMPLES / "finetune.py", "--data", table, "--model", checkpoint, *options.split()]
    command += ["--use_cpu", "True", "--output_dir", tmp_path / "tuned", "--save_total_limit", "20"]
    # In a process of its own no other test has changed what rounding depends on.
    assert run_script(*command) == 0
    assert json.loads((tmp_path / "tuned" / "test_results.json").read_text())["test_score"] > 0.6
    model, _ = load_checkpoint(tmp_path / "tuned")
    refusal = r"^finetune\.py: .*tuned has checkpoints, which would be overwritten: give --resume_from_checkpoint True"
    with pytest.raises(SystemExit, match=refusal + r", or another --output_dir\.$"):
        run(*command)
    # As if it had been stopped after half of the epochs.
    half = tmp_path / "tuned" / "checkpoint-32"
    for checkpoint in (tmp_path / "tuned").glob("checkpoint-*"):
        if int(checkpoint.name[11:]) > 32:
            shutil.rmtree(checkpoint)
    with pytest.raises(SystemExit, match="holds a training with seed 42, not 1"):
        run(*command, "--resume_from_checkpoint", half, "--seed", "1")
    assert run_script(*command, "--resume_from_checkpoint", "True", stdout=tmp_path / "printed") == 0
    printed = (tmp_path / "printed").read_text()
    epochs = re.findall(r"'eval_loss'.*'epoch': '([0-9.]+)'", printed)
    assert [float(epoch) for epoch in epochs] == [*range(9, 17)]
    again, _ = load_checkpoint(tmp_path / "tuned")
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


@pytest.mark.slow
def test_benchmark(tmp_path, files, run):
    """Three methods are measured at one size; results that are in the table are not computed again."""
    table, checkpoint = files
    command = [EXAMPLES / "finetuning_benchmark.py", table, "--model", checkpoint]
    options = "--name Gs --sequence sequence --targets expression --rows 60 --seeds 0 --not-all --steps 20 --output"
    for _ in range(2):
        printed = run(*command, *options.split(), tmp_path / "benchmark.tsv")
    assert printed.startswith(
        "| assay | rows | ridge: r, ρ | fine-tuned: r, ρ | from scratch: r, ρ | 90 % covers |\n|---"
    )
    assert re.search(r"\| Gs \| 60 (\| [-0-9.]+ \([-0-9.]+ to [-0-9.]+\), [-0-9.]+ ){3}\| [0-9.nan]+%? \|\n$", printed)
    assert printed.count("\n") == 3
    with open(tmp_path / "benchmark.tsv", newline="") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    assert [line["method"] for line in lines] == ["ridge", "fine-tuned", "from scratch"]
    assert {line["trained_on"] for line in lines} == {"60"}
    assert len({line["tested_on"] for line in lines}) == 1
    assert (tmp_path / "benchmark.png").stat().st_size > 10_000
