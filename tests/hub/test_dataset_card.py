"""The card of a table says what is in the table, and the Hub's reader finds the table by it."""

import re
import shlex
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from huggingface_hub import DatasetCard
from transformers import HfArgumentParser

from modeling_proformer.cli import main
from modeling_proformer.data.config import DataConfig
from modeling_proformer.data.prepare import prepare_assay
from modeling_proformer.data.tables import InputError
from modeling_proformer.hub.dataset_card import dataset_card, size_category
from modeling_proformer.tokenization import ProformerTokenizer


COLUMNS = {"sequence": "the dna", "targets": ["liver|MPRA", 'kid"ney']}
CONFIG = DataConfig(**COLUMNS)


@pytest.fixture
def rows() -> pd.DataFrame:
    """300 rows of inserts of 30 bases between flanks: 280, 10 of them again, and 10 homologs of others."""
    generator = np.random.default_rng(0)
    inserts = ["".join(generator.choice(list("ACGT"), 30)) for _ in range(280)]
    rows = pd.DataFrame(
        {
            "insert": inserts,
            "liver|MPRA": generator.normal(size=280).round(3),
            'kid"ney': [None if row % 5 == 0 else row % 10 for row in range(280)],
            "reads": generator.integers(1, 50, 280),
            "note": "of mine",
        }
    )
    homologs = rows[10:20].assign(
        insert=[insert[:-1] + ("A" if insert[-1] == "C" else "C") for insert in inserts[10:20]]
    )
    rows = pd.concat([rows, rows[:10], homologs], ignore_index=True)
    rows.insert(0, "the dna", "ACGTACGT" + rows.pop("insert") + "TTGACCAA")
    return rows


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "my MPRA").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "my MPRA"


def write(rows: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        rows.to_parquet(path, index=False)
    elif path.suffix == ".arrow":
        rows.to_feather(path, compression="uncompressed")
    else:
        rows.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")
    return path


@pytest.mark.parametrize("name", ["liver.tsv", "liver of mice.tsv.gz", "liver.csv", "liver.parquet", "liver.arrow"])
def test_the_example_in_the_card_reads_the_table(folder, rows, name):
    card = dataset_card(write(rows, folder / name), CONFIG, "cc-by-4.0")
    card.save(folder / "README.md")
    write(rows.head(60), folder / "another.csv")  # is not part of the dataset
    (example,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    found = {}
    exec(example, found)
    assert found["rows"].column_names == rows.columns.tolist()
    assert found["rows"]["the dna"][:] == rows["the dna"].tolist()
    np.testing.assert_array_equal(np.array(found["rows"]["liver|MPRA"][:]), rows["liver|MPRA"])


def test_metadata(folder, rows):
    dataset_card(write(rows, folder / "liver.tsv.gz"), CONFIG, "cc-by-4.0").save(folder / "README.md")
    assert DatasetCard.load(folder / "README.md").data.to_dict() == {
        "license": "cc-by-4.0",
        "pretty_name": "liver",
        "size_categories": ["n<1K"],
        "task_categories": ["text-classification"],
        "tags": ["biology", "genomics", "dna", "gene-expression", "regulatory-genomics", "proformer"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "liver.tsv.gz"}]}],
    }


@pytest.mark.parametrize(
    ("rows", "category"),
    [(999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (6_739_258, "1M<n<10M"), (2e7, "10M<n<100M")],
)
def test_size_categories_are_those_of_the_hub(rows, category):
    assert size_category(rows) == category


def test_it_says_what_is_in_the_table(folder, rows):
    rows.loc[50, ["liver|MPRA", 'kid"ney']] = None
    path = write(rows, folder / "liver.tsv")
    card = dataset_card(path, CONFIG, "mit")
    text = " ".join(card.text.split())
    assert 'This table has 300 rows of DNA sequences and of what was measured in `liver|MPRA` and `kid"ney`.' in text
    assert "| `the dna` | DNA sequence" in text
    assert "The table also has `reads` and `note`, which this card does not describe." in text
    for name in CONFIG.targets:
        values = rows[name].dropna()
        numbers = (values.min(), values.median(), values.max(), values.mean(), values.std(ddof=0))
        cells = [f"{rows[name].isna().sum()}", f"{len(values)}", *(f"{number:.4g}" for number in numbers)]
        assert f"| `{name}` | ".replace("r|M", r"r\|M") + " | ".join(cells) + " |" in text
    assert "1 row has no measurement at all." in text
    # Fine-tuning will make the same of the table.
    assay = prepare_assay(path, CONFIG, ProformerTokenizer())
    assert f"The command above keeps {len(assay)} rows with 289 different inserts" in text
    assert "- Rows that repeat an insert: 10; each is merged with the insert's first row." in card.text
    assert all(f"- {line}\n" in card.text for finding in assay.findings for line in finding.splitlines())
    assert "5′ flank ACGTACGT" in card.text and "3′ flank TTGACCAA" in card.text
    for name, numbers in assay.split._asdict().items():
        assert f"| {name} | {len(numbers)} | {len(np.unique(assay.groups[numbers]))} |" in card.text
    assert f"{assay.test_homologs} test rows" in text
    assert "The licence is mit, as the owner of the data states." in text
    assert not re.search(r"\{\{|\{%|None|nan\b|TODO|\[More Information Needed\]", card.text)
    assert str(folder) not in str(card)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        DataConfig(sequence="the dna", targets=["reads"], weight="liver|MPRA", five_prime_flank="", strands="forward"),
        DataConfig(
            sequence="the dna",
            targets=["reads", "liver|MPRA"],
            bins=[0.5, 1.23456789],
            group="note",
            standard_error='kid"ney',
            insert_width=28,
            too_long="cut",
            duplicates="average",
            test_fraction=0.2,
        ),
    ],
)
def test_its_command_has_the_same_options(folder, rows, config):
    complete = {"liver|MPRA": rows["liver|MPRA"].abs(), 'kid"ney': rows['kid"ney'].fillna(1), "note": range(300)}
    card = dataset_card(write(rows.assign(**complete)[:280], folder / "my liver.tsv"), config, "mit")
    (command,) = re.findall(r"```bash\n(.*?)```", card.text, re.DOTALL)
    words = shlex.split(command)
    assert words[:3] == ["proformer", "finetune", "my liver.tsv"] and words[-2:] == ["--output", "fine-tuned"]
    (parsed,) = HfArgumentParser(DataConfig).parse_args_into_dataclasses(words[3:-2])
    assert parsed == config


def test_reads_in_bins_and_a_split_of_its_own(folder, rows):
    reads = np.random.default_rng(2).integers(1, 50, (280, 3))
    table = pd.DataFrame(reads, columns=["b0", "b1", "b2"]).assign(
        dna=rows["the dna"][:280], part=np.where(np.arange(280) % 4 == 0, "test", "train")
    )
    path = write(table, folder / "liver.csv")
    config = DataConfig(sequence="dna", targets=["b0", "b1", "b2"], bins=[0, 1, 2.5], split="part")
    card = dataset_card(path, config, "mit")
    assert "| `b2` | reads in the bin with the centre 2.5 |" in card.text
    assert "| `part` | split of the row: train, validation or test |" in card.text
    assert "read counts in sorting bins with the centres 0, 1, 2.5" in card.text
    assert "| test | 70 |" in card.text
    assert "280 rows with 280 different inserts" in card.text


def test_groups_of_a_random_split_are_known_for_the_held_out_rows(folder, rows):
    card = dataset_card(write(rows, folder / "liver.tsv"), DataConfig(**COLUMNS, split_by="random"), "mit")
    assert re.search(r"\| train \| \d+ \| not known \|\n\| validation \| \d+ \| \d+ \|", card.text)


@pytest.mark.parametrize(
    ("name", "options", "kind", "reason"),
    [
        ("liver.txt", {}, InputError, r"liver\.txt: the Hub reads a \.txt file as plain text; call it \.tsv"),
        ("none.tsv", {}, (InputError, FileNotFoundError), r"none\.tsv: no such file"),
        ("liver.tsv", {"insert_width": 20}, InputError, "the insert has 30 bases"),
    ],
)
def test_an_unfit_table_is_refused(folder, rows, name, options, kind, reason):
    for file in ("liver.tsv", "liver.txt"):
        rows.to_csv(folder / file, index=False, sep="\t")
    with pytest.raises(kind, match=reason):
        dataset_card(folder / name, DataConfig(**COLUMNS, **options), "mit")


class TestCommand:
    def run(self, *arguments: str | Path) -> int:
        columns = ["--sequence", "the dna", "--targets", "liver|MPRA", 'kid"ney']
        return main(["dataset-card", *map(str, arguments), "--license", "mit", *columns])

    def test_the_file_and_standard_output_hold_the_librarys_card(self, folder, rows, capsys):
        path, readme = write(rows, folder / "liver.tsv"), folder / "README.md"
        assert self.run(path, "-o", readme) == 0
        assert (
            capsys.readouterr().err.splitlines()[-1]
            == f"Put {readme} next to liver.tsv in the repository of the dataset."
        )
        assert readme.read_text() == str(dataset_card(path, CONFIG, "mit"))
        assert self.run(path) == 0
        assert capsys.readouterr().out == readme.read_text()

    def test_an_error_is_one_line_and_nothing_is_written(self, folder, rows, capsys):
        path = write(rows, folder / "liver.tsv")
        assert self.run(path, "-o", folder / "README.md", "--insert_width", "20") == 1
        error = capsys.readouterr().err
        assert error.startswith("proformer: ") and error.count("\n") == 1 and "the insert has 30 bases" in error
        assert not (folder / "README.md").exists()

    def test_an_existing_card_is_not_overwritten(self, folder, rows, capsys):
        (folder / "README.md").write_text("edited by hand")
        assert self.run(write(rows, folder / "liver.tsv"), "-o", folder / "README.md") == 1
        assert "README.md: this file exists" in capsys.readouterr().err
        assert (folder / "README.md").read_text() == "edited by hand"


def test_different_measurements_of_an_insert_are_refused_unless_averaged(folder, rows):
    rows.loc[281, "liver|MPRA"] = 7.0
    path = write(rows, folder / "liver.tsv")
    with pytest.raises(InputError, match="have the same insert and different measurements"):
        dataset_card(path, CONFIG, "mit")
    assert "--duplicates average" in dataset_card(path, DataConfig(**COLUMNS, duplicates="average"), "mit").text


def test_classes_are_counted_and_named(folder, rows):
    levels = rows.drop_duplicates("the dna").assign(level=lambda rows: np.where(rows.reads > 30, "high", "low"))
    levels.iloc[3, -1] = ""
    config = DataConfig(sequence="the dna", targets=["level"], classes=["low", "high"], iupac_as_n=True)
    card = dataset_card(write(levels, folder / "levels.tsv"), config, "mit")
    text = " ".join(card.text.split())
    assert "| `level` | class: `low`, `high` |" in text and "1 row has no measurement at all." in text
    counts = levels.level.value_counts()
    for name in config.classes:
        assert f"| `{name}` | {counts[name]} | {counts[name] / (len(levels) - 1):.4g} |" in text
    (command,) = re.findall(r"```bash\n(.*?)```", card.text, re.DOTALL)
    assert "--iupac_as_n True --targets level --classes low high" in command
    assert "units" not in text.partition("## Measurements")[2].partition("##")[0]
