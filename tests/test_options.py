"""Options: what a YAML file of them says, how words become options, and that every recipe that ships can be run."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

from modeling_proformer import ProformerConfig
from modeling_proformer.cli import parse
from modeling_proformer.data.config import DataConfig, option
from modeling_proformer.data.tables import InputError
from modeling_proformer.options import OptionParser, make_options, name_flags, valid_options
from modeling_proformer.training.config import FinetuneConfig, TrainConfig


EXAMPLES = Path(__file__).parents[1] / "examples"


@dataclass
class Example:
    table: str = option("A table.", positional=True)
    others: list[str] = option("More tables.", positional=True)
    learning_rate: float = option("A rate.", 1e-4)
    label_columns: list[str] = option("Columns.", ["expression"])
    flank: str | None = option("A flank.")
    bf16: bool = option("Compute in bfloat16.", False)


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "options.yaml"
        path.write_text(text)
        return path

    return write


def read(*words) -> Example:
    return make_options(Example, OptionParser([Example]).parse_args([str(word) for word in words]))


def test_flags_win_over_the_config(write):
    path = write(
        "# a comment\nlearning_rate: 1e-3\nlabel-columns: [up, down]\nbf16: true\ntable: a.tsv\nothers: b.tsv\n"
    )
    assert read("--config", path) == Example("a.tsv", ["b.tsv"], 1e-3, ["up", "down"], None, True)
    given = ["--learning_rate", "2e-3", f"--config={path}", "--label-columns", "both", "--bf16", "False", "c.tsv"]
    assert read(*given) == Example("c.tsv", ["b.tsv"], 2e-3, ["both"])
    # YAML would read this value as False, and the empty one as None.
    assert read("--config", write("table: no\nothers: [a]\nflank: ''\n")) == Example("no", ["a"], flank="")
    assert read("--config", write("table: '-'\nothers: [a]\nflank: -A\n")) == Example("-", ["a"], flank="-A")


@pytest.mark.parametrize(
    "words",
    [
        ["a.tsv", "b.tsv", "c.tsv", "--bf16"],
        ["--bf16", "a.tsv", "b.tsv", "c.tsv"],
        ["a.tsv", "--bf16", "b.tsv", "c.tsv"],
        ["a.tsv", "--bf16", "True", "b.tsv", "c.tsv"],
        ["--others", "b.tsv", "c.tsv", "--bf16=yes", "--table", "a.tsv"],
        ["--table", "a.tsv", "--bf16", "b.tsv", "c.tsv"],
    ],
)
def test_words_without_a_flag_stand_anywhere(words):
    assert read(*words) == Example("a.tsv", ["b.tsv", "c.tsv"], bf16=True)


def test_dashes_and_underscores_may_be_mixed():
    options = read("a-b.tsv", "c-d.tsv", "--label-columns", "x-y", "--learning-rate=1e-3")
    assert options == Example("a-b.tsv", ["c-d.tsv"], 1e-3, ["x-y"])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "required: TABLE, OTHERS"),
        (["a.tsv"], "required: OTHERS"),
        (["a", "b", "--learning_rat", "1"], "unrecognized option --learning_rat. Did you mean '--learning_rate'?"),
        (["a", "b", "--zzz=1"], r"unrecognized option --zzz=1\.$"),
        (["--table", "a", "--others", "b", "--bf16", "c"], "unrecognized arguments: c"),
        (["a", "b", "--learning_rate", "high"], "--learning_rate.*'high'"),
        (["a", "b", "--config"], "--config needs the name of a file"),
    ],
)
def test_what_is_wrong_with_the_words_is_a_usage_error(words, reason, capsys):
    with pytest.raises(SystemExit, match="2"):
        read(*words)
    assert re.search(reason, capsys.readouterr().err.splitlines()[-1])


def test_the_help_shows_each_flag_once_and_no_default_that_is_none(capsys):
    with pytest.raises(SystemExit, match="0"):
        read("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "TABLE OTHERS [OPTIONS]" in text
    assert "--learning_rate NUMBER A rate. (default: 0.0001)" in text
    assert "--label_columns TEXT [TEXT ...] Columns. (default: expression)" in text
    assert "--flank TEXT A flank. --bf16 Compute in bfloat16. --config FILE" in text
    assert "learning-rate" not in text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("learning_rat: 1\n", ", line 1: there is no option 'learning_rat'. Did you mean 'learning_rate'?"),
        ("bf16: true\nzzz: 1\n", ", line 2: there is no option 'zzz'.$"),
        ("config: other.yaml\n", "there is no option 'config'.$"),
        ("bf16: true\nbf16: false\n", ", line 2: the option 'bf16' occurs twice"),
        ("learning_rate:\n", "the option 'learning_rate' needs a value"),
        ("learning_rate: {a: 1}\n", "the option 'learning_rate' needs a value"),
        ("label_columns: []\n", "the option 'label_columns' needs a value"),
        ("- learning_rate\n", "lines 'option: value'"),
        ("", "lines 'option: value'"),
        ("bf16: true\nlearning_rate: [1\n", ", line 3: not well-formed YAML"),
    ],
)
def test_what_is_wrong_with_a_config_is_reported(write, text, reason):
    with pytest.raises(InputError, match=rf"options\.yaml.*{reason}"):
        read("--config", write(text))


def test_a_config_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read \(No such file"):
        read("--config", tmp_path / "none.yaml")


def test_what_is_wrong_with_a_model_configuration_is_reported_in_one_line():
    with pytest.raises(InputError, match=r"^.*: `expression_bins` must be .*, got \[3, 1, 2\]\.$"), valid_options():
        ProformerConfig(expression_bins=[3, 1, 2])


@pytest.mark.parametrize("recipe", sorted((EXAMPLES / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_that_ship_are_understood(recipe, tmp_path):
    given = ["train", "table.csv", "--output", str(tmp_path), "--config", str(recipe)]
    without_gpu = ["--use_cpu", "--tf32", "False", "--torch_compile", "False"]
    _, (files, config, training) = parse([*given, *without_gpu])
    assert (files.data, training.output_dir) == (["table.csv"], str(tmp_path))
    # The published sizes are the defaults.
    assert (config.hidden_size == 512) == (recipe.stem in ("published", "full_8_gpus"))
    assert training.do_train


@pytest.mark.parametrize("launcher", sorted((EXAMPLES / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_launchers_that_ship_are_understood(launcher):
    config = load_config_from_file(str(launcher))
    gpus, machines = {"one_gpu": (1, 1), "several_gpus": (8, 1), "several_nodes": (16, 2)}[launcher.stem]
    assert (config.num_processes, config.num_machines) == (gpus, machines)
    assert config.distributed_type == (DistributedType.NO if gpus == 1 else DistributedType.MULTI_GPU)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ('Average them (`duplicates="average"`).', "Average them (--duplicates average)."),
        ("Give `dry_run=True`, or `test_fraction=0`.", "Give --dry_run, or --test_fraction 0."),
        ("`keep` is 2; see `weights`.", "--keep is 2; see `weights`."),
        ("`other=1` is no option.", "`other=1` is no option."),
    ],
)
def test_the_command_names_flags_where_the_library_names_arguments(message, shown):
    assert name_flags(message, {"duplicates", "dry_run", "test_fraction", "keep"}) == shown


@pytest.mark.parametrize(
    ("kind", "options", "complaint"),
    [
        (DataConfig, {"split_by": "Homology"}, "`split_by` is 'Homology', but must be 'homology' or 'random'."),
        (
            DataConfig,
            {"duplicates": "Refuse"},
            "`duplicates` is 'Refuse', but must be 'refuse' or 'average' or 'keep'.",
        ),
        (FinetuneConfig, {"method": "Full"}, "`method` is 'Full', but must be 'full' or 'head' or 'lora'."),
        (FinetuneConfig, {"seed": "0"}, "`seed` is '0', but must be a whole number."),
        (FinetuneConfig, {"steps": True}, "`steps` is True, but must be a whole number."),
        (FinetuneConfig, {"keep": "0.5"}, "`keep` is '0.5', but must be a number."),
        (FinetuneConfig, {"bf16": 1}, "`bf16` is 1, but must be true or false."),
        (TrainConfig, {"mask_strands": None}, "`mask_strands` is None, but must be 'independently' or 'together'."),
    ],
)
def test_values_of_the_wrong_kind_are_refused_in_python(kind, options, complaint):
    with pytest.raises(ValueError, match=f"^{re.escape(complaint)}$"):
        kind(**options)


def test_numbers_of_other_libraries_are_numbers():
    config = FinetuneConfig(seed=np.int64(3), keep=np.float32(0.5), insert_width=np.int32(80), dropout=0)
    assert (config.seed, config.keep) == (3, 0.5)
