"""Signals end a command with one line, the exit code 128 + signal, and nothing half-written."""

import logging
import os
import re
import signal
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
    os.mkfifo(tmp_path / "in")
    words = ["predict", "-", "--model", str(checkpoint), "-o", str(tmp_path / "work" / "o.tsv"), "--quiet"]
    running = process_of(main, words, stdin=tmp_path / "in", stderr=tmp_path / "errors")
    # To open it for writing alone would wait for the process, even for one that has failed.
    with running as process, os.fdopen(os.open(tmp_path / "in", os.O_RDWR), "w") as pipe:
        pipe.write("sequence\nACGTACGTACGT\n")
        pipe.flush()
        wait_for(lambda: len(os.listdir(tmp_path / "work")) == 2)
        os.kill(process.pid, signal.Signals[name])
        process.join(30)
        assert process.exitcode == 128 + signal.Signals[name]
    assert (tmp_path / "errors").read_text().splitlines()[-1] == f"proformer: stopped by {name}."
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
