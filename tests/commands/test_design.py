"""`proformer design`: its files, and its errors in one line."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lab import broken_constraints, differing
from tiny import TINY

from modeling_proformer import ProformerConfig, ProformerForSequenceClassification, ProformerTokenizer, embed, predict


pytestmark = pytest.mark.usefixtures("at_work")

FIVE, THREE = "TGCATTTT", "GGTTACGG"
STARTS = {"one": "ACGTGGTCTCAACGTTACCGGATC", "two": "TTACGGACGATTACAAGCGTCATG"}


@pytest.fixture
def tokenizer() -> ProformerTokenizer:
    return ProformerTokenizer(kmer_size=3, insert_width=24, five_prime_flank=FIVE, three_prime_flank=THREE)


@pytest.fixture
def model() -> ProformerForSequenceClassification:
    torch.manual_seed(0)
    sizes = {**TINY, "max_position_embeddings": 48}
    widths = {"0.9": [0.5, 2.0]}
    return ProformerForSequenceClassification(
        ProformerConfig(**sizes, id2label={0: "liver", 1: "blood"}, interval_half_widths=widths)
    )


@pytest.fixture
def proformer(checkpoint, run_quietly):
    """Return a function that designs in this folder, and returns its status, output and error."""
    return lambda *arguments: run_quietly("design", *arguments, "--model", checkpoint, "--rounds", 3)


def read_fasta(path: str) -> dict[str, str]:
    lines = Path(path).read_text().splitlines()
    return {name[1:]: sequence for name, sequence in zip(lines[::2], lines[1::2], strict=True)}


def test_the_table_and_the_fasta_hold_the_same_designs(proformer, model, tokenizer):
    asked = ["--targets", "liver=max", "blood=min", "--number", 3, "--interval", 0.9, "--min-distance", 4]
    lab = [
        "--avoid",
        "BsaI",
        "TAW",
        "--avoid-forward",
        "ATG",
        "--gc",
        30,
        60,
        "--max_homopolymer",
        4,
        "--max_repeat",
        6,
    ]
    assert proformer(*asked, *lab, "-o", "designs.tsv", "--fasta", "order.fa") == (0, "", "")
    found = pd.read_csv("designs.tsv", sep="\t")
    assert found["name"].tolist() == [f"design_{number}" for number in range(1, 7)]
    assert found["target"].tolist() == ["liver=max"] * 3 + ["blood=min"] * 3
    assert {"edits", "start", "nearest_existing"}.isdisjoint(found) and not found[
        ["missed_liver", "missed_blood"]
    ].any(axis=None)
    ordered = read_fasta("order.fa")
    assert list(ordered) == [f"{name} {target}" for name, target in zip(found["name"], found["target"], strict=True)]
    assert list(ordered.values()) == found["sequence"].tolist() == [FIVE + text + THREE for text in found["insert"]]
    columns = ["designed_liver", "designed_blood"]
    np.testing.assert_allclose(found[columns], predict(model, tokenizer, found["sequence"]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["designed_blood_high"] - found["designed_blood"], 2, rtol=1e-4)
    np.testing.assert_allclose(found["designed_liver"] - found["designed_liver_low"], 0.5, rtol=1e-4)
    for insert in found["insert"]:
        assert not broken_constraints(
            insert,
            (FIVE, THREE),
            avoid=["BsaI", "TAW"],
            avoid_forward=["ATG"],
            gc=(30, 60),
            max_homopolymer=4,
            max_repeat=6,
        )
    assert found["nearest_design"].min() >= 4


def test_designs_of_starts_say_how_they_differ_from_them(proformer):
    Path("starts.fa").write_text("".join(f">{name}\n{text}\n" for name, text in STARTS.items()))
    pd.DataFrame({"insert": [STARTS["two"]]}).to_csv("made.csv")
    given = ["--from", "starts.fa", "--max_edits", 6, "--keep", "1-4", 8, "--number", 2, "--min_distance", 2]
    assert proformer("--targets", "liver=min", *given, "--avoid", "BsaI", "-o", "o.parquet") == (0, "", "")
    found = pd.read_parquet("o.parquet")
    assert found["start"].tolist() == ["one", "one", "two", "two"]
    assert found["edits"].tolist() == [
        differing(insert, STARTS[start]) for insert, start in zip(found["insert"], found["start"], strict=True)
    ]
    assert pq.read_schema("o.parquet").field("edits").type == pa.int64()
    Path("starts.csv").write_text(f"id,insert\n1,{STARTS['two']}\n")
    given = ["--starts", "starts.csv", "--existing", "made.csv", "--sequence", "insert", "--number", 2]
    code, out, error = proformer("--targets", "liver=min", *given, "--min-distance", 3)
    assert (code, error) == (0, "")
    header, *rows = (line.split("\t") for line in out.splitlines())
    assert [row[header.index("start")] for row in rows] == ["line 2", "line 2"]
    for row in rows:
        insert = row[header.index("insert")]
        assert int(row[header.index("nearest_existing")]) == differing(insert, STARTS["two"]) >= 3


def test_records_that_share_a_name_are_all_starts(proformer):
    Path("starts.fa").write_text("".join(f">same\n{text}\n" for text in STARTS.values()))
    code, out, _ = proformer("--targets", "liver=min", "--from", "starts.fa", "--number", 1)
    assert code == 0
    header, *rows = (line.split("\t") for line in out.splitlines())
    assert [row[header.index("start")] for row in rows] == ["same", "same (line 3)"]


def test_the_table_says_by_how_much_a_target_is_missed(proformer):
    Path("starts.fa").write_text(f">one\n{STARTS['one']}\n")
    given = ["--starts", "starts.fa", "--max_edits", 2, "--number", 2]
    code, out, error = proformer("--targets", "liver=5:7, blood = max", *given)
    assert code == 0
    assert error.startswith("2 of 2 designs miss the target liver=5:7,blood=max; the worst has")
    header, *rows = (line.split("\t") for line in out.splitlines())
    for row in rows:
        liver, missed, other = (
            float(row[header.index(name)]) for name in ("designed_liver", "missed_liver", "missed_blood")
        )
        assert missed == pytest.approx(5 - liver, abs=1e-4) and other == 0


def test_designs_are_compared_with_training_and_test_sequences(proformer, checkpoint, model, tokenizer):
    training = [text[first:] + text[:first] for text in STARTS.values() for first in range(10)]
    pd.DataFrame({"insert": [*training, "ACXT"]}).to_csv("assay.csv", index=False)
    asked = ["--targets", "liver=max", "--number", 3, "--training", "assay.csv", "--sequence", "insert"]
    code, _, error = proformer(*asked, "-o", "alone.tsv")
    assert code == 0 and error.startswith("1 of 21 rows are left out: assay.csv, line 22, column 'insert': 'X'")
    # The folder of a fine-tuned model has the rows that it was not trained on.
    held_out = training[:6]
    splits = ["test"] * 6 + ["validation"] * 2
    predictions = pd.DataFrame({"split": splits, "sequence": training[:8]})
    predictions.to_csv(checkpoint / "predictions.tsv", sep="\t")
    pd.DataFrame({"insert": held_out[:4]}).to_csv("test.csv")
    for given, count in (([], 6), (["--test", "test.csv"], 4)):
        code, _, error = proformer(*asked, *given, "-o", f"{count}.tsv")
        assert code == 0 and f"lie further from the training sequences than any of {count} test sequences" in error
    for name, known in (("alone.tsv", training), ("6.tsv", training[6:]), ("4.tsv", training[4:])):
        found = pd.read_csv(name, sep="\t")
        between = embed(model, tokenizer, found["insert"])[:, None] - embed(model, tokenizer, known)
        expected = np.linalg.norm(between, axis=-1).min(axis=1)
        np.testing.assert_allclose(found["distance_to_training"], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--number", 0], "--number is 0, but must be at least 1."),
        (["--avoid", "BsaJJ"], "--avoid 'BsaJJ' is neither a restriction enzyme nor a motif"),
        (["--avoid", "W", "--gc", 30, 60], "--avoid W and --gc 30 60 contradict each other: no insert of 24 bases"),
        (["--gc", 60, 30], "--gc is the least and the greatest GC content"),
        (["--from", "none.fa"], "none.fa: no such file."),
        (["--training", "none.fa"], "none.fa: no such file."),
        (["--test", "good.fa"], "--test is compared with the sequences of the training: give --training too."),
        (["--from", "bad.fa"], "bad.fa, line 3, column 'sequence': 'X' at position 2"),
        (
            ["--from", "unknown.fa"],
            "unknown.fa, line 1, column 'sequence': N at position 4 of its insert; give a base.",
        ),
        (["--existing", "bad.fa"], "bad.fa, line 3, column 'sequence': 'X' at position 2"),
        (["--existing", "bad.fa", "--sequence", "dna"], "bad.fa: there is no column 'dna'"),
        (["--from", "good.fa", "--keep", "1-12", "--avoid", "BsaI"], "--keep protects GGTCTC at positions 5 to 10"),
        (["--interval", 0.8], "--interval 0.8: "),
        (["--fasta", "none/o.fa"], "none/o.fa: there is no folder none to write to."),
        (
            ["--targets", "liver=1000"],
            "--targets liver=1000: no insert that was found comes near this",
        ),
        (["--targets", "liver=1,liver=2"], "--targets liver=1,liver=2: the output 'liver' occurs twice."),
        (["--keep", "1-10"], "--keep needs sequences to start from: give --starts."),
        (["--targets", "3"], "--targets 3: the model has 2 outputs"),
        (["--seed", -1], "--seed is -1"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(proformer, folder, arguments, message):
    Path("bad.fa").write_text(">a\nACGT\n>b\nAXGT\n")
    Path("unknown.fa").write_text(">a\nACGN\n")
    Path("good.fa").write_text(f">a\n{STARTS['one']}\n")
    asked = [] if "--targets" in arguments else ["--targets", "liver=max"]
    code, out, error = proformer(
        *asked, *arguments, "-o", "o.tsv", *([] if "--fasta" in arguments else ["--fasta", "o.fa"])
    )
    assert (code, out) == (1, "")
    assert error.startswith(f"proformer: {message}") and error.count("\n") == 1
    assert {path.name for path in folder.iterdir()} == {"bad.fa", "good.fa", "unknown.fa"}
