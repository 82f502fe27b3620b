"""Compare the throughput of the k-mer tokenizer with that of a usual one, a Python loop over each sequence.

    python examples/benchmark_tokenizer.py --sequences 4000 --length 80 --kmer-size 10 --repeats 7

The script first checks that both return the same tensors. Then they run by turns, on one thread.
"""

import argparse
import random
import statistics
import time

import torch
from transformers import BatchEncoding, PreTrainedTokenizer

from modeling_proformer import ProformerTokenizer


class PlainKmerTokenizer(PreTrainedTokenizer):
    """Tokenize as `ProformerTokenizer` does in plain Python, which splits each sequence and looks up its k-mers."""

    vocab_files_names = {}
    model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    complement = str.maketrans("ACGT", "TGCA")
    codes = str.maketrans("-ACGTNM", "0123456")

    def __init__(self, kmer_size: int, insert_width: int, **kwargs):
        self.kmer_size = kmer_size
        self.insert_width = insert_width
        super().__init__(kmer_size=kmer_size, insert_width=insert_width, pad_token="[PAD]", **kwargs)

    @property
    def vocab_size(self) -> int:
        return 7**self.kmer_size

    def get_vocab(self) -> dict[str, int]:
        return {"[PAD]": 0}

    def _tokenize(self, text: str) -> list[str]:
        forward = text.center(self.insert_width, "N")
        strands = forward + forward.translate(self.complement)[::-1]
        left = (self.kmer_size - 1) // 2
        padded = "-" * left + strands + "-" * (self.kmer_size - 1 - left)
        return [padded[start : start + self.kmer_size] for start in range(len(strands))]

    def _convert_token_to_id(self, token: str) -> int:
        # Reading a number in base 7 is faster than a dictionary, which could not hold all 10-mers.
        return int(token.translate(self.codes), 7)

    def build_inputs_with_special_tokens(self, token_ids_0: list[int], token_ids_1=None) -> list[int]:
        return token_ids_0

    def create_token_type_ids_from_sequences(self, token_ids_0: list[int], token_ids_1=None) -> list[int]:
        return [0] * self.insert_width + [1] * self.insert_width


def encode(tokenizer: PreTrainedTokenizer, sequences: list[str]) -> BatchEncoding:
    return tokenizer(sequences, padding=True, return_tensors="pt")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=4000, help="number of random sequences")
    parser.add_argument("--length", type=int, default=80, help="bases in each sequence")
    parser.add_argument("--kmer-size", type=int, default=10, help="bases in a token")
    parser.add_argument("--repeats", type=int, default=7, help="number of turns of each tokenizer")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    generator = random.Random(0)
    sequences = ["".join(generator.choices("ACGT", k=arguments.length)) for _ in range(arguments.sequences)]
    insert_width = max(100, arguments.length)
    tokenizers = {
        cls.__name__: cls(kmer_size=arguments.kmer_size, insert_width=insert_width)
        for cls in (PlainKmerTokenizer, ProformerTokenizer)
    }

    plain, ours = (encode(tokenizer, sequences) for tokenizer in tokenizers.values())
    assert plain.keys() == ours.keys() and all(torch.equal(plain[name], ours[name]) for name in plain)

    rates = {name: [] for name in tokenizers}
    for _ in range(arguments.repeats):
        for name, tokenizer in tokenizers.items():
            start = time.perf_counter()
            encode(tokenizer, sequences)
            rates[name].append(len(sequences) / (time.perf_counter() - start))

    print(f"{arguments.sequences} sequences of {arguments.length} bases; both strands of {insert_width}, as tensors")
    print(f"{f'{arguments.kmer_size}-mers, sequences/s':24}{'median':>10}{'min':>10}{'max':>10}")
    for name, measured in rates.items():
        print(f"{name:24}{statistics.median(measured):>10,.0f}{min(measured):>10,.0f}{max(measured):>10,.0f}")
    plain_rate, rate = (statistics.median(measured) for measured in rates.values())
    print(f"ratio of the medians: {rate / plain_rate:.1f}")


if __name__ == "__main__":
    main()
