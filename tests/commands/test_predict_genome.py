"""Regions of a genome, windows along sequences, and both orientations, by `proformer predict`."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from modeling_proformer import ProformerForSequenceClassification, ProformerTokenizer, predict


pysam = pytest.importorskip("pysam")

WIDTH = 12
FIVE, THREE = "AC", "GT"
BASES = "".join(np.random.default_rng(0).choice(list("ACGT"), 150))
CHROMOSOMES = {"chrI": BASES[:100], "chrII": "n" * 30 + BASES[100:].lower()}


def reverse(bases: str) -> str:
    return bases.upper().translate(str.maketrans("ACGT", "TGCA"))[::-1]


@pytest.fixture(autouse=True)
def genome(at_work):
    """Put a genome into the folder."""
    Path("genome.fa").write_text("".join(f">{name} words\n{bases}\n" for name, bases in CHROMOSOMES.items()))


@pytest.fixture
def tokenizer() -> ProformerTokenizer:
    # These flanks are so short that many windows begin or end with one of them.
    return ProformerTokenizer(kmer_size=3, insert_width=WIDTH, five_prime_flank=FIVE, three_prime_flank=THREE)


@pytest.fixture
def model(tiny_config) -> ProformerForSequenceClassification:
    torch.manual_seed(0)
    tiny_config.id2label = {0: "expression"}
    model = ProformerForSequenceClassification(tiny_config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def expression(model, tokenizer):
    """Return a function that predicts inserts."""
    return lambda inserts: predict(model, tokenizer, [FIVE + insert + THREE for insert in inserts])[:, 0]


@pytest.fixture
def proformer(checkpoint, run_quietly):
    """Return a function that runs the command in this folder, and returns its status, output and error."""
    return lambda *arguments: run_quietly("predict", *arguments, "--model", checkpoint)


class TestRegions:
    def test_they_are_read_on_their_strand(self, proformer, expression):
        Path("r.bed").write_text("chrI\t10\t22\ta\t0\t+\nI\t10\t22\tb\t0\t-\nII\t31\t40\n")
        assert proformer("r.bed", "--genome", "genome.fa", "-o", "o.parquet") == (0, "", "")
        table = pd.read_parquet("o.parquet")
        assert table["chromosome"].tolist() == ["chrI", "chrI", "chrII"]
        assert table["start"].tolist() == [10, 10, 31] and table["end"].tolist() == [22, 22, 40]
        inserts = [BASES[10:22], reverse(BASES[10:22]), BASES[101:110]]
        assert table["sequence"].tolist() == inserts
        np.testing.assert_allclose(table["predicted_expression"], expression(inserts), atol=1e-5)

    def test_those_of_n_alone_have_no_prediction(self, proformer):
        Path("r.bed").write_text("chrI\t10\t22\nchrII\t5\t17\tx\t0\t-\nchrII\t25\t37\n")
        assert proformer("r.bed", "--genome", "genome.fa") == (
            *(1, ""),
            "proformer: r.bed, line 2, only N: the genome has no bases there. --on_error skip and --on_error mark "
            "predict the other rows.\n",
        )
        assert proformer("r.bed", "--genome", "genome.fa", "--on_error", "mark", "-o", "o.tsv")[0] == 0
        table = pd.read_csv("o.tsv", sep="\t")
        assert table["predicted_expression"].isna().tolist() == [False, True, False]
        assert table["error"].fillna("").tolist() == ["", "only N: the genome has no bases there", ""]
        assert proformer("r.bed", "--genome", "genome.fa", "--windows", 5, "-o", "o.tsv") == (0, "", "")
        assert pd.read_csv("o.tsv", sep="\t")["start"].tolist() == [10, 25]

    def test_lines_that_are_no_region_are_refused_left_out_or_marked(self, proformer):
        Path("r.bed").write_text("chrI\t10\t22\nchrI\t30\t30\nchrI\t95\t107\nchrI\t0\t13\nchrI\t1\t13\n")
        code, _, error = proformer("r.bed", "--genome", "genome.fa", "-o", "o.tsv")
        assert code == 1 and error.startswith(
            "proformer: 3 of 5 rows are bad: r.bed, line 2, the start 30 is not below"
        )
        assert "--windows predicts windows of longer sequences." in error and error.count("\n") == 1
        assert not Path("o.tsv").exists()
        assert proformer("r.bed", "--genome", "genome.fa", "--on_error", "skip", "-o", "o.tsv")[0] == 0
        assert pd.read_csv("o.tsv", sep="\t")["start"].tolist() == [10, 1]
        assert proformer("r.bed", "--genome", "genome.fa", "--on_error", "mark", "-o", "o.tsv")[0] == 0
        errors = pd.read_csv("o.tsv", sep="\t")["error"].fillna("").tolist()
        assert [error.partition(";")[0] for error in errors[:3]] == [
            "",
            "the start 30 is not below the end 30",
            "the end 107 is beyond the 100 bases of chrI",
        ]


class TestWindows:
    @pytest.mark.parametrize("stride", [1, 5, 20])
    def test_they_are_cut_every_stride_and_at_the_end(self, proformer, expression, stride):
        assert proformer("genome.fa", "--windows", stride, "-o", "o.tsv") == (0, "", "")
        table = pd.read_csv("o.tsv", sep="\t")
        places = [
            (f"{name} words", start)
            for name, bases in CHROMOSOMES.items()
            for start in range(len(bases) - WIDTH + 1)
            if (start % stride == 0 or start == len(bases) - WIDTH) and bases[start : start + WIDTH].strip("n")
        ]
        assert list(zip(table["name"], table["start"], strict=True)) == places
        assert (table["end"] - table["start"]).unique().tolist() == [WIDTH]
        inserts = [CHROMOSOMES[name.split()[0]][start : start + WIDTH] for name, start in places]
        np.testing.assert_allclose(table["predicted_expression"], expression(inserts), atol=1e-5)

    def test_they_may_be_narrower_than_an_insert(self, proformer, expression):
        Path("one.fa").write_text(f">one\n{BASES[:20]}\n")
        assert proformer("one.fa", "--windows", 6, "--width", 8, "-o", "o.tsv") == (0, "", "")
        table = pd.read_csv("o.tsv", sep="\t")
        assert table["start"].tolist() == [0, 6, 12] and table["end"].tolist() == [8, 14, 20]
        inserts = [BASES[start : start + 8] for start in (0, 6, 12)]
        np.testing.assert_allclose(table["predicted_expression"], expression(inserts), atol=1e-5)

    @pytest.mark.parametrize("strand", "+-")
    def test_those_of_regions_lie_where_the_genome_has_them(self, proformer, expression, strand):
        Path("r.bed").write_text(f"chrI\t20\t57\tx\t0\t{strand}\nchrI\t60\t70\ty\t0\t{strand}\n")
        assert proformer("r.bed", "--genome", "genome.fa", "--windows", 10, "-o", "o.tsv") == (0, "", "")
        table = pd.read_csv("o.tsv", sep="\t")
        starts = [20, 30, 40, 45] if strand == "+" else [20, 25, 35, 45]
        assert table["start"].tolist() == [*starts, 60] and table["end"].tolist() == [
            start + 12 for start in starts
        ] + [70]
        inserts = [BASES[start : min(start + 12, 70)] for start in [*starts, 60]]
        inserts = inserts if strand == "+" else [*map(reverse, inserts)]
        np.testing.assert_allclose(table["predicted_expression"], expression(inserts), atol=1e-5)

    @pytest.mark.parametrize("stride", [3, 12, 30])
    def test_a_track_gives_each_base_the_value_of_the_nearest_window(self, proformer, stride):
        Path("r.bed").write_text("chrI\t20\t100\nchrII\t30\t80\tx\t0\t-\nchrI\t4\t20\n")
        arguments = ["r.bed", "--genome", "genome.fa", "--windows", stride]
        assert proformer(*arguments, "-o", "o.tsv")[0] == proformer(*arguments, "-o", "o.bedgraph")[0] == 0
        windows = pd.read_csv("o.tsv", sep="\t")
        track = pd.read_csv("o.bedgraph", sep="\t", header=None, names=["chromosome", "start", "end", "value"])
        # Each region begins with a smaller start than the last window of the one before it.
        regions = (windows["start"].diff().fillna(-1) < 0).cumsum()
        assert regions.nunique() == 3
        rows = iter(track.to_dict("records"))
        for _, group in windows.groupby(regions):
            values = {}
            for _ in range(len(group)):
                row = next(rows)
                for position in range(row["start"], row["end"]):
                    assert position not in values
                    values[position] = row["value"]
            covered = {
                base for start, end in zip(group["start"], group["end"], strict=True) for base in range(start, end)
            }
            assert set(values) == covered
            for position, value in values.items():
                distances = abs(group["start"] + group["end"] - 2 * position - 1)
                near = group[distances <= distances.min() + 1]["predicted_expression"]
                assert any(abs(near - value) < 1e-5)

    @pytest.mark.parametrize("strand", "+-")
    @pytest.mark.parametrize("stride", [3, 5, 12])
    def test_a_track_has_no_value_in_n_and_does_not_overlap_there(self, proformer, stride, strand):
        bases = BASES[:40] + "N" * 30 + BASES[40:70] + "N" + BASES[70:100]
        Path("holes.fa").write_text(f">one\n{bases}\n")
        Path("r.bed").write_text(f"one\t0\t{len(bases)}\tx\t0\t{strand}\n")
        arguments = ["r.bed", "--genome", "holes.fa", "--windows", stride]
        if strand == "+":
            assert proformer("holes.fa", "--windows", stride, "-o", "fasta.bedgraph")[0] == 0
        assert proformer(*arguments, "-o", "o.tsv")[0] == proformer(*arguments, "-o", "o.bedgraph")[0] == 0
        if strand == "+":
            assert Path("fasta.bedgraph").read_text() == Path("o.bedgraph").read_text()
        windows = pd.read_csv("o.tsv", sep="\t")
        values = {}
        for line in Path("o.bedgraph").read_text().splitlines():
            _, start, end, value = line.split("\t")
            for position in range(int(start), int(end)):
                assert position not in values
                values[position] = float(value)
        assert set(values) == {position for position, base in enumerate(bases) if base != "N"}
        for position, value in values.items():
            distances = abs(windows["start"] + windows["end"] - 2 * position - 1)
            near = windows[distances <= distances.min() + 1]["predicted_expression"]
            assert any(abs(near - value) < 1e-5)

    @pytest.mark.parametrize("other", ["I\t30\t60\ty\t0\t-", "chrI\t10\t40\ty\t0\t-", "chrI\t20\t25"])
    def test_a_track_of_regions_that_overlap_is_refused(self, proformer, other):
        Path("r.bed").write_text(f"chrI\t10\t40\nchrI\t60\t80\n{other}\n")
        code, _, error = proformer("r.bed", "--genome", "genome.fa", "--windows", 5, "-o", "o.bedgraph")
        assert code == 1 and error.count("\n") == 1 and not Path("o.bedgraph").exists()
        _, start, end = other.split("\t")[:3]
        assert "r.bed, line 1 (chrI:11-40)" in error
        assert f"r.bed, line 3 (chrI:{int(start) + 1}-{end})" in error and "overlap" in error

    def test_a_track_of_a_table_has_the_names_of_its_sequences(self, proformer):
        Path("t.tsv").write_text(f"chromosome\tname\tsequence\nchrI\tmine\t{BASES[:20]}\n")
        assert proformer("t.tsv", "--windows", 8, "-o", "o.bedgraph") == (0, "", "")
        assert {line.split("\t")[0] for line in Path("o.bedgraph").read_text().splitlines()} == {"mine"}

    @pytest.mark.parametrize(
        "others", [f">b\n{BASES[:30]}\n>a two\n{BASES[:30]}\n", f">a two\n{'N' * 40}{BASES[:30]}\n"]
    )
    def test_a_track_of_sequences_of_one_name_is_refused(self, proformer, others):
        """Also where the second begins with N, in which no window lies."""
        Path("two.fa").write_text(f">a one\n{BASES[:30]}\n{others}")
        code, _, error = proformer("two.fa", "--windows", 8, "-o", "o.bedgraph")
        assert code == 1 and "the name of another sequence begins with 'a' too" in error and error.count("\n") == 1
        assert not Path("o.bedgraph").exists()


@pytest.mark.parametrize("missing_flanks", ["keep", "cut", "refuse"])
def test_orientations_are_those_of_the_insert_within_its_flanks(
    proformer, expression, tokenizer, tmp_path, missing_flanks
):
    tokenizer.missing_flanks = missing_flanks
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    inserts = ["ACGTAAATTTCC", "GATTACA", "GGGGGGGGGGGGGGGG"]
    Path("i.tsv").write_text("sequence\n" + "".join(f"{FIVE}{insert}{THREE}\n" for insert in inserts))
    predicted = {}
    for orientation in ("given", "reverse", "both"):
        arguments = ["i.tsv", "--orientation", orientation, "--truncation", "-o", "o.tsv"]
        assert proformer(*arguments)[0] == 0
        predicted[orientation] = pd.read_csv("o.tsv", sep="\t")["predicted_expression"]
    cut = [insert[:WIDTH] for insert in inserts]
    np.testing.assert_allclose(predicted["given"], expression(cut), atol=1e-5)
    np.testing.assert_allclose(predicted["reverse"], expression(map(reverse, cut)), atol=1e-5)
    np.testing.assert_allclose(predicted["both"], (predicted["given"] + predicted["reverse"]) / 2, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["r.bed"], "r.bed: these are regions of a genome; name its FASTA file with --genome."),
        (["genome.fa", "--genome", "genome.fa"], "--genome is for BED files, and there is none."),
        (["genome.fa", "--windows", "0"], "--windows is 0, but must be at least 1."),
        (["genome.fa", "-o", "o.bedgraph"], "a track is of --windows, so give their stride."),
        (["r.bed", "--genome", "genome.fa", "--orientation", "both", "--interval", "0.9"], "take the --orientation"),
        (["genome.fa", "--width", "5"], "--width is of --windows, so give their stride."),
        (["genome.fa", "--windows", "5", "--width", "13"], "--width is 13, but must be 1 to 12"),
        (["table.tsv", "--windows", "5"], "table.tsv: rename the column 'end', because windows take that name."),
        (["plain.tsv", "--windows", "5", "-o", "o.bdg"], "a track needs the name of each sequence"),
        (["places.tsv", "--windows", "5", "-o", "o.bdg"], "a track needs the name of each sequence"),
        (["blank.tsv", "--windows", "5", "-o", "o.bdg"], "a track needs the name of each sequence"),
        (["r.bed", "--genome", "genome.fa", "--missing_flanks", "cut"], "--missing_flanks: in windows and regions"),
        (["genome.fa", "--windows", "5", "--missing_flanks", "cut"], "--missing_flanks: in windows and regions"),
        (["n.fa", "--windows", "5"], "n.fa: there is no window with a base."),
        (["v.vcf"], "v.vcf: by its name, this file is variants, which `proformer variants` scores."),
    ],
)
def test_what_does_not_fit_is_refused(proformer, arguments, reason):
    Path("r.bed").write_text("chrI\t10\t22\n")
    Path("table.tsv").write_text("sequence\tend\nACGTACGTACGT\t3\n")
    Path("plain.tsv").write_text("sequence\tn\nACGTACGTACGT\t3\n")
    Path("places.tsv").write_text("chromosome\tsequence\nchrI\tACGTACGTACGT\n")
    Path("blank.tsv").write_text("name\tsequence\n  \tACGTACGTACGT\n")
    Path("n.fa").write_text(">a\nNNNNNN\n")
    Path("v.vcf").write_text("##fileformat=VCFv4.2\n")
    code, output, error = proformer(*arguments)
    assert (code, output) == (1, "") and reason in error and error.count("\n") == 1
    assert not Path("o.bedgraph").exists() and not Path("o.bdg").exists()
