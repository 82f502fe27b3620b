"""The library's common tests of tokenizers."""

import tempfile
import unittest
from unittest import mock

from library_tests import departing, load

from modeling_proformer import ProformerTokenizer


common = load("test_tokenization_common")

FIXED_LENGTH = "asks for other lengths than the construct's, which is that of every sequence"
NO_PAIRS = "encodes pairs of texts, which a construct does not have"
CLOSED_VOCABULARY = "adds tokens, but the vocabulary is all k-mers and nothing else"
LAZY_VOCABULARY = "wants a dict from get_vocab: ours is a lazy mapping, of 282 million k-mers as published"

EXCLUDED = {
    "test_added_tokens_serialization": CLOSED_VOCABULARY,
    "test_batch_encode_dynamic_overflowing": FIXED_LENGTH,
    "test_batch_encode_plus_padding": FIXED_LENGTH,
    "test_bos_token_with_add_bos_token_false": CLOSED_VOCABULARY,
    "test_bos_token_with_add_bos_token_true": CLOSED_VOCABULARY,
    "test_call": NO_PAIRS,
    "test_empty_input_string": "encodes an empty text: ours is refused, as no sequence",
    "test_encode_basic_padding": FIXED_LENGTH,
    "test_encode_plus_with_padding": FIXED_LENGTH,
    "test_get_vocab": LAZY_VOCABULARY,
    "test_mask_output": NO_PAIRS,
    "test_maximum_encoding_length_pair_input": NO_PAIRS,
    "test_maximum_encoding_length_single_input": FIXED_LENGTH,
    "test_number_of_added_tokens": NO_PAIRS,
    "test_pad_token_initialization": "expects a short sequence to be filled with [PAD]: ours is filled with N",
    "test_padding_to_multiple_of": "encodes an empty text, and expects lengths that differ",
    "test_prepare_seq2seq_batch": "for models that translate",
    "test_pretokenized_inputs": "gives texts as lists of words: DNA has none",
    "test_right_and_left_truncation": FIXED_LENGTH,
    "test_save_and_load_tokenizer": LAZY_VOCABULARY,
    "test_special_tokens_mask_input_pairs": NO_PAIRS,
    "test_tokenize_special_tokens": CLOSED_VOCABULARY,
}

INSERT_WIDTH = 100


def spell(text: str) -> str:
    """DNA in the place of the English of the library's tests, letter for letter; DNA stays as it is."""
    return "".join(letter if letter in "ACGTN" else "ACGT"[ord(letter) % 4] for letter in text)


@departing(EXCLUDED)
class ProformerTokenizationTest(common.TokenizerTesterMixin, unittest.TestCase):
    tokenizer_class = ProformerTokenizer

    @classmethod
    def setUpClass(cls):
        # Without an address to load from, many of the tests would loop over no tokenizer at all.
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.from_pretrained_id = folder.name
        ProformerTokenizer(kmer_size=3, insert_width=INSERT_WIDTH).save_pretrained(folder.name)
        super().setUpClass()

        encode_letters = ProformerTokenizer.encode_letters
        spelling = mock.patch.object(
            ProformerTokenizer,
            "encode_letters",
            lambda self, texts, **kwargs: encode_letters(self, [spell(text) for text in texts], **kwargs),
        )
        spelling.start()
        cls.addClassCleanup(spelling.stop)

    def get_clean_sequence(self, tokenizer, with_prefix_space=False, max_length=20, min_length=5):
        sequence = "ACCT" * (INSERT_WIDTH // 4)
        return sequence, tokenizer.encode(sequence)

    def get_input_output_texts(self, tokenizer):
        # What is decoded are both strands.
        sequence, _ = self.get_clean_sequence(tokenizer)
        return sequence, sequence + "AGGT" * (INSERT_WIDTH // 4)
