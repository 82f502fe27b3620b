"""What lies beside a model that examples/train.py trained: a card that tells what happened, and can be repeated."""

import json
import re
import runpy
import sys
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from fresh_process import make_python_without_package, run
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from tiny import TINY_OPTIONS
from transformers import AutoConfig

from modeling_proformer import ProformerForPreTraining
from modeling_proformer.data.tables import InputError
from modeling_proformer.evaluation.cards import eval_results
from modeling_proformer.evaluation.metrics import DREAM_PAIRS, DREAM_SUBSETS, correlation
from modeling_proformer.prediction import load_checkpoint, predict


TRAIN = Path(__file__).parents[2] / "examples" / "train.py"
TINY_RUN = {
    **TINY_OPTIONS,
    "per_device_train_batch_size": 16,
    "learning_rate": 1e-2,
    "max_steps": 10,
    "save_strategy": "no",
    "do_train": True,
    "do_eval": True,
}
OUTPUTS = ['glucose, "high"', "gal|actose"]


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Runs the script as from the command line, and gives the metrics and the card that it writes."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    script = runpy.run_path(str(TRAIN))

    def train(output: str, **options) -> tuple[dict, ModelCard]:
        options = {"output_dir": output, "use_cpu": True, "disable_tqdm": True, **options}
        arguments = [str(each) for name, value in options.items() for each in (f"--{name}", *np.atleast_1d(value))]
        monkeypatch.setattr(sys, "argv", [str(TRAIN), *arguments])
        script["main"]()
        metrics = json.loads(Path(output, "metrics.json").read_text())
        return metrics, ModelCard.load(Path(output, "README.md"))

    return train


@pytest.fixture
def table(tmp_path) -> pd.DataFrame:
    """110 measured inserts of 12 letters, three of them too long; in a folder of its own."""
    generator = np.random.default_rng(0)
    sequences = ["".join(generator.choice(list("ACGT"), 12 if row > 2 else 30)) for row in range(110)]
    first = [sequence.count("G") + generator.normal() / 4 for sequence in sequences]
    second = [None if row % 4 == 0 else sequence.count("C") for row, sequence in enumerate(sequences)]
    table = pd.DataFrame({"dna": sequences, OUTPUTS[0]: first, OUTPUTS[1]: second, "family": np.arange(110) // 2})
    (tmp_path / "data of mine").mkdir()
    table.to_csv(tmp_path / "data of mine" / "yeast.csv", index=False)
    return table


TWO_OUTPUTS = {
    "train_file": ["data of mine/yeast.csv"] * 2,
    "sequence_column": "dna",
    "label_columns": OUTPUTS,
    "group_column": "family",
    "validation_fraction": 0.3,
}


def test_the_card_tells_what_happened(tmp_path, table, train):
    metrics, card = train("my run", **TWO_OUTPUTS, **TINY_RUN)
    text = " ".join(card.text.split())
    assert metrics["tables"][0] | {"digest": ""} == {
        "source": "yeast.csv",
        "times": 2,
        "rows": 110,
        "left_out": 3,
        "digest": "",
    }
    assert "| `yeast.csv` | 110 | 3 | training, 2 times |" in card.text
    assert metrics["rows"]["train"] + 2 * metrics["rows"]["validation"] == 2 * 107
    assert f"trained from new weights on {metrics['rows']['train']} rows of `yeast.csv`" in text
    assert "10 of 16 sequences each" in text
    assert "30 % of each table at random, whole families of the column `family`, at most 5,000." in text
    model = ProformerForPreTraining.from_pretrained(tmp_path / "my run")
    assert f"{model.num_parameters():,} parameters and a head for masked nucleotides" in text
    assert metrics["seconds"] > 0 and "taken up again" not in text
    for name in ("README.md", "metrics.json", "config.json"):
        text = Path("my run", name).read_text()
        assert str(tmp_path) not in text and "data of mine" not in text


def test_the_figures_are_those_of_the_rows_held_out(table, train):
    metrics, card = train("my run", **TWO_OUTPUTS, **TINY_RUN)
    found = metrics["held_out"]["validation"]
    assert found[OUTPUTS[0]]["rows"] == metrics["rows"]["validation"] > found[OUTPUTS[1]]["rows"]
    # The script's own evaluation, and the model that was saved, say the same.
    evaluated = json.loads(Path("my run", "eval_results.json").read_text())
    for number, output in enumerate(OUTPUTS, start=1):
        assert found[output]["pearson_r"]["value"] == pytest.approx(evaluated[f"eval_pearson_r_{number}"], abs=1e-6)
        assert found[output]["pearson_r"]["low"] < found[output]["pearson_r"]["high"]
    data = card.data.to_dict()
    assert card.data.eval_results == eval_results(metrics)
    assert [result.dataset_split for result in card.data.eval_results] == ["validation"] * 4
    assert data["model-index"][0]["name"] == "my run"
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "text-classification")
    assert "proformer" in data["tags"] and data["metrics"] == ["pearsonr", "spearmanr"]
    assert not {"license", "datasets", "base_model", "co2_eq_emissions"} & data.keys()
    assert r"| `gal\|actose` | " in card.text


def test_the_cards_recipe_leads_to_the_same_weights(tmp_path, table, train):
    options = {"mask_probability": 0.2, "lr_scheduler_type": "cosine_with_min_lr", "warmup_steps": 2, "seed": 7}
    schedule = json.dumps({"min_lr_rate": 0.1})
    _, card = train("first", **TWO_OUTPUTS, **TINY_RUN, **options, lr_scheduler_kwargs=schedule)
    (recipe,) = re.findall(r"```yaml\n(.*?)```", card.text, re.DOTALL)
    assert "file" not in recipe and str(tmp_path) not in recipe
    (tmp_path / "recipe.yaml").write_text(recipe)
    _, again = train("second", recipe="recipe.yaml", train_file=TWO_OUTPUTS["train_file"], save_strategy="no")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    for name, weight in first.items():
        assert (weight == second[name]).all(), name
    assert re.findall(r"```yaml\n(.*?)```", again.text, re.DOTALL) == [recipe]


def test_its_examples_run_where_the_package_is_unknown(tmp_path, table, train):
    _, card = train("my run", **TWO_OUTPUTS, **TINY_RUN)
    examples = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", card.text, re.DOTALL)
    script = "".join(code for code, _ in examples)
    outcome = run(make_python_without_package(tmp_path), script, tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    said, printed = (
        [float(number) for number in re.findall(r"[-+]?\d+\.\d{6}", text)]
        for text in ("".join(text for _, text in examples), outcome.stdout)
    )
    assert len(said) == 4
    assert printed == pytest.approx(said, abs=1e-5)


def test_a_validation_table_the_best_step_and_emissions(tmp_path, table, train):
    """Without a head for nucleotides; half of the validation sequences are trained on too."""
    table.iloc[10:70].to_csv("training.csv", index=False)
    table.iloc[40:].to_csv("held_out.tsv", index=False, sep="\t")
    (tmp_path / "my-run").mkdir()
    # As codecarbon writes it, in kilograms, to which the Trainer reports with --report_to codecarbon.
    (tmp_path / "my-run" / "emissions.csv").write_text(
        "project_name,emissions,latitude\ncodecarbon,0.5,48.1\ncodecarbon,0.0125,48.1\n"
    )
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    options = TINY_RUN | {"mask_probability": 0, "save_strategy": "steps", "bf16": True} | best
    columns = {"sequence_column": "dna", "label_columns": OUTPUTS[0]}
    files = {"train_file": "training.csv", "validation_file": "held_out.tsv"}
    metrics, card = train("my-run", **files, **columns, **options)
    text = " ".join(card.text.split())
    assert metrics["rows"] == {"train": 60, "validation": 70}
    assert "| `training.csv` | 60 | 0 | training |" in card.text
    assert "| `held_out.tsv` | 70 | 0 | evaluation |" in card.text
    assert "30 of them have a sequence that is also in the training tables" in text
    assert card.data.eval_results[0].dataset_name == "held_out.tsv"
    log = json.loads(Path("my-run", "log_history.json").read_text())
    scores = {entry["step"]: entry["eval_pearson_r"] for entry in log[:-1] if "eval_pearson_r" in entry}
    assert metrics["best_step"] == max(scores, key=scores.get)
    assert "The best step was chosen by the same rows" in text
    assert "masked nucleotides" not in text
    assert "computed in the arithmetic of the training" in text
    assert "| 12.5 g of CO₂ equivalent" in card.text
    assert card.data.to_dict()["co2_eq_emissions"]["emissions"] == 12.5
    # Those of the model as it is loaded, in float32.
    predicted = predict(*load_checkpoint(tmp_path / "my-run"), table.dna[40:])
    r = correlation(table[OUTPUTS[0]][40:].to_numpy(), predicted[:, 0]).pearson_r
    assert metrics["held_out"]["validation"][OUTPUTS[0]]["pearson_r"]["value"] == pytest.approx(r, abs=0.01)
    # Taken up again, if only to find that it is finished: what was measured is not that of the whole training.
    metrics, card = train("my-run", **files, **columns, **options)
    assert metrics["seconds"] is None and metrics["grams_of_co2"] is None
    assert "not known: training was taken up again" in card.text
    assert "co2_eq_emissions" not in card.data.to_dict()


def test_a_training_without_an_evaluation_says_so(table, train):
    metrics, card = train("my-run", **TWO_OUTPUTS, **TINY_RUN | {"do_eval": False})
    assert metrics["held_out"] == {}
    assert "It was not evaluated when its training ended." in card.text
    assert card.data.to_dict()["model-index"] == [{"name": "my-run", "results": []}]
    assert not re.search(r"\{\{|\{%|None|nan\b|TODO|\[More Information Needed\]", card.text)


def test_rows_that_are_streamed_are_told_too(table, train):
    table.to_csv("training.csv", index=False)
    columns = {"sequence_column": "dna", "label_columns": OUTPUTS[0], "streaming": True}
    metrics, card = train("my-run", train_file="training.csv", validation_file="training.csv", **columns, **TINY_RUN)
    assert metrics["rows"] == {"train": 107, "validation": 107}
    values = table[OUTPUTS[0]][3:]
    assert f"{values.mean():.4g} ± {values.std(ddof=0):.4g}" in card.text


def test_a_training_that_diverged_has_no_card(table, train):
    with pytest.raises(InputError, match="Give a lower learning_rate"):
        train("my-run", **TWO_OUTPUTS, **TINY_RUN | {"learning_rate": 1e30, "max_grad_norm": 0})
    assert Path("my-run", "model.safetensors").exists()
    assert not Path("my-run", "README.md").exists()


def test_on_the_dream_test_set_its_scores_are_told(tmp_path, table, train):
    generator = np.random.default_rng(1)
    test = table.iloc[50:].rename(columns={"dna": "sequence", OUTPUTS[0]: "expression"})
    test = test.assign(row=np.arange(len(test)), **{name: generator.random(len(test)) < 0.5 for name in DREAM_SUBSETS})
    test.to_csv("test.csv", index=False)
    for name in DREAM_PAIRS:
        pairs = generator.permutation(60).reshape(-1, 2)
        pd.DataFrame(pairs, columns=["row_a", "row_b"]).to_csv(f"{name}.csv", index=False)
    table.iloc[3:50].rename(columns={"dna": "sequence", OUTPUTS[0]: "expression"}).to_csv("training.csv", index=False)
    dream = {"validation_file": "test.csv", "dream_pairs": [f"{name}.csv" for name in DREAM_PAIRS]}
    metrics, card = train("my-run", train_file="training.csv", **dream, **TINY_RUN)
    evaluated = json.loads(Path("my-run", "eval_results.json").read_text())
    found = metrics["held_out"]["validation"]["expression"]
    assert found["pearson_score"] == {"value": evaluated["eval_pearson_score"], "low": None, "high": None}
    stated = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert stated["dream_spearman_score"] == round(evaluated["eval_spearman_score"], 4)
    assert f"**DREAM Pearson score {evaluated['eval_pearson_score']:.3f}**" in card.text
    assert "60 were held out: those of the last table. The mean" in " ".join(card.text.split())
    assert "--validation_file … --dream_pairs … --output_dir" in card.text
    assert AutoConfig.from_pretrained(tmp_path / "my-run").id2label == {0: "expression"}
