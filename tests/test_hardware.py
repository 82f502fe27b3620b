"""bfloat16 is chosen on a CPU that has it, and not on others; memory is not fetched anew for each batch."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_proformer import hardware


def test_bfloat16_is_fast_on_processors_with_its_instructions():
    cpu_info = Path("/proc/cpuinfo")
    if not cpu_info.exists() or "ONEDNN_MAX_CPU_ISA" in os.environ:
        pytest.skip("needs a list of the processor's instructions, and oneDNN free to use them all")
    instructions = set(cpu_info.read_text().split())
    assert hardware.has_fast_bfloat16() == bool(instructions & {"avx512_bf16", "amx_bf16"})


def test_bfloat16_is_not_fast_where_onednn_is_limited_to_avx2():
    # By its path, so that this process imports torch alone.
    script = "import runpy, sys; print(runpy.run_path(sys.argv[1])['has_fast_bfloat16']())"
    done = subprocess.run(
        [sys.executable, "-c", script, hardware.__file__],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are not affected")
def test_the_memory_of_a_batch_is_kept_for_the_next():
    script = """
import resource, runpy, sys
import torch
names = runpy.run_path(sys.argv[1])
for prepare in (int, names["keep_freed_memory"]):
    prepare()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        batch = [torch.ones(2**21) for _ in range(6)]
        del batch
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, hardware.__file__], capture_output=True, text=True, check=True
    )
    returned, kept = map(int, done.stdout.split())
    # 48 MiB are 12,288 pages; they are fetched once for all the batches.
    assert kept < 20_000 < returned
