"""Find out what the processor does fast, and let it."""

from functools import cache

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


@cache
def keep_freed_memory():
    """
    Make the C library of Linux keep up to 64 MiB of freed memory in this process, for the next batch to use.

    By default it returns the memory of each batch to the system. Fetching it again page by page takes up to a third of
    the time of a small model. Other C libraries and devices are not affected.
    """
    # glibc returns freed memory above twice the size of the largest block, up to 32 MiB, that was ever freed (dynamic
    # mmap threshold, mallopt(3)). Nothing is written to this block, so it takes neither time nor memory.
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


__all__ = ["has_fast_bfloat16", "keep_freed_memory"]
