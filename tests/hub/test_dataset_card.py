"""The card of a table: what it says is what the table has, and the Hub's own reader finds the table by it."""

import re
import shlex
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from huggingface_hub import DatasetCard

from modeling_proformer.cli import main, options, parser
from modeling_proformer.data.assay import Preparation, TableColumns, prepare_assay
from modeling_proformer.data.tables import InputError
from modeling_proformer.hub.dataset_card import dataset_card, size_category
from modeling_proformer.tokenization import ProformerTokenizer


COLUMNS = TableColumns("the dna", ["liver|MPRA", 'kid"ney'])


@pytest.fixture
def rows() -> pd.DataFrame:
    """
    300 rows between flanks: 280 inserts of 30 letters; 10 of them twice, the same measured; 10 near twins of others.
    """
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
    twins = rows[10:20].assign(insert=[insert[:-1] + ("A" if insert[-1] == "C" else "C") for insert in inserts[10:20]])
    rows = pd.concat([rows, rows[:10], twins], ignore_index=True)
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
def test_the_hubs_reader_finds_the_table_by_the_card(folder, rows, name):
    """As the card's own example does."""
    card = dataset_card(write(rows, folder / name), COLUMNS, "cc-by-4.0")
    card.save(folder / "README.md")
    write(rows.head(60), folder / "another.csv")  # which is not of the dataset
    (example,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    found = {}
    exec(example, found)
    assert found["rows"].column_names == rows.columns.tolist()
    assert found["rows"]["the dna"][:] == rows["the dna"].tolist()
    np.testing.assert_array_equal(np.array(found["rows"]["liver|MPRA"][:]), rows["liver|MPRA"])


def test_metadata(folder, rows):
    dataset_card(write(rows, folder / "liver.tsv.gz"), COLUMNS, "cc-by-4.0").save(folder / "README.md")
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
def test_sizes_as_the_hub_counts_them(rows, category):
    assert size_category(rows) == category


def test_what_it_says_is_what_the_table_has(folder, rows):
    rows.loc[50, ["liver|MPRA", 'kid"ney']] = None
    path = write(rows, folder / "liver.tsv")
    card = dataset_card(path, COLUMNS, "mit")
    text = " ".join(card.text.split())
    assert '300 rows: sequences of DNA, and what was measured of each in `liver|MPRA` and `kid"ney`.' in text
    assert "| `the dna` | DNA sequence" in text
    assert "There are also `reads` and `note`, which this card says nothing of." in text
    for name in COLUMNS.targets:
        values = rows[name].dropna()
        numbers = (values.min(), values.median(), values.max(), values.mean(), values.std(ddof=0))
        cells = [f"{rows[name].isna().sum()}", f"{len(values)}", *(f"{number:.4g}" for number in numbers)]
        assert f"| `{name}` | ".replace("r|M", r"r\|M") + " | ".join(cells) + " |" in text
    assert "1 row has no measurement at all." in text
    assert "10 of the rows that have a measurement repeat the insert of an earlier one." in text
    assert "- Trimmed: the 5′ flank ACGTACGT and the 3′ flank TTGACCAA, exact in every sequence." in card.text
    # The split that fine-tuning will make.
    assay = prepare_assay(path, COLUMNS, Preparation(), ProformerTokenizer())
    for side, numbers in assay.split._asdict().items():
        assert f"| {side} | {len(numbers)} | {len(np.unique(assay.families[numbers]))} |" in card.text
    assert f"{assay.test_twins} test rows" in text
    assert "mit, as stated by the owner of the data." in text
    assert not re.search(r"\{\{|\{%|None|nan\b|TODO|\[More Information Needed\]", card.text)
    assert str(folder) not in str(card)


@pytest.mark.parametrize(
    ("columns", "preparation"),
    [
        (COLUMNS, Preparation()),
        (TableColumns("the dna", ["reads"], weight="liver|MPRA"), Preparation(five_prime_flank="", strands="forward")),
        (
            TableColumns("the dna", ["reads", "liver|MPRA"], bins=[0.5, 1.5], group="note", standard_error='kid"ney'),
            Preparation(insert_width=28, too_long="cut", duplicates="average", test_fraction=0.2, seed=3),
        ),
    ],
)
def test_its_command_says_the_same_of_the_table(folder, rows, columns, preparation):
    complete = {"liver|MPRA": rows["liver|MPRA"].abs(), 'kid"ney': rows['kid"ney'].fillna(1), "note": range(300)}
    card = dataset_card(write(rows.assign(**complete)[:280], folder / "my liver.tsv"), columns, "mit", preparation)
    (command,) = re.findall(r"```bash\n(.*?)```", card.text, re.DOTALL)
    parsed = parser().parse_args(shlex.split(command)[1:])
    assert parsed.table == Path("my liver.tsv")
    assert options(TableColumns, parsed) == columns
    assert options(Preparation, parsed) == preparation


def test_reads_in_bins_and_a_split_of_its_own(folder, rows):
    reads = np.random.default_rng(2).integers(1, 50, (280, 3))
    table = pd.DataFrame(reads, columns=["b0", "b1", "b2"]).assign(
        dna=rows["the dna"][:280], side=np.where(np.arange(280) % 4 == 0, "test", "train")
    )
    path = write(table, folder / "liver.csv")
    card = dataset_card(path, TableColumns("dna", ["b0", "b1", "b2"], bins=[0, 1, 2.5], split="side"), "mit")
    assert "| `b2` | reads in the bin with the centre 2.5 |" in card.text
    assert "| `side` | side of the row: train, validation or test |" in card.text
    assert "reads, counted in sorting bins with the centres 0, 1, 2.5" in card.text
    assert "Split as the table says" in card.text
    assert "No two rows have the same insert." in card.text


class TestCommand:
    def run(self, *arguments: str) -> int:
        columns = ["--sequence", "the dna", "--target", "liver|MPRA", 'kid"ney']
        return main(["dataset-card", *map(str, arguments), *columns])

    def test_the_file_and_standard_output_are_the_librarys_card(self, folder, rows, capsys):
        path = write(rows, folder / "liver.tsv")
        readme = folder / "README.md"
        assert self.run(path, "--license", "mit", "-o", readme) == 0
        assert capsys.readouterr().err == f"Put {readme} beside liver.tsv in the dataset's repository.\n"
        assert readme.read_text() == str(dataset_card(path, COLUMNS, "mit"))
        assert self.run(path, "--license", "mit") == 0
        assert capsys.readouterr().out == readme.read_text()

    @pytest.mark.parametrize(
        ("name", "arguments", "reason"),
        [
            ("liver.tsv", ["--license", "mine"], "'mine' is no license of https://huggingface.co/docs/hub/"),
            ("liver.txt", ["--license", "mit"], "the Hub reads a .txt file as plain text; call it .tsv."),
            ("none.tsv", ["--license", "mit"], "none.tsv: no such file."),
            ("liver.tsv", ["--license", "mit", "--insert-width", "20"], "the insert has 30 letters"),
        ],
    )
    def test_what_is_wrong_is_told_in_a_line_and_nothing_is_written(
        self, folder, rows, capsys, name, arguments, reason
    ):
        for there in ("liver.tsv", "liver.txt"):
            rows.to_csv(folder / there, index=False, sep="\t")
        assert self.run(folder / name, *arguments, "-o", folder / "README.md") == 1
        error = capsys.readouterr().err
        assert error.startswith("proformer: ") and error.count("\n") == 1 and reason in error
        assert not (folder / "README.md").exists()

    def test_a_card_that_is_there_is_left_alone(self, folder, rows, capsys):
        (folder / "README.md").write_text("edited by hand")
        assert self.run(write(rows, folder / "liver.tsv"), "--license", "mit", "-o", folder / "README.md") == 1
        assert "there is one already" in capsys.readouterr().err
        assert (folder / "README.md").read_text() == "edited by hand"


def test_inserts_measured_differently_are_refused_until_it_is_said_what_to_do_with_them(folder, rows):
    rows.loc[281, "liver|MPRA"] = 7.0
    path = write(rows, folder / "liver.tsv")
    with pytest.raises(InputError, match="have the same insert and different measurements"):
        dataset_card(path, COLUMNS, "mit")
    assert "--duplicates average" in dataset_card(path, COLUMNS, "mit", Preparation(duplicates="average")).text
