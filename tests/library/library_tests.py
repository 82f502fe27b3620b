"""Loads the common tests of the transformers library, for the classes of this package.

The wheel does not have them, but the source distribution of the same version does. It is downloaded once into the
user's cache and imported as the package `transformers_tests`, because its own name `tests` is that of our folder.
"""

import functools
import importlib
import importlib.abc
import importlib.machinery
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path
from types import ModuleType

import pytest
import transformers


PACKAGE = "transformers_tests"

# Settings that every configuration of the library must accept, with values that are not the defaults. The library's
# own list is in a file that the source distribution does not have.
CONFIG_COMMON_KWARGS = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["BertModel"],
    "id2label": {0: "promoter", 1: "enhancer", 2: "silencer"},
    "label2id": {"promoter": 0, "enhancer": 1, "silencer": 2},
    "problem_type": "multi_label_classification",
}


def load(module: str) -> ModuleType:
    """
    Return a module of the library's tests, such as `"test_modeling_common"`. If it is not available (no network, or no
    released version installed), the test file that asks for it is skipped.
    """
    pytest.importorskip("parameterized", reason="the library's own tests need parameterized")
    folder, problem = obtain()
    if folder is None:
        reason = f"no source distribution of transformers {transformers.__version__}: {problem}"
        pytest.skip(reason, allow_module_level=True)
    if not any(isinstance(finder, MissingModuleFinder) for finder in sys.meta_path):
        sys.path.insert(0, str(folder))
        sys.meta_path.append(MissingModuleFinder())
    return importlib.import_module(f"{PACKAGE}.{module}")


@functools.cache
def obtain() -> tuple[Path | None, str]:
    """Return the folder with `transformers_tests` of the installed version, or why there is none; try only once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "modeling_proformer"
    folder = cache / f"transformers-{transformers.__version__}"
    if not folder.exists():
        try:
            fetch(folder)
        except subprocess.CalledProcessError as error:
            return None, (error.stderr.strip() or str(error)).splitlines()[-1]
        except (subprocess.TimeoutExpired, OSError, tarfile.TarError) as error:
            return None, str(error)
    return folder, ""


def fetch(folder: Path):
    """Download the source distribution and keep its tests in `folder`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    version = transformers.__version__
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        # pip builds a source distribution to read its metadata; without these options it would download more packages.
        options = (
            "--no-deps --no-binary :all: --no-build-isolation --retries 1 --timeout 15 --disable-pip-version-check"
        )
        subprocess.run(
            [sys.executable, "-m", "pip", "download", *options.split(), "--dest", work, f"transformers=={version}"],
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
        )
        with tarfile.open(next(Path(work).glob("*.tar.gz"))) as archive:
            tests = [member for member in archive if member.name.startswith(f"transformers-{version}/tests/")]
            archive.extractall(work, tests, filter="data")
        package = Path(work, f"transformers-{version}", "tests")
        package = package.rename(package.with_name(PACKAGE))
        package.joinpath("__init__.py").touch()
        # The text to train tokenizers on is read for every tokenizer, but ours is not trained.
        package.joinpath("fixtures").mkdir(exist_ok=True)
        package.joinpath("fixtures", "sample_text.txt").touch()
        try:
            # The last step, so that parallel runs never see an incomplete folder.
            package.parent.rename(folder)
        except OSError:
            if not folder.exists():
                raise


class MissingModuleFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """
    Replaces the modules that the common tests import but the source distribution does not have. Their mix-ins, for
    models that generate text or are exported, become empty classes.
    """

    def find_spec(self, name, path=None, target=None):
        if name.startswith(f"{PACKAGE}."):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return MissingModule(spec.name)

    def exec_module(self, module):
        pass


class MissingModule(ModuleType):
    """A module with the one constant that is needed; any other name in it is an empty class."""

    config_common_kwargs = CONFIG_COMMON_KWARGS

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def departing(excluded: dict[str, str], overridden: dict[str, str] | None = None):
    """
    Decorate a test class that departs from the library's tests in two lists, from name to reason. Excluded tests are
    skipped with the reason; the name of a parameterised test is the one without its parameters.

    Raises:
        LookupError: an excluded test does not exist in this version of the library, or the class overrides other
            tests than those listed.
    """

    def decorate(test_class):
        tests = [name for name in dir(test_class) if name.startswith("test_") and callable(getattr(test_class, name))]
        for name, reason in excluded.items():
            found = [test for test in tests if re.fullmatch(rf"{name}(_\d+(_.*)?)?", test)]
            if not found:
                raise LookupError(f"transformers {transformers.__version__} has no {name} in {test_class.__name__}.")
            for test in found:
                setattr(test_class, test, unittest.skip(f"excluded: {reason}")(getattr(test_class, test)))
        # The library wraps every test again in the class, so only the qualified name shows who wrote it.
        own = {test for test in tests if getattr(test_class, test).__qualname__.startswith(f"{test_class.__name__}.")}
        if own != set(overridden or {}):
            raise LookupError(f"{test_class.__name__} overrides {sorted(own)}, but lists {sorted(overridden or {})}.")
        return test_class

    return decorate
