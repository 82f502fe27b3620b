"""Find out what the processor does fast."""

import torch


def has_fast_bfloat16() -> bool:
    """
    Return whether this CPU computes matrix products faster in bfloat16 than in float32.

    This needs the instructions (AVX-512 BF16 or AMX) and a oneDNN that may use them; without them, bfloat16 is
    emulated, and several times slower than float32. ARM processors count as slow: it depends on how oneDNN was built.
    """
    # Builds without oneDNN, as for macOS, do not have this operator.
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


__all__ = ["has_fast_bfloat16"]
