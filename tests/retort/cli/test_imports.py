from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def imported(file: Path) -> set[str]:
    """The modules that a file imports, also within functions and for types."""
    nodes = [*ast.walk(ast.parse(file.read_text()))]
    whole = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    # `from package import name` may name a module of the package.
    parts = {
        (str(node.module), alias.name) for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    return whole | {module for module, _ in parts} | {f"{module}.{name}" for module, name in parts}


@pytest.mark.parametrize("package", ["retort/cli", "retort/client"])
def test_no_file_waits_for_another_in_a_circle(package: str) -> None:
    files = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in (ROOT / package).glob("*.py")}
    assert len(files) > 5
    graph = {name: imported(file) & files.keys() - {name} for name, file in files.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
