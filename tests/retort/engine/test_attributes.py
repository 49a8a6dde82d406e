"""Objects of the engine have all their attributes from the start."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import retort

RETORT = Path(retort.__file__).parent
FILES = [
    *(RETORT / "engine").glob("*.py"),
    *(RETORT / "images").glob("*.py"),
    *(RETORT / "tasks").rglob("*.py"),
    *(RETORT / "ingestion").glob("*.py"),
]


def assigned(body: ast.AST) -> set[str]:
    """Names of all attributes of `self` that are assigned somewhere within."""
    return {
        node.attr
        for node in ast.walk(body)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def declared(statement: ast.stmt) -> set[str]:
    """Names that a statement of a class's body gives."""
    if isinstance(statement, ast.FunctionDef):
        return assigned(statement) if statement.name == "__init__" else {statement.name}
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def late(text: str) -> Iterator[str]:
    """Attributes that a method other than `__init__` gives to objects of its class."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            known = set[str]().union(*map(declared, node.body))
            yield from sorted(f"{node.name}.{name}" for name in assigned(node) - known)


def test_a_late_attribute_is_found() -> None:
    text = "class A:\n    x: int\n    def __init__(self):\n        self.y = 0\n    def f(self):\n"
    assert [*late(text + "        self.x, self.y = self.z, 1")] == []
    assert [*late(text + "        self.x, self.z = 1, 2")] == ["A.z"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(RETORT)))
def test_no_attribute_is_born_outside_init(file: Path) -> None:
    assert not [*late(file.read_text(encoding="utf-8"))]
