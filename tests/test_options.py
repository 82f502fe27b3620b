"""Recipes: what they say, and that every one that ships can be run."""

import runpy
from dataclasses import fields
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from transformers import HfArgumentParser, TrainingArguments

from modeling_proformer import ProformerConfig
from modeling_proformer.data.tables import InputError
from modeling_proformer.options import valid_options, with_recipe


EXAMPLES = Path(__file__).parents[1] / "examples"
OPTIONS = {"learning_rate", "label_columns", "bf16", "output_dir"}


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


def test_options_of_the_command_line_come_after_the_recipe_s(write):
    path = write("# a comment\nlearning_rate: 1e-3\nlabel_columns: [up, down]\nbf16: true\n")
    arguments = with_recipe(["--output_dir", "run", "--recipe", str(path), "--learning_rate", "2e-3"], OPTIONS)
    recipe = ["--learning_rate", "1e-3", "--label_columns", "up", "down", "--bf16", "true"]
    assert arguments == [*recipe, "--output_dir", "run", "--learning_rate", "2e-3"]
    assert with_recipe(["--bf16", "True"], OPTIONS) == ["--bf16", "True"]
    assert with_recipe([f"--recipe={path}"], OPTIONS) == recipe
    write("bf16: no\n")  # which YAML would have as False
    assert with_recipe(["--recipe", str(path)], OPTIONS) == ["--bf16", "no"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("learning_rat: 1\n", "there is no option 'learning_rat'. Did you mean 'learning_rate'?"),
        ("zzz: 1\n", "there is no option 'zzz'.$"),
        ("learning_rate:\n", "the option 'learning_rate' needs a value"),
        ("learning_rate: {a: 1}\n", "the option 'learning_rate' needs a value"),
        ("- learning_rate\n", "lines 'option: value'"),
        ("", "lines 'option: value'"),
        ("bf16: true\nlearning_rate: [1\n", "not well-formed YAML .*, line 3"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_told(write, text, reason):
    with pytest.raises(InputError, match=rf"recipe\.yaml: .*{reason}"):
        with_recipe(["--recipe", str(write(text))], OPTIONS)


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read \(No such file"):
        with_recipe(["--recipe", str(tmp_path / "none.yaml")], OPTIONS)
    with pytest.raises(InputError, match="needs the name of a file"):
        with_recipe(["--recipe"], OPTIONS)


def test_what_a_configuration_says_of_options_is_told_in_one_line():
    with pytest.raises(InputError, match=r"^.*: `expression_bins` must be .*, got \[3, 1, 2\]\.$"), valid_options():
        ProformerConfig(expression_bins=[3, 1, 2])


@pytest.mark.parametrize("recipe", sorted((EXAMPLES / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_that_ship_are_understood(recipe):
    """By the script's own parser, on its own kind of machine."""
    script = runpy.run_path(str(EXAMPLES / "train.py"))
    kinds = [script["DataArguments"], script["ModelArguments"], TrainingArguments]
    parser = HfArgumentParser(kinds)
    given = ["--recipe", str(recipe), "--train_file", "table.csv", "--output_dir", "run"]
    arguments = with_recipe(given, {option.name for kind in kinds for option in fields(kind)})
    without_gpu = ["--use_cpu", "True", "--tf32", "False", "--torch_compile", "False"]
    _, model, training = parser.parse_args_into_dataclasses([*arguments, *without_gpu])
    # The published sizes are the defaults.
    assert (model.hidden_size == 512) == (recipe.stem in ("published", "full_8_gpus"))
    assert training.do_train


@pytest.mark.parametrize("launcher", sorted((EXAMPLES / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_launchers_that_ship_are_understood(launcher):
    config = load_config_from_file(str(launcher))
    gpus, machines = {"one_gpu": (1, 1), "several_gpus": (8, 1), "several_nodes": (16, 2)}[launcher.stem]
    assert (config.num_processes, config.num_machines) == (gpus, machines)
    assert config.distributed_type == (DistributedType.NO if gpus == 1 else DistributedType.MULTI_GPU)
