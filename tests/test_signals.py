"""Signals end a command with one line, the exit code 128 + signal, and nothing half-written."""

import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import process_of
from releases import FINE_TUNED
from tiny import save_tiny
from waiting import wait_for

from modeling_proformer.cli import main
from modeling_proformer.signals import Stopped, stop_on_signals


pytestmark = pytest.mark.usefixtures("heeds_signals")


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return save_tiny(tmp_path / "checkpoint", label_mean=[9.0], label_std=[4.0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT"])
def test_predict_stops_although_its_input_gives_nothing(tmp_path, checkpoint, name):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "o.tsv").write_text("an earlier run")
    # Python's own end has to cope with the thread that waits for the input, so this is a command of its own.
    command = [sys.executable, "-m", "modeling_proformer.cli", "predict", "-", "--quiet"]
    command += ["--model", str(checkpoint), "-o", str(tmp_path / "work" / "o.tsv")]
    pipes = dict.fromkeys(("stdin", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, **pipes) as process:
        process.stdin.write("sequence\nACGTACGTACGT\n")
        process.stdin.flush()
        wait_for(lambda: len(os.listdir(tmp_path / "work")) == 2)
        process.send_signal(signal.Signals[name])
        assert process.wait(timeout=30) == 128 + signal.Signals[name]
        assert process.stderr.read().splitlines()[-1] == f"proformer: stopped by {name}."
    assert os.listdir(tmp_path / "work") == ["o.tsv"]
    assert (tmp_path / "work" / "o.tsv").read_text() == "an earlier run"


@pytest.mark.slow
def test_finetune_says_how_to_go_on_and_goes_on(tmp_path, checkpoint, capsys, monkeypatch):
    # pytest has handlers of its own, which would receive our messages.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    bases = np.random.default_rng(0).choice(list("ACGT"), (100, 12))
    rows = [f"{''.join(each)},{(each == 'G').sum()}" for each in bases]
    (tmp_path / "assay.csv").write_text("\n".join(["sequence,expression", *rows]))
    words = ["finetune", str(tmp_path / "assay.csv"), "--model", str(checkpoint), "-o", str(tmp_path / "tuned")]
    words += ["--steps", "100", "--patience", "99"]
    with process_of(main, words, stderr=tmp_path / "errors") as process:
        wait_for(lambda: list(tmp_path.glob("tuned/training/checkpoint-*/trainer_state.json")))
        process.terminate()
        process.join(30)
        assert process.exitcode == 143
    last = (tmp_path / "errors").read_text().splitlines()[-1]
    again = "The same command resumes from the last checkpoint, if there is one."
    assert last == f"proformer: stopped by SIGTERM. {again}"
    assert os.listdir(tmp_path / "tuned") == ["training"]
    assert main(words) == 0
    assert re.search(r"^Resuming from .*checkpoint-\d+\.$", capsys.readouterr().err, re.M)
    assert {path.name for path in (tmp_path / "tuned").iterdir()} == FINE_TUNED


def test_a_signal_that_is_ignored_stays_ignored_and_the_handlers_come_back():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.raises(Stopped, match="SIGTERM"), stop_on_signals():
            os.kill(os.getpid(), signal.SIGHUP)  # as under nohup
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)  # while it cleans up
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_one_of_several_processes_keeps_the_handlers_of_the_system(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with stop_on_signals():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
