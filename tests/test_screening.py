"""Rows to predict are checked first; what cannot be predicted is refused, left out or marked, and counted."""

import os
import threading
import time

import numpy as np
import pytest
import torch

from modeling_proformer import ProformerForPreTraining, ProformerTokenizer, predict, predict_file
from modeling_proformer.data.tables import InputError


FIVE, THREE = "TGCATTTTTTTCACATC", "GGTTACGGCTGTT"
GOOD = "ACGTACGT"


def reverse_complement(sequence: str) -> str:
    return sequence[::-1].translate(str.maketrans("ACGT", "TGCA"))


@pytest.fixture
def model(tiny_config) -> ProformerForPreTraining:
    torch.manual_seed(0)
    return ProformerForPreTraining(tiny_config).eval()


@pytest.fixture
def flanked() -> ProformerTokenizer:
    return ProformerTokenizer(kmer_size=3, insert_width=12, five_prime_flank=FIVE, three_prime_flank=THREE)


@pytest.fixture
def write(tmp_path):
    """Return a function that writes sequences as a table and returns its path."""

    def write(*sequences: str, name: str = "in.tsv"):
        (tmp_path / name).write_text("\n".join(["sequence", *sequences]))
        return tmp_path / name

    return write


def read(batches) -> tuple[list, np.ndarray]:
    rows, values = zip(*batches, strict=True)
    return [row for batch in rows for row in batch], np.concatenate(values)


class TestBadRows:
    SEQUENCES = (GOOD, "ACGR", GOOD, "NA", "A" * 13, GOOD, "ACG!", GOOD)
    BAD = (
        "line 3, column 'sequence': 'R' at position 4 .*; .*line 5, column 'sequence': the sequence is empty; .*line 6"
    )

    def test_are_counted_before_anything_is_computed_and_the_first_are_quoted(self, model, tiny_tokenizer, write):
        path = write(*self.SEQUENCES)
        model.register_forward_pre_hook(lambda *_: pytest.fail("something was computed"))
        with pytest.raises(InputError, match=f"^4 of 8 rows are bad: {path}, {self.BAD}") as raised:
            next(predict_file(model, tiny_tokenizer, path, batch_size=2))
        assert str(raised.value).endswith(
            "; and 1 more. `iupac_as_n` reads IUPAC codes as N. `windows` predicts windows of longer sequences. "
            '`on_error="skip"` and `on_error="mark"` predict the other rows.'
        )

    @pytest.mark.parametrize("batch_size", [1, 3, 100])
    def test_are_left_out(self, model, tiny_tokenizer, write, batch_size, caplog):
        path = write(*self.SEQUENCES)
        rows, values = read(predict_file(model, tiny_tokenizer, path, on_error="skip", batch_size=batch_size))
        assert [row.location for row in rows] == ["line 2", "line 4", "line 7", "line 9"]
        np.testing.assert_allclose(values, predict(model, tiny_tokenizer, [GOOD] * 4), atol=1e-5)
        (message,) = caplog.messages
        assert message.startswith(f"4 of 8 rows are left out: {path}, line 3, column 'sequence': 'R'")

    def test_are_marked_in_their_places(self, model, tiny_tokenizer, write, caplog):
        rows, values = read(predict_file(model, tiny_tokenizer, write(*self.SEQUENCES), on_error="mark", batch_size=3))
        assert len(rows) == 8
        marked = [bool(row.error) for row in rows]
        assert marked == [False, True, False, True, True, False, True, False] == np.isnan(values[:, 0]).tolist()
        assert rows[3].error == "column 'sequence': the sequence is empty."
        assert "4 of 8 rows have no prediction" in caplog.text

    @pytest.mark.parametrize("on_error", ["skip", "refuse"])
    def test_alone_are_refused(self, model, tiny_tokenizer, write, on_error):
        with pytest.raises(InputError, match="2 of 2 rows are bad"):
            list(predict_file(model, tiny_tokenizer, write("ACG?", "?"), on_error=on_error))

    def test_of_a_pipe_are_counted_too(self, model, tiny_tokenizer, tmp_path, write):
        for name, sequences in {"bad": self.SEQUENCES, "good": [GOOD] * 5}.items():
            os.mkfifo(tmp_path / name)
            content = write(*sequences).read_text()
            writer = threading.Thread(target=(tmp_path / name).write_text, args=(content,))
            writer.start()
            batches = predict_file(model, tiny_tokenizer, tmp_path / name, batch_size=2)
            if name == "bad":
                with pytest.raises(InputError, match="4 of 8 rows"):
                    next(batches)
            else:
                assert [len(rows) for rows, _ in batches] == [2, 2, 1]
            writer.join()

    def test_are_found_quickly(self, tiny_tokenizer, model, write):
        path = write(*["ACGR"] * 20_000)
        start = time.perf_counter()
        with pytest.raises(InputError, match="20,000 of 20,000"):
            list(predict_file(model, tiny_tokenizer, path))
        assert time.perf_counter() - start < 30

    def test_another_choice_is_refused(self, tiny_tokenizer, model, write):
        with pytest.raises(ValueError, match="`on_error` is 'ignore', but must be 'refuse' or 'skip' or 'mark'"):
            next(predict_file(model, tiny_tokenizer, write(GOOD), on_error="ignore"))


def test_iupac_codes_are_read_as_n_on_request(model, tiny_tokenizer, write, caplog):
    codes = "RYSWKMBDHVN"
    rows, values = read(predict_file(model, tiny_tokenizer, write(codes.lower(), GOOD, codes), iupac_as_n=True))
    np.testing.assert_allclose(values, predict(model, tiny_tokenizer, ["N" * 11, GOOD, "N" * 11]), atol=1e-5)
    assert rows[2].cells["sequence"] == codes
    assert "2 of 3 rows have IUPAC codes, which were read as N." in caplog.text


def test_measurements_may_be_missing_but_not_be_something_else(model, tiny_tokenizer, tmp_path):
    path = tmp_path / "in.tsv"
    path.write_text(f"sequence\ty\n{GOOD}\t1\n{GOOD}\t\n{GOOD}\tNA\n")
    assert len(read(predict_file(model, tiny_tokenizer, path, measured="y"))[0]) == 3
    path.write_text(path.read_text() + f"{GOOD}\t1_2\n")
    with pytest.raises(InputError, match="line 5, column 'y': '1_2' is not a finite number"):
        list(predict_file(model, tiny_tokenizer, path, measured="y"))


class TestSeveralFiles:
    def test_follow_one_another(self, model, tiny_tokenizer, write):
        paths = [write(GOOD, "AC"), write("GG", name="b.csv")]
        rows, values = read(predict_file(model, tiny_tokenizer, paths, batch_size=2))
        assert [(row.location, row.cells["sequence"]) for row in rows] == [
            ("line 2", GOOD),
            ("line 3", "AC"),
            ("line 2", "GG"),
        ]
        np.testing.assert_allclose(values, predict(model, tiny_tokenizer, [GOOD, "AC", "GG"]), atol=1e-5)

    def test_are_checked_before_the_first_is_predicted(self, model, tiny_tokenizer, write, tmp_path):
        with pytest.raises(InputError, match=r"b\.tsv, line 2, column 'sequence': 'X' at position 1"):
            next(predict_file(model, tiny_tokenizer, [write(GOOD), write("X", name="b.tsv")]))
        (tmp_path / "c.tsv").write_text("dna\nACGT\n")
        with pytest.raises(InputError, match=r"c\.tsv: the columns are 'dna', but those of .*in\.tsv are 'sequence'"):
            next(predict_file(model, tiny_tokenizer, [write(GOOD), tmp_path / "c.tsv"]))


class TestConstructWithin:
    """The construct lies within a longer sequence, or on its other strand."""

    CONSTRUCT = FIVE + "ACGTTGCAAC" + THREE
    PLASMID = "GATTACA" * 50 + CONSTRUCT + "CATTAGA" * 50

    @pytest.mark.parametrize("truncation", [False, True])
    @pytest.mark.parametrize(
        ("sequence", "found"),
        [
            (PLASMID, "positions 351 to 390"),
            (reverse_complement(PLASMID), "positions 351 to 390 on the other strand"),
            (reverse_complement(CONSTRUCT), "positions 1 to 40 on the other strand"),
            (CONSTRUCT + "ACGT", "positions 1 to 40"),
            (PLASMID[360:] + PLASMID[:360], "positions 731 to 30 over the origin"),
            (
                reverse_complement(PLASMID[360:] + PLASMID[:360]),
                "positions 711 to 10 over the origin on",
            ),
            (PLASMID.lower().replace("t", "u"), "positions 351 to 390"),
            # The other bases may be unknown.
            ("R" + CONSTRUCT, "positions 2 to 41"),
        ],
    )
    def test_is_predicted_alone_and_logged(self, model, flanked, write, caplog, sequence, found, truncation):
        _, values = read(predict_file(model, flanked, write(GOOD, sequence), truncation=truncation))
        np.testing.assert_allclose(values, predict(model, flanked, [GOOD, self.CONSTRUCT]), atol=1e-5)
        (message,) = caplog.messages
        assert "1 of 2 rows hold the construct within a longer sequence (or over the origin of a circular" in message
        assert f"in.tsv, line 3, {found}" in message

    @pytest.mark.parametrize("missing_flanks", ["keep", "cut", "refuse"])
    def test_is_named_by_the_tokenizer_which_never_cuts_it(self, flanked, missing_flanks):
        flanked.missing_flanks = missing_flanks
        for truncation in (False, True):
            with pytest.raises(ValueError, match="the construct with both flanks at positions 351 to 390"):
                flanked(self.PLASMID, truncation=truncation)

    def test_more_than_once_is_refused(self, model, flanked, write):
        with pytest.raises(InputError, match="it holds the construct 2 times, first at positions 351 to 390"):
            next(predict_file(model, flanked, write(self.PLASMID * 2), truncation=True))
        twice = self.PLASMID[360:] + self.PLASMID + self.PLASMID[:360]
        for truncation in (False, True):
            with pytest.raises(InputError, match="it holds the construct 2 times, if it is circular"):
                next(predict_file(model, flanked, write(twice), truncation=truncation))

    def test_by_chance_is_not_looked_for(self):
        tokenizer = ProformerTokenizer(kmer_size=3, insert_width=40, five_prime_flank="ACGT", three_prime_flank="TTGG")
        assert tokenizer.inserts(["CCACGTCCCTTGGCC"]) == ["CCACGTCCCTTGGCC"]


def test_it_is_said_how_many_inserts_are_cut_and_how_much(model, flanked, write, caplog):
    sequences = ["A" * 300, GOOD, FIVE + "C" * 20 + THREE, GOOD]
    _, values = read(predict_file(model, flanked, write(*sequences), truncation=True))
    np.testing.assert_allclose(values, predict(model, flanked, sequences, truncation=True), atol=1e-5)
    (message,) = caplog.messages
    assert message.endswith(
        "The inserts of 2 of 4 rows were cut to 12 bases; the longest had 300 (" + f"{write(*sequences)}, line 2)."
    )
