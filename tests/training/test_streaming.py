"""Training on a stream: as on a table in memory, with the same weights whoever reads it and wherever it resumes."""

import json
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from processes import run_in_processes
from safetensors.torch import load_file
from tiny import TINY_OPTIONS

from modeling_proformer import cli
from modeling_proformer.data import streams
from modeling_proformer.data.tables import InputError
from modeling_proformer.training.config import TrainConfig
from modeling_proformer.training.pretrain import train
from modeling_proformer.training.rows import load_rows, stream_rows


OPTIONS = {"sequence": "dna", "targets": ["glucose"], "weight": "reads", "validation_data": "held_out.csv"}
RUN = {
    **OPTIONS,
    **TINY_OPTIONS,
    "streaming": True,
    "mask_probability": 0.2,
    "per_device_train_batch_size": 16,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "max_steps": 24,
    "logging_steps": 1,
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "bf16": False,
}


@pytest.fixture
def frame(tmp_path, monkeypatch) -> pd.DataFrame:
    """
    Stand in a folder with a table of 110 inserts, of which 100 are trained on, and a table to evaluate on.

    Three inserts are too long, four have no measurement, and three have weight 0.
    """
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    inserts = ["".join(generator.choice(list("ACGT"), 12 if row > 2 else 30)) for row in range(180)]
    frame = pd.DataFrame(
        {
            "dna": inserts,
            "glucose": [insert.count("G") + generator.normal() / 4 for insert in inserts],
            "reads": [1 + row % 3 for row in range(180)],
            "family": np.arange(180) // 2,
        }
    )
    frame.loc[range(10, 50, 10), "glucose"] = None
    frame.loc[range(60, 90, 10), "reads"] = 0
    write(frame)
    frame.iloc[100:].to_csv("held_out.csv", index=False)
    return frame


def write(frame: pd.DataFrame, rows: int = 110):
    frame.iloc[:rows].to_parquet("training.parquet", row_group_size=20)


def stream(**options) -> dict:
    return {"data": "training.parquet", **RUN, **options}


def assert_same_weights(*outputs: str, **tolerance):
    first, *others = (load_file(f"{output}/model.safetensors") for output in outputs)
    for other in others:
        for name, weight in first.items():
            # The keys' biases have no gradient but rounding noise, which Adam blows up to whole steps.
            if not tolerance:
                assert torch.equal(weight, other[name]), name
            elif not name.endswith("k_proj.bias"):
                torch.testing.assert_close(other[name], weight, **tolerance, msg=name)


@pytest.mark.parametrize("too_long", ["leave_out", "cut"])
def test_a_stream_and_a_table_in_memory_are_prepared_alike(frame, too_long):
    """Tokenizer, scale, weights, validation rows and their groups; then the training rows."""
    frame.loc[[100, 101], "dna"] = "ACGTACGTACGTAA"
    frame.loc[102, "reads"] = 0
    frame.iloc[100:].to_csv("held_out.csv", index=False)
    config = TrainConfig(**OPTIONS, insert_width=12, too_long=too_long, validation_rows=50)
    loaded = load_rows("training.parquet", config, seed=1)
    streamed = stream_rows("training.parquet", config, seed=1, batch_size=16)
    assert streamed.tokenizer.init_kwargs == loaded.tokenizer.init_kwargs
    assert (streamed.label_mean, streamed.label_std) == (loaded.label_mean, loaded.label_std)
    assert streamed.mean_weight == loaded.mean_weight
    assert streamed.held_out[:] == loaded.held_out[:]
    np.testing.assert_array_equal(streamed.groups, loaded.groups)
    assert streamed.sources[-1] == loaded.sources[-1]
    assert streamed.num_train is None and streamed.seen_in_training is None
    rows = [row for row, _ in zip(streamed.train, range(loaded.num_train), strict=False)]
    key = lambda row: row["sequence"]  # noqa: E731
    assert sorted(({name: row[name] for name in loaded.train.column_names} for row in rows), key=key) == sorted(
        loaded.train, key=key
    )


def test_the_card_says_that_it_was_streamed(frame):
    train(output="my-run", **stream())
    record = json.loads(Path("my-run", "metrics.json").read_text())
    assert record["rows"] == {"train": None, "validation": 80}
    assert "| `training.parquet` | streamed |  | training |" in Path("my-run", "README.md").read_text()


def test_the_weights_do_not_depend_on_the_loader_workers_or_an_interruption(frame, monkeypatch):
    """A table of one file has more workers than files; it resumes in the first epoch and in the third."""
    monkeypatch.setattr(streams, "BLOCK_ROWS", 32)
    train(output="whole", **stream())
    saved = {"save_strategy": "steps", "save_steps": 4, "dataloader_num_workers": 2}
    for steps in (4, 16, 24):
        train(output="stopped", **stream(**saved, max_steps=steps))
    assert_same_weights("whole", "stopped")
    epochs = [
        [entry["epoch"] for entry in json.loads(Path(output, "log_history.json").read_text()) if "loss" in entry]
        for output in ("whole", "stopped")
    ]
    assert epochs[1][16:] == epochs[0][16:] == pytest.approx(np.arange(17, 25) / 24)


def test_the_command_streams_with_loader_workers(frame, capfd):
    given = [f"--{name}={value}" for name, value in RUN.items() if not isinstance(value, list | bool)]
    flags = ["--streaming", "--use_cpu", "--disable_tqdm=True", "--bf16=False", "--targets", "glucose"]
    command = ["train", "training.parquet", "--output", "my-run", "--dataloader_num_workers=2", *given, *flags]
    assert cli.main(command) == 0
    frame.loc[75, "dna"] = "ACXT"
    write(frame)
    assert cli.main([*command, "--output", "another"]) == 1
    # The first rows, by which the construct is detected, hold it already.
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("proformer: training.parquet, row 76, column 'dna': 'X' at position 3")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_row_beyond_the_first_ones_is_named_in_one_line(frame, monkeypatch, workers):
    monkeypatch.setattr(streams, "BLOCK_ROWS", 64)
    monkeypatch.setattr(streams, "READ_ROWS", 16)
    frame.loc[105, "dna"] = "ACXT"
    write(frame)
    with pytest.raises(InputError) as caught:
        train(output="my-run", **stream(dataloader_num_workers=workers))
    assert str(caught.value).startswith("training.parquet, row 106, column 'dna': 'X' at position 3")
    assert "\n" not in str(caught.value)


def test_another_table_is_not_resumed_on(frame):
    train(output="my-run", **stream(max_steps=4, save_strategy="steps", save_steps=4))
    moved = Path("elsewhere.parquet")
    Path("training.parquet").rename(moved)
    train(output="my-run", **stream(data=moved, max_steps=4))
    frame.loc[90, "dna"] = frame.dna[91]
    write(frame)
    with pytest.raises(InputError, match=r"other tables: training\.parquet has changed since, or is new"):
        train(output="my-run", **stream())


@pytest.mark.parametrize(
    ("column", "value", "options", "complaint"),
    [
        ("dna", "A" * 150, {}, r"training\.parquet: no insert fits the construct's 12 bases"),
        ("glucose", np.nan, {}, r"training\.parquet: no row has a measurement in the columns 'glucose'"),
        ("glucose", 1.0, {}, "the training rows: column 'glucose' is constant"),
        ("reads", 0, {}, r"training\.parquet, column 'reads': every weight is 0"),
        (
            "family",
            0,
            {"five_prime_flank": "GGATCC", "missing_flanks": "refuse"},
            r"training\.parquet, row 1: .*flank",
        ),
    ],
)
def test_a_table_that_cannot_be_trained_on_is_refused(frame, column, value, options, complaint):
    write(frame.assign(**{column: value}))
    with pytest.raises(InputError, match=complaint):
        train(output="my-run", **stream(**options))
    assert not Path("my-run").exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"too_long": "refuse"}, r"held_out\.csv, line 2: the insert has 30 bases"),
        ({"too_long": "leave_out"}, r"held_out\.csv: no insert fits the construct's 12 bases"),
    ],
)
def test_validation_rows_that_do_not_fit_are_treated_as_without_streaming(frame, options, complaint):
    write(frame[3:])
    frame.iloc[100:].assign(dna="ACGT" * 7 + "AC").to_csv("held_out.csv", index=False)
    with pytest.raises(InputError, match=complaint):
        train(output="my-run", **stream(**options))


@pytest.mark.parametrize(
    ("options", "kind", "complaint"),
    [
        ({"validation_data": None}, ValueError, "Nothing is held out of tables that are streamed; give `valid"),
        ({"on_error": "skip"}, ValueError, "`streaming` takes all rows as they are; leave out `on_error`"),
        ({"group": "family"}, ValueError, "`streaming` takes all rows as they are; leave out `group`"),
        ({"train_rows": 50}, ValueError, "leave out `train_rows`"),
        ({"test_fraction": 0.2}, ValueError, "leave out `test_fraction`"),
        ({"validation_fraction": 0.5}, ValueError, "leave out `validation_fraction`"),
        ({"max_steps": -1}, ValueError, "A stream has no known length; give `max_steps`"),
        ({"data": "held_out.csv"}, ValueError, "that is streamed is a Parquet, Arrow or Feather file"),
        ({"data": pd.DataFrame({"dna": ["A"]})}, TypeError, "is a file or the name of a dataset .* not the DataFrame"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(frame, options, kind, complaint):
    with pytest.raises(kind, match=complaint):
        train(output="my-run", **stream(**options))


def test_the_weights_do_not_depend_on_the_processes(frame, tmp_path):
    """Two processes with loader workers, which are stopped in the first epoch and resume, do as one without."""
    train(output="whole", **stream(max_steps=16))
    divided = stream(per_device_train_batch_size=8, dataloader_num_workers=2, save_strategy="steps", save_steps=4)
    for steps in (4, 16):
        run_in_processes(2, train_with_cache, tmp_path / "cache", output="two", **divided | {"max_steps": steps})
    assert_same_weights("whole", "two", atol=2e-4, rtol=1e-3)


def train_with_cache(cache: Path, **options):
    datasets.config.HF_DATASETS_CACHE = cache
    train(**options)
