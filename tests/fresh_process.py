"""Scripts in other processes, where this package may be unknown."""

import os
import subprocess
import sysconfig
import venv
from pathlib import Path


def make_python_without_package(folder: Path) -> Path:
    """An interpreter that sees everything installed here but this package, however that was installed."""
    environment = folder / "venv"
    venv.create(environment, symlinks=True)
    (site_packages,) = environment.glob("lib/python*/site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.suffix != ".pth" and not entry.name.startswith(("modeling_proformer", "__editable__")):
            (site_packages / entry.name).symlink_to(entry)
    return environment / "bin" / "python"


def run(python: Path, script: str, work: Path, *arguments: str) -> subprocess.CompletedProcess:
    """A script in a fresh interpreter (isolated: nothing of this one's paths), without network or earlier caches."""
    work.mkdir(exist_ok=True)
    (work / "script.py").write_text(script)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_HOME": str(work / "huggingface"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [python, "-I", work / "script.py", *arguments],
        cwd=work,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
