"""The packages are layers, and those files that travel with a checkpoint know nothing of them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import modeling_proformer


ROOT = Path(modeling_proformer.__file__).parent
# The lowest comes first; only the command line is above all of them.
LAYERS = ["data", "evaluation", "training", "hub", "commands"]
TRAVELLING = {"configuration_proformer", "intervals", "modeling_proformer", "pipeline_proformer"}
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py") if "metric_modules" not in path.parts)


def imported(module: Path) -> Iterator[tuple[str, ...]]:
    """Yield the place in the package of everything that a module imports relatively."""
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = module.parents[node.level - 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                yield (*base.parts, *name.split("."))


@pytest.mark.parametrize("module", [module for module in MODULES if module.parts[0] in LAYERS], ids=str)
def test_a_layer_imports_none_above_it(module):
    height = LAYERS.index(module.parts[0])
    above = [place for place in imported(module) if place[0] in LAYERS and LAYERS.index(place[0]) > height]
    assert not above
    assert not [place for place in imported(module) if place[0] == "cli"]


@pytest.mark.parametrize("module", sorted(TRAVELLING))
def test_a_file_that_travels_imports_only_its_siblings(module):
    assert {place[0] for place in imported(Path(f"{module}.py"))} <= TRAVELLING
