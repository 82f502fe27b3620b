"""Training from new weights: what is trained on, the model and its card, and what is refused."""

import json
import re
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from fresh_process import make_python_without_package, run
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from tiny import TINY_OPTIONS
from yaml import safe_load

from modeling_proformer import ProformerForPreTraining
from modeling_proformer.data.tables import InputError
from modeling_proformer.evaluation.cards import eval_results
from modeling_proformer.evaluation.metrics import DREAM_PAIRS, DREAM_SUBSETS, correlation
from modeling_proformer.loading import load_checkpoint
from modeling_proformer.prediction import predict
from modeling_proformer.training import pretrain
from modeling_proformer.training.folder import own_folder
from modeling_proformer.training.pretrain import train


TINY_RUN = {
    **TINY_OPTIONS,
    "per_device_train_batch_size": 16,
    "learning_rate": 1e-2,
    "max_steps": 10,
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "bf16": False,
}
OUTPUTS = ['glucose, "high"', "gal|actose"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Return the folder that we stand in, with a cache of its own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def frame(folder) -> pd.DataFrame:
    """Return 110 measured inserts of 12 bases, three of them too long; they are also in a table in its own folder."""
    generator = np.random.default_rng(0)
    sequences = ["".join(generator.choice(list("ACGT"), 12 if row > 2 else 30)) for row in range(110)]
    first = [sequence.count("G") + generator.normal() / 4 for sequence in sequences]
    second = [None if row % 4 == 0 else sequence.count("C") for row, sequence in enumerate(sequences)]
    frame = pd.DataFrame({"dna": sequences, OUTPUTS[0]: first, OUTPUTS[1]: second, "family": np.arange(110) // 2})
    (folder / "data of mine").mkdir()
    frame.to_csv("data of mine/yeast.csv", index=False)
    return frame


def report(output: str) -> tuple[dict, ModelCard]:
    return json.loads(Path(output, "metrics.json").read_text()), ModelCard.load(Path(output, "README.md"))


def test_a_folder_that_another_process_writes_is_refused(folder, frame):
    with own_folder("run"), pytest.raises(BlockingIOError, match=r"run: another process \(.*\) is writing"):
        train("data of mine/yeast.csv", "run", sequence="dna", targets=OUTPUTS[:1], **TINY_RUN)


TABLES = ["data of mine/yeast.csv"] * 2
TWO_OUTPUTS = {"sequence": "dna", "targets": OUTPUTS, "group": "family", "validation_fraction": 0.3}


def test_the_card_says_what_happened_and_its_scores_are_those_of_the_held_out_rows(folder, frame):
    train(TABLES, "my run", **TWO_OUTPUTS, **TINY_RUN)
    record, card = report("my run")
    text = " ".join(card.text.split())
    table = record["tables"][0]
    assert [table[name] for name in ("name", "times", "rows", "left_out")] == ["yeast.csv", 2, 110, 3]
    assert "| `yeast.csv` | 110 | 3 | training, 2 times |" in card.text
    assert record["rows"]["train"] + 2 * record["rows"]["validation"] == 2 * 107
    assert f"trained from new weights on {record['rows']['train']} rows of `yeast.csv`" in text
    assert "10 of 16 sequences each" in text
    assert "30 % of the rows, chosen at random by whole groups of the column `family`, at most 5,000." in text
    model = ProformerForPreTraining.from_pretrained("my run")
    assert f"{model.num_parameters():,} parameters and a head for masked nucleotides" in text
    assert model.config.id2label == dict(enumerate(OUTPUTS))
    assert record["seconds"] > 0 and "interrupted" not in text
    for name in ("README.md", "metrics.json", "config.json"):
        content = Path("my run", name).read_text()
        assert str(folder) not in content and "data of mine" not in content
    found = record["held_out"]["validation"]
    assert found[OUTPUTS[0]]["rows"] == record["rows"]["validation"] > found[OUTPUTS[1]]["rows"]
    evaluated = json.loads(Path("my run", "eval_results.json").read_text())
    for number, output in enumerate(OUTPUTS, start=1):
        assert found[output]["pearson_r"]["value"] == pytest.approx(evaluated[f"eval_pearson_r_{number}"], abs=1e-6)
        assert found[output]["pearson_r"]["low"] < found[output]["pearson_r"]["high"]
    data = card.data.to_dict()
    assert card.data.eval_results == eval_results(record)
    assert [result.dataset_split for result in card.data.eval_results] == ["validation"] * 4
    assert data["model-index"][0]["name"] == "my run"
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "text-classification")
    assert "proformer" in data["tags"] and data["metrics"] == ["pearsonr", "spearmanr"]
    assert not {"license", "datasets", "base_model", "co2_eq_emissions"} & data.keys()
    assert r"| `gal\|actose` | " in card.text
    assert not re.search(r"\{\{|\{%|None|nan\b|TODO|\[More Information Needed\]", card.text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "fold"}, "20 rows were held out: as the column `fold` says"),
        ({"split_by": "homology", "validation_fraction": 0.3}, "chosen at random by whole groups of homologs"),
    ],
)
def test_the_card_says_how_the_rows_were_split(folder, frame, options, said):
    frame["fold"] = ["train"] * 90 + ["validation"] * 20
    train(frame, "run", sequence="dna", targets=OUTPUTS[:1], **options, **TINY_RUN)
    assert said in " ".join(report("run")[1].text.split())


def test_an_unknown_option_is_refused_with_its_likeness(folder, frame):
    with pytest.raises(TypeError, match=r"^train\(\) has no option 'hidden_sise'. Did you mean 'hidden_size'\?$"):
        train(frame, "run", hidden_sise=16)


def test_the_cards_options_repeat_the_training(folder, frame):
    options = {"mask_probability": 0.2, "lr_scheduler_type": "cosine_with_min_lr", "warmup_steps": 2, "seed": 7}
    train(TABLES, "first", **TWO_OUTPUTS, **TINY_RUN, **options, lr_scheduler_kwargs={"min_lr_rate": 0.1})
    _, card = report("first")
    (yaml,) = re.findall(r"```yaml\n(.*?)```", card.text, re.DOTALL)
    assert "data:" not in yaml and str(folder) not in yaml
    Path("options.yaml").write_text(yaml)
    from modeling_proformer import cli

    flags = ["--data", *TABLES, "--output", "second", "--use_cpu", "--save_strategy", "no", "--disable_tqdm", "True"]
    assert cli.main(["train", "--config", "options.yaml", *flags]) == 0
    first, second = (load_file(f"{name}/model.safetensors") for name in ("first", "second"))
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name
    (again,) = re.findall(r"```yaml\n(.*?)```", report("second")[1].text, re.DOTALL)
    assert safe_load(again) == safe_load(yaml)


@pytest.mark.slow
def test_the_cards_examples_run_where_the_package_is_unknown(folder, frame):
    train(TABLES, "my run", **TWO_OUTPUTS, **TINY_RUN)
    _, card = report("my run")
    examples = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", card.text, re.DOTALL)
    outcome = run(make_python_without_package(folder), "".join(code for code, _ in examples), folder)
    assert outcome.returncode == 0, outcome.stderr
    said, printed = (
        [float(number) for number in re.findall(r"[-+]?\d+\.\d{6}", text)]
        for text in ("".join(text for _, text in examples), outcome.stdout)
    )
    assert len(said) == 4
    assert printed == pytest.approx(said, abs=1e-5)


def test_a_validation_table_the_best_step_and_emissions(folder, frame):
    """There is no head for nucleotides, and half of the validation inserts are trained on too."""
    training, held_out = frame.iloc[10:70], frame.iloc[40:]
    held_out.to_csv("held_out.tsv", index=False, sep="\t")
    (folder / "my-run").mkdir()
    # As codecarbon writes it, in kilograms, to which the Trainer reports with --report_to codecarbon.
    (folder / "my-run" / "emissions.csv").write_text(
        "project_name,emissions,latitude\ncodecarbon,0.5,48.1\ncodecarbon,0.0125,48.1\n"
    )
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    options = TINY_RUN | {"mask_probability": 0.0, "save_strategy": "steps", "bf16": True} | best
    options |= {"sequence": "dna", "targets": OUTPUTS[:1], "validation_data": "held_out.tsv"}
    train(training, "my-run", **options)
    record, card = report("my-run")
    text = " ".join(card.text.split())
    assert record["rows"] == {"train": 60, "validation": 70}
    assert "| `DataFrame` | 60 | 0 | training |" in card.text
    assert "| `held_out.tsv` | 70 | 0 | evaluation |" in card.text
    assert "30 of them have an insert that is also in the training tables" in text
    assert card.data.eval_results[0].dataset_name == "held_out.tsv"
    log = json.loads(Path("my-run", "log_history.json").read_text())
    scores = {entry["step"]: entry["eval_pearson_r"] for entry in log[:-1] if "eval_pearson_r" in entry}
    assert record["best_step"] == max(scores, key=scores.get)
    assert "The same rows chose the best step" in text
    assert "masked nucleotides" not in text
    assert "computed in the arithmetic of the training" in text
    assert "| 12.5 g of CO₂ equivalent" in card.text
    assert card.data.to_dict()["co2_eq_emissions"]["emissions"] == 12.5
    predicted = predict(*load_checkpoint(folder / "my-run"), held_out.dna)
    r = correlation(held_out[OUTPUTS[0]].to_numpy(), predicted[:, 0]).pearson_r
    assert record["held_out"]["validation"][OUTPUTS[0]]["pearson_r"]["value"] == pytest.approx(r, abs=0.01)
    # Resumed, if only to find that it is finished, its duration is no longer known.
    train(training, "my-run", **options)
    record, card = report("my-run")
    assert record["seconds"] is None and record["grams_of_co2"] is None
    assert "not known, because training was interrupted and resumed" in card.text
    assert "co2_eq_emissions" not in card.data.to_dict()


def test_a_stride_and_muon(folder, frame):
    options = {**TINY_RUN, "max_steps": 60, "mask_probability": 0, "kmer_stride": 2, "muon": True}
    train(frame, "run", sequence="dna", targets=OUTPUTS[:1], validation_fraction=0.3, **options)
    model, tokenizer = load_checkpoint("run")
    assert (model.config.kmer_stride, model.config.max_position_embeddings, tokenizer.num_tokens) == (2, 12, 12)
    record, card = report("run")
    assert record["held_out"]["validation"][OUTPUTS[0]]["pearson_r"]["value"] > 0.7
    assert "muon: true" in card.text and "kmer_stride: 2" in card.text


def test_an_odd_width_is_rounded_up_to_the_stride(folder, frame, caplog):
    options = {**TINY_RUN, "mask_probability": 0, "kmer_stride": 2, "insert_width": 13}
    with caplog.at_level("INFO", logger="modeling_proformer"):
        train(frame, "run", sequence="dna", targets=OUTPUTS[:1], **options)
    assert load_checkpoint("run")[1].insert_width == 14
    assert "Inserts are padded to 14 bases, a multiple of the stride of the k-mers." in caplog.text


def test_a_diverged_training_has_no_card(folder, frame):
    with pytest.raises(InputError, match="Give a lower `learning_rate`"):
        train(TABLES, "my-run", **TWO_OUTPUTS, **TINY_RUN | {"learning_rate": 1e30, "max_grad_norm": 0})
    assert Path("my-run", "model.safetensors").exists()
    assert not Path("my-run", "README.md").exists()


def test_the_scores_on_the_dream_test_set_are_reported(folder, frame):
    generator = np.random.default_rng(1)
    test = frame.iloc[50:].rename(columns={"dna": "sequence", OUTPUTS[0]: "expression"})
    test = test.assign(row=np.arange(len(test)), **{name: generator.random(len(test)) < 0.5 for name in DREAM_SUBSETS})
    test.to_csv("test.csv", index=False)
    for name in DREAM_PAIRS:
        pairs = generator.permutation(60).reshape(-1, 2)
        pd.DataFrame(pairs, columns=["row_a", "row_b"]).to_csv(f"{name}.csv", index=False)
    training = frame.iloc[3:50].rename(columns={"dna": "sequence", OUTPUTS[0]: "expression"})
    dream = {"validation_data": "test.csv", "dream_pairs": [f"{name}.csv" for name in DREAM_PAIRS]}
    train(training, "my-run", **dream, **TINY_RUN)
    record, card = report("my-run")
    evaluated = json.loads(Path("my-run", "eval_results.json").read_text())
    found = record["held_out"]["validation"]["expression"]
    assert found["pearson_score"] == {"value": evaluated["eval_pearson_score"], "low": None, "high": None}
    stated = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert stated["dream_spearman_score"] == round(evaluated["eval_spearman_score"], 4)
    assert f"**DREAM Pearson score {evaluated['eval_pearson_score']:.3f}**" in card.text
    assert "60 rows were held out: those of the last table." in " ".join(card.text.split())
    assert "--validation_data … --dream_pairs … --output" in card.text
    assert load_checkpoint("my-run")[0].config.id2label == {0: "expression"}


def test_reads_in_bins_are_trained_on(folder, frame):
    reads = pd.DataFrame({"sequence": frame.dna, "low": 3, "high": frame.dna.str.count("G")})
    train(reads, "my-run", targets=["low", "high"], bins=[0, 1], validation_fraction=0.3, **TINY_RUN)
    model, _ = load_checkpoint("my-run")
    assert model.config.expression_bins == [0, 1] and model.config.id2label == {0: "mean_bin"}
    assert report("my-run")[0]["held_out"]["validation"]["mean_bin"]["rows"] > 20


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"five_prime_flank": "XYZ"}, "Only 0 of 110 sequences have the 5′ flank"),
        ({"hidden_dropout": 7}, "'hidden_dropout': .* between 0.0 and 1.0, got 7"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers': .* greater or equal to 1 and .*, got 0"),
        ({"early_stopping_patience": 2}, "`early_stopping_patience` needs `load_best_model_at_end=True`"),
        ({"dream_pairs": ["a"]}, "`dream_pairs` needs `validation_data` and three tables of pairs"),
        ({"targets": ["glucose"]}, "there is no column 'glucose'; there are 'dna'"),
        ({"kmer_stride": 0}, "`kmer_stride` must be 1 to the `kmer_size` of 3, got 0"),
        ({"kmer_stride": 4}, "`kmer_stride` must be 1 to the `kmer_size` of 3, got 4"),
        ({"kmer_stride": 2}, "Masks need k-mers of every base"),
        ({"published_optimization": True, "muon": True}, "`published_optimization` is Adam; leave out `muon`"),
        ({"insert_width": 9}, "no insert fits the construct's 9 bases"),
        ({"per_device_train_batch_size": 1000}, "training rows are fewer than the 1000 of one step"),
    ],
)
def test_options_out_of_range_or_in_contradiction_are_refused(folder, frame, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        train(TABLES, "my-run", **TWO_OUTPUTS | TINY_RUN | options)


def test_bfloat16_is_chosen_where_the_processor_has_it(monkeypatch, tmp_path):
    for fast in (False, True):
        monkeypatch.setattr(pretrain, "has_fast_bfloat16", lambda fast=fast: fast)
        assert pretrain.TrainerOptions(output_dir=str(tmp_path), use_cpu=True).bf16 is fast
        assert pretrain.TrainerOptions(output_dir=str(tmp_path), use_cpu=True, bf16=False).bf16 is False
        # The library would refuse bfloat16 without a GPU.
        monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
        assert pretrain.TrainerOptions(output_dir=str(tmp_path)).bf16 is fast
