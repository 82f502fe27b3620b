from .tokenization_proformer import InvalidSequenceError, ProformerTokenizer


__all__ = ["InvalidSequenceError", "ProformerTokenizer"]
