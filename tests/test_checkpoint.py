"""Tests of the checkpoint that comes with the package."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)

import modeling_proformer
from modeling_proformer.cli import main


EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def card() -> str:
    return (modeling_proformer.checkpoint_path() / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def run_example(monkeypatch, capsys):
    """Run an example in this process and return what it prints."""

    def run(name: str, *arguments) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_it_is_small_and_complete(card):
    files = {path.name: path.stat().st_size for path in modeling_proformer.checkpoint_path().iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer_config.json", "README.md"} <= files.keys()
    assert sum(files.values()) < 8e6
    model, loading = AutoModelForSequenceClassification.from_pretrained(
        modeling_proformer.checkpoint_path(), output_loading_info=True
    )
    assert not any(loading.values())
    assert f"{model.num_parameters():,} parameters" in card
    assert model.num_parameters() <= 1_000_000


def test_it_opens_with_the_auto_classes_and_the_stock_pipeline():
    checkpoint = modeling_proformer.checkpoint_path()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    assert isinstance(AutoModel.from_pretrained(checkpoint), modeling_proformer.ProformerModel)
    bare = ["ACGTTACCCGGTAAAT" * 5, "gattacagat" * 8]
    whole = ["TGCATTTTTTTCACATC" + insert + "GGTTACGGCTGTT" for insert in bare]
    predicted = modeling_proformer.predict(model, tokenizer, bare)
    assert predicted.tolist() == modeling_proformer.predict(model, tokenizer, whole).tolist()
    answers = pipeline("text-classification", model=model, tokenizer=tokenizer)(whole)
    assert [answer["score"] for answer in answers] == pytest.approx(predicted[:, 0].tolist(), abs=1e-5)
    assert {answer["label"] for answer in answers} == {"expression"}


@pytest.mark.slow
@pytest.mark.pages
def test_its_card_reports_its_score(shared, tmp_path, card, run_example):
    """The figures of the card are those that its command prints."""
    data = shared / "data" / "yeast"
    assert main(["predict", str(data / "dream_public.tsv"), "-o", str(tmp_path / "predicted.tsv"), "--quiet"]) == 0
    pairs = [
        argument
        for name in ("snv", "motif_perturbation", "motif_tiling")
        for argument in (f"--{name}", str(data / f"dream_public_pairs_{name}.tsv"))
    ]
    table = run_example("dream_score.py", tmp_path / "predicted.tsv", *pairs)
    found = [line.split() for line in table.splitlines()[1:-1]]
    assert len(found) == 9
    for name, _, count, pearson, spearman in found:
        assert re.search(
            rf"\| {name} \| {count} \| {float(pearson):.3f} \(.*\) \| {float(spearman):.3f} \(.*\) \|", card
        )
    pearson_score = float(table.splitlines()[-1].split()[3].rstrip(","))
    assert pearson_score >= 0.62
    metadata = yaml.safe_load(card.split("---")[1])
    (result,) = metadata["model-index"][0]["results"]
    stated = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert stated["DREAM Pearson score"] == pytest.approx(pearson_score, abs=5e-4)


@pytest.mark.slow
def test_effects_of_motifs_are_reported_and_drawn(tmp_path, run_example):
    predictions = tmp_path / "expression.tsv"
    assert main(["predict", str(EXAMPLES / "data" / "motif_promoters.tsv"), "-o", str(predictions), "--quiet"]) == 0
    figure = tmp_path / "effects.png"
    table = run_example("motif_effects.py", predictions, "--figure", figure)
    lines = {line.split()[0]: line for line in table.splitlines()[1:-1]}
    assert list(lines) == ["TATA", "Reb1", "Abf1", "Rap1", "poly(dA:dT)", "Ume6"]
    for strong_activator in ("Reb1", "Abf1", "poly(dA:dT)"):
        assert "as expected of an activator" in lines[strong_activator]
    for line in lines.values():
        agrees = (" +" in line) == ("an activator" in line)
        assert ("as expected" in line) == agrees and ("but the textbook" in line) != agrees
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_its_configuration_names_no_code():
    """The embedded folder has no copy of the package's code, which `save_pretrained` would put next to the weights."""
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in json.loads((modeling_proformer.checkpoint_path() / name).read_text())
