"""The `proformer` command: its words, its messages, and what starting it costs."""

import gzip
import http.server
import logging
import os
import subprocess
import sys
import sysconfig
import textwrap
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

import modeling_proformer
from modeling_proformer import cli
from modeling_proformer.cli import main, parse
from modeling_proformer.commands.dataset_card import DatasetCardFiles
from modeling_proformer.commands.finetune import FinetuneFiles
from modeling_proformer.commands.publish import PublishConfig
from modeling_proformer.data.config import DataConfig
from modeling_proformer.training.config import FinetuneConfig, TrainConfig


SEQUENCES = "sequence\nACGTACGT\nGGGGCCCC\n"


def console_script(*arguments, stdin: BinaryIO | None = None, **environment) -> tuple[int, str, str]:
    command = [str(Path(sysconfig.get_path("scripts")) / "proformer"), "predict", *map(str, arguments)]
    done = subprocess.run(
        command,
        env=os.environ | environment,
        stdin=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_installed_command_from_standard_input_to_standard_output(proformer, folder, checkpoint):
    (folder / "in.tsv.gz").write_bytes(gzip.compress(SEQUENCES.encode()))
    expected = proformer(folder / "in.tsv.gz", "--quiet", "-o", "-")
    assert [line.split("\t")[0] for line in expected.out.splitlines()] == SEQUENCES.split()
    with open(folder / "in.tsv.gz", "rb") as file:
        assert console_script("-", "--model", checkpoint, "--quiet", stdin=file, HF_HUB_OFFLINE="1") == expected


class EmptyHub(http.server.BaseHTTPRequestHandler):
    """A Hub without any repository."""

    def do_GET(self):
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


def test_the_installed_command_with_an_unknown_model(folder, tmp_path):
    (folder / "in.tsv").write_text(SEQUENCES)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), EmptyHub) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        code, printed, error = console_script(
            *(folder / "in.tsv", "--model", "nobody/nothing", "-o", folder / "out.tsv"),
            HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}",
            HF_HOME=str(tmp_path / "hub"),
            HF_HUB_OFFLINE="0",
            NO_PROXY="127.0.0.1",
        )
        hub.shutdown()
    assert (code, printed) == (1, "")
    assert error.startswith("proformer: nobody/nothing: ") and error.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == ["in.tsv"]


class TestParse:
    """What the words of the other commands become."""

    def test_finetune(self):
        words = ["assay.tsv", "--targets", "up", "down", "-o", "tuned", "--split-by", "random", "--batch_size", "8"]
        command, (files, config) = parse(["finetune", *words])
        assert command is cli.COMMANDS["finetune"]
        assert files == FinetuneFiles(data="assay.tsv", output="tuned")
        assert config == FinetuneConfig(targets=["up", "down"], split_by="random", batch_size=8)

    def test_train(self, tmp_path):
        words = [
            "a.tsv",
            "a.tsv",
            "--output",
            str(tmp_path),
            "--kmer_size",
            "5",
            "--learning_rate",
            "2e-3",
            "--use_cpu",
        ]
        _, (files, config, arguments) = parse(["train", *words, "--bf16", "no"])
        assert files.data == ["a.tsv", "a.tsv"]
        assert config == TrainConfig(kmer_size=5)
        assert (arguments.output_dir, arguments.learning_rate, arguments.bf16) == (str(tmp_path), 2e-3, False)

    def test_publish(self):
        _, (config,) = parse(["publish", "--dry-run", "tuned", "me/model", "--license", "mit"])
        expected = PublishConfig(checkpoint="tuned", repo_id="me/model", license="mit", dry_run=True)
        assert config == expected

    def test_dataset_card(self):
        _, (files, config) = parse(["dataset-card", "assay.tsv", "--license", "mit", "--targets", "y"])
        assert files == DatasetCardFiles(data="assay.tsv", license="mit")
        assert config == DataConfig(targets=["y"])

    @pytest.mark.parametrize(
        ("words", "reason"),
        [
            (["finetune", "assay.tsv", "-o", "tuned", "--keep", "1.5"], "--keep is 1.5"),
            (["export", "-o", "out", "--truncation"], "--sequences"),
            (["dataset-card", "-", "--license", "mit"], "a file of its own"),
        ],
    )
    def test_values_of_options_are_checked(self, words, reason, capsys):
        assert main(words) == 1
        error = capsys.readouterr().err
        assert error.startswith("proformer: ") and error.count("\n") == 1
        assert reason in error

    @pytest.mark.parametrize("words", [[], ["predikt"], ["finetune", "assay.tsv"]])
    def test_arguments_that_are_none_are_refused(self, words):
        with pytest.raises(SystemExit, match="2"):
            main(words)

    def test_version(self, capsys):
        with pytest.raises(SystemExit, match="0"):
            main(["--version"])
        assert capsys.readouterr().out == f"proformer {modeling_proformer.__version__}\n"


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_one_of_several_processes_reports_an_error_of_the_input(rank, lines, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("RANK", rank)
    assert main(["train", str(tmp_path / "none.tsv"), "-o", str(tmp_path), "--streaming"]) == 1
    assert capsys.readouterr().err.count("\n") == lines


# Modules that take long to import. (accelerate is one too, but transformers imports it for any model.)
SLOW = ["datasets", "matplotlib", "pandas", "peft", "sklearn", "transformers.trainer", "transformers.training_args"]


def test_predictions_help_and_metrics_need_no_slow_imports(tmp_path):
    (tmp_path / "in.tsv").write_text("sequence\nACGTACGT\n")
    script = f"""
        import contextlib, sys

        def loaded():
            return [name for name in {SLOW} if name in sys.modules]

        import modeling_proformer
        assert not loaded(), loaded()
        from modeling_proformer import cli
        for words in (["--help"], ["predict", "--help"], ["finetune", "--help"], ["predict", "in.tsv", "--quiet"]):
            with contextlib.suppress(SystemExit):
                cli.main(words)
            assert not loaded(), (words, loaded())
        from modeling_proformer import evaluation
        assert not loaded(), loaded()
        # Functions that draw can be called too: they import matplotlib when they run.
        assert all(callable(getattr(evaluation, name)) for name in evaluation.__all__)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_front_door():
    for name in modeling_proformer.__all__:
        assert getattr(modeling_proformer, name) is not None
        assert name in dir(modeling_proformer)
    assert callable(modeling_proformer.export) and callable(modeling_proformer.train)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        modeling_proformer.nothing  # noqa: B018


class TestProgress:
    logger = logging.getLogger("modeling_proformer.training.finetune")

    def test_it_is_shown_by_default_and_can_be_silenced(self, monkeypatch, capsys):
        # pytest has handlers of its own.
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        self.logger.info("Step 1 of 2.")
        self.logger.debug("A detail.")
        assert capsys.readouterr() == ("", "Step 1 of 2.\n")
        package = logging.getLogger("modeling_proformer")
        level = package.level
        package.setLevel("WARNING")
        self.logger.info("Step 2 of 2.")
        package.setLevel(level)
        assert capsys.readouterr().err == ""

    def test_a_program_that_handles_messages_receives_them_instead(self, caplog, capsys):
        self.logger.info("Step 1 of 2.")
        assert caplog.messages == ["Step 1 of 2."]
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("cells", "complaint"),
    [
        (["ACGTTGCATGCA", "1e300", "a"], "line 3, column 'expression': 1e+300 is too large"),
        (["NNNNNNNN", "1", "a"], "line 3, column 'sequence': the sequence has no base but N"),
        (["ACGTTGCATGCA", "1", ""], "line 3, column 'group': the group is missing"),
    ],
)
def test_what_one_training_command_refuses_the_other_refuses_alike(cells, complaint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [["sequence", "expression", "group"], ["ACGTTGCATGCA", "2.5", "b"], cells]
    rows += [["TTGCAACGTTAC", str(row), str(row)] for row in range(30)]
    Path("assay.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    said = []
    for command in ("finetune", "train"):
        assert cli.main([command, "assay.tsv", "--group", "group", "--output", "out"]) == 1
        said.append(capsys.readouterr().err)
        assert not Path("out").exists()
    assert said[0] == said[1]
    assert complaint in said[0]
    assert "Traceback" not in said[0]
