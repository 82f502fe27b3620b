"""How good predictions are: metrics, the DREAM challenge's score, figures and cards."""

from .dream import read_dream_test


__all__ = ["read_dream_test"]
