"""Fine-tuning: methods, what is kept of a checkpoint, constructs, targets and the command."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tuning import BINS, QUICK, correlation_on_test

from modeling_proformer import ProformerForSequenceClassification, cli, predict
from modeling_proformer.data.prepare import prepare_assay
from modeling_proformer.data.tables import InputError
from modeling_proformer.loading import load_checkpoint
from modeling_proformer.training.calibration import rescale, temper
from modeling_proformer.training.config import FinetuneConfig
from modeling_proformer.training.finetune import finetune, parameter_groups
from modeling_proformer.training.scores import weighted_correlation
from modeling_proformer.training.transfer import bin_shares, build_model, choose_keep, resize_positions


class TestMethods:
    def test_a_new_head_on_a_frozen_encoder(self, fine_tune, checkpoint):
        tuned = fine_tune(method="head")[0].model
        before = load_checkpoint(checkpoint)[0]
        for name, weight in before.proformer.named_parameters():
            if "position_embeddings" not in name:
                torch.testing.assert_close(tuned.proformer.get_parameter(name), weight)
        assert not torch.equal(tuned.expression_head.dense.weight, before.expression_head.dense.weight)

    def test_lora_is_merged_into_the_matrices(self, fine_tune, checkpoint):
        pytest.importorskip("peft", reason="peft is not installed")
        fine_tuned, folder = fine_tune(method="lora")
        assert correlation_on_test(fine_tuned) > 0.5
        tuned, before = load_checkpoint(folder)[0], load_checkpoint(checkpoint)[0]
        query, old = (model.proformer.layers[0].self_attn.q_proj.weight for model in (tuned, before))
        change = torch.linalg.svdvals((query - old).detach())
        assert change[0] > 1e-3 and change[8:].max() < 1e-5  # of rank 8

    def test_from_scratch_keeps_nothing_of_the_checkpoint(self, frame, checkpoint):
        pretrained, reference = load_checkpoint(checkpoint)
        assay = prepare_assay(frame, FinetuneConfig(), reference)
        resized = resize_positions(pretrained, reference, assay.tokenizer)
        models = {
            scratch: build_model(FinetuneConfig(from_scratch=scratch), assay, resized) for scratch in (False, True)
        }
        weights = {scratch: model.proformer.layers[0].self_attn.q_proj.weight for scratch, model in models.items()}
        old = pretrained.proformer.layers[0].self_attn.q_proj.weight
        assert torch.equal(weights[False], old) and not torch.equal(weights[True], old)
        assert models[True].config.max_position_embeddings == models[False].config.max_position_embeddings == 32
        # A folder of an earlier version says nothing of its construct.
        assert pretrained.config.construct["insert_width"] == 12
        expected = {"insert_width": 16, "five_prime_flank": "", "three_prime_flank": "", "strands": "both"}
        assert models[True].config.construct == models[False].config.construct == resized.config.construct == expected

    @pytest.mark.parametrize("scratch", [False, True])
    def test_before_training_reads_fall_into_bins_as_they_do_on_average(self, frame, checkpoint, scratch):
        pretrained, reference = load_checkpoint(checkpoint)
        predicted = {}
        for kind, options in (("values", {}), ("bins", BINS)):
            config = FinetuneConfig(from_scratch=scratch, **options)
            assay = prepare_assay(frame, config, reference)
            model = build_model(config, assay, resize_positions(pretrained, reference, assay.tokenizer))
            predicted[kind] = predict(model, assay.tokenizer, frame.sequence)[:, 0]
        if not scratch:
            # Expression in the checkpoint's assay shifts them.
            assert np.corrcoef(predicted["bins"], predicted["values"])[0, 1] > 0.95
        measured = assay.measured[assay.split.train]
        model.expression_head.dense.weight.data.zero_()
        assert predict(model, assay.tokenizer, frame.sequence[:1]).item() == pytest.approx(measured.mean(), abs=0.1)

    def test_rates_shrink_from_the_head_to_the_embeddings(self, tiny_config):
        model = ProformerForSequenceClassification(tiny_config)
        groups = parameter_groups(FinetuneConfig(learning_rate=1.0, layer_decay=0.5), model)
        assert [group["lr"] for group in groups] == [1.0, 0.5, 0.25, 0.125]
        assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
        numbers = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
        assert numbers[id(model.expression_head.dense.weight)] == 1.0
        assert numbers[id(model.proformer.layers[1].convolution.pointwise.weight)] == 0.5
        assert numbers[id(model.proformer.embeddings.kmer_projection.weight)] == 0.125
        for other in ({"keep": 0.5}, {"from_scratch": True}, {"method": "head"}):
            config = FinetuneConfig(learning_rate=1.0, **other)
            assert {group["lr"] for group in parameter_groups(config, model)} == {1.0}


class TestKeep:
    @pytest.fixture
    def assay(self, frame, checkpoint):
        return prepare_assay(frame, FinetuneConfig(), load_checkpoint(checkpoint)[1])

    @pytest.fixture
    def resized(self, checkpoint, assay):
        return resize_positions(*load_checkpoint(checkpoint), assay.tokenizer)

    def test_a_checkpoint_that_knows_nothing_of_the_assay_is_mixed_with_new_weights(self, assay, resized):
        config = choose_keep(FinetuneConfig(), assay, resized)
        assert config == FinetuneConfig(keep=0.6)
        found = re.fullmatch(
            r"On 280 training rows, the checkpoint's predictions have a rank correlation of (\d\.\d\d) and those of a "
            r"cross-validated ridge regression on k-mers one of (\d\.\d\d): (.*)\.",
            assay.findings[-1],
        )
        assert float(found[1]) < 0.3 < 0.4 < float(found[2]) < 0.6
        assert found[3] == "60% of its matrices are kept and mixed with new weights"
        torch.manual_seed(1)
        model = build_model(config, assay, resized)
        torch.manual_seed(1)
        new = build_model(FinetuneConfig(from_scratch=True), assay, resized).state_dict()
        old = resized.state_dict()
        for name, weight in model.state_dict().items():
            if name.startswith("proformer."):
                mixed = 0.6 * old[name] + 0.4 * new[name] if weight.ndim > 1 else old[name]
                torch.testing.assert_close(weight, mixed)

    @pytest.mark.parametrize("targets", [["expression"], ["expression", "unrelated"]])
    def test_one_that_knows_it_is_kept(self, frame, fine_tune, targets):
        knowing, reference = load_checkpoint(fine_tune(targets=targets)[1])
        # Logarithms, another sign, rare classes, noise or a measurement with gaps make no difference.
        for others in (["fold_change"], ["low"], ["rare"], ["noisy"], ["sparse", "expression"]):
            config = FinetuneConfig(targets=others)
            assay = prepare_assay(frame, config, reference)
            assert choose_keep(config, assay, knowing) == replace(config, keep=1.0)
            assert assay.findings[-1].endswith(": it is kept whole.")

    def test_what_is_given_is_not_chosen(self, assay, resized):
        before = list(assay.findings)
        for config in (FinetuneConfig(keep=0.3), FinetuneConfig(from_scratch=True)):
            assert choose_keep(config, assay, resized) is config
        assert choose_keep(FinetuneConfig(method="lora"), assay, resized) == FinetuneConfig(method="lora", keep=1.0)
        assert assay.findings == before

    def test_gaps_and_a_checkpoint_without_a_preference_do_no_harm(self, assay, resized):
        assay.labels = assay.labels.copy()
        assay.labels[assay.split.train[::2]] = np.nan
        assert choose_keep(FinetuneConfig(), assay, resized).keep == 0.6
        with torch.no_grad():
            resized.expression_head.dense.weight.zero_()
        assert choose_keep(FinetuneConfig(), assay, resized).keep == 0.6

    def test_damaged_weights_are_refused(self, assay, resized):
        with torch.no_grad():
            resized.expression_head.dense.bias.fill_(float("nan"))
        with pytest.raises(InputError, match=r"prediction is nan or infinite; the weights of .* are not sound"):
            choose_keep(FinetuneConfig(), assay, resized)


class TestConstruct:
    def test_the_forward_strand_alone(self, tmp_path, frame, fine_tune):
        _, folder = fine_tune(strands="forward")
        model, tokenizer = load_checkpoint(folder)
        assert tokenizer.num_tokens == model.config.max_position_embeddings == 16
        with pytest.raises(InputError, match='reads the forward strand alone; give `strands="forward"`'):
            finetune(frame, tmp_path / "both", model=folder, **QUICK)

    def test_inserts_that_are_too_long_are_cut_throughout(self, fine_tune):
        fine_tuned, _ = fine_tune(insert_width=14, too_long="cut", steps=5)
        assert fine_tuned.assay.tokenizer.insert_width == 14
        assert "Inserts longer than 14 bases: 400; their ends are cut off." in fine_tuned.assay.findings


class TestTargets:
    def test_several_outputs(self, fine_tune):
        fine_tuned, _ = fine_tune(targets=["expression", "unrelated"])
        assert fine_tuned.model.config.id2label == {0: "expression", 1: "unrelated"}
        assert fine_tuned.predicted.shape == (len(fine_tuned.assay), 2)

    def test_logarithms(self, fine_tune):
        fine_tuned, _ = fine_tune(targets=["fold_change"], transform="log", keep=1, steps=120, seed=4)
        assert correlation_on_test(fine_tuned, np.log) > 0.8
        # The predictions are in the assay's units again.
        test = fine_tuned.assay.split.test
        ratio = np.median(fine_tuned.predicted[test] / fine_tuned.assay.measured[test])
        assert 0.7 < ratio < 1.4

    def test_reads_in_sorting_bins(self, fine_tune):
        fine_tuned, _ = fine_tune(**BINS)
        assert fine_tuned.model.config.expression_bins == [0.0, 1.0]
        assert fine_tuned.model.config.id2label == {0: "mean_bin"}
        assert correlation_on_test(fine_tuned) > 0.6

    def test_reads_of_barcodes(self, tmp_path, frame, checkpoint):
        generator = np.random.default_rng(0)
        barcodes = pd.concat([frame[["sequence"]]] * 3, ignore_index=True)
        dna = generator.poisson(30, (2, len(barcodes)))
        rna = generator.poisson(dna * 2.0 ** barcodes.sequence.str.count("G").to_numpy())
        counts = barcodes.assign(rna_1=rna[0], rna_2=rna[1], dna_1=dna[0], dna_2=dna[1])
        options = {"rna": ["rna_1", "rna_2"], "dna": ["dna_1", "dna_2"], "model": checkpoint, **QUICK}
        fine_tuned = finetune(counts, tmp_path / "tuned", **options)
        assert correlation_on_test(fine_tuned) > 0.8
        assert fine_tuned.model.config.id2label == {0: "activity"}
        card = " ".join((tmp_path / "tuned" / "README.md").read_text().split())
        assert "the reads of barcodes in `rna_1` and `rna_2` (RNA) and `dna_1` and `dna_2` (DNA). - 1,200 rows" in card
        assert "1,200 rows of barcodes are combined to 400 sequences." in card
        assert "predicts `activity`" in card or "the log2 ratio of RNA to DNA" in card

    @pytest.mark.parametrize("options", [{}, BINS])
    def test_the_model_is_that_of_the_highest_score(self, fine_tune, options):
        fine_tuned, folder = fine_tune(**options)
        log = json.loads((folder / "log_history.json").read_text())
        assert log == fine_tuned.log_history
        scores = {entry["step"]: entry["eval_score"] for entry in log if "eval_score" in entry}
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["best_step"] == max(scores, key=scores.get)

    def test_a_model_that_is_too_sure_of_bins_is_tempered(self, fine_tune):
        fine_tuned, folder = fine_tune(**BINS)
        assay, predicted = fine_tuned.assay, fine_tuned.predicted
        model, _ = load_checkpoint(folder)
        log_shares = bin_shares(assay.labels[assay.split.train]).log()
        with torch.no_grad():
            model.expression_head.dense.weight.mul_(5)
            model.expression_head.dense.bias.sub_(log_shares).mul_(5).add_(log_shares)
        validation = assay.split.validation
        sequences = assay.sequences_of(validation)
        surer = predict(model, assay.tokenizer, sequences)
        assert np.ptp(surer) > 1.2 * np.ptp(predicted[validation])
        temper(model, assay)
        np.testing.assert_allclose(predict(model, assay.tokenizer, sequences), predicted[validation], atol=0.02)

    def test_predictions_that_lie_too_far_apart_are_pulled_together(self, fine_tune):
        """The squared error around the training rows' mean is then the least."""
        options = {"targets": ["expression", "fold_change"], "transform": "log1p", "steps": 40, "keep": 1}
        fine_tuned, folder = fine_tune(**options)
        assay, model = fine_tuned.assay, load_checkpoint(folder)[0]
        validation = assay.split.validation
        sequences = assay.sequences_of(validation)
        with torch.no_grad():
            model.expression_head.dense.weight.mul_(3)
            model.expression_head.dense.bias.mul_(3)
        mean = np.array(model.config.label_mean)
        measured = np.log1p(assay.measured[validation]) - mean
        further = np.log1p(predict(model, assay.tokenizer, sequences)) - mean
        factors = (measured * further).sum(axis=0) / (further**2).sum(axis=0)
        assert (factors < 0.9).all()
        rescale(model, assay)
        after = np.log1p(predict(model, assay.tokenizer, sequences)) - mean
        np.testing.assert_allclose(after, factors * further, atol=0.01)

    def test_weights_count_in_the_score(self):
        generator = np.random.default_rng(0)
        measured, predicted = generator.normal(size=(2, 30))
        weights = generator.integers(1, 5, 30)
        repeated = np.corrcoef(np.repeat(measured, weights), np.repeat(predicted, weights))[0, 1]
        assert weighted_correlation(measured, predicted, weights) == pytest.approx(repeated)
        assert weighted_correlation(measured, predicted, None) == pytest.approx(np.corrcoef(measured, predicted)[0, 1])
        assert np.isnan(weighted_correlation(measured, np.ones(30), weights))

    def test_constant_validation_rows_choose_no_step(self, tmp_path, frame, checkpoint):
        fold = np.array(["train", "train", "validation", "test"])[np.arange(len(frame)) % 4]
        constant = frame.assign(fold=fold, expression=frame.expression.where(fold != "validation", 3))
        with pytest.raises(InputError, match="the validation rows: column 'expression' is constant"):
            finetune(constant, tmp_path / "tuned", model=checkpoint, split="fold", **QUICK)

    def test_zeros_and_ones_are_classes(self, fine_tune):
        fine_tuned, folder = fine_tune(targets=["active"])
        assert fine_tuned.model.config.problem_type == "multi_label_classification"
        test = fine_tuned.assay.split.test
        assert ((fine_tuned.predicted[test] > 0) & (fine_tuned.predicted[test] < 1)).all()
        assert ((fine_tuned.predicted[test] > 0.5) == fine_tuned.assay.measured[test]).mean() > 0.8
        assert "roc_auc" in (folder / "metrics.json").read_text()

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"from_scratch": True, "method": "head"}, "method 'head' needs the whole checkpoint; leave out `from_s"),
            ({"keep": 0.5, "method": "head"}, "method 'head' needs the whole checkpoint; leave out `keep`"),
            ({"keep": 0.5, "from_scratch": True}, "`from_scratch` keeps nothing of the checkpoint"),
            ({"targets": ["low", "high"], "bins": [1.0, 0.0]}, "`expression_bins` must be two or more, ascending"),
            ({**BINS, "transform": "log1p"}, "leave out `label_mean`"),
            ({**BINS, "task": "classification"}, "are a regression"),
            ({"targets": ["active"], "transform": "log1p"}, "`label_transform` is for regression"),
            ({"targets": ["unread", "high"], "bins": np.arange(2)}, "column 'mean_bin' is constant"),
            ({"group": "active", "split_by": "random"}, "The column 'active' splits the rows; leave out `split_by`"),
            ({"learning_rate": 0.0}, "`learning_rate` is 0.0, but must be a number above 0"),
            ({"learning_rate": float("inf")}, "`learning_rate` is inf"),
            ({"seed": 2**32}, "`seed` is 4294967296, but must be 0 to 4,294,967,295"),
            ({"validation_fraction": 0.9, "test_fraction": 0.1}, "their sum below 1"),
            ({"layer_decay": -1}, "`layer_decay` is -1"),
            ({"keep": 0}, "`keep` is 0"),
            ({"keep": 1.1}, "`keep` is 1.1"),
            ({"steps": 0}, "`steps` is 0"),
            ({"patience": 0}, "`patience` is 0"),
            ({"seed": -1}, "`seed` is -1"),
            ({"dropout": 1}, "`dropout` is 1"),
        ],
    )
    def test_options_out_of_range_or_in_contradiction_are_refused(self, tmp_path, frame, checkpoint, options, reason):
        with pytest.raises(ValueError, match=reason):
            finetune(frame, tmp_path / "tuned", model=checkpoint, **QUICK | options)

    def test_an_unknown_option_is_refused_with_the_one_that_was_meant(self, tmp_path, frame):
        with pytest.raises(TypeError, match=r"finetune\(\) has no option 'target'\. Did you mean 'targets'\?"):
            finetune(frame, tmp_path / "tuned", target="expression")
        with pytest.raises(ValueError, match=r"`targets` is a list of columns, such as \['expression'\]"):
            finetune(frame, tmp_path / "tuned", targets="expression")

    def test_training_that_diverges_is_reported_and_frees_the_folder(self, tmp_path, frame, checkpoint):
        with pytest.raises(InputError, match=r"Training has diverged: .* Give a lower `learning_rate`"):
            finetune(frame, tmp_path / "tuned", model=checkpoint, **QUICK | {"learning_rate": 1e12})
        finetune(frame, tmp_path / "tuned", model=checkpoint, **QUICK | {"steps": 5})

    def test_an_average_of_0_and_1_is_not_a_class(self, tmp_path, frame, checkpoint):
        conflict = pd.concat([frame, frame[3:4].assign(active=1 - frame.active[3])])
        options = {"targets": ["active"], "model": checkpoint, "duplicates": "average", **QUICK, "steps": 5}
        with pytest.raises(InputError, match=r"row 4, column 'active': its insert was measured as 0 and as 1"):
            finetune(conflict, tmp_path / "tuned", **options)
        tuned = finetune(conflict, tmp_path / "tuned", **options, task="regression")
        assert tuned.model.config.problem_type == "regression"

    def test_measurements_that_do_not_suit_an_option_are_refused_by_row(self, tmp_path, frame, checkpoint):
        arguments = {"data": frame, "output": tmp_path / "tuned", "model": checkpoint}
        with pytest.raises(InputError, match=r"row \d+, column 'expression': for classification, .* must be 0 or 1"):
            finetune(**arguments, task="classification")
        with pytest.raises(
            InputError, match=r"row \d+, column 'active': 0 has no log; \d+ measurements are 0 or less"
        ):
            finetune(**arguments, targets=["active"], transform="log", task="regression")

    def test_rows_of_little_weight_teach_little(self, tmp_path, frame, checkpoint):
        """Half of the rows say the opposite, at a hundredth of the others' weight."""
        wrong = np.random.default_rng(1).random(len(frame)) < 0.5
        weighted = frame.assign(
            expression=np.where(wrong, 10 - frame.expression, frame.expression), reads=np.where(wrong, 0.01, 1)
        )
        options = QUICK | {"steps": 120, "patience": 20, "dropout": 0, "weight": "reads"}
        fine_tuned = finetune(weighted, tmp_path / "tuned", model=checkpoint, **options)
        test = fine_tuned.assay.split.test
        counts = [sequence.count("G") for sequence in fine_tuned.assay.sequences_of(test)]
        assert np.corrcoef(counts, fine_tuned.predicted[test, 0])[0, 1] > 0.8


@pytest.mark.slow
class TestCommand:
    def test_a_command_a_config_and_python_lead_to_the_same_weights(self, tmp_path, frame, checkpoint, monkeypatch):
        monkeypatch.chdir(tmp_path)
        frame.to_csv("assay.csv", index=False)
        options = {"steps": 10, "learning_rate": 0.01, "keep": 0.5, "targets": ["expression", "high"]}
        finetune("assay.csv", "python", model=checkpoint, **options)
        flags = ["--steps", "10", "--learning-rate", "0.01", "--keep", "0.5", "--targets", "expression", "high"]
        assert cli.main(["finetune", "assay.csv", "-o", "flags", "--model", str(checkpoint), *flags]) == 0
        lines = [f"{name}: {json.dumps(value)}" for name, value in options.items()]
        Path("options.yaml").write_text("\n".join(["data: assay.csv", "output: config", *lines]))
        assert cli.main(["finetune", "--config", "options.yaml", "--model", str(checkpoint)]) == 0
        weights = [load_file(f"{folder}/model.safetensors") for folder in ("python", "flags", "config")]
        for name, weight in weights[0].items():
            assert torch.equal(weight, weights[1][name]) and torch.equal(weight, weights[2][name]), name
        assert (
            "with each weight matrix mixed from 50 % of the checkpoint and 50 % new weights |"
            in Path("flags/README.md").read_text()
        )

    def test_what_it_prints(self, tmp_path, frame, checkpoint, monkeypatch, capsys, caplog):
        monkeypatch.chdir(tmp_path)
        frame.to_csv("assay.csv", index=False)
        command = ["finetune", "assay.csv", "--model", str(checkpoint), "--steps", "20", "--output", "tuned"]
        assert cli.main(command) == 0
        assert "400 rows have measurements of expression." in caplog.text
        assert "Step 3 of 20: validation loss " in caplog.text
        assert cli.main(["predict", "assay.csv", "--model", "tuned", "--interval", "0.9", "--quiet"]) == 0
        header, first, *_ = capsys.readouterr().out.splitlines()
        first = dict(zip(header.split("\t"), first.split("\t"), strict=True))
        low, middle, high = (float(first[f"predicted_expression{end}"]) for end in ("_low", "", "_high"))
        assert low < middle < high
        assert cli.main(command) == 0
        assert "tuned holds this model already; it was finished before." in caplog.text
        assert cli.main([*command, "--seed", "1"]) == 1
        assert capsys.readouterr().err == (
            "proformer: tuned: this folder holds another finished model; name a new one.\n"
        )
