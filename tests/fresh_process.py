"""Runs scripts in other processes, where this package may not be installed."""

import os
import subprocess
import sys
import venv
from pathlib import Path


def make_python_without_package(folder: Path) -> Path:
    """Return an interpreter that sees everything installed here except this package, however it was installed."""
    environment = folder / "venv"
    venv.create(environment, symlinks=True)
    (site_packages,) = environment.glob("lib/python*/site-packages")
    # A `.pth` file may have added other folders to this interpreter's own.
    installed = [entry for path in sys.path if Path(path).name == "site-packages" for entry in Path(path).iterdir()]
    for entry in installed:
        link = site_packages / entry.name
        ours = entry.name.startswith(("modeling_proformer", "__editable__"))
        if not (ours or entry.suffix == ".pth" or link.exists()):
            link.symlink_to(entry)
    return environment / "bin" / "python"


def run(python: Path, script: str, work: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run a script in a fresh interpreter that has none of this one's paths, without network or earlier caches."""
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
