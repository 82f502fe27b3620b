"""Tests of the tokenizer against a plain implementation of its definition."""

import json
import pickle
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import AutoTokenizer, DataCollatorWithPadding, pipeline

from modeling_proformer import (
    InputError,
    InvalidSequenceError,
    ProformerForSequenceClassification,
    ProformerTokenizer,
    load_checkpoint,
)


FIVE, THREE = "TGCATTTTTTTCACATC", "GGTTACGGCTGTT"
COMPLEMENT = str.maketrans("ACGTNM", "TGCANM")


def plain_tokens(insert: str, kmer_size: int, stride: int, width: int) -> list[str]:
    """Return the k-mers that the definition gives, one window at a time."""
    forward = insert.center(width, "N")
    both = forward + forward.translate(COMPLEMENT)[::-1]
    padding = max(kmer_size - stride, 0)
    padded = "-" * (padding // 2) + both + "-" * (padding - padding // 2)
    return [padded[start : start + kmer_size] for start in range(0, len(both), stride)]


def plain_id(token: str) -> int:
    number = 0
    for base in token:
        number = 7 * number + "-ACGTNM".index(base)
    return number


constructs = st.tuples(st.integers(1, 12), st.integers(1, 3), st.integers(1, 10))


@given(constructs, st.data())
def test_tokens_are_those_of_the_definition(construct, data):
    kmer_size, stride, width = construct[0], construct[1], construct[1] * construct[2]
    tokenizer = ProformerTokenizer(kmer_size=kmer_size, kmer_stride=stride, insert_width=width)
    inserts = data.draw(st.lists(st.text("ACGTNM", min_size=1, max_size=width), min_size=1, max_size=5))
    batch = tokenizer(inserts, return_tensors="np", allow_mask=True)
    expected = [plain_tokens(insert, kmer_size, stride, width) for insert in inserts]
    assert batch["input_ids"].tolist() == [[plain_id(token) for token in tokens] for tokens in expected]
    assert batch["token_type_ids"].tolist() == [[0] * (width // stride) + [1] * (width // stride)] * len(inserts)
    assert batch["attention_mask"].all()
    for insert, tokens in zip(inserts, expected, strict=True):
        found = tokenizer.tokenize(insert, allow_mask=True)
        assert ["-" * kmer_size if token == "[PAD]" else token for token in found] == tokens
        assert tokenizer.convert_tokens_to_ids(found) == [plain_id(token) for token in tokens]
        decoded = tokenizer.decode(tokenizer(insert, allow_mask=True)["input_ids"])
        forward = insert.center(width, "N")
        if kmer_size >= stride:
            assert decoded == forward + forward.translate(COMPLEMENT)[::-1]


@given(st.lists(st.text("acgtunACGTUN", min_size=1, max_size=12), min_size=1, max_size=6))
def test_one_sequence_and_many_are_the_same(sequences):
    tokenizer = ProformerTokenizer(kmer_size=4, insert_width=12)
    many = tokenizer(sequences)
    for row, sequence in enumerate(sequences):
        one = tokenizer(sequence)
        assert {name: values[row] for name, values in many.items()} == dict(one)
        assert tokenizer(sequence, return_tensors="pt")["input_ids"].tolist() == [one["input_ids"]]
    upper = [sequence.upper().replace("U", "T") for sequence in sequences]
    assert tokenizer(upper)["input_ids"] == many["input_ids"]


@given(st.text(alphabet="ACGTN", min_size=1, max_size=12))
def test_the_forward_strand_alone_is_the_first_half_except_at_the_junction(insert):
    both, forward = (
        ProformerTokenizer(kmer_size=3, insert_width=12, strands=strands)(insert) for strands in ("both", "forward")
    )
    assert forward["input_ids"][:11] == both["input_ids"][:11]
    assert forward["token_type_ids"] == [0] * 12
    assert forward["attention_mask"] == [1] * 12


def test_real_promoters(shared, yeast_tokenizer):
    sequences = pd.read_csv(shared / "data" / "yeast" / "dream_train_sample.tsv", sep="\t").sequence[:300].tolist()
    inserts = [sequence.removeprefix(FIVE).removesuffix(THREE) for sequence in sequences]
    fitting = [row for row, insert in enumerate(inserts) if len(insert) <= 100]
    assert len({len(inserts[row]) for row in fitting}) > 3
    ids = yeast_tokenizer([sequences[row] for row in fitting], return_tensors="np")["input_ids"]
    for row, found in zip(fitting, ids, strict=True):
        assert found.tolist() == [plain_id(token) for token in plain_tokens(inserts[row], 10, 1, 100)]


@given(st.text("ACGT", min_size=1, max_size=100))
def test_flanks_are_trimmed_where_both_are_present(insert):
    # Half of a construct is refused: see `test_missing_flanks`.
    assume(not insert.startswith(FIVE) and not insert.endswith(THREE))
    tokenizer = ProformerTokenizer(five_prime_flank=FIVE, three_prime_flank=THREE.lower())
    expected = ProformerTokenizer().encode_letters([insert])
    for given_as in (insert, FIVE + insert + THREE, (FIVE + insert + THREE).lower()):
        np.testing.assert_array_equal(tokenizer.encode_letters([given_as]), expected)


def test_missing_flanks():
    damaged = "A" + FIVE[1:] + "ACGTACGT" + THREE
    flanks = {"five_prime_flank": FIVE, "three_prime_flank": THREE}
    with pytest.raises(InvalidSequenceError, match=r"^Sequence 2: the 5′ flank TGCATTTTTTTCACATC is missing\."):
        ProformerTokenizer(**flanks)(["ACGT", damaged])
    with pytest.raises(InvalidSequenceError, match=r"^Sequence 1: the 5′ flank .* and the 3′ flank .* is missing"):
        ProformerTokenizer(**flanks, missing_flanks="refuse")(["ACGT", damaged])
    cut = ProformerTokenizer(**flanks, missing_flanks="cut").encode_letters([damaged])
    np.testing.assert_array_equal(cut, ProformerTokenizer().encode_letters(["ACGTACGT"]))
    for policy in ("keep", "cut", "refuse"):
        with pytest.raises(InvalidSequenceError, match="Sequence 1: there is no insert between its flanks"):
            ProformerTokenizer(**flanks, missing_flanks=policy)(FIVE + THREE)
    one_sided = ProformerTokenizer(five_prime_flank=FIVE)
    np.testing.assert_array_equal(
        one_sided.encode_letters([FIVE + "ACG", "ACG"])[0], one_sided.encode_letters(["ACG"])[0]
    )


@given(st.text("ACGT", min_size=20, max_size=80), st.integers(0, 30), st.integers(0, 30), st.data())
def test_with_cut_damaged_flanks_are_trimmed_and_an_insert_alone_is_not(insert, left, right, data):
    tokenizer = ProformerTokenizer(
        insert_width=80, five_prime_flank=FIVE, three_prime_flank=THREE, missing_flanks="cut"
    )
    flanks = [list(FIVE), list(THREE)]
    for flank in flanks:
        for position in data.draw(st.sets(st.integers(0, len(flank) - 1), max_size=3)):
            flank[position] = data.draw(st.sampled_from("ACGTN"))
    five, three = map("".join, flanks)
    assert tokenizer.inserts([insert, FIVE + insert + THREE]) == [insert] * 2
    if not five.startswith("N") and not three.endswith("N"):
        assert tokenizer.inserts(["N" * left + five + insert + three + "N" * right]) == [insert]
    assert tokenizer.inserts([five + insert + three]) == [insert]


@pytest.mark.parametrize("position", range(len(FIVE)))
def test_with_cut_a_flank_with_a_deletion_or_insertion_is_recognised_and_cut_by_its_length(position):
    tokenizer = ProformerTokenizer(
        insert_width=81, five_prime_flank=FIVE, three_prime_flank=THREE, missing_flanks="cut"
    )
    for flank in (FIVE[:position] + FIVE[position + 1 :], FIVE[:position] + "G" + FIVE[position:]):
        construct = flank + "ACGGTTGCAT" * 8 + THREE
        assert tokenizer.inserts([construct]) == [construct[len(FIVE) : -len(THREE)]]


@pytest.mark.parametrize("flank", ["GCTAGCTA", "GCTAGCTAGC", "ACCGGATTGCAA", "GGTTACGGCTGTT"])
def test_with_cut_an_insert_alone_stays_whole_although_the_only_flank_is_short(flank):
    tokenizer = ProformerTokenizer(insert_width=80, five_prime_flank=flank, missing_flanks="cut")
    inserts = ["".join(bases) for bases in np.random.default_rng(0).choice(list("ACGT"), (5000, 80))]
    cut = [found for found, insert in zip(tokenizer.inserts(inserts), inserts, strict=True) if found != insert]
    assert len(cut) <= 5


def test_with_cut_nothing_is_cut_off_where_no_flank_is_recognised():
    tokenizer = ProformerTokenizer(
        insert_width=80, five_prime_flank=FIVE, three_prime_flank=THREE, missing_flanks="cut"
    )
    rng = np.random.default_rng(0)
    inserts = ["".join(rng.choice(list("ACGT"), 80)) for _ in range(2000)]
    assert tokenizer.inserts(inserts) == inserts
    with pytest.raises(InvalidSequenceError, match="its insert has 110 bases, but the construct has room for 80"):
        tokenizer("".join(rng.choice(list("ACGT"), 110)))
    with pytest.raises(InvalidSequenceError, match="the 3′ flank GGTTACGGCTGTT is missing"):
        tokenizer(FIVE + inserts[0])


@given(st.text("ACGT", min_size=1, max_size=30), st.integers(0, 40), st.integers(0, 40))
def test_n_at_the_ends_is_padding(insert, left, right):
    # Half of a construct is refused: see `test_missing_flanks`.
    assume(not insert.startswith(FIVE) and not insert.endswith(THREE))
    flanks = {"five_prime_flank": FIVE, "three_prime_flank": THREE}
    padded = "N" * left + FIVE + insert + THREE + "n" * right
    for policy in ("keep", "cut", "refuse"):
        assert ProformerTokenizer(**flanks, missing_flanks=policy).inserts([padded]) == [insert]
    # Without flanks, it gives an insert its place, as long as it fits.
    alone = "N" * left + insert + "N" * right
    for settings in ({}, flanks):
        tokenizer = ProformerTokenizer(insert_width=40, **settings)
        assert tokenizer.inserts([alone]) == [alone if len(alone) <= 40 else insert]


@given(st.lists(st.text("ACGT", min_size=1, max_size=20), min_size=1, max_size=5), st.data())
def test_other_characters_are_refused_by_row_position_and_character(sequences, data):
    tokenizer = ProformerTokenizer(kmer_size=3, insert_width=30)
    row = data.draw(st.integers(0, len(sequences) - 1))
    position = data.draw(st.integers(0, len(sequences[row])))
    character = data.draw(st.characters(exclude_characters="ACGTUNacgtun"))
    sequences[row] = sequences[row][:position] + character + sequences[row][position:]
    with pytest.raises(InvalidSequenceError) as error:
        tokenizer(sequences)
    assert error.value.row == row
    assert str(error.value).startswith(f"Sequence {row + 1}: {character!r} at position {position + 1} is not one of")
    # Users of the command line and of the Space read this too, so it names no argument.
    assert str(error.value).endswith("base; M is a masked base." if character in "Mm" else "an unknown base.")


def test_inserts_and_their_lengths_have_no_flanks():
    tokenizer = ProformerTokenizer(insert_width=4, five_prime_flank="GGGG")
    sequences = ["ggggacguACGN", "AC"]
    assert tokenizer.inserts(sequences) == ["ACGTACG", "AC"]
    assert tokenizer.insert_lengths(sequences).tolist() == [7, 2]


def test_codes_are_read_with_flanks_which_are_trimmed_from_any_rows():
    tokenizer = ProformerTokenizer(five_prime_flank="GGGG", three_prime_flank="TT")
    codes, starts, lengths = tokenizer.read_codes(["GGGGACNTT", "CA", "GGGGTTT"])
    assert codes.dtype == np.uint8
    assert codes.tolist() == ["-ACGTN".index(base) for base in "GGGGACNTTCAGGGGTTT"]
    assert (starts.tolist(), lengths.tolist()) == ([0, 9, 11], [9, 2, 7])
    starts, lengths = tokenizer.trim_flanks(codes, starts[[2, 0, 1]], lengths[[2, 0, 1]])
    assert (starts.tolist(), lengths.tolist()) == ([15, 4, 9], [1, 3, 2])
    assert tokenizer.read_codes(["AM"], allow_mask=True)[0].tolist() == [1, 6]
    assert [len(array) for array in tokenizer.trim_flanks(*tokenizer.read_codes([]))] == [0, 0]


def test_a_missing_flank_is_reported_by_its_row_among_many():
    tokenizer = ProformerTokenizer(five_prime_flank=FIVE, three_prime_flank=THREE)
    sequences = [FIVE + "ACGT" + THREE] * 3000 + [FIVE + "ACGT"] + ["A"] * 3000
    with pytest.raises(InvalidSequenceError, match="the 3′ flank GGTTACGGCTGTT is missing") as error:
        tokenizer.trim_flanks(*tokenizer.read_codes(sequences))
    assert error.value.row == 3000


def test_memory_grows_by_less_than_the_sequences_of_a_large_table():
    tokenizer = ProformerTokenizer(five_prime_flank=FIVE, three_prime_flank=THREE)
    codes, starts, lengths = tokenizer.read_codes([FIVE + "ACGT" * 20 + THREE] * 50_000)
    tracemalloc.start()
    tokenizer.trim_flanks(codes, starts, lengths)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < codes.nbytes


def test_too_long_is_refused_unless_truncation_is_asked_for():
    tokenizer = ProformerTokenizer(kmer_size=3, insert_width=4)
    with pytest.raises(
        InvalidSequenceError, match="Sequence 2: its insert has 6 bases, but the construct has room for 4"
    ):
        tokenizer(["ACGT", "ACGTAA", "ACGTACGTACGT"])
    assert tokenizer("ACGTAA", truncation=True)["input_ids"] == tokenizer("ACGT")["input_ids"]
    tokenizer.truncation_side = "left"
    assert tokenizer("AAACGT", truncation=True)["input_ids"] == tokenizer("ACGT")["input_ids"]


@pytest.mark.parametrize(
    ("sequences", "reason"),
    [("", "it is empty"), (["ACG", ""], "it is empty"), (["ACG", None], "NoneType"), (["ACG", float("nan")], "float")],
)
def test_anything_but_a_sequence_is_refused(sequences, reason):
    with pytest.raises(InvalidSequenceError, match=reason) as error:
        ProformerTokenizer()(sequences)
    assert error.value.row == (0 if sequences == "" else 1)


@pytest.mark.parametrize(
    "options",
    [
        {"text_pair": "ACGT"},
        {"max_length": 100, "truncation": True},
        {"max_length": 512, "padding": "max_length"},
        {"stride": 2},
        {"return_overflowing_tokens": True},
        {"padding": True, "pad_to_multiple_of": 64},
    ],
)
def test_layouts_that_a_construct_does_not_have_are_refused(options):
    with pytest.raises(ValueError, match="Not supported: "):
        ProformerTokenizer()("ACGT", **options)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kmer_size": 0},
        {"kmer_size": 23},
        {"insert_width": 0},
        {"kmer_stride": 3},
        {"missing_flanks": "trim"},
        {"strands": "reverse"},
        {"five_prime_flank": "ACGX"},
    ],
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ProformerTokenizer(**arguments)


def test_a_saved_tokenizer_loads_unchanged(tmp_path):
    tokenizer = ProformerTokenizer(
        kmer_size=5,
        kmer_stride=2,
        insert_width=30,
        five_prime_flank="ACG",
        three_prime_flank="TTT",
        missing_flanks="refuse",
    )
    tokenizer.save_pretrained(tmp_path)
    settings = (tmp_path / "tokenizer_config.json").read_text()
    for loaded in (ProformerTokenizer.from_pretrained(tmp_path), pickle.loads(pickle.dumps(tokenizer))):
        assert loaded("ACGCATTTT")["input_ids"] == tokenizer("ACGCATTTT")["input_ids"]
        assert loaded.missing_flanks == "refuse"
        assert loaded.model_max_length == 30
    ProformerTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer_config.json").read_text() == settings


def test_arguments_replace_those_that_were_saved(tmp_path):
    """The saved `model_max_length` was that of another construct, and truncation was refused."""
    ProformerTokenizer(kmer_size=3, insert_width=4).save_pretrained(tmp_path)
    for changes in ({"insert_width": 12}, {"strands": "forward"}, {"kmer_stride": 2}, {"kmer_size": 5}):
        loaded, made = (
            AutoTokenizer.from_pretrained(tmp_path, **changes),
            ProformerTokenizer(**{"kmer_size": 3, "insert_width": 4} | changes),
        )
        assert loaded("ACGTACGTACGTAC", truncation=True).data == made("ACGTACGTACGTAC", truncation=True).data
        assert loaded.model_max_length == loaded.num_tokens == made.num_tokens


@pytest.mark.parametrize("saved", [None, {}, {"tokenizer_class": "ProformerTokenizer"}], ids=str)
def test_no_tokenizer_is_made_up_for_a_model_without_one(tmp_path, tiny_config, saved):
    """It had a width of 100 and no flanks, so the model predicted other values without a sign."""
    ProformerForSequenceClassification(tiny_config).save_pretrained(tmp_path)
    if saved is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(saved))
    for open_folder in (
        AutoTokenizer.from_pretrained,
        ProformerTokenizer.from_pretrained,
        lambda folder: pipeline("text-classification", model=folder, device="cpu"),
        lambda folder: pipeline("promoter-expression", model=folder, device="cpu"),
    ):
        with pytest.raises(FileNotFoundError, match=f"^{tmp_path}: no tokenizer of Proformer was saved here"):
            open_folder(str(tmp_path))
    with pytest.raises(InputError, match=f"^{tmp_path}: .*no tokenizer of Proformer was saved here"):
        load_checkpoint(tmp_path)


def test_the_vocabulary_is_computed_and_not_stored():
    tokenizer = ProformerTokenizer()
    assert tokenizer.vocab_size == len(tokenizer) == 282_475_249
    assert tokenizer.pad_token_id == 0
    assert tokenizer.convert_tokens_to_ids("[PAD]") == tokenizer.convert_tokens_to_ids("-" * 10) == 0
    vocabulary = tokenizer.get_vocab()
    assert vocabulary["M" * 10] == len(tokenizer) - 1
    assert "ACGT" not in vocabulary and "ACGTACGTAX" not in vocabulary and 7 not in vocabulary
    with pytest.raises(KeyError):
        vocabulary["ACGT"]
    with pytest.raises(ValueError, match="is not the id of a 10-mer"):
        tokenizer.convert_ids_to_tokens(len(tokenizer))
    assert list(ProformerTokenizer(kmer_size=1).get_vocab()) == ["[PAD]", *"ACGTNM"]


def test_the_largest_kmers_do_not_overflow():
    tokenizer = ProformerTokenizer(kmer_size=22, insert_width=30)
    ids = tokenizer("M" * 30, allow_mask=True)["input_ids"]
    assert max(ids) == plain_id("M" * 22) == 7**22 - 1


@pytest.mark.parametrize("pad_to_multiple_of", [None, 8])
def test_the_libraries_padding_collator_makes_batches_that_the_model_has_positions_for(pad_to_multiple_of):
    tokenizer = ProformerTokenizer(kmer_size=3, insert_width=5)
    batch = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=pad_to_multiple_of)(
        [tokenizer("ACG"), tokenizer("TT")]
    )
    expected = tokenizer(["ACG", "TT"], return_tensors="pt")
    assert batch.keys() == expected.keys()
    for name, values in expected.items():
        assert batch[name].tolist() == values.tolist()


def test_no_token_can_be_added():
    tokenizer = ProformerTokenizer(kmer_size=3)
    with pytest.raises(ValueError, match="Cannot add '<mask>': tokens are the 3-mers"):
        tokenizer.add_tokens(["ACG", "<mask>"])


def test_options_of_a_call():
    tokenizer = ProformerTokenizer(kmer_size=3, insert_width=5)
    assert set(tokenizer("ACG", return_token_type_ids=False, return_attention_mask=False)) == {"input_ids"}
    more = tokenizer(["ACG"], return_special_tokens_mask=True, return_length=True)
    assert more["length"] == [10] and more["special_tokens_mask"] == [[0] * 10]
    assert tokenizer([], return_tensors="np")["input_ids"].shape == (0, 10)
    harmless = (
        tokenizer(["ACG"], padding="max_length", max_length=10),
        tokenizer(["ACG"], truncation=True, max_length=99),
    )
    assert harmless[0]["input_ids"] == harmless[1]["input_ids"] == more["input_ids"]


def test_auto_tokenizer(tmp_path, tiny_config, tiny_tokenizer):
    tiny_config.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    assert isinstance(AutoTokenizer.from_pretrained(tmp_path), ProformerTokenizer)
