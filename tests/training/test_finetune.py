"""Fine-tuning from a table to a folder, with a small checkpoint and an assay that can be learned in seconds."""

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from tiny import TINY
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from modeling_proformer import ProformerConfig, ProformerForSequenceClassification, ProformerTokenizer, cli, predict
from modeling_proformer.data.assay import Preparation, TableColumns, prepare_assay
from modeling_proformer.data.tables import InputError
from modeling_proformer.intervals import prediction_interval
from modeling_proformer.prediction import load_checkpoint
from modeling_proformer.training.finetune import (
    Recipe,
    bin_shares,
    depth_of,
    finetune,
    measured_values,
    model_for,
    parameter_groups,
    rescale,
    settled,
    stretched,
    stretched_positions,
    temper,
    weighted_correlation,
)


EXAMPLES = Path(__file__).parents[2] / "examples"
COLUMNS = TableColumns("sequence", ["expression"])
QUICK = {"steps": 60, "batch_size": 32, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Of the tests' sizes, for inserts of 12, trained on nothing."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    config = ProformerConfig(**TINY, label_mean=[9.0], label_std=[4.0])
    ProformerForSequenceClassification(config).save_pretrained(folder)
    ProformerTokenizer(kmer_size=3, insert_width=12).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """400 inserts of 16 letters; expression is the number of Gs, other outputs follow from it."""
    generator, noise = (np.random.default_rng(seed) for seed in (0, 1))
    rows = []
    for sequence in ("".join(letters) for letters in generator.choice(list("ACGT"), (400, 16))):
        count = sequence.count("G")
        rows.append(
            {
                "sequence": sequence,
                "expression": count + generator.normal(0, 0.3),
                "fold_change": np.exp(count + generator.normal(0, 0.3)),
                "active": int(count > 4),
                "low": 8 - min(count, 8),
                "high": min(count, 8),
                "rare": int(count > 6),
                "noisy": count + noise.normal(0, 4),
                "sparse": noise.normal() if len(rows) % 4 == 0 else None,
                "unrelated": noise.normal(),
                "unread": 0,
            }
        )
    return rows


@pytest.fixture
def table(tmp_path, rows) -> Path:
    path = tmp_path / "assay.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def fine_tune(tmp_path, table, checkpoint):
    def fine_tune(columns: TableColumns = COLUMNS, name: str = "tuned", **recipe):
        return finetune(
            table, columns, tmp_path / name, checkpoint, recipe=Recipe(**QUICK | recipe), show=lambda sentence: None
        )

    return fine_tune


def correlation_on_test(fine_tuned, transform=lambda values: values) -> float:
    test = fine_tuned.assay.split.test
    return np.corrcoef(transform(fine_tuned.measured[test, 0]), transform(fine_tuned.predicted[test, 0]))[0, 1]


class TestFolder:
    def test_it_opens_and_predicts_what_was_reported(self, tmp_path, fine_tune, rows):
        fine_tuned = fine_tune()
        assert correlation_on_test(fine_tuned) > 0.8
        folder = tmp_path / "tuned"
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.insert_width == 16 and model.config.id2label == {0: "expression"}
        test = fine_tuned.assay.split.test
        predicted = predict(model, tokenizer, [rows[row]["sequence"] for row in test])
        np.testing.assert_allclose(predicted, fine_tuned.predicted[test], atol=1e-5)
        low, high = prediction_interval(predicted, model.config, 0.9)
        covered = (low <= fine_tuned.measured[test]) & (fine_tuned.measured[test] <= high)
        assert covered.mean() > 0.75
        assert np.isnan(fine_tuned.predicted[fine_tuned.assay.split.train]).all()

    def test_nothing_else_is_left_in_it(self, tmp_path, fine_tune):
        fine_tune()
        assert sorted(path.name for path in (tmp_path / "tuned").iterdir()) == [
            "README.md",
            "config.json",
            "configuration_proformer.py",
            "intervals.py",
            "learning_curve.png",
            "metrics.json",
            "model.safetensors",
            "modeling_proformer.py",
            "pipeline_proformer.py",
            "predictions.tsv",
            "scatter.png",
            "tokenization_proformer.py",
            "tokenizer_config.json",
        ]

    def test_it_says_how_far_the_positions_were_stretched(self, tmp_path, fine_tune):
        finding = "The checkpoint's positions are stretched from 12 to 16 letters."
        assert finding in fine_tune().assay.findings
        assert finding in (tmp_path / "tuned" / "README.md").read_text()
        assert finding not in fine_tune(name="scratch", from_scratch=True).assay.findings

    @pytest.mark.parametrize("name", ["$^$", "$5 {{ x }} | `y`", "é\nß"])
    def test_any_name_of_a_column_will_do(self, tmp_path, rows, checkpoint, name):
        table = tmp_path / "named.csv"
        with open(table, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["sequence", name])
            writer.writerows([row["sequence"], row["expression"]] for row in rows)
        columns, recipe = TableColumns("sequence", [name]), Recipe(**QUICK | {"steps": 5})
        tuned = finetune(table, columns, tmp_path / "tuned", checkpoint, recipe=recipe, show=str)
        assert tuned.model.config.id2label == {0: name}
        assert (tmp_path / "tuned" / "scatter.png").stat().st_size > 1000

    def test_a_folder_with_a_model_is_left_alone(self, tmp_path, table, checkpoint):
        with pytest.raises(InputError, match="this folder is not empty; name a new one"):
            finetune(table, COLUMNS, checkpoint)

    def test_so_is_a_folder_of_that_name_that_is_no_run(self, tmp_path, table, checkpoint):
        (tmp_path / "project" / "training").mkdir(parents=True)
        (tmp_path / "project" / "training" / "precious.txt").write_text("mine")
        with pytest.raises(InputError, match="this folder is not empty"):
            finetune(table, COLUMNS, tmp_path / "project", checkpoint)
        with pytest.raises(InputError, match="this is a file; name a folder"):
            finetune(table, COLUMNS, table, checkpoint)

    @pytest.mark.parametrize("columns", [COLUMNS, TableColumns("sequence", ["low", "high"], bins=[0.0, 1.0])])
    def test_in_bfloat16_the_report_is_that_of_the_model_as_it_is_loaded(self, tmp_path, fine_tune, rows, columns):
        fine_tuned = fine_tune(columns, bf16=True)
        test = fine_tuned.assay.split.test
        predicted = predict(*load_checkpoint(tmp_path / "tuned"), [rows[row]["sequence"] for row in test])
        np.testing.assert_allclose(predicted, fine_tuned.predicted[test], atol=1e-5)


class TestMethods:
    def test_a_new_head_on_a_frozen_encoder(self, fine_tune, checkpoint):
        tuned = fine_tune(method="head").model
        before = load_checkpoint(checkpoint)[0]
        for name, weight in before.proformer.named_parameters():
            if "position_embeddings" not in name:
                torch.testing.assert_close(tuned.proformer.get_parameter(name), weight)
        assert not torch.equal(tuned.expression_head.dense.weight, before.expression_head.dense.weight)

    def test_lora_is_merged_into_the_matrices(self, tmp_path, fine_tune, checkpoint):
        pytest.importorskip("peft", reason="peft is not installed")
        fine_tuned = fine_tune(method="lora")
        assert correlation_on_test(fine_tuned) > 0.5
        tuned, before = load_checkpoint(tmp_path / "tuned")[0], load_checkpoint(checkpoint)[0]
        query, old = (model.proformer.layers[0].self_attn.q_proj.weight for model in (tuned, before))
        change = torch.linalg.svdvals((query - old).detach())
        assert change[0] > 1e-3 and change[8:].max() < 1e-5  # of rank 8

    def test_from_scratch_nothing_of_the_checkpoint_is_left(self, table, checkpoint):
        pretrained, reference = load_checkpoint(checkpoint)
        assay = prepare_assay(table, COLUMNS, Preparation(), reference)
        fitting = stretched(pretrained, reference, assay.tokenizer)
        models = {
            scratch: model_for(assay, COLUMNS, Recipe(from_scratch=scratch), fitting) for scratch in (False, True)
        }
        weights = {scratch: model.proformer.layers[0].self_attn.q_proj.weight for scratch, model in models.items()}
        old = pretrained.proformer.layers[0].self_attn.q_proj.weight
        assert torch.equal(weights[False], old) and not torch.equal(weights[True], old)
        assert models[True].config.max_position_embeddings == models[False].config.max_position_embeddings == 32

    @pytest.mark.parametrize("scratch", [False, True])
    def test_before_training_reads_fall_into_bins_as_they_do_on_average(self, table, rows, checkpoint, scratch):
        pretrained, reference = load_checkpoint(checkpoint)
        sequences = [row["sequence"] for row in rows]
        predicted = {}
        for kind, columns in (
            ("values", COLUMNS),
            ("bins", TableColumns("sequence", ["low", "high"], bins=[0.0, 1.0])),
        ):
            assay = prepare_assay(table, columns, Preparation(), reference)
            fitting = stretched(pretrained, reference, assay.tokenizer)
            model = model_for(assay, columns, Recipe(from_scratch=scratch), fitting)
            predicted[kind] = predict(model, assay.tokenizer, sequences)[:, 0]
        if not scratch:
            # Expression in the checkpoint's assay shifts them.
            assert np.corrcoef(predicted["bins"], predicted["values"])[0, 1] > 0.95
        measured = measured_values(assay.table.labels, columns)[assay.split.train]
        model.expression_head.dense.weight.data.zero_()
        assert predict(model, assay.tokenizer, sequences[:1]).item() == pytest.approx(measured.mean(), abs=0.1)

    def test_rates_shrink_from_the_head_to_the_embeddings(self, tiny_config):
        model = ProformerForSequenceClassification(tiny_config)
        groups = parameter_groups(model, Recipe(learning_rate=1.0, layer_decay=0.5))
        assert [group["lr"] for group in groups] == [1.0, 0.5, 0.25, 0.125]
        assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
        for other in ({"keep": 0.5}, {"from_scratch": True}, {"method": "head"}):
            assert {group["lr"] for group in parameter_groups(model, Recipe(learning_rate=1.0, **other))} == {1.0}
        assert depth_of("proformer.layers.1.convolution.pointwise.weight", 2) == 1
        assert depth_of("proformer.embeddings.kmer_projection.weight", 2) == 3


class TestKeeping:
    @pytest.fixture
    def assay(self, table, checkpoint):
        return prepare_assay(table, COLUMNS, Preparation(), load_checkpoint(checkpoint)[1])

    @pytest.fixture
    def fitting(self, checkpoint, assay):
        return stretched(*load_checkpoint(checkpoint), assay.tokenizer)

    def test_a_checkpoint_that_knows_nothing_of_the_assay_is_mixed_with_new_weights(self, assay, fitting):
        recipe = settled(Recipe(), assay, COLUMNS, fitting)
        assert recipe == Recipe(keep=0.6)
        assert re.fullmatch(
            r"The checkpoint ranks 280 training rows with a correlation of 0\.[012]\d, a ridge regression "
            r"cross-validated on them with one of 0\.[45]\d: 60% of its matrices are kept, mixed with new weights\.",
            assay.findings[-1],
        )
        torch.manual_seed(1)
        model = model_for(assay, COLUMNS, recipe, fitting)
        torch.manual_seed(1)
        new = model_for(assay, COLUMNS, Recipe(from_scratch=True), fitting).state_dict()
        old = fitting.state_dict()
        for name, weight in model.state_dict().items():
            if name.startswith("proformer."):
                mixed = 0.6 * old[name] + 0.4 * new[name] if weight.ndim > 1 else old[name]
                torch.testing.assert_close(weight, mixed)

    @pytest.mark.parametrize("targets", [["expression"], ["expression", "unrelated"]])
    def test_one_that_knows_it_is_kept(self, tmp_path, table, fine_tune, targets):
        fine_tune(TableColumns("sequence", targets))
        knowing, reference = load_checkpoint(tmp_path / "tuned")
        # Logarithms, another sign, rare classes, noise or a measurement with gaps make no difference.
        for others in (["fold_change"], ["low"], ["rare"], ["noisy"], ["sparse", "expression"]):
            other = TableColumns("sequence", others)
            assay = prepare_assay(table, other, Preparation(), reference)
            assert settled(Recipe(), assay, other, knowing) == Recipe(keep=1)
            assert assay.findings[-1].endswith(": it is kept whole.")

    def test_what_is_given_is_not_looked_for(self, assay, fitting):
        before = list(assay.findings)
        for recipe in (Recipe(keep=0.3), Recipe(from_scratch=True)):
            assert settled(recipe, assay, COLUMNS, fitting) is recipe
        assert settled(Recipe(method="lora"), assay, COLUMNS, fitting) == Recipe(method="lora", keep=1)
        assert assay.findings == before

    def test_gaps_and_a_checkpoint_without_an_opinion_do_no_harm(self, assay, fitting):
        assay.table.labels[assay.split.train[::2]] = np.nan
        assert settled(Recipe(), assay, COLUMNS, fitting).keep == 0.6
        with torch.no_grad():
            fitting.expression_head.dense.weight.zero_()
        assert settled(Recipe(), assay, COLUMNS, fitting).keep == 0.6
        assert "with a correlation of 0.00" in assay.findings[-1]

    def test_one_that_is_not_sound_is_refused(self, assay, fitting):
        with torch.no_grad():
            fitting.expression_head.dense.weight.fill_(np.nan)
        with pytest.raises(InputError, match="a prediction is nan or infinite; its weights are not sound"):
            settled(Recipe(), assay, COLUMNS, fitting)


class TestPositions:
    def test_each_strand_is_stretched_on_its_own(self):
        positions = torch.randn(24, 16)
        old, new = (ProformerTokenizer(kmer_size=3, insert_width=width) for width in (12, 36))
        stretched = stretched_positions(positions, old, new)
        # Three positions for one: the middle one of them is the old one.
        torch.testing.assert_close(stretched[1::3], positions)
        torch.testing.assert_close(stretched[2], (2 * positions[0] + positions[1]) / 3)
        torch.testing.assert_close(stretched_positions(positions, old, old), positions)
        forward = ProformerTokenizer(kmer_size=3, insert_width=36, strands="forward")
        torch.testing.assert_close(stretched_positions(positions, old, forward), stretched[:36])

    def test_the_forward_strand_alone(self, tmp_path, table, checkpoint):
        preparation, recipe = Preparation(strands="forward"), Recipe(**QUICK)
        finetune(table, COLUMNS, tmp_path / "tuned", checkpoint, preparation, recipe, show=str)
        model, tokenizer = load_checkpoint(tmp_path / "tuned")
        assert tokenizer.num_tokens == model.config.max_position_embeddings == 16
        with pytest.raises(InputError, match="knows the forward strand alone: give strands forward"):
            finetune(table, COLUMNS, tmp_path / "both", tmp_path / "tuned", recipe=recipe, show=str)

    def test_ends_that_do_not_fit_are_cut_throughout(self, tmp_path, table, checkpoint):
        preparation = Preparation(insert_width=14, too_long="cut")
        fine_tuned = finetune(table, COLUMNS, tmp_path / "tuned", checkpoint, preparation, Recipe(**QUICK), show=str)
        assert fine_tuned.assay.tokenizer.insert_width == 14
        assert "400 rows have inserts longer than 14 letters, whose ends are cut off." in fine_tuned.assay.findings


class TestTargets:
    def test_several_outputs(self, fine_tune):
        fine_tuned = fine_tune(TableColumns("sequence", ["expression", "high"]))
        assert fine_tuned.model.config.id2label == {0: "expression", 1: "high"}
        assert fine_tuned.predicted.shape == (len(fine_tuned.assay.table), 2)

    def test_logarithms(self, tmp_path, fine_tune):
        fine_tuned = fine_tune(TableColumns("sequence", ["fold_change"]), transform="log", keep=1)
        assert correlation_on_test(fine_tuned, np.log) > 0.8
        # In the assay's units again.
        test = fine_tuned.assay.split.test
        ratio = np.median(fine_tuned.predicted[test] / fine_tuned.measured[test])
        assert 0.7 < ratio < 1.4

    def test_reads_in_sorting_bins(self, fine_tune):
        fine_tuned = fine_tune(TableColumns("sequence", ["low", "high"], bins=[0.0, 1.0]))
        assert fine_tuned.model.config.expression_bins == [0.0, 1.0]
        assert fine_tuned.model.config.id2label == {0: "mean_bin"}
        assert correlation_on_test(fine_tuned) > 0.6

    @pytest.mark.parametrize("columns", [COLUMNS, TableColumns("sequence", ["low", "high"], bins=[0.0, 1.0])])
    def test_the_model_is_that_of_the_highest_score(self, tmp_path, fine_tune, columns):
        fine_tuned = fine_tune(columns)
        scores = {entry["step"]: entry["eval_score"] for entry in fine_tuned.log_history if "eval_score" in entry}
        metrics = json.loads((tmp_path / "tuned" / "metrics.json").read_text())
        assert metrics["best_step"] == max(scores, key=scores.get)

    def test_a_model_that_is_too_sure_of_bins_is_tempered(self, fine_tune):
        columns = TableColumns("sequence", ["low", "high"], bins=[0.0, 1.0])
        model, assay, _, predicted, *_ = fine_tune(columns)
        log_shares = bin_shares(assay.table.labels[assay.split.train]).log()
        with torch.no_grad():
            model.expression_head.dense.weight.mul_(5)
            model.expression_head.dense.bias.sub_(log_shares).mul_(5).add_(log_shares)
        validation = assay.split.validation
        sequences = [assay.table.sequences[row] for row in validation]
        surer = predict(model, assay.tokenizer, sequences)
        assert np.ptp(surer) > 1.2 * np.ptp(predicted[validation])
        temper(model, assay, columns)
        np.testing.assert_allclose(predict(model, assay.tokenizer, sequences), predicted[validation], atol=0.02)

    def test_predictions_that_lie_too_far_apart_are_pulled_together(self, fine_tune):
        columns = TableColumns("sequence", ["expression", "fold_change"])
        model, assay, measured, predicted, *_ = fine_tune(columns, transform="log1p", steps=40, keep=1)
        validation = assay.split.validation
        sequences = [assay.table.sequences[row] for row in validation]
        with torch.no_grad():
            model.expression_head.dense.weight.mul_(3)
            model.expression_head.dense.bias.mul_(3)
        further = np.log1p(predict(model, assay.tokenizer, sequences))
        before = np.log1p(predicted[validation])
        assert (np.ptp(further, axis=0) > 2 * np.ptp(before, axis=0)).all()
        rescale(model, assay)
        after = np.log1p(predict(model, assay.tokenizer, sequences))
        np.testing.assert_allclose(after, before, atol=0.01)
        # Least squares around the training rows' mean: what is left over does not correlate with the predictions.
        mean = np.array(model.config.label_mean)
        left = np.log1p(measured[validation]) - after
        factors = 1 + (left * (after - mean)).sum(axis=0) / ((after - mean) ** 2).sum(axis=0)
        assert (factors > 1 - 1e-3).all()

    def test_the_score_counts_rows_by_their_weights(self):
        generator = np.random.default_rng(0)
        measured, predicted = generator.normal(size=(2, 30))
        weights = generator.integers(1, 5, 30)
        repeated = np.corrcoef(np.repeat(measured, weights), np.repeat(predicted, weights))[0, 1]
        assert weighted_correlation(measured, predicted, weights) == pytest.approx(repeated)
        assert weighted_correlation(measured, predicted, None) == pytest.approx(np.corrcoef(measured, predicted)[0, 1])
        assert np.isnan(weighted_correlation(measured, np.ones(30), weights))

    def test_validation_rows_that_are_all_the_same_choose_no_step(self, tmp_path, rows, checkpoint):
        table = tmp_path / "constant.csv"
        with open(table, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["sequence", "expression", "side"])
            for number, row in enumerate(rows):
                side = ("train", "train", "validation", "test")[number % 4]
                writer.writerow([row["sequence"], 3 if side == "validation" else row["expression"], side])
        columns = TableColumns("sequence", ["expression"], split="side")
        with pytest.raises(InputError, match="In the validation rows, the column 'expression' has no two different"):
            finetune(table, columns, tmp_path / "tuned", checkpoint, recipe=Recipe(**QUICK), show=str)

    def test_zeros_and_ones_are_classes(self, tmp_path, fine_tune):
        fine_tuned = fine_tune(TableColumns("sequence", ["active"]))
        assert fine_tuned.model.config.problem_type == "multi_label_classification"
        test = fine_tuned.assay.split.test
        assert ((fine_tuned.predicted[test] > 0) & (fine_tuned.predicted[test] < 1)).all()
        assert ((fine_tuned.predicted[test] > 0.5) == fine_tuned.measured[test]).mean() > 0.8
        metrics = json.loads((tmp_path / "tuned" / "metrics.json").read_text())
        assert "roc_auc" in json.dumps(metrics)

    @pytest.mark.parametrize(
        ("columns", "recipe", "reason"),
        [
            ({}, {"from_scratch": True, "method": "head"}, "method head needs the whole checkpoint: leave out from"),
            ({}, {"keep": 0.5, "method": "head"}, "method head needs the whole checkpoint: leave out keep"),
            ({}, {"keep": 0.5, "from_scratch": True}, "From scratch, nothing is kept"),
            ({"targets": ["low", "high"], "bins": [1.0, 0.0]}, {}, "`expression_bins` must be two or more, ascending"),
            ({"targets": ["low", "high"], "bins": [0.0, 1.0]}, {"transform": "log1p"}, "leave out `label_mean`"),
            ({"targets": ["low", "high"], "bins": [0.0, 1.0]}, {"task": "classification"}, "are a regression"),
            ({"targets": ["active"]}, {"transform": "log1p"}, "`label_transform` is for regression"),
            ({"targets": ["unread", "high"], "bins": np.arange(2)}, {}, "'mean_bin' has no two different values"),
        ],
    )
    def test_options_that_contradict_each_other_are_refused(self, fine_tune, columns, recipe, reason):
        with pytest.raises(InputError, match=reason):
            fine_tune(TableColumns(**{"sequence": "sequence", "targets": ["expression"]} | columns), **recipe)

    @pytest.mark.parametrize(
        "option",
        [
            {"learning_rate": 0.0},
            {"layer_decay": -1},
            {"keep": 0},
            {"keep": 1.1},
            {"steps": 0},
            {"patience": 0},
            {"seed": -1},
            {"dropout": 1},
        ],
    )
    def test_numbers_outside_their_range_are_refused(self, option):
        with pytest.raises(StrictDataclassError, match=f"`{next(iter(option))}` is"):
            Recipe(**option)

    def test_training_that_diverges_is_told_and_the_folder_is_free_for_another(self, tmp_path, fine_tune):
        with pytest.raises(InputError, match=r"Training has diverged: .* Give a lower learning_rate"):
            fine_tune(learning_rate=1e12)
        fine_tune(steps=20)

    def test_an_average_of_0_and_1_is_no_class(self, tmp_path, rows, checkpoint):
        table = tmp_path / "conflict.csv"
        with open(table, "w", newline="") as file:
            writer = csv.DictWriter(file, ["sequence", "active"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows([*rows, rows[3] | {"active": 1 - rows[3]["active"]}])
        columns, preparation = TableColumns("sequence", ["active"]), Preparation(duplicates="average")
        with pytest.raises(InputError, match=r"the insert of line 5 has both 0 and 1 in column 'active'"):
            finetune(table, columns, tmp_path / "tuned", checkpoint, preparation, Recipe(**QUICK), show=str)
        recipe = Recipe(**QUICK, task="regression")
        tuned = finetune(table, columns, tmp_path / "tuned", checkpoint, preparation, recipe, show=str)
        assert tuned.model.config.problem_type == "regression"

    def test_what_does_not_fit_is_refused_by_row(self, fine_tune):
        with pytest.raises(
            InputError, match=r"line \d+, column 'expression': for classification, .* should be 0 or 1"
        ):
            fine_tune(task="classification")
        with pytest.raises(
            InputError, match=r"line \d+, column 'active': 0 has no log; \d+ measurements are 0 or less"
        ):
            fine_tune(TableColumns("sequence", ["active"]), transform="log", task="regression")

    def test_rows_that_weigh_little_teach_little(self, tmp_path, rows, checkpoint):
        """Half of the rows say the opposite, at a hundredth of the others' weight."""
        generator = np.random.default_rng(1)
        wrong = generator.random(len(rows)) < 0.5
        table = tmp_path / "weighted.tsv"
        with open(table, "w", newline="") as file:
            writer = csv.writer(file, delimiter="\t")
            writer.writerow(["sequence", "expression", "weight"])
            for row, opposite in zip(rows, wrong, strict=True):
                value = 10 - row["expression"] if opposite else row["expression"]
                writer.writerow([row["sequence"], value, 0.01 if opposite else 1])
        columns = TableColumns("sequence", ["expression"], weight="weight")
        recipe = Recipe(**QUICK | {"steps": 120, "patience": 20}, dropout=0)
        fine_tuned = finetune(table, columns, tmp_path / "tuned", checkpoint, recipe=recipe, show=str)
        counts = [sequence.count("G") for sequence in fine_tuned.assay.table.sequences]
        test = fine_tuned.assay.split.test
        assert np.corrcoef(np.array(counts)[test], fine_tuned.predicted[test, 0])[0, 1] > 0.8


def stop_at_step_15(sentence: str):
    """That of the fifth evaluation, of which no checkpoint is saved yet."""
    if sentence.startswith("Step 15 "):
        raise KeyboardInterrupt


class TestInterruption:
    @pytest.mark.parametrize("method", ["full", "lora"])
    def test_it_goes_on_to_the_same_model(self, tmp_path, table, checkpoint, method):
        """Stopped after the fourth checkpoint and started again, or never stopped: the same bits."""
        if method == "lora":
            pytest.importorskip("peft", reason="peft is not installed")
        recipe = Recipe(**QUICK, method=method)
        whole = finetune(table, COLUMNS, tmp_path / "whole", checkpoint, recipe=recipe, show=str)
        with pytest.raises(KeyboardInterrupt):
            finetune(table, COLUMNS, tmp_path / "stopped", checkpoint, recipe=recipe, show=stop_at_step_15)
        for other in ({"seed": 1}, {"keep": 0.9} if method == "full" else {"dropout": 0.1}):
            with pytest.raises(InputError, match=rf"holds a training with recipe\.{next(iter(other))} "):
                finetune(table, COLUMNS, tmp_path / "stopped", checkpoint, recipe=replace(recipe, **other), show=str)
        shown = []
        resumed = finetune(table, COLUMNS, tmp_path / "stopped", checkpoint, recipe=recipe, show=shown.append)
        assert any(sentence.endswith("checkpoint-12.") for sentence in shown)
        for weight, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
            assert torch.equal(weight, other)

    def test_it_does_not_go_on_from_another_checkpoint_of_that_name(self, tmp_path, table, checkpoint):
        start = tmp_path / "start"
        shutil.copytree(checkpoint, start)
        with pytest.raises(KeyboardInterrupt):
            finetune(table, COLUMNS, tmp_path / "stopped", start, recipe=Recipe(**QUICK), show=stop_at_step_15)
        model, _ = load_checkpoint(start)
        torch.nn.init.ones_(model.expression_head.dense.bias)
        model.save_pretrained(start)
        with pytest.raises(InputError, match=r"holds a training with checkpoint\.weights"):
            finetune(table, COLUMNS, tmp_path / "stopped", start, recipe=Recipe(**QUICK), show=str)


class TestCommand:
    def test_from_table_to_predictions(self, tmp_path, table, checkpoint):
        def proformer(*arguments) -> subprocess.CompletedProcess:
            command = [sys.executable, "-m", "modeling_proformer.cli", *map(str, arguments)]
            return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

        options = ["--sequence", "sequence", "--target", "expression", "--from", checkpoint, "--steps", 40]
        run = proformer("finetune", table, *options, "--keep", 0.5, "--learning-rate", 0.01, "--output", "tuned")
        assert run.returncode == 0, run.stderr
        assert "its matrices shrunk to 0.5 and mixed with new ones |" in (tmp_path / "tuned" / "README.md").read_text()
        assert "400 rows with measurements of expression." in run.stderr
        run = proformer("predict", table, "--model", "tuned", "--interval", 0.9, "--quiet")
        assert run.returncode == 0, run.stderr
        first = next(csv.DictReader(run.stdout.splitlines(), delimiter="\t"))
        low, middle, high = (float(first[f"predicted_expression{end}"]) for end in ("_low", "", "_high"))
        assert low < middle < high
        run = proformer("predict", table, "--model", "tuned", "--interval", 0.99)
        assert run.stderr.strip().startswith("proformer: --interval 0.99: The model has no prediction intervals")
        run = proformer("finetune", table, *options, "--output", "tuned")
        assert run.returncode == 1 and "this folder is not empty; name a new one" in run.stderr

    @pytest.mark.parametrize("keep", ["0", "1.5", "nan", "some"])
    def test_a_share_to_keep_that_is_none(self, keep, capsys):
        with pytest.raises(SystemExit):
            cli.main(["finetune", "assay.tsv", "--keep", keep, "--output", "tuned"])
        assert re.search(
            rf"argument --keep: '{keep}' is (more than 1|not a positive number)$", capsys.readouterr().err
        )


class TestExamples:
    def test_step_by_step(self, tmp_path, table, checkpoint):
        command = [sys.executable, EXAMPLES / "finetune.py", "--table", table, "--checkpoint", checkpoint]
        options = "--sequence sequence --targets expression --num_train_epochs 8 --learning_rate 1e-2 --report_to none"
        run = subprocess.run(
            [*command, *options.split(), "--use_cpu", "True", "--output_dir", tmp_path / "tuned"],
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        assert json.loads((tmp_path / "tuned" / "test_results.json").read_text())["test_score"] > 0.7
        load_checkpoint(tmp_path / "tuned")

    def test_benchmark(self, tmp_path, table, checkpoint):
        """Three methods at two sizes; what is in the table is not computed again."""
        command = [sys.executable, EXAMPLES / "finetuning_benchmark.py", table, "--from", checkpoint]
        options = "--name Gs --sequence sequence --target expression --rows 100 --seeds 0 --not-all --output"
        for _ in range(2):
            run = subprocess.run(
                [*command, *options.split(), tmp_path / "benchmark.tsv"], capture_output=True, text=True
            )
            assert run.returncode == 0, run.stderr
        assert run.stdout.startswith(
            "| assay | rows | ridge: r, ρ | fine-tuned: r, ρ | from scratch: r, ρ | 90 % covers |\n|---"
        )
        assert re.search(r"\| Gs \| 100 (\| [0-9.]+ \([0-9.]+ to [0-9.]+\), [0-9.]+ ){3}\| [0-9.]+% \|\n$", run.stdout)
        assert run.stdout.count("\n") == 3
        with open(tmp_path / "benchmark.tsv", newline="") as file:
            lines = list(csv.DictReader(file, delimiter="\t"))
        assert [line["method"] for line in lines] == ["ridge", "fine-tuned", "from scratch"]
        assert {line["trained_on"] for line in lines} == {"100"}
        assert len({line["tested_on"] for line in lines}) == 1
        assert (tmp_path / "benchmark.png").stat().st_size > 10_000
