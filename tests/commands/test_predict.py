"""`proformer predict`, as its users call it."""

import csv
import gzip
import io
import json
import os
import shutil
import stat
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.image import imread
from scipy import stats

from modeling_proformer import ProformerForMaskedLM, ProformerForPreTraining, ProformerTokenizer, predict
from modeling_proformer.writing import output_file


PROMOTERS = {"one": "ACGTACGT", "two": "GGGGCCCC", "three": "ttttACACAA", "four": "ANA", "five": "TGACTCA"}
TSV = "name\tsequence\n" + "".join(f"{name}\t{sequence}\n" for name, sequence in PROMOTERS.items())
FASTA = "".join(f">{name}\n{sequence[:5]}\n{sequence[5:]}\n" for name, sequence in PROMOTERS.items())
CSV_OF_EXCEL = b"\xef\xbb\xbf" + TSV.replace("\t", ",").replace("\n", "\r\n").encode()
MEASURED = "sequence\texpression\nACGTACGT\t1\nGGGGCCCC\t2.5\nTTTTACACAA\t-3\nANA\t0\n"
# They do not compress well, so that a cut falls between rows.
LETTERS = np.random.default_rng(0).choice(list("ACGT"), (5000, 12))
PACKED = gzip.compress("\n".join(["sequence", *map("".join, LETTERS)]).encode())


def parquet(*columns: list, names: list[str]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(list(columns), names), file)
    return file.getvalue()


PARQUET = parquet([*PROMOTERS], [*PROMOTERS.values()], names=["name", "sequence"])


def table(text: str) -> dict[str, list[str]]:
    rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_expression_is_written_next_to_the_columns_of_the_input(proformer, folder, model, tiny_tokenizer):
    (folder / "in.csv").write_text('note,sequence,id\n" left, ""right"" ",ACGT,7\nµ,GGGCCC,\n')
    output = folder / "out.tsv"
    assert proformer(folder / "in.csv", "-o", output, "--quiet") == (0, "", "")
    found = table(output.read_text(encoding="utf-8"))
    expression = found.pop("predicted_expression")
    assert list(found.items()) == [
        ("note", [' left, "right" ', "µ"]),
        ("sequence", ["ACGT", "GGGCCC"]),
        ("id", ["7", ""]),
    ]
    expected = predict(model, tiny_tokenizer, found["sequence"])[:, 0]
    np.testing.assert_allclose(np.array(expression, dtype=float), expected, rtol=1e-5)
    assert sorted(path.name for path in folder.iterdir()) == ["in.csv", "out.tsv"]


FORMATS = {
    "plain.fa": FASTA.encode(),
    "dos.fasta": FASTA.replace("\n", "\r\n").encode(),
    "packed.fna.gz": gzip.compress(FASTA.encode()),
    "plain.txt": TSV.encode(),
    "marked.tsv": b"\xef\xbb\xbf" + TSV.encode(),
    "packed.tsv.gz": gzip.compress(TSV.encode()),
    "packed in truth.tsv": gzip.compress(TSV.encode()),
    "excel.CSV": CSV_OF_EXCEL,
    "packed.csv.gz": gzip.compress(CSV_OF_EXCEL),
    "table.parquet": PARQUET,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_table(proformer, folder, name):
    (folder / "plain.tsv").write_text(TSV)
    (folder / name).write_bytes(FORMATS[name])
    expected = proformer(folder / "plain.tsv", "--quiet")
    assert table(expected.out)["name"] == list(PROMOTERS)
    assert proformer(folder / name, "--quiet") == expected


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_rows_keep_their_predictions_in_any_batches(proformer, folder, batch_size):
    (folder / "in.tsv").write_text(TSV)
    expected, found = (
        table(proformer(folder / "in.tsv", "--batch-size", n, "--quiet").out) for n in (100, batch_size)
    )
    assert found["name"] == list(PROMOTERS)
    values = [np.array(rows.pop("predicted_expression"), dtype=float) for rows in (expected, found)]
    np.testing.assert_allclose(*values, rtol=1e-5)
    assert found == expected


def test_the_progress_bar_counts_sequences(proformer, folder):
    (folder / "in.tsv").write_text(TSV)
    outcome = proformer(folder / "in.tsv", "--batch-size", 2)
    assert outcome.code == 0
    assert "5 sequences" in outcome.err.rsplit("\r")[-1]
    assert "sequences [" not in outcome.out


def test_memory_does_not_grow_with_the_input(proformer, folder):
    (folder / "small.tsv").write_text(TSV)
    (folder / "large.tsv").write_text("sequence\tnote\n" + f"ACGT\t{'x' * 5000}\n" * 1000)
    assert proformer(folder / "small.tsv", "-o", folder / "warm-up.tsv", "--quiet").code == 0
    tracemalloc.start()
    try:
        assert proformer(folder / "large.tsv", "-o", folder / "out.tsv", "--batch-size", 50, "--quiet").code == 0
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
    assert (folder / "out.tsv").stat().st_size > 5_000_000


def test_every_output_of_a_model_has_its_column(proformer, folder, tiny_config, tiny_tokenizer):
    tiny_config.id2label = {0: "developmental", 1: "housekeeping"}
    tiny_config.label_mean, tiny_config.label_std = [1.0, 2.0], [1.0, 3.0]
    model = ProformerForPreTraining(tiny_config)
    for part in (model, tiny_tokenizer):
        part.save_pretrained(folder / "two")
    (folder / "in.tsv").write_text(TSV)
    found = table(proformer(folder / "in.tsv", "--model", folder / "two", "--quiet").out)
    assert list(found) == ["name", "sequence", "predicted_developmental", "predicted_housekeeping"]
    columns = [found["predicted_developmental"], found["predicted_housekeeping"]]
    expected = predict(model, tiny_tokenizer, PROMOTERS.values())
    np.testing.assert_allclose(np.array(columns, dtype=float).T, expected, rtol=1e-5)


def test_options_of_the_computation(proformer, folder):
    (folder / "in.tsv").write_text("insert\nACGTACGTACGTTTTT\nACGTACGTACGT\nGGGG\n")
    arguments = (folder / "in.tsv", "--sequence", "insert", "--truncation", "--device", "cpu", "--quiet")
    values = np.array(table(proformer(*arguments).out)["predicted_expression"], dtype=float)
    assert values[0] == values[1] != values[2]
    rounded = np.array(table(proformer(*arguments, "--bf16").out)["predicted_expression"], dtype=float)
    assert (rounded != values).any()
    np.testing.assert_allclose(rounded, values, atol=0.2)


def test_measurements_give_correlations_and_a_figure(proformer, folder):
    (folder / "in.tsv").write_text(MEASURED)
    outcome = proformer(folder / "in.tsv", "--measured", "expression", "-o", folder / "out.tsv", "--quiet")
    assert outcome.code == 0
    found = table((folder / "out.tsv").read_text())
    measured, predicted = (np.array(found[name], dtype=float) for name in ("expression", "predicted_expression"))
    assert f"Pearson r {stats.pearsonr(measured, predicted).statistic:.4f}" in outcome.err
    assert f"Spearman ρ {stats.spearmanr(measured, predicted).statistic:.4f}" in outcome.err
    assert str(folder / "out.png") in outcome.err
    assert imread(folder / "out.png").std() > 0.01
    assert sorted(path.name for path in folder.iterdir()) == ["in.tsv", "out.png", "out.tsv"]


def test_the_output_has_the_usual_permissions_and_replaces_an_older_one(proformer, folder):
    (folder / "in.tsv").write_text(TSV)
    (folder / "out.tsv").write_text("an earlier run")
    assert proformer(folder / "in.tsv", "-o", folder / "out.tsv", "--quiet").code == 0
    assert table((folder / "out.tsv").read_text())["name"] == list(PROMOTERS)
    assert stat.S_IMODE((folder / "out.tsv").stat().st_mode) == stat.S_IMODE((folder / "in.tsv").stat().st_mode)


def test_the_input_can_be_replaced_by_the_output(proformer, folder):
    (folder / "in.tsv").write_text(TSV)
    assert proformer(folder / "in.tsv", "-o", folder / "in.tsv", "--batch-size", 1, "--quiet").code == 0
    assert list(table((folder / "in.tsv").read_text())) == ["name", "sequence", "predicted_expression"]


def test_a_pipe_or_device_is_written_to_and_not_replaced(proformer, folder):
    (folder / "in.tsv").write_text(TSV)
    os.mkfifo(folder / "pipe")
    reader = os.open(folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert proformer(folder / "in.tsv", "-o", folder / "pipe", "--quiet").code == 0
        assert (folder / "pipe").is_fifo()
        assert table(os.read(reader, 10_000).decode())["name"] == list(PROMOTERS)
    finally:
        os.close(reader)


def test_an_interruption_leaves_nothing_behind(folder):
    with pytest.raises(KeyboardInterrupt), output_file(folder / "out.tsv") as file:
        file.write("half a table")
        file.flush()
        raise KeyboardInterrupt
    assert list(folder.iterdir()) == []


BAD_INPUTS = {
    # file: (content, further arguments, what the error must say)
    "empty.tsv": (b"", [], ["empty"]),
    "empty.fa": (b"\n\n", [], ["no rows"]),
    "header_only.csv": (b"sequence,expression\n", [], ["no rows"]),
    "no_sequence.tsv": (b"name\tsequence\none\tACGT\ntwo\t \n", [], ["line 3", "'sequence'", "empty"]),
    "no_sequence.fa": (b">one\nACGT\n>two\n>three\nACGT\n", [], ["line 3", "'sequence'", "empty"]),
    "null.parquet": (parquet(["ACGT", None], names=["sequence"]), [], ["row 2", "'sequence'", "empty"]),
    "number.parquet": (parquet([1, 2], names=["sequence"]), [], ["row 1", "'sequence'", "1 is not a sequence"]),
    "letter.tsv": (b"sequence\nACGT\nACXT\n", [], ["line 3", "'sequence'", "'X' at position 3", "A C G T"]),
    "letter.fa": (b">one\nACGT\n>two\nACGT\nACG-\n", [], ["line 3", "'-' at position 8"]),
    "letter.parquet": (
        parquet(["ACGÜ"], names=["insert"]),
        ["--sequence", "insert"],
        ["row 1", "'insert'", "'Ü'", "4"],
    ),
    "blank.csv": (b"sequence\nAC GT\n", [], ["line 2", "' ' at position 3"]),
    "long.tsv": (b"sequence\nACGTACGTACGTACGT\n", [], ["line 2", "16 bases", "12", "truncation"]),
    "no_column.csv": (b"seq,expression\nACGT,1\n", [], ["'sequence'", "'seq', 'expression'"]),
    "no_measured.csv": (b"sequence,y\nACGT,1\n", ["--measured", "expression"], ["'expression'", "'sequence', 'y'"]),
    "no_measured.fa": (b">one\nACGT\n", ["--measured", "expression"], ["'expression'", "'name', 'sequence'"]),
    "text.tsv": (MEASURED.replace("-3", "low").encode(), ["--measured", "expression"], ["line 4", "'low'", "number"]),
    "infinite.tsv": (MEASURED.replace("-3", "inf").encode(), ["--measured", "expression"], ["line 4", "'inf'"]),
    "nameless.fa": (b">one\nACGT\n>\nACGT\n", [], ["line 3", "name"]),
    "headless.fa": (b"ACGT\n", [], ["line 1", "'>'"]),
    "cut.tsv.gz": (PACKED[: len(PACKED) // 2], [], ["gzip", "after line 2", "again"]),
    "damaged.tsv.gz": (PACKED[:9000] + bytes(100) + PACKED[9100:], [], ["gzip", "after line"]),
    "cut.parquet": (PARQUET[:-10], [], ["Parquet"]),
    "damaged.parquet": (PARQUET[:10] + 30 * b"\xff" + PARQUET[40:], [], ["Parquet"]),
    "ragged.csv": (b"sequence,y\nACGT,1\nACGT\n", [], ["line 3", "1 cell under", "2 columns"]),
    "quote.csv": (b'sequence,y\nACGT,1\n"ACGT,1\nACGT,1\n', [], ["line 3", "well-formed"]),
    "twice.csv": (b"sequence,sequence\nACGT,ACGT\n", [], ["'sequence'", "2 times"]),
    "twice.parquet": (parquet(["ACGT"], ["GGGG"], names=["sequence", "sequence"]), [], ["'sequence'", "2 times"]),
    "taken.csv": (b"sequence,predicted_expression\nACGT,1\n", [], ["rename", "'predicted_expression'"]),
    "latin.tsv": ("sequence\tnote\nACGT\tµ\n".encode("latin-1"), [], ["UTF-8"]),
    "table.doc": (b"PK", [], [".csv", ".parquet"]),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_is_refused_in_one_line(refused, folder, name):
    content, arguments, reasons = BAD_INPUTS[name]
    (folder / name).write_bytes(content)
    error = refused(folder / name, *arguments)
    assert [reason for reason in [str(folder / name), *reasons] if reason not in error] == []


def test_an_input_that_is_not_there_is_refused(refused, folder):
    assert f"{folder / 'missing.tsv'}: no such file" in refused(folder / "missing.tsv")


@pytest.mark.parametrize(
    ("name", "lines", "location"),
    [
        ("in.tsv", ["sequence", *["ACGT"] * 8, "ACGX"], "line 10"),
        # Blank lines are not rows, and a record may have any number of lines.
        ("in.csv", ["sequence", "", *["ACGT"] * 8, "", "ACGX"], "line 12"),
        (
            "in.fa",
            [">1", "AC", "GT", ">2", "ACGT", "", *[f">{n}\nACGT" for n in range(3, 9)], ">9", "AC", "GX"],
            "line 19",
        ),
    ],
)
def test_locations_are_right_in_the_third_batch(refused, folder, name, lines, location):
    (folder / name).write_text("\n".join(lines))
    assert f"{name}, {location}, column 'sequence': 'X' at position 4" in refused(folder / name, "--batch-size", 4)


def test_an_error_has_its_own_line_below_the_progress_bar(proformer, folder):
    (folder / "in.tsv").write_text("sequence\n" + "ACGT\n" * 8 + "ACGX\n")
    outcome = proformer(folder / "in.tsv", "--batch-size", 4, "-o", folder / "out.tsv")
    assert outcome.code != 0
    *bar, reason, rest = outcome.err.replace("\r", "\n").split("\n")
    assert reason.startswith(f"proformer: {folder / 'in.tsv'}, line 10")
    assert rest == ""
    assert all("sequences [" in line or not line.strip() for line in bar)
    assert sorted(path.name for path in folder.iterdir()) == ["in.tsv"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-o", "{folder}/nowhere/out.tsv"], "no folder {folder}/nowhere"),
        (["-o", "{folder}"], "{folder}: this is a folder"),
        (["--measured", "expression"], "--output"),
        (["--measured", "expression", "-o", "-"], "--output"),
        # The figure would take the table's name.
        (["--measured", "expression", "-o", "{folder}/out.png"], "out.png"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(proformer, folder, arguments, reason):
    (folder / "in.tsv").write_text(MEASURED)
    outcome = proformer(folder / "in.tsv", "--quiet", *(argument.format(folder=folder) for argument in arguments))
    assert outcome.code != 0
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    assert reason.format(folder=folder) in outcome.err
    assert sorted(path.name for path in folder.iterdir()) == ["in.tsv"]


def test_measurements_are_not_compared_with_several_outputs(refused, folder, tiny_config, tiny_tokenizer, tmp_path):
    tiny_config.id2label = {0: "developmental", 1: "housekeeping"}
    tiny_config.label_mean = tiny_config.label_std = None
    for part in (ProformerForPreTraining(tiny_config), tiny_tokenizer):
        part.save_pretrained(tmp_path / "two")
    (folder / "in.tsv").write_text(MEASURED)
    error = refused(folder / "in.tsv", "--model", tmp_path / "two", "--measured", "expression")
    assert "predicted_developmental, predicted_housekeeping" in error


@pytest.mark.parametrize("arguments", [["--batch-size", "many"], ["--unheard_of"]])
def test_arguments_that_are_none_are_refused(proformer, folder, arguments, capsys):
    (folder / "in.tsv").write_text(TSV)
    with pytest.raises(SystemExit, match="2"):
        proformer(folder / "in.tsv", *arguments)
    assert arguments[-1] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--batch-size", "0"], "--batch_size is 0"),
        (["--device", "abacus"], "--device 'abacus' cannot be used here"),
        (["--interval", "0.9"], "--interval 0.9"),
    ],
)
def test_values_of_options_are_checked(refused, folder, arguments, reason):
    (folder / "in.tsv").write_text(TSV)
    assert reason in refused(folder / "in.tsv", *arguments)


def test_options_can_be_read_from_a_file(proformer, folder):
    (folder / "in.tsv").write_text("insert\nACGTACGTACGTTTTT\n")
    (folder / "options.yaml").write_text(
        f"input: {folder / 'in.tsv'}\nsequence: nothing\ntruncation: true\nquiet: yes\n"
    )
    expected = proformer(folder / "in.tsv", "--sequence", "insert", "--truncation", "--quiet")
    assert expected.code == 0
    assert proformer("--config", folder / "options.yaml", "--sequence", "insert") == expected


def test_a_pipe_is_read_and_named_in_errors(proformer, folder):
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as file:
        file.write("sequence\nACGX\n")
    outcome = proformer(f"/dev/fd/{reader}", "--quiet")
    os.close(reader)
    assert outcome.code == 1
    assert f"/dev/fd/{reader}, line 2, column 'sequence': 'X' at position 4" in outcome.err


def edit_config(folder: Path, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def save_without_expression_head(folder: Path):
    ProformerForMaskedLM(ProformerForPreTraining.from_pretrained(folder).config).save_pretrained(folder)


def save_without_values(folder: Path):
    model = ProformerForPreTraining.from_pretrained(folder)
    torch.nn.init.constant_(model.expression_head.dense.weight, float("nan"))
    model.save_pretrained(folder)


WEIGHTS = "model.safetensors"
UNREADABLE = "no readable Proformer checkpoint"
# How the checkpoint is damaged, and what the error must say.
DAMAGES = {
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), WEIGHTS),
    "cut weights": (
        lambda folder: os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size // 2),
        UNREADABLE,
    ),
    "empty weights": (lambda folder: os.truncate(folder / WEIGHTS, 0), UNREADABLE),
    "other weights": (lambda folder: (folder / WEIGHTS).write_bytes(b"<html>Not found</html>" * 9), UNREADABLE),
    "weights that are not numbers": (save_without_values, "nan"),
    "no expression head": (save_without_expression_head, "expression_head"),
    "more layers than weights": (lambda folder: edit_config(folder, num_hidden_layers=3), "layers.2"),
    "more weights than layers": (lambda folder: edit_config(folder, num_hidden_layers=1), "layers.1"),
    "another width": (lambda folder: edit_config(folder, hidden_size=32), "shape"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), UNREADABLE),
    "cut configuration": (lambda folder: os.truncate(folder / "config.json", 100), "config.json"),
    "impossible configuration": (lambda folder: edit_config(folder, kmer_size=0), "kmer_size"),
    "another kind of model": (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "'bert'"),
    "no tokenizer": (lambda folder: (folder / "tokenizer_config.json").unlink(), "tokenizer"),
    "another tokenizer": (lambda folder: ProformerTokenizer(4, insert_width=12).save_pretrained(folder), "tokenizer"),
    "a wider tokenizer": (lambda folder: ProformerTokenizer(3, insert_width=20).save_pretrained(folder), "tokenizer"),
    "an empty folder": (lambda folder: [path.unlink() for path in folder.iterdir()], UNREADABLE),
    "no folder": (shutil.rmtree, "neither a folder nor a repository"),
    "a file": (lambda folder: (shutil.rmtree(folder), folder.touch()), "this is a file; name the folder"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_checkpoint_is_refused_in_one_line(refused, folder, checkpoint, damage):
    (folder / "in.tsv").write_text(MEASURED)
    harm, reason = DAMAGES[damage]
    harm(checkpoint)
    error = refused(folder / "in.tsv", "--measured", "expression")
    assert str(checkpoint) in error
    assert reason in error
    # This error is our own and says all.
    assert damage != "no tokenizer" or error.count(str(checkpoint)) == 1
