"""What the tests of several commands share."""

import logging
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from modeling_proformer import ProformerForPreTraining, ProformerTokenizer
from modeling_proformer.cli import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def model(tiny_config) -> ProformerForPreTraining:
    torch.manual_seed(0)
    tiny_config.id2label = {0: "expression"}
    tiny_config.label_mean, tiny_config.label_std = [11.0], [2.0]
    return ProformerForPreTraining(tiny_config)


@pytest.fixture
def tokenizer(tiny_tokenizer) -> ProformerTokenizer:
    return tiny_tokenizer


@pytest.fixture
def checkpoint(model, tokenizer, tmp_path) -> Path:
    """Return the folder of the model and the tokenizer, of which a module may have others."""
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return the folder where the user works."""
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def at_work(folder, monkeypatch):
    """Work in that folder."""
    monkeypatch.chdir(folder)


@pytest.fixture
def proformer(checkpoint, capsys):
    """Return a function that runs `proformer predict` with a small model."""

    def run(*arguments) -> Outcome:
        capsys.readouterr()
        code = main(["predict", "--model", str(checkpoint), *map(str, arguments)])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def run_quietly(capsys, monkeypatch):
    """Return a function that runs any command without a progress bar; it returns its status, output and error."""

    def run(*words) -> Outcome:
        # pytest has handlers of its own, which would receive our messages.
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        capsys.readouterr()
        code = main([*map(str, words), "--quiet"])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(proformer, folder):
    """Return a function that runs a command which must fail and write nothing, and returns its error of one line."""

    def run(*arguments) -> str:
        output = folder / "out.tsv"
        output.write_text("an earlier run")
        before = sorted(folder.iterdir())
        outcome = proformer(*arguments, "-o", output, "--quiet")
        assert outcome.code != 0
        assert outcome.out == ""
        assert outcome.err.startswith("proformer: ")
        assert outcome.err.endswith("\n")
        assert outcome.err.count("\n") == 1
        assert sorted(folder.iterdir()) == before
        assert output.read_text() == "an earlier run"
        return outcome.err

    return run
