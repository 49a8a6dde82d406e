"""A folder as a registry."""

import subprocess
import sys
from pathlib import Path

import pytest

from retort.registry import discover, nearest
from retort.spec import Spec


class Fruit(Spec):
    name: str


ENTRY = """
from typing import Literal
from tests.retort.test_registry import Fruit
class {title}(Fruit):
    name: Literal["{name}"] = "{name}"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """An empty package of its own name, which can be imported."""
    package = tmp_path / f"orchard_{abs(hash(request.node.name))}"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    return package


def find(folder: Path) -> dict[str, type[Fruit]]:
    return discover(folder.name, [str(folder)], Fruit)


def test_a_file_is_an_entry_and_its_name_the_entrys(folder: Path) -> None:
    for name in ("pear", "apple"):
        (folder / f"{name}.py").write_text(ENTRY.format(title=name.title(), name=name))
    (folder / "_seeds.py").write_text("raise RuntimeError('a file with an underscore is no entry')")
    found = find(folder)
    assert list(found) == ["apple", "pear"]
    assert found["pear"](name="pear").name == "pear"
    assert f"{folder.name}._seeds" not in sys.modules


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", r"it defines \[\]"),
        (ENTRY.format(title="Apple", name="pear"), r"it defines \['pear'\]"),
        (ENTRY.format(title="Apple", name="apple") + ENTRY.format(title="Pear", name="pear"), r"'apple', 'pear'"),
        ("from tests.retort.test_registry import Fruit", r"it defines \[\]"),
    ],
    ids=["nothing", "another name", "two entries", "an import only"],
)
def test_a_file_that_breaks_the_rule_is_named(folder: Path, text: str, found: str) -> None:
    (folder / "apple.py").write_text(text)
    with pytest.raises(ImportError, match=rf"/apple\.py must define one Fruit, named 'apple'.*{found}"):
        find(folder)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("kdd", "kd"), ("resnet81", "resnet8"), ("resnet18", "torchvision.resnet18"), ("something else", None)],
)
def test_the_nearest_name_is_offered(written: str, meant: str | None) -> None:
    hint = nearest(written, ["kd", "resnet8", "torchvision.resnet18"])
    assert hint == (f"; did you mean {meant!r}?" if meant else "")


def test_nothing_is_looked_for_that_resembles_a_name_of_any_length() -> None:
    assert nearest("k" * 101, ["k" * 100]) == ""
    assert nearest("k" * 100, ["k" * 99]) != ""


def test_the_registries_can_be_read_where_torch_is_not_installed() -> None:
    looks = """
import sys
for library in ("torch", "torchvision", "timm", "huggingface_hub", "sklearn", "PIL", "numpy", "onnx", "safetensors"):
    sys.modules[library] = None
from retort.architectures import ARCHITECTURES, CARDS
from retort.datasets import DATASETS
from retort.exports import EXPORTS
from retort.student import NetworkDescription
assert {"torchvision.resnet18", "timm.resnet18"} <= set(ARCHITECTURES) and set(ARCHITECTURES) == set(CARDS)
assert DATASETS["digits"](name="digits").facts([]).train == 1257
assert {"onnx", "safetensors"} <= set(EXPORTS)
NetworkDescription.model_json_schema()
"""
    subprocess.run([sys.executable, "-c", looks], check=True, timeout=60)
