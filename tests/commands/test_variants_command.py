"""Inputs and outputs of `proformer variants`."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from modeling_proformer import ProformerForSequenceClassification, ProformerTokenizer, predict


pysam = pytest.importorskip("pysam")

BASES = "".join(np.random.default_rng(0).choice(list("ACGT"), 300))
CHROMOSOMES = {"chrI": BASES[:200], "chrII": BASES[200:270] + "N" * 30}
HEADER = "##fileformat=VCFv4.2\n" + "".join(
    f'##INFO=<ID={name},Number=1,Type=Integer,Description="{name}">\n' for name in ("DP", "END", "SVLEN")
)
COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


def other(base: str) -> str:
    return "ACGT"["CGTA".index(base)]


def at(chromosome: str, position: int, bases: int = 1) -> str:
    return CHROMOSOMES[chromosome][position - 1 : position - 1 + bases]


def line(chromosome: str, position: int, alternate: str, reference: str | None = None, name: str = ".") -> str:
    return (
        f"{chromosome.removeprefix('chr')}\t{position}\t{name}\t{reference or at(chromosome, position)}\t{alternate}"
    )


# Two that can be scored, one of them of two alleles, and all kinds that cannot.
FIRST, SECOND, THIRD = other(at("chrI", 50)), other(other(at("chrI", 50))), other(at("chrII", 20))
LINES = [
    line("chrI", 50, f"{FIRST},{SECOND}", name="rs1"),
    line("chrII", 20, THIRD),
    line("chrI", 60, "<DEL>"),
    line("chrI", 60, f"{at('chrI', 60)}[chrII:5["),
    line("chrI", 61, "*"),
    line("chrI", 62, "."),
    line("chrI", 63, other(at("chrI", 63)), reference=other(at("chrI", 63))),
    line("chrI", 64, at("chrI", 64) + "ACGT" * 5),
    line("chrI", 3, other(at("chrI", 3))),
    line("chrI", 198, other(at("chrI", 198))),
    line("chrI", 999, "A", reference="C"),
    line("chrV", 10, "A", reference="C"),
    line("chrII", 90, "A", reference="N"),
    line("chrI", 65, "R"),
]
ERRORS = [
    *("", "", ""),
    "symbolic allele: <DEL>",
    f"symbolic allele: {at('chrI', 60)}[chrII:5[",
    "spanning deletion: another record has the deletion that * stands for",
    "no alternate allele",
    f"reference mismatch: the genome has {at('chrI', 63)} and not {other(at('chrI', 63))}",
    "allele too long: 20 bases do not fit the window of 12",
    "end of chromosome: a window reaches beyond positions 1 to 200 of chrI",
    "end of chromosome: a window reaches beyond positions 1 to 200 of chrI",
    "beyond the chromosome: chrI has positions 1 to 200",
    "unknown chromosome: 'V'; the genome has 'chrI', 'chrII'",
    "only N: the genome has no bases there",
    "not bases: 'R'",
]


@pytest.fixture(autouse=True)
def genome(at_work):
    """Put a genome into the folder."""
    Path("genome.fa").write_text("".join(f">{name}\n{bases}\n" for name, bases in CHROMOSOMES.items()))
    pysam.faidx("genome.fa")


@pytest.fixture
def tokenizer() -> ProformerTokenizer:
    return ProformerTokenizer(kmer_size=3, insert_width=12, five_prime_flank="TGCATTTT", three_prime_flank="GGTTACGG")


@pytest.fixture
def model(tiny_config) -> ProformerForSequenceClassification:
    torch.manual_seed(0)
    tiny_config.id2label = {0: "expression"}
    tiny_config.interval_half_widths = {"0.9": [0.5], "0.95": [0.75]}
    return ProformerForSequenceClassification(tiny_config)


@pytest.fixture
def proformer(checkpoint, run_quietly):
    """Return a function that runs the command in this folder, and returns its status, output and error."""
    return lambda *arguments: run_quietly("variants", *arguments, "--model", checkpoint)


def write_vcf(name: str, lines=LINES, header: str = HEADER + COLUMNS) -> str:
    text = header + "".join(f"{each}\t.\tPASS\tDP=7\n" for each in lines)
    if name.endswith((".bcf", ".bgz", ".vcf.gz")) and not name.startswith("plain"):
        contigs = "".join(f"##contig=<ID={name}>\n" for name in ("I", "II", "V"))
        Path("unpacked.vcf").write_text(text.replace("#CHROM", f"{contigs}#CHROM"))
        if not name.endswith(".bcf"):
            pysam.tabix_compress("unpacked.vcf", name)
            return name
        with pysam.VariantFile("unpacked.vcf") as file, pysam.VariantFile(name, "wb", header=file.header) as packed:
            for record in file:
                packed.write(record)
    else:
        with (gzip.open if name.endswith(".gz") else open)(name, "wt") as file:
            file.write(text)
    return name


def windows(chromosome: str, position: int, alternate: str) -> list[str]:
    """Return the windows of a single-nucleotide variant, with six bases before it and five after it."""
    bases = CHROMOSOMES[chromosome][position - 7 : position + 5]
    return [bases, bases[:6] + alternate + bases[7:]]


def expected(model, tokenizer) -> np.ndarray:
    """Return the reference, the alternate and the difference of the alleles that can be scored."""
    pairs = [windows("chrI", 50, FIRST), windows("chrI", 50, SECOND), windows("chrII", 20, THIRD)]
    values = predict(model, tokenizer, [window for pair in pairs for window in pair]).reshape(3, 2)
    return np.column_stack([values, values[:, 1] - values[:, 0]])


def read(name: str) -> pd.DataFrame:
    if name.endswith(".parquet"):
        return pd.read_parquet(name).fillna({"error": ""})
    return pd.read_csv(name, sep="\t" if ".tsv" in name else ",").fillna({"error": "", "alternate": "", "id": ""})


NUMBERS = ["reference_expression", "alternate_expression", "difference_expression"]


class TestInputs:
    @pytest.mark.parametrize("name", ["v.vcf", "v.vcf.gz", "v.vcf.bgz", "v.bcf", "plain.vcf.gz"])
    def test_alleles_of_a_vcf_are_scored_or_marked(self, proformer, model, tokenizer, name):
        code, output, error = proformer(write_vcf(name), "--genome", "genome.fa", "-o", "o.tsv")
        assert (code, output) == (0, ""), error
        assert error.startswith("12 of 15 rows have no score: 2 symbolic allele (first record 3 (I:60): <DEL>); 1 ")
        assert error.count("\n") == 1
        table = read("o.tsv")
        assert table["error"].tolist() == ERRORS
        assert table["position"].tolist()[:4] == [50, 50, 20, 60]
        assert table["alternate"].tolist()[:3] == [FIRST, SECOND, THIRD]
        assert table["id"].tolist()[:3] == ["rs1", "rs1", ""]
        assert table["window"].tolist()[:3] == ["chrI:44-55", "chrI:44-55", "chrII:14-25"]
        np.testing.assert_allclose(table[NUMBERS][:3], expected(model, tokenizer), atol=1e-5)
        assert table[NUMBERS][3:].isna().all(axis=None)

    def test_a_table_has_the_same_columns_with_other_names(self, proformer, model, tokenizer):
        rows = [each.split("\t") for each in LINES[:2]]
        frame = pd.DataFrame(rows, columns=["Chrom", "pos", "name", "REF", "other"])
        frame["n"] = range(2)
        frame.to_csv("v.csv", index=False)
        assert proformer("v.csv", "--genome", "genome.fa") == (
            *(1, ""),
            "proformer: v.csv: no column has the name 'alternate' or 'alt' or 'alternate_allele' or 'alternative'; "
            "name the alternate with --alternate. There are 'Chrom', 'pos', 'name', 'REF', 'other', 'n'.\n",
        )
        names = ["--alternate", "other"]
        assert proformer("v.csv", "--genome", "genome.fa", *names, "-o", "o.parquet") == (0, "", "")
        table = read("o.parquet")
        assert table.columns.tolist() == [*frame.columns, "window", "strand", *NUMBERS, "error"]
        assert table["other"].tolist() == [FIRST, SECOND, THIRD]
        np.testing.assert_allclose(table[NUMBERS], expected(model, tokenizer), atol=1e-5)

    def test_pairs_of_sequences_need_no_genome(self, proformer, model, tokenizer):
        pairs = [windows("chrI", 50, FIRST), ["ACGT", "ACGTT"], ["AC", "AXC"], ["", "AC"]]
        frame = pd.DataFrame(pairs, columns=["reference", "alternate"])
        frame.insert(0, "n", [1.5, 2.5, 3.5, 4.5])
        frame.to_csv("pairs.csv", index=False)
        code, output, error = proformer("pairs.csv", "-o", "o.csv")
        assert (code, output) == (0, "")
        assert error.startswith("2 of 4 rows have no score: 2 unreadable sequence (first line 4: alternate: ")
        table = read("o.csv")
        assert table.columns.tolist() == ["n", "reference", "alternate", *NUMBERS, "error"]
        values = predict(model, tokenizer, [*pairs[0], *pairs[1]]).reshape(2, 2)
        np.testing.assert_allclose(table[NUMBERS[:2]][:2], values, atol=1e-5)
        assert table["error"][3] == "unreadable sequence: column 'reference': the sequence is empty."

    def test_measured_differences_are_compared(self, proformer, model, tokenizer):
        pairs = [windows("chrI", position, other(at("chrI", position))) for position in range(50, 60)]
        values = predict(model, tokenizer, [window for pair in pairs for window in pair]).reshape(-1, 2)
        frame = pd.DataFrame(pairs, columns=["ref", "alt"]).assign(measured=2 * (values[:, 1] - values[:, 0]) + 1)
        frame["measured"] = frame["measured"].astype(object)
        frame.loc[3, "measured"], frame.loc[4, "measured"] = "", "high"
        frame.to_csv("pairs.tsv", sep="\t", index=False)
        assert proformer("pairs.tsv", "--measured", "measured", "-o", "o.tsv") == (
            *(0, ""),
            "1 of 10 rows have no score: 1 unreadable measurement (first line 6: column 'measured': 'high' is not a "
            "finite number).\nPearson r 1.0000, Spearman ρ 1.0000 over 8 variants (and 1 without a "
            "measurement); figure: o.png\n",
        )
        assert Path("o.png").stat().st_size > 0


class TestOutputs:
    def test_a_vcf_keeps_its_records_and_gets_info_fields(self, proformer, model, tokenizer):
        for name in ("o.vcf", "o.vcf.gz"):
            assert proformer(write_vcf("v.vcf"), "--genome", "genome.fa", "--offsets", 3, "-o", name)[0] == 0
        assert pysam.VariantFile("o.vcf.gz").compression == "BGZF"
        assert gzip.decompress(Path("o.vcf.gz").read_bytes()) == Path("o.vcf").read_bytes()
        proformer("v.vcf", "--genome", "genome.fa", "--offsets", 3, "-o", "o.tsv")
        table = read("o.tsv")
        before = [str(record).split("\t") for record in pysam.VariantFile("v.vcf")]
        records = [*pysam.VariantFile("o.vcf")]
        assert [str(record).split("\t")[:7] for record in records] == [fields[:7] for fields in before]
        assert {record.info["DP"] for record in records} == {7}
        rows = iter(table.to_dict("records"))
        for record in records:
            for allele in range(len(record.alts or ["."])):
                row = next(rows)
                if record.alts is None:
                    assert [*record.info] == ["DP", "proformer_error"]
                    assert record.info["proformer_error"] == ("no_alternate_allele",)
                    continue
                assert record.info["proformer_error"][allele] in (
                    row["error"].split(":")[0].replace(" ", "_"),
                    ".",
                    None,
                )
                for column in [*NUMBERS, "spread_expression"]:
                    value = record.info[f"proformer_{column}"][allele]
                    assert value is None if row["error"] else value == pytest.approx(row[column], abs=1e-5)
                assert record.info["proformer_windows"][allele] == row["windows"] == (0 if row["error"] else 3)
        assert records[0].info["proformer_window"] == ("chrI:40-59", "chrI:40-59")

    def test_promoters_are_read_on_their_strand_each_in_a_row(self, proformer, model, tokenizer):
        Path("p.bed").write_text("chrI\t40\t52\tone\t0\t-\nI\t45\t55\ttwo\t0\t+\nchrII\t0\t12\tthree\t0\t+\n")
        lines = [LINES[0], LINES[1], line("chrI", 52, "A", at("chrI", 52, 3)), line("chrI", 54, "A" + at("chrI", 54))]
        write_vcf("v.vcf", lines)
        arguments = ["v.vcf", "--genome", "genome.fa", "--promoters", "p.bed"]
        assert proformer(*arguments, "-o", "o.tsv")[0] == 0
        table = pd.read_csv("o.tsv", sep="\t").fillna({"error": "", "promoter": ""})
        assert table["promoter"].tolist() == ["one", "two", "one", "two", "", "one", "two", "two"]
        assert table["strand"].fillna("").tolist() == ["-", "+", "-", "+", "", "-", "+", "+"]
        assert table["error"].tolist()[4:6] == [
            "no promoter",
            "end of promoter: the variant reaches beyond the promoter",
        ]
        reverse = CHROMOSOMES["chrI"][40:52].translate(str.maketrans("ACGT", "TGCA"))[::-1]
        two = CHROMOSOMES["chrI"][45:55]
        values = predict(model, tokenizer, [reverse, two, two[:4] + FIRST + two[5:]])[:, 0]
        assert table["reference_expression"][0] == pytest.approx(values[0], abs=1e-5)
        assert table["reference_expression"][1] == pytest.approx(values[1], abs=1e-5)
        assert table["alternate_expression"][1] == pytest.approx(values[2], abs=1e-5)
        assert proformer(*arguments, "-o", "o.vcf")[0] == 0
        record = next(pysam.VariantFile("o.vcf"))
        assert record.info["proformer_allele"] == (FIRST, FIRST, SECOND, SECOND)
        assert record.info["proformer_promoter"] == ("one", "two", "one", "two")

    def test_the_number_of_windows_is_reported_and_one_has_no_spread(self, proformer):
        Path("p.bed").write_text("chrI\t40\t52\tfits\nchrI\t42\t55\tone_more\n")
        write_vcf("v.vcf", LINES[:1])
        arguments = ["v.vcf", "--genome", "genome.fa", "--promoters", "p.bed", "--offsets", 4]
        for name in ("o.tsv", "o.parquet"):
            assert proformer(*arguments, "-o", name) == (0, "", "")
            table = read(name) if name.endswith("parquet") else pd.read_csv(name, sep="\t")
            assert table["windows"].tolist() == [1, 2, 1, 2]
            assert table["spread_expression"].isna().tolist() == [True, False, True, False]
        assert proformer(*arguments, "-o", "o.vcf") == (0, "", "")
        record = next(pysam.VariantFile("o.vcf"))
        assert record.info["proformer_windows"] == (1, 2, 1, 2)
        assert [value is None for value in record.info["proformer_spread_expression"]] == [True, False, True, False]
        assert "missing if there is only one" in record.header.info["proformer_spread_expression"].description

    def test_outputs_that_would_be_one_field_are_refused(self, proformer, checkpoint, tiny_config):
        tiny_config.id2label = {0: "a b", 1: "a-b"}
        tiny_config.interval_half_widths = None
        several = ProformerForSequenceClassification(tiny_config)
        write_vcf("v.vcf", LINES[:1])
        several.save_pretrained(checkpoint)
        assert proformer("v.vcf", "--genome", "genome.fa", "-o", "o.vcf") == (
            *(1, ""),
            "proformer: The columns 'reference_a b' and 'reference_a-b' would both be the INFO field "
            "proformer_reference_a_b; rename an output of the model in its configuration (id2label), or write a "
            "table.\n",
        )
        assert not Path("o.vcf").exists()
        assert proformer("v.vcf", "--genome", "genome.fa", "-o", "o.tsv")[0] == 0

    def test_an_interval_of_the_difference_is_as_wide_as_both_intervals(self, proformer):
        write_vcf("v.vcf", LINES[:2])
        assert proformer("v.vcf", "--genome", "genome.fa", "--interval", 0.9, "-o", "o.tsv") == (0, "", "")
        table = read("o.tsv")
        for end, sign in (("low", -1), ("high", 1)):
            ends = table["difference_expression"] + sign * 1.5
            np.testing.assert_allclose(table[f"difference_expression_{end}"], ends, atol=1e-4)


class TestErrors:
    def test_a_genome_of_another_build_stops_the_run(self, proformer):
        wrong = [line("chrI", 20 + n % 150, "A", other(at("chrI", 20 + n % 150))) for n in range(1200)]
        for lines, checked in ((wrong, "1,000"), (wrong[:30], 30)):
            write_vcf("v.vcf", [LINES[0], *lines])
            code, _, error = proformer("v.vcf", "--genome", "genome.fa", "-o", "o.tsv")
            assert code == 1 and f"of the first {checked}" in error.replace("31", "30") and "another build" in error
            assert error.count("\n") == 1 and not Path("o.tsv").exists()

    def test_alternate_alleles_of_a_record_count_its_reference_allele_once(self, proformer):
        wrong = [line("chrI", 50, "A,C,G,T", other(at("chrI", 50)))]
        right = [line("chrI", position, other(at("chrI", position))) for position in range(60, 90)]
        write_vcf("v.vcf", wrong * 10 + right)
        code, _, error = proformer("v.vcf", "--genome", "genome.fa", "-o", "o.tsv")
        assert code == 0 and error.startswith("40 of 70 rows have no score: 40 reference mismatch")

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("\n".join(LINES), "this is no VCF, which begins with '##fileformat=VCFv4.'"),
            (HEADER + COLUMNS, "there are no variants in it"),
            (HEADER + COLUMNS + LINES[0] + "\t.\tPASS\tDP=7\n1\tx\n", "record 2: cannot be read, after I:50"),
            ("", "this is no VCF"),
        ],
    )
    def test_what_is_no_vcf_is_refused(self, proformer, content, reason):
        Path("v.vcf").write_text(content)
        code, _, error = proformer("v.vcf", "--genome", "genome.fa", "-o", "o.tsv")
        assert code == 1 and reason in error and error.count("\n") == 1
        assert not Path("o.tsv").exists()

    @pytest.mark.parametrize("name", ["v.vcf.gz", "plain.vcf.gz", "v.bcf"])
    def test_a_file_cut_short_is_refused(self, proformer, name):
        path = Path(write_vcf(name))
        path.write_bytes(path.read_bytes()[:-20])
        code, _, error = proformer(name, "--genome", "genome.fa", "-o", "o.vcf")
        assert code == 1 and error.startswith(f"proformer: {name}") and error.count("\n") == 1
        assert not Path("o.vcf").exists()

    def test_an_unsorted_vcf_is_scored_as_it_stands(self, proformer, model, tokenizer):
        write_vcf("v.vcf", [LINES[1], LINES[0]])
        assert proformer("v.vcf", "--genome", "genome.fa", "-o", "o.tsv") == (0, "", "")
        np.testing.assert_allclose(read("o.tsv")[NUMBERS], expected(model, tokenizer)[[2, 0, 1]], atol=1e-5)

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (["v.vcf"], "--genome: a VCF has no sequences, so name the FASTA file of its genome."),
            (["v.vcf", "--genome", "none.fa"], "none.fa: no such file."),
            (["none.vcf", "--genome", "genome.fa"], "none.vcf: no such file."),
            (["v.vcf", "--genome", "genome.fa", "--offsets", "13"], "--offsets is 13, but must be 1 to 12"),
            (["v.vcf", "--genome", "genome.fa", "--width", "13"], "--width is 13, but must be 1 to 12"),
            (
                ["v.vcf", "--genome", "genome.fa", "--promoters", "bad.bed"],
                "bad.bed, line 2: the start 9 is not below",
            ),
            (
                ["v.vcf", "--genome", "genome.fa", "--interval", "0.7"],
                "needs those of both alleles at 0.85: This model",
            ),
            (["t.tsv"], "give its FASTA file with --genome"),
            (["t.tsv", "-o", "o.vcf"], "only a VCF or BCF becomes a VCF"),
            (["t.tsv", "--promoters", "bad.bed"], "--promoters needs the --genome"),
            *(
                (["v.vcf", "--genome", "genome.fa", f"--{name}", "x"], f"--{name} is a column of a table, and a VCF")
                for name in ("chromosome", "position", "reference", "alternate")
            ),
            *(
                (
                    [name, "--genome", "genome.fa", *arguments],
                    f"{arguments[0]} is for pairs of sequences, which need no --genome.",
                )
                for name in ("v.vcf", "t.tsv")
                for arguments in (["--truncation"], ["--missing_flanks", "cut"])
            ),
        ],
    )
    def test_options_that_do_not_fit_are_refused(self, proformer, arguments, reason):
        write_vcf("v.vcf", LINES[:2])
        Path("t.tsv").write_text("chrom\tpos\tref\talt\nchrI\t1\tA\tC\n")
        Path("bad.bed").write_text("chrI\t1\t3\nchrI\t9\t9\n")
        code, _, error = proformer(*arguments)
        assert code == 1 and reason in error and error.count("\n") == 1
