"""Test examples/ablation.py on small models."""

import csv
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest


EXAMPLE = Path(__file__).parents[2] / "examples" / "ablation.py"


@pytest.fixture
def run(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    rows = ["".join(bases) + f"\t{number}" for number, bases in enumerate(generator.choice(list("ACGT"), (120, 12)))]
    (tmp_path / "table.tsv").write_text("\n".join(["sequence\texpression", *rows]))
    monkeypatch.chdir(tmp_path)

    def run(*options: str):
        fixed = "--tables table.tsv --insert_width 12 --hidden_sizes 8 --per_device_train_batch_size 8 --bf16 False"
        fixed += " --use_cpu True --output_dir run"
        monkeypatch.setattr(sys, "argv", ["ablation.py", *fixed.split(), *options])
        runpy.run_path(str(EXAMPLE), run_name="__main__")

    return run


def test_each_combination_is_trained_once(run, tmp_path):
    table, picture = tmp_path / "run" / "ablation.tsv", tmp_path / "run" / "ablation.png"
    run("--max_steps", "2", "--layers", "1", "--expression_positions", "0", "2")
    first = table.read_text()
    rows = list(csv.DictReader(first.splitlines(), delimiter="\t"))
    assert [(row["expression_positions"], row["layers"], row["hidden_size"]) for row in rows] == [
        ("0", "1", "8"),
        ("2", "1", "8"),
    ]
    assert all(np.isfinite(float(row["training_loss"])) for row in rows)
    assert picture.read_bytes().startswith(b"\x89PNG")
    run("--max_steps", "2", "--layers", "1", "--expression_positions", "0", "2", "4")
    assert table.read_text().startswith(first)
    assert len(table.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--max_steps", "1", "--layers", "0"], "'num_hidden_layers': .* greater or equal to 1 and .*, got 0."),
        ([], "Give --max_steps: "),
        (["--max_steps", "1", "--group", "famly"], r"table\.tsv: there is no column 'famly'"),
    ],
)
def test_errors_in_an_option_are_reported_in_one_line(run, options, reason):
    with pytest.raises(SystemExit, match=rf"^ablation\.py: .*{reason}") as stopped:
        run(*options)
    assert "\n" not in stopped.value.code
