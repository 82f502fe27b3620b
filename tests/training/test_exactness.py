"""The same rows and seed lead to the same weights, through the command and real processes."""

import contextlib
import io
import json
import logging
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from processes import run_in_processes
from safetensors.torch import load_file
from tiny import TINY_OPTIONS

from modeling_proformer.cli import main


pytestmark = pytest.mark.slow


TRAIN = Path(__file__).parents[2] / "examples" / "train.py"
TINY_RUN = {
    **TINY_OPTIONS,
    "mask_probability": 0.2,
    "bf16": False,
    "group": "family",
    "validation_fraction": 0.3,
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 16,
    "max_steps": 12,
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
    "use_cpu": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with a table of 110 rows: 77 are trained on and 33 held out, which is no multiple of a batch."""
    folder = tmp_path_factory.mktemp("exactness")
    generator = np.random.default_rng(0)
    sequences = ["".join(generator.choice(list("ACGT"), 12)) for _ in range(110)]
    pd.DataFrame(
        {
            "sequence": sequences,
            "expression": [sequence.count("G") + generator.normal() / 4 for sequence in sequences],
            "family": range(110),
        }
    ).to_csv(folder / "table.csv", index=False)
    return folder


def given(folder: Path, name: str, **options) -> list[str]:
    options = {**TINY_RUN, **options, "data": folder / "table.csv", "output": folder / name}
    return [text for option, value in options.items() for text in (f"--{option}", str(value))]


def torchrun(folder: Path, name: str, **options) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return [sys.executable, *launcher, str(TRAIN), *given(folder, name, **options)]


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }


def train(folder: Path, name: str, **options) -> tuple[int, str]:
    """Return the exit status of the command, run in this process, and its last line of error."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as printed:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        # pytest has handlers of its own, which would receive our messages.
        patch.setattr(logging.getLogger(), "handlers", [])
        status = main(["train", *given(folder, name, **options)])
    return status, (printed.getvalue().strip().splitlines() or [""])[-1]


def run(folder: Path, name: str, **options) -> Path:
    status, told = train(folder, name, **options)
    assert status == 0, told
    return folder / name


def run_in_two_processes(folder: Path, name: str, **options) -> Path:
    run_in_processes(2, run, folder, name, **options)
    return folder / name


@pytest.fixture(scope="module")
def whole(folder) -> Path:
    return run(folder, "whole")


def held_out_metrics(output: Path) -> dict[str, float]:
    metrics = json.loads((output / "eval_results.json").read_text())
    return {name: value for name, value in metrics.items() if "pearson" in name or "spearman" in name}


@pytest.mark.parametrize(
    ("how", "cut"),
    [
        (run_in_two_processes, {"per_device_train_batch_size": 8, "dataloader_num_workers": 1}),
        (run, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}),
    ],
    ids=["processes", "accumulation"],
)
def test_weights_do_not_depend_on_how_steps_are_cut_up(request, folder, whole, how, cut):
    """Three epochs, whose leftover rows differ, with masks; then the metrics of 33 held-out rows."""
    output = how(folder, request.node.callspec.id, **cut)
    expected, found = load_file(whole / "model.safetensors"), load_file(output / "model.safetensors")
    for name, weight in expected.items():
        # The keys' biases have no gradient but rounding noise, which Adam blows up to whole steps.
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(found[name], weight, atol=2e-4, rtol=1e-3, msg=name)
    assert held_out_metrics(output) == pytest.approx(held_out_metrics(whole), abs=1e-4)
    assert held_out_metrics(whole)["eval_pearson_r"] > 0.2  # there is something to compare


def test_a_training_with_a_killed_process_stops_and_ends_with_the_same_bits(folder):
    """One of two processes is killed at a random moment, even while it writes a checkpoint."""
    options = {"dataloader_num_workers": 1, "per_device_train_batch_size": 8, "max_steps": 60}
    uninterrupted = run_in_two_processes(folder, "uninterrupted", **options)
    command = torchrun(folder, "killed", **options, save_strategy="steps", save_steps=5, save_total_limit=2)
    draw = random.Random(seed := random.randrange(2**32))
    print(f"seed {seed}")
    output = folder / "killed"
    launcher = subprocess.Popen(
        command,
        env=environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not list(output.glob("checkpoint-*/trainer_state.json")):
        assert launcher.poll() is None, "it ended before a process could be killed"
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 0.2))
    trainings = [each for each in psutil.Process(launcher.pid).children() if str(TRAIN) in each.cmdline()]
    assert len(trainings) == 2, "it ended before a process could be killed"
    draw.choice(trainings).kill()
    # The launcher stops the other process, and says so by its status.
    assert launcher.wait(timeout=60) != 0
    assert not [each for each in trainings if each.is_running()]
    resumed = subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=300)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    expected = (uninterrupted / "model.safetensors").read_bytes()
    assert (output / "model.safetensors").read_bytes() == expected
    steps = [entry["step"] for entry in json.loads((output / "log_history.json").read_text()) if "loss" in entry]
    assert steps == list(range(1, 61))


@pytest.fixture(scope="module")
def begun(folder) -> Path:
    """Return a training that was stopped after its first checkpoint."""
    return run(folder, "begun", save_strategy="steps", save_steps=4, max_steps=4)


def resume(folder: Path, name: str, begun: Path, largest_file: int = resource.RLIM_INFINITY) -> str:
    """Return the one line that is printed when the training cannot resume."""
    shutil.copytree(begun, folder / name)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, usual[1]))
    try:
        status, told = train(folder, name, save_strategy="steps", save_steps=4, save_total_limit=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert status == 1
    return told


def test_a_full_disk_leaves_the_last_checkpoint_whole(folder, begun):
    """A limit on the size of files stops a write midway, as a full disk does."""
    before = {path.name: path.read_bytes() for path in (begun / "checkpoint-4").iterdir()}
    told = resume(folder, "full", begun, max(len(content) for content in before.values()) // 2)
    assert told.startswith(f"proformer: {folder / 'full' / 'checkpoint-8'} could not be written (")
    last = folder / "full" / "checkpoint-4"
    assert told.endswith(f"Make room and give the same command again: training then resumes from {last}.")
    assert {path.name: path.read_bytes() for path in last.iterdir()} == before


def test_a_table_that_changed_is_not_trained_on_any_further(folder, begun):
    table = (folder / "table.csv").read_text()
    try:
        (folder / "table.csv").write_text(table.replace("A", "C", 1))
        told = resume(folder, "changed", begun)
    finally:
        (folder / "table.csv").write_text(table)
    assert "table.csv has changed since" in told
