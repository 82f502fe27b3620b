"""Runs the library's common tests of tokenizers."""

import tempfile
import unittest
from unittest import mock

from library_tests import departing, load

from modeling_proformer import ProformerTokenizer


common = load("test_tokenization_common")

FIXED_LENGTH = "asks for lengths other than that of the construct"
NO_PAIRS = "encodes pairs of texts, which a construct does not have"
CLOSED_VOCABULARY = "adds tokens, but the vocabulary is exactly all k-mers"
LAZY_VOCABULARY = "expects a dict from get_vocab: ours is a lazy mapping of 282 million k-mers"

EXCLUDED = {
    "test_added_tokens_serialization": CLOSED_VOCABULARY,
    "test_batch_encode_dynamic_overflowing": FIXED_LENGTH,
    "test_batch_encode_plus_padding": FIXED_LENGTH,
    "test_bos_token_with_add_bos_token_false": CLOSED_VOCABULARY,
    "test_bos_token_with_add_bos_token_true": CLOSED_VOCABULARY,
    "test_call": NO_PAIRS,
    "test_empty_input_string": "encodes an empty text, which we refuse",
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


def translate_to_dna(text: str) -> str:
    """Replace each letter of the English texts in the library's tests by a base; DNA stays as it is."""
    return "".join(letter if letter in "ACGTN" else "ACGT"[ord(letter) % 4] for letter in text)


@departing(EXCLUDED)
class ProformerTokenizationTest(common.TokenizerTesterMixin, unittest.TestCase):
    tokenizer_class = ProformerTokenizer

    @classmethod
    def setUpClass(cls):
        # Without a folder to load from, many of the tests would loop over no tokenizer.
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.from_pretrained_id = folder.name
        ProformerTokenizer(kmer_size=3, insert_width=INSERT_WIDTH).save_pretrained(folder.name)
        super().setUpClass()

        encode_letters = ProformerTokenizer.encode_letters
        translation = mock.patch.object(
            ProformerTokenizer,
            "encode_letters",
            lambda self, texts, **kwargs: encode_letters(self, [translate_to_dna(text) for text in texts], **kwargs),
        )
        translation.start()
        cls.addClassCleanup(translation.stop)

    def get_clean_sequence(self, tokenizer, with_prefix_space=False, max_length=20, min_length=5):
        sequence = "ACCT" * (INSERT_WIDTH // 4)
        return sequence, tokenizer.encode(sequence)

    def get_input_output_texts(self, tokenizer):
        # Decoding returns both strands.
        sequence, _ = self.get_clean_sequence(tokenizer)
        return sequence, sequence + "AGGT" * (INSERT_WIDTH // 4)
