"""The functions of the Space read sequences, and show predictions of them."""

import base64
import csv
import html
import io
import re
from dataclasses import replace
from importlib.metadata import requires

import numpy as np
import pytest
from packaging.requirements import Requirement
from space import BAD_FILES, BAD_TEXTS, EXAMPLE, FIVE_PRIME_FLANK, REB1, SCRIPT, SPACE, THREE_PRIME_FLANK, minus

from modeling_proformer import predict, saturation_mutagenesis, variant_effects
from modeling_proformer.data.tables import InputError
from modeling_proformer.loading import load_checkpoint
from modeling_proformer.mutagenesis import Mutagenesis


pytest.importorskip("gradio", reason="the page is made with gradio")
pytest.importorskip("logomaker", reason="sequence logos are drawn with logomaker")

import figures
import make_training_expression
import sequences
import tables
from app import Served, answer_expression, answer_mutagenesis, answer_variant
from designs import Wishes, find_designs


def test_pasted_lines_and_fasta():
    lines = sequences.read_text("ACGT\n\n  ttgca \n")
    assert (lines.names, lines.sequences) == (["line 1", "line 3"], ["ACGT", "ttgca"])
    fasta = sequences.read_text("\n>first one\nACGT\nAAAA\n>second\nTT\n")
    assert (fasta.names, fasta.sequences) == (["first one", "second"], ["ACGTAAAA", "TT"])
    assert sequences.read_text(">same\nAC\n>same\nGT").sequences == ["AC", "GT"]
    table = sequences.read_text("first,ACGTACGT\nsecond,GGGG")
    assert (table.names, table.sequences) == (["line 1", "line 2"], ["ACGTACGT", "GGGG"])


@pytest.mark.parametrize("delimiter", ["\t", ","])
def test_a_pasted_table_is_read_like_a_file(delimiter, tmp_path):
    text = "id,dna,GATA\nfirst,ACGTACGT,2\n\nsecond,ttgcattg,0\n".replace(",", delimiter)
    pasted = sequences.read_text(text)
    assert (pasted.names, pasted.sequences) == (["first", "second"], ["ACGTACGT", "ttgcattg"])
    (tmp_path / "table.csv").write_text(text.replace(delimiter, ","))
    dropped = sequences.read_file(tmp_path / "table.csv", None)
    assert (pasted.rows, pasted.sequences) == (dropped.rows, dropped.sequences)
    # One column of a spreadsheet.
    assert sequences.read_text("Sequence\r\nACGTACGT\r\nTTTT\r\n").sequences == ["ACGTACGT", "TTTT"]


@pytest.mark.parametrize(("text", "reason"), BAD_TEXTS)
def test_pasted_text_that_cannot_be_read(text, reason, embedded):
    with pytest.raises(InputError, match=reason) as raised:
        sequences.check_entries(embedded[1], sequences.read_text(text))
    assert "/" not in str(raised.value), "the path on the server is of no use to the user"


def test_the_column_of_the_sequences_is_found(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("id,barcode,dna,comment\na,ACG,ACGTACGT,long\nb,TTT,CCCCCCCC,longer words\n")
    assert sequences.columns_of_file(table) == (["id", "barcode", "dna", "comment"], "dna")
    found = sequences.read_file(table, None)
    assert (found.names, found.sequences) == (["a", "b"], ["ACGTACGT", "CCCCCCCC"])
    assert sequences.read_file(table, "barcode").sequences == ["ACG", "TTT"]
    table.write_text("construct,Sequence\nACGTACGT,ACGT\n")
    assert sequences.columns_of_file(table)[1] == "Sequence"
    assert sequences.read_file(table, None).names == ["line 2"]
    table.write_text("id,comment\na,none\n")
    with pytest.raises(InputError, match=r"^table.csv: choose the column with the sequences"):
        sequences.read_file(table, None)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("GGGGRYAA,1.0\nGGGGTTAA,2.0", "1.0"),
        ("first,GGGGRYAA\nsecond,GGGGTTAA", "GGGGRYAA"),
        ("ACG,1\nGGGG,2", "1"),
        ("acg,high\nGGGG,low", "acg"),
        ("ACGTACG?,-2e-1\nGGGG,.2", "-2e-1"),
        ("ACGT-ACGT\t\nGGGG\t2", ""),
    ],
)
def test_a_table_without_names_does_not_lose_its_first_row(text, data):
    message = f"Your text: the first line should name the columns of the table, but {data!r} looks like data."
    with pytest.raises(InputError, match=re.escape(message)):
        sequences.read_text(text)


@pytest.mark.parametrize(
    "names", [",dna,expression", "id,oligo,strand", "id,cDNA,0", "dna,tag_17,tat", ",oligo,mean", "0,Promoter,"]
)
def test_names_are_not_taken_for_data(names):
    """An empty name is a name too: pandas writes one for an index."""
    text = f"{names}\n0,ACGTACGT,3\n1,TTTTGGGG,5"
    assert sequences.read_text(text).sequences == ["ACGTACGT", "TTTTGGGG"]


@pytest.mark.parametrize("text", ["name\tsequence", "sequence", "id,dna\n", "Promoter"])
def test_a_header_alone_is_a_table_without_rows(text):
    with pytest.raises(InputError, match=r"^Your text: there are no rows in it\."):
        sequences.read_text(text)


@pytest.mark.parametrize(("name", "content", "reason"), BAD_FILES)
def test_files_that_cannot_be_read(name, content, reason, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason):
        sequences.read_file(tmp_path / name, None)


@pytest.mark.parametrize("flanks", [("", ""), (FIVE_PRIME_FLANK, THREE_PRIME_FLANK)])
def test_changes_are_counted_in_the_insert(flanks, embedded):
    reference, expected = (insert.join(flanks) for insert in ("ACGTACGTAC", "GCGTACGTAT"))
    for text in ("A1G C10T", "1g, 10t", " 1G;C10T\n"):
        assert sequences.alternate_allele(embedded[1], reference, text) == expected
    assert sequences.alternate_allele(embedded[1], reference, ">other\nACGT\n") == "ACGT"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "There is no variant yet"),
        ("C1G", "C1G: the reference has A at position 1"),
        ("A11G", "A11G: position 11 lies outside the insert, which has 10 bases"),
        ("0G", "position 0 lies outside"),
        ("A1G A1C", "A1C: position 1 is changed twice"),
        ("A1G 7", "'7' is not a change such as A34G"),
        ("ACGT\nACGT", "one variant at a time; there are 2"),
        ("ACGX", "Your text, line 1: 'X' at position 4"),
        ("A" * 85, "the insert has 85 bases, but this model takes at most 84"),
    ],
)
def test_variants_that_cannot_be_read(text, reason, embedded):
    with pytest.raises(InputError, match=reason):
        sequences.alternate_allele(embedded[1], "ACGTACGTAC", text)


def test_share_of_measured_promoters_below():
    training = figures.Training(np.array([0.0, 1.0, 2.0]), {"native": np.array([30, 10])})
    np.testing.assert_allclose(
        training.share_below("native", np.array([-1, 0.5, 1, 1.5, 9])), [0, 0.375, 0.75, 0.875, 1]
    )


def tables_of(view: str) -> list[list[list[str]]]:
    """Return the cells of each row of each table."""
    rows = [re.findall("<tr>(.*?)</tr>", table) for table in re.findall("<table>(.*?)</table>", view)]
    return [[list(map(html.unescape, re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row))) for row in table] for table in rows]


def downloads_of(view: str) -> list[list[dict]]:
    files = [base64.b64decode(content).decode() for content in re.findall(r"base64,([^\"]+)\">Download", view)]
    return [list(csv.DictReader(io.StringIO(file), delimiter="\t")) for file in files]


def test_outputs_and_intervals_of_a_fine_tuned_model(tuned_folder):
    model, tokenizer = load_checkpoint(tuned_folder)
    served = Served(model, tokenizer, "")
    entries = sequences.read_text(f">{SCRIPT}\nACGTACGTACGT\n>second\nGGGGCCCCAATT")
    expected = predict(model, tokenizer, entries.sequences)
    prediction, view = answer_expression(served, entries)
    ((header, first, second),) = tables_of(view)
    assert header == ["No.", "Sequence", "Predicted ypd", "90% interval", "Predicted must", "90% interval"]
    ypd, must = expected[1]
    intervals = [minus(f"{value - half:.2f} to {value + half:.2f}") for value, half in ((ypd, 0.5), (must, 0.75))]
    assert second == ["2", "second", minus(f"{ypd:.2f}"), intervals[0], minus(f"{must:.2f}"), intervals[1]]
    assert first[1].startswith("<script>hacked") and "<script" not in view
    ((_, row),) = downloads_of(view)
    assert list(row)[2:] == [
        f"predicted_{name}" for name in ("ypd", "ypd_low", "ypd_high", "must", "must_low", "must_high")
    ]
    np.testing.assert_allclose(float(row["predicted_must_high"]), must + 0.75, rtol=1e-5)

    bases = answer_mutagenesis(served, entries, prediction, 1, 1)
    (mutagenesis,) = saturation_mutagenesis(model, tokenizer, entries.sequences[1:])
    (rows,) = downloads_of(bases)
    assert "".join(row["reference"] for row in rows) == entries.sequences[1]
    found = [[float(row[base]) for base in "ACGT"] for row in rows]
    np.testing.assert_allclose(found, mutagenesis[:, :, 1], rtol=1e-5)

    (effect,) = variant_effects(model, tokenizer, ["GGGGCCCCAATT"], ["GGGGCCCCAATG"])
    ((_, reference, variant),) = tables_of(answer_variant(served, entries, prediction, 1, "T12G"))
    assert (reference[0], reference[1], variant[0], variant[1]) == ("reference", "second", "variant", "T12G")
    assert variant[4] == minus(f"{must + effect[1]:.2f}")


def test_a_column_named_like_the_prediction_is_refused(tmp_path, embedded):
    (tmp_path / "table.tsv").write_text("sequence\tpredicted_expression\nACGT\t1\n")
    entries = sequences.read_file(tmp_path / "table.tsv", "sequence")
    with pytest.raises(InputError, match=r"^table.tsv: rename the column 'predicted_expression'"):
        answer_expression(Served(*embedded, ""), entries)


@pytest.mark.parametrize(("insert", "spread"), [("A", 1.0), ("N" * 12, 0.0), ("ACGTNACGTACG" * 9, 1.0)])
def test_inserts_of_any_kind_are_drawn(insert, spread):
    expression = np.random.default_rng(0).normal(scale=spread, size=(len(insert), 4, 2))
    result = Mutagenesis(insert, np.zeros(2), expression)
    assert figures.mutagenesis(result, 1, "expression").count("data:image/svg+xml") == 2


def test_counts_of_measured_promoters_are_those_of_the_tables(shared):
    training = figures.read_training(SPACE / "training_expression.tsv")
    tables = [shared / "data" / "yeast" / name for name in ("native_ypd.parquet", "random_ypd.tsv")]
    counted = make_training_expression.count_expression(tables)
    assert {kind: int(counts.sum()) for kind, counts in counted.items()} == {
        "native promoters": 58_390,
        "random inserts": 7_232,
    }
    for kind, counts in counted.items():
        np.testing.assert_array_equal(training.counts[kind], counts)
    np.testing.assert_array_equal(training.edges, make_training_expression.EDGES)


WISHES = Wishes("10:12", 1, 80, "", None, "BsaI, BsmBI", "30 to 60", 6)
BAD_WISHES = [
    ({"target": " "}, "“Expression”: write a number"),
    ({"target": "strong"}, "“Expression” 'strong' is not a number, a range such as 6:8, max or min"),
    ({"number": 11}, "“Sequences”: this page makes at most 10 at a time"),
    ({"number": 0}, "“Sequences” is 0, but must be at least 1"),
    ({"length": 85}, "“Length” is 85, but the construct has room for 1 to 84"),
    ({"avoid": "BsaII"}, "“Sites to avoid” 'BsaII' is neither a restriction enzyme nor a motif"),
    ({"avoid": "S", "gc": "60 90"}, "“Sites to avoid” S and “GC content in percent” 60 90 contradict each other"),
    ({"gc": "0.3 0.6"}, "“GC content in percent” is in percent, and not a share"),
    ({"max_homopolymer": 2.5}, "“Longest run of one base” is 2.5, but must be a whole number"),
    ({"max_edits": 3}, None),
    ({"start": "ACGTN"}, "the start 'your sequence': N at position 5"),
]


@pytest.mark.parametrize(("change", "reason"), BAD_WISHES)
def test_wishes_that_cannot_be_fulfilled_are_explained_in_the_words_of_the_page(embedded, change, reason):
    if reason is None:  # without a start, the field does not count
        assert find_designs(*embedded, WISHES._replace(**change))
        return
    with pytest.raises(InputError, match=re.escape(reason)):
        find_designs(*embedded, WISHES._replace(**change))


def test_a_design_from_a_start_changes_few_bases(embedded):
    start = sequences.read_text(EXAMPLE).sequences[REB1]
    wishes = WISHES._replace(target="1:1.5", start=f" {start[:40]}\n{start[40:]}", max_edits=3)
    (design,) = designs = find_designs(*embedded, wishes)
    assert sum(one != other for one, other in zip(design.insert, start, strict=True)) == design.edits <= 3
    # So few edits do not suffice, and the page says how much is missing.
    prediction = sequences.with_interval(design.predicted[None], embedded[0].config)
    shown = tables.designs_table(designs, prediction)
    assert '<th scope="col">Misses target by</th>' in shown
    assert design.predicted.item() > 1.51 and f"<td>{design.predicted.item() - 1.5:.2f}</td>" in shown
    unbounded = [replace(design, target="max")]
    assert "Misses" not in tables.designs_table(unbounded, prediction)


def test_requirements_are_those_of_the_package_and_the_page():
    lines = (SPACE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = {line for line in lines if line and not line.startswith("#")}
    needed = [Requirement(text) for text in requires("modeling-proformer")]
    assert {str(one) for one in map(Requirement, listed)} >= {str(one) for one in needed if one.marker is None}
    version = re.search("^sdk_version: (.+)$", (SPACE / "README.md").read_text(encoding="utf-8"), re.M).group(1)
    (gradio,) = (one for one in map(Requirement, listed) if one.name == "gradio")
    assert gradio.specifier.contains(version), "the Hub installs the version that the card names"
