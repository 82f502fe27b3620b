"""Known motifs are named where their bases contribute."""

import logging
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from meme import CONSENSUS, write_meme
from processes import run_in_process

from modeling_proformer import InputError
from modeling_proformer.cli import main
from modeling_proformer.motifs import MotifMatch, Seqlet, name_motifs, read_motifs


pytest.importorskip("tangermeme")

REVERSE = str.maketrans("ACGT", "TGCA")


@pytest.fixture(scope="module")
def motifs(tmp_path_factory):
    return read_motifs(write_meme(tmp_path_factory.mktemp("motifs") / "yeast.meme"))


def test_motifs_are_read_as_probabilities(motifs):
    assert list(motifs) == list(CONSENSUS)
    reb1 = motifs["M1 REB1"]
    assert ["ACGT"[base] for base in reb1.argmax(axis=0)] == list("TTACCCGG")
    np.testing.assert_allclose(reb1.sum(axis=0), 1)


def test_few_motifs_are_warned_of(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        read_motifs(write_meme(tmp_path / "few.meme"))
        assert "few.meme has 8 motifs. With fewer than 25" in caplog.text
        caplog.clear()
        read_motifs(write_meme(tmp_path / "many.meme", {f"M{number}": "ACGT" for number in range(25)}))
        assert not caplog.text


def cut(text: str) -> str:
    return text[: text.rindex("0.03")]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda text: "", r"there are no motifs in it"),
        (lambda text: ">MA0359\nA [ 1 2 3 ]\n", r"there are no motifs in it"),
        (lambda text: text.replace("0.91", "9.1"), r"motif 'M1 REB1': the probabilities .* do not add up to 1"),
        (lambda text: text.replace(" w= 8", " w= 9", 1), r"not a readable MEME file"),
        (lambda text: text.replace("0.91 ", "", 1), r"not a readable MEME file"),
        (lambda text: cut(cut(text)), r"not a readable MEME file"),
        (lambda text: text[: text.rindex("0.91 0.03 0.03 0.03")], r"8 lines MOTIF, but 7 motifs"),
        (lambda text: text.replace("M2 RAP1", "M1 REB1"), r"8 lines MOTIF, but 7 motifs; .* names a motif twice"),
    ],
)
def test_files_that_are_no_motifs_are_refused(tmp_path, spoil, reason):
    path = write_meme(tmp_path / "yeast.meme")
    path.write_text(spoil(path.read_text()))
    with pytest.raises(InputError, match=reason) as raised:
        read_motifs(path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_motifs(tmp_path / "none.meme")
    (tmp_path / "binary.meme").write_bytes(b"\x1f\x8b\xff\xfe" * 9)
    with pytest.raises(InputError, match="not a readable MEME file"):
        read_motifs(tmp_path / "binary.meme")


def threads_after_naming(threads: int, *arguments) -> int:
    torch.set_num_threads(threads)
    name_motifs(*arguments)
    return torch.get_num_threads()


@pytest.mark.slow  # tangermeme compiles for two minutes in a new environment, so all that waits for it is here
class TestNames:
    @pytest.fixture(scope="class")
    def background(self) -> list[str]:
        return list(np.random.default_rng(5).choice(list("ACGT"), 80))

    def planted(self, background, site: str, start: int, sign: float = 1) -> tuple[str, np.ndarray]:
        """Return an insert with a site, and contributions that are small noise except in the site."""
        insert = "".join([*background[:start], *site, *background[start + len(site) :]])
        contributions = np.random.default_rng(0).normal(scale=0.1, size=80)
        contributions[start : start + len(site)] = 2 * sign
        return insert, contributions

    @pytest.mark.parametrize("start", [0, 33, 72])
    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize("strand", ["+", "-"])
    def test_a_site_is_named_where_it_is(self, motifs, background, start, sign, strand):
        site = "TTACCCGG" if strand == "+" else "TTACCCGG"[::-1].translate(REVERSE)
        insert, contributions = self.planted(background, site, start, sign)
        found = name_motifs(insert, contributions, motifs)
        (seqlet,) = [each for each in found if each.matches and each.start < start + 8 and each.end > start]
        assert seqlet.label == "REB1"
        # Bases next to a strong site may count to its seqlet.
        assert start - 3 <= seqlet.start <= start + 1 and start + 7 <= seqlet.end <= start + 11
        assert seqlet.contribution == pytest.approx(contributions[seqlet.start : seqlet.end].sum())
        best = seqlet.matches[0]
        assert (best.motif, best.start, best.end, best.strand) == ("M1 REB1", start, start + 8, strand)
        assert best.e_value == pytest.approx(8 * best.p_value)

    def test_seqlets_do_not_overlap_and_do_not_depend_on_the_file(self, motifs, background):
        insert, contributions = self.planted(background, "ATGACTCAT", 20)
        contributions[50:58] = -1.5
        found = name_motifs(insert, contributions, motifs)
        assert len(found) >= 2 and found == sorted(found)
        assert all(before.end <= after.start for before, after in pairwise(found))
        other = name_motifs(insert, contributions, {"polyA": motifs["polyA"]}, max_e_value=1e-9)
        assert [each[:3] for each in other] == [each[:3] for each in found]
        assert not any(each.matches for each in other)

    def test_a_smaller_e_value_names_fewer_motifs(self, motifs, background):
        insert, contributions = self.planted(background, "TTACCCGG", 30)
        counts = [
            sum(len(each.matches) for each in name_motifs(insert, contributions, motifs, max_e_value=limit))
            for limit in (8, 0.1, 1e-9)
        ]
        assert counts[0] > counts[1] > counts[2] == 0

    def test_torch_keeps_its_number_of_threads(self, motifs, background):
        # numba changes the number once in a process, and earlier tests have named motifs in this one.
        assert run_in_process(threads_after_naming, 3, *self.planted(background, "TTACCCGG", 30), motifs) == 3

    @pytest.mark.parametrize("insert", ["A", "ACG", "N" * 20, "ACGTN" * 4])
    def test_inserts_without_contributions_have_no_seqlets(self, motifs, insert):
        assert name_motifs(insert, np.zeros(len(insert)), motifs) == []

    def test_n_in_a_site_is_no_base(self, motifs, background):
        insert, contributions = self.planted(background, "TTACNCGG", 30)
        (seqlet,) = [each for each in name_motifs(insert, contributions, motifs) if each.matches]
        assert seqlet.label == "REB1"

    @pytest.mark.parametrize("suffix", [".tsv", ".parquet"])
    def test_the_command_names_the_motifs_of_a_real_model_in_a_table(self, tmp_path, monkeypatch, suffix):
        monkeypatch.chdir(tmp_path)
        site = "ACGGTTGCGATGTTCAACACTGTAGAAGCCTTACCCGGACAACACTTATCTAGCTCGATCACTCATTTTACGGCCCACCC"
        (tmp_path / "reb1.fasta").write_text(f">without\nAC\n>with\n{site}\n")
        write_meme(tmp_path / "yeast.meme")
        out = f"seqlets{suffix}"
        words = ["mutagenesis", "reb1.fasta", "-o", "out.tsv", "--motifs", "yeast.meme", "--seqlets", out, "--quiet"]
        assert main(words) == 0
        table = (
            pd.read_csv(out, sep="\t", dtype=str)
            if suffix == ".tsv"
            else pd.read_parquet(out, dtype_backend="pyarrow")
        )
        rows = table.to_dict("records")
        (reb1,) = [row for row in rows if row["motif"] == "M1 REB1"]
        assert (reb1["name"], reb1["output"], reb1["strand"]) == ("with", "expression", "+")
        assert (int(reb1["motif_start"]), int(reb1["motif_end"])) == (31, 38)
        start, end = int(reb1["start"]), int(reb1["end"])
        assert reb1["sequence"] == site[start - 1 : end] and 29 <= start < end <= 40
        assert float(reb1["contribution"]) > 5
        assert float(reb1["e_value"]) == pytest.approx(8 * float(reb1["p_value"]), rel=1e-4)


def test_labels_are_the_short_names_of_two_motifs():
    matches = tuple(MotifMatch(name, 0, 8, "+", 1e-5, 1e-3) for name in ("MA1 REB1", "MA2 REB1", "MA3 NSI1", "poly"))
    assert Seqlet(0, 8, 1.0, matches).label == "REB1/NSI1"
    assert Seqlet(0, 8, 1.0, ()).label == ""
