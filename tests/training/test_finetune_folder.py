"""The folder of a fine-tuned model: what it holds, who owns it, and how an interrupted run resumes."""

import logging
import shutil

import datasets
import numpy as np
import pytest
import torch
from releases import FINE_TUNED
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from tuning import BINS, QUICK, correlation_on_test

from modeling_proformer import predict
from modeling_proformer.data.tables import InputError
from modeling_proformer.intervals import prediction_interval
from modeling_proformer.loading import load_checkpoint
from modeling_proformer.training.finetune import finetune
from modeling_proformer.training.folder import own_folder


class TestFolder:
    @pytest.mark.parametrize("options", [{}, {"bf16": True, **BINS}])
    def test_it_opens_and_predicts_what_was_reported(self, fine_tune, options):
        fine_tuned, folder = fine_tune(**options)
        assert correlation_on_test(fine_tuned) > (0.6 if options else 0.8)
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.insert_width == 16
        test = fine_tuned.assay.split.test
        predicted = predict(model, tokenizer, fine_tuned.assay.sequences_of(test))
        np.testing.assert_allclose(predicted, fine_tuned.predicted[test], atol=1e-5)
        low, high = prediction_interval(predicted, model.config, 0.9)
        measured = fine_tuned.assay.measured[test]
        assert ((low <= measured) & (measured <= high)).mean() > 0.75
        assert np.isnan(fine_tuned.predicted[fine_tuned.assay.split.train]).all()

    def test_it_holds_nothing_else(self, fine_tune):
        _, folder = fine_tune()
        assert {path.name for path in folder.iterdir()} == FINE_TUNED

    def test_the_card_says_that_the_positions_were_resized(self, fine_tune):
        finding = "The checkpoint's positions are resized from 12 to 16 bases."
        fine_tuned, folder = fine_tune()
        assert finding in fine_tuned.assay.findings
        assert finding in (folder / "README.md").read_text()
        assert finding not in fine_tune(from_scratch=True)[0].assay.findings

    def test_the_source_may_be_a_file_a_frame_or_a_dataset(self, tmp_path, frame, checkpoint):
        frame.to_csv(tmp_path / "assay.csv", index=False)
        weights = []
        for number, data in enumerate((tmp_path / "assay.csv", frame, datasets.Dataset.from_pandas(frame))):
            folder = tmp_path / str(number)
            finetune(data, folder, model=checkpoint, **QUICK | {"steps": 5})
            weights.append(load_file(folder / "model.safetensors"))
        for name, weight in weights[0].items():
            assert torch.equal(weight, weights[1][name]) and torch.equal(weight, weights[2][name]), name

    @pytest.mark.parametrize("name", ["$^$", "$5 {{ x }} | `y`", "é\nß"])
    def test_a_column_may_have_any_name(self, tmp_path, frame, checkpoint, name):
        named = frame[["sequence", "expression"]].rename(columns={"expression": name})
        tuned = finetune(named, tmp_path / "tuned", targets=[name], model=checkpoint, **QUICK | {"steps": 5})
        assert tuned.model.config.id2label == {0: name}
        assert (tmp_path / "tuned" / "scatter.png").stat().st_size > 1000

    def test_a_folder_in_use_is_left_alone(self, tmp_path, frame, checkpoint):
        with pytest.raises(FileExistsError, match="this folder is not empty; name a new one"):
            finetune(frame, checkpoint)
        (tmp_path / "project" / "training").mkdir(parents=True)
        (tmp_path / "project" / "training" / "precious.txt").write_text("mine")
        with pytest.raises(FileExistsError, match="this folder is not empty"):
            finetune(frame, tmp_path / "project", model=checkpoint)
        (tmp_path / "file").write_text("")
        with pytest.raises(FileExistsError, match="this is a file; name a folder"):
            finetune(frame, tmp_path / "file", model=checkpoint)

    def test_a_finished_folder_is_opened_by_the_same_call_and_by_no_other(self, frame, checkpoint, fine_tune):
        fine_tuned, folder = fine_tune()
        before = (folder / "metrics.json").read_bytes()
        again = finetune(frame, folder, model=checkpoint, **QUICK)
        test = fine_tuned.assay.split.test
        np.testing.assert_allclose(again.predicted[test], fine_tuned.predicted[test], atol=1e-6)
        assert again.log_history == [] and (folder / "metrics.json").read_bytes() == before
        for data, options in ((frame, {"seed": 1}), (frame[1:], {})):
            with pytest.raises(FileExistsError, match="this folder holds another finished model; name a new one"):
                finetune(data, folder, model=checkpoint, **QUICK | options)

    @pytest.mark.parametrize("moment", ["before it", "while files are moved", "before the removal", "within it"])
    def test_a_kill_at_the_end_of_a_run_costs_nothing(self, tmp_path, frame, checkpoint, monkeypatch, moment):
        """The best step is not the last, and its checkpoint is gone first."""
        arguments = {"data": frame, "output": tmp_path / "tuned", "model": checkpoint, **QUICK, "steps": 10}
        run, output = tmp_path / "tuned" / "training", tmp_path / "tuned"
        killed = {"before it": "move_contents", "while files are moved": "move_contents"}.get(moment, "remove_folder")

        def kill(*_, **__):
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(f"modeling_proformer.training.finetune.{killed}", kill)
            with pytest.raises(KeyboardInterrupt):
                finetune(**arguments)
        whole = run / "finished" / "tuned"
        if moment == "before it":
            assert {path.name for path in output.iterdir()} == {"training"}
        if moment == "while files are moved":
            (whole / "config.json").replace(output / "config.json")
        if moment == "within it":
            run.rename(output / ".training.removed")
            shutil.rmtree(next((output / ".training.removed").glob("checkpoint-*")))
            (output / ".training.removed" / "training.json").unlink()
        again = finetune(**arguments)
        assert {path.name for path in output.iterdir()} == FINE_TUNED
        predicted = predict(*load_checkpoint(output), again.assay.sequences_of(again.assay.split.test))
        np.testing.assert_allclose(predicted, again.predicted[again.assay.split.test], atol=1e-5)

    def test_a_run_that_was_killed_before_it_began_is_no_obstacle(self, tmp_path, frame, checkpoint):
        (tmp_path / "tuned" / "training").mkdir(parents=True)
        (tmp_path / "tuned" / "_proformer.lock").write_text("1 on elsewhere\n")
        (tmp_path / "tuned" / "training" / "training.json.new").write_text('{"tab')
        finetune(frame, tmp_path / "tuned", model=checkpoint, **QUICK | {"steps": 5})
        assert {path.name for path in (tmp_path / "tuned").iterdir()} == FINE_TUNED

    def test_a_folder_that_another_process_writes_is_refused(self, tmp_path, frame, checkpoint):
        with own_folder(tmp_path / "tuned"), pytest.raises(BlockingIOError, match="another process"):
            finetune(frame, tmp_path / "tuned", model=checkpoint, **QUICK)
        assert not (tmp_path / "tuned").exists()


class StopAtStep30(logging.Handler):
    """Interrupts the run at its third evaluation, of which no checkpoint is saved yet."""

    def emit(self, record):
        if record.getMessage().startswith("Step 30 "):
            raise KeyboardInterrupt


@pytest.fixture
def interrupted():
    logger = logging.getLogger("modeling_proformer.training.finetune")
    handler, level = StopAtStep30(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lambda: logger.removeHandler(handler)
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.slow
class TestInterruption:
    @pytest.mark.parametrize("method", ["full", "lora"])
    def test_it_resumes_to_the_same_model(self, tmp_path, frame, checkpoint, fine_tune, interrupted, method):
        """Stopped after the second checkpoint and started again, or never stopped, a run leads to the same bits."""
        if method == "lora":
            pytest.importorskip("peft", reason="peft is not installed")
        options = {"method": method} if method == "lora" else {}
        arguments = {"data": frame, "output": tmp_path / "stopped", "model": checkpoint, **QUICK, **options}
        with pytest.raises(KeyboardInterrupt):
            finetune(**arguments)
        interrupted()
        assert (tmp_path / "stopped" / "training" / "checkpoint-20").is_dir()
        for other in ({"seed": 1}, {"keep": 0.9} if method == "full" else {"dropout": 0.1}):
            with pytest.raises(InputError, match=rf"holds a training with {next(iter(other))} "):
                finetune(**arguments | other)
        resumed = finetune(**arguments)
        assert resumed.seconds is None
        whole, _ = fine_tune(**options)
        for weight, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
            assert torch.equal(weight, other)

    def test_it_does_not_resume_from_another_checkpoint_of_that_name(self, tmp_path, frame, checkpoint, interrupted):
        start = tmp_path / "start"
        shutil.copytree(checkpoint, start)
        with pytest.raises(KeyboardInterrupt):
            finetune(frame, tmp_path / "stopped", model=start, **QUICK)
        interrupted()
        model, _ = load_checkpoint(start)
        torch.nn.init.ones_(model.expression_head.dense.bias)
        model.save_pretrained(start)
        with pytest.raises(InputError, match="holds a training with weights"):
            finetune(frame, tmp_path / "stopped", model=start, **QUICK)
