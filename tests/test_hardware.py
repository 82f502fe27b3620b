"""bfloat16 is chosen on a CPU that has it, and not on others."""

import os
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
