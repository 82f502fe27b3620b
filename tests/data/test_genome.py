"""Genomes are read at any position, whatever is wrong with the index; damaged files are refused in one line."""

import gzip
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling_proformer import InputError
from modeling_proformer.data import genome as genome_module
from modeling_proformer.data.genome import Genome, read_bed, read_regions


pysam = pytest.importorskip("pysam")

CHROMOSOMES = {"chrI": "ACGTNacgtnRY-ACGGT" * 3, "chrII": "GATTACA", "3": "CC", "Chr4": "A", "chr4": "C"}


def write_fasta(path: Path, chromosomes: dict[str, str] = CHROMOSOMES, width: int = 10) -> Path:
    with open(path, "w") as file:
        for name, bases in chromosomes.items():
            lines = [bases[start : start + width] for start in range(0, len(bases), width)]
            file.write(f">{name} some words\n" + "\n".join(lines) + "\n")
    return path


def compress(path: Path) -> Path:
    pysam.tabix_compress(str(path), f"{path}.gz", force=True)
    return path.with_name(f"{path.name}.gz")


@pytest.fixture
def fasta(tmp_path) -> Path:
    return write_fasta(tmp_path / "genome.fa")


@pytest.mark.parametrize("is_compressed", [False, True])
def test_bases_are_upper_case_and_all_but_acgt_are_n(fasta, is_compressed):
    genome = Genome(compress(fasta) if is_compressed else fasta)
    assert genome.lengths == {name: len(bases) for name, bases in CHROMOSOMES.items()}
    assert genome.fetch("chrI", 0, 18) == "ACGTNACGTNNNNACGGT"
    assert genome.fetch("chrII", 2, 5) == "TTA"
    assert genome.fetch("chrII", 7, 7) == ""


@given(block=st.integers(1, 9), start=st.integers(0, 54), length=st.integers(0, 54))
def test_parts_do_not_depend_on_the_blocks_that_are_read(tmp_path_factory, block, start, length):
    path = write_fasta(tmp_path_factory.getbasetemp() / "blocks.fa")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(genome_module, "BLOCK_BASES", block)
        end = min(start + length, 54)
        whole = "".join(base if base in "ACGT" else "N" for base in CHROMOSOMES["chrI"].upper())
        assert Genome(path).fetch("chrI", start, end) == whole[start:end]


def test_names_with_and_without_chr_are_the_same_where_only_one_can_be_meant(fasta):
    genome = Genome(fasta)
    assert [genome.find(name) for name in ("I", "chrI", "chr3", "3", "chr4", "Chr4")] == [
        *("chrI", "chrI", "3", "3", "chr4", "Chr4")
    ]
    with pytest.raises(InputError, match="ambiguous chromosome: '4' may be 'Chr4' or 'chr4'"):
        genome.find("4")
    with pytest.raises(InputError, match="unknown chromosome: 'chrIII'; the genome has 'chrI', 'chrII'"):
        genome.find("chrIII")


class TestIndex:
    def test_a_missing_one_is_put_next_to_the_file_and_used_again(self, fasta):
        Genome(fasta)
        assert sorted(path.name for path in fasta.parent.iterdir()) == ["genome.fa", "genome.fa.fai"]
        index = fasta.with_name("genome.fa.fai")
        before = index.stat()
        assert Genome(fasta).fetch("chrII", 0, 3) == "GAT"
        assert index.stat() == before

    def test_where_none_can_be_written_the_genome_is_read_without(self, fasta):
        # Not even root can write a file to this folder.
        with open(fasta) as file:
            link = Path(f"/proc/self/fd/{file.fileno()}")
            if not link.exists():
                pytest.skip("there is no /proc")
            assert Genome(link).fetch("chrII", 0, 3) == "GAT"
        assert [path.name for path in fasta.parent.iterdir()] == ["genome.fa"]

    @pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
    def test_a_folder_may_be_read_only(self, fasta):
        fasta.parent.chmod(0o500)
        assert Genome(fasta).fetch("chrII", 0, 3) == "GAT"
        fasta.parent.chmod(0o700)

    def test_one_of_an_older_file_is_not_used(self, fasta, caplog):
        Genome(fasta)
        write_fasta(fasta, {"chrI": "TTTT", "chrII": "CCCCC"}, width=60)
        os.utime(f"{fasta}.fai", (0, 0))
        assert Genome(fasta).fetch("chrII", 0, 5) == "CCCCC"
        assert "its index is older than the file" in caplog.text

    def test_one_that_says_more_than_the_file_has_is_noticed(self, fasta):
        Genome(fasta)
        fasta.write_bytes(fasta.read_bytes()[:40])
        os.utime(f"{fasta}.fai")
        genome = Genome(fasta)
        with pytest.raises(InputError, match=r"chrII, positions 1 to 7, cannot be read; the file is damaged"):
            genome.fetch("chrII", 0, 7)

    def test_one_that_is_no_index_is_named(self, fasta):
        fasta.with_name("genome.fa.fai").write_text("chrI is 54 bases long\n")
        with pytest.raises(InputError, match=r"its index .*genome\.fa\.fai cannot be read; delete it\."):
            Genome(fasta)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"chrI\nACGT\n", "this is not FASTA, which begins with '>'"),
        (b">a\nACGT\nAC\nACGT\n", "no index can be made of it"),
        (gzip.compress(b">a\nACGT\n", mtime=0), "in a file compressed by gzip, no position can be found; use bgzip"),
        (None, "no such file"),
    ],
)
def test_other_files_are_refused(tmp_path, content, reason):
    path = tmp_path / "genome.fa"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=reason):
        Genome(path)
    assert [file.name for file in tmp_path.iterdir()] == ([] if content is None else ["genome.fa"])


@pytest.mark.parametrize("indexed", [False, True])
def test_a_bgzip_cut_short_is_refused(fasta, indexed):
    whole = compress(fasta)
    if indexed:
        Genome(whole)
    whole.write_bytes(whole.read_bytes()[:-10])
    with pytest.raises(InputError, match="cut short, because the end mark of bgzip is missing"):
        Genome(whole)


class TestBed:
    LINES = (
        "# comment\ntrack name=x\nbrowser position\n\nI\t1\t4\nchrII 0 7 whole 0 - 3 4\n"
        "chrI\t2\t5\tname with blanks\t.\t.\n"
    )

    @pytest.mark.parametrize("name", ["r.bed", "r.bed.gz"])
    def test_regions_have_three_columns_or_more(self, fasta, tmp_path, name):
        with (gzip.open if name.endswith("gz") else open)(tmp_path / name, "wt") as file:
            file.write(self.LINES)
        assert [tuple(region) for region in read_bed(tmp_path / name, Genome(fasta))] == [
            ("line 5", "chrI", 1, 4, "", "+", ""),
            ("line 6", "chrII", 0, 7, "whole", "-", ""),
            ("line 7", "chrI", 2, 5, "name with blanks", "+", ""),
        ]

    def test_sequences_are_read_on_the_strand(self, fasta, tmp_path):
        (tmp_path / "r.bed").write_text(self.LINES)
        rows = read_regions(tmp_path / "r.bed", Genome(fasta))
        assert [row.cells["sequence"] for row in rows] == ["CGT", "TGTAATC", "GTN"]

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("chrI\t5\t5", "the start 5 is not below the end 5; BED counts from 0 and leaves the end out"),
            ("chrI\t7\t5", "the start 7 is not below the end 5"),
            ("chrI\t-1\t5", "the start -1 is below 0"),
            ("chrI\t1\t55", "the end 55 is beyond the 54 bases of chrI; BED counts from 0"),
            ("chrI\t1", "2 columns; a BED file has at least chromosome, start and end"),
            ("chrI\tone\t5", "the start 'one' is not a whole number"),
            ("chrI\t1\t5.5", "the end '5.5' is not a whole number"),
            ("chrI\t1\t5\t.\t0\tforward", "the strand 'forward' (column 6) is not +, - or ."),
            ("chrX\t1\t5", "unknown chromosome: 'chrX'"),
        ],
    )
    def test_a_line_that_is_no_region_says_why_and_the_next_one_follows(self, fasta, tmp_path, line, reason):
        (tmp_path / "r.bed").write_text(f"chrI\t0\t1\n{line}\nchrI\t0\t1\n")
        before, wrong, after = read_bed(tmp_path / "r.bed", Genome(fasta))
        assert wrong.location == "line 2" and wrong.error.startswith(reason)
        assert not before.error and not after.error

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"# nothing\n", "there are no regions in it"),
            (gzip.compress(b"chrI\t0\t1\n" * 99, mtime=0)[:-12], "the gzip data ends early"),
        ],
    )
    def test_other_files_are_refused(self, fasta, tmp_path, content, reason):
        (tmp_path / "r.bed").write_bytes(content)
        with pytest.raises(InputError, match=reason):
            list(read_bed(tmp_path / "r.bed", Genome(fasta)))
        with pytest.raises(InputError, match="no such file"):
            list(read_bed(tmp_path / "none.bed", Genome(fasta)))


def test_without_pysam_the_extra_is_named(fasta, monkeypatch):
    monkeypatch.setitem(sys.modules, "pysam", None)
    with pytest.raises(ImportError, match=r"pip install 'modeling-proformer\[genome\]'"):
        Genome(fasta)
