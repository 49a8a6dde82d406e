"""Who may import what, checked in fresh interpreters; and that one copied file is a whole new entry, everywhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any

import grimp
import pytest

ROOT = Path(__file__).parents[1]
TORCH = {"torch", "torchvision", "timm", "sklearn", "onnx", "onnxruntime"}
SERVICE = {"celery", "kombu", "sqlalchemy", "alembic", "psycopg", "fastapi", "starlette", "uvicorn", "redis", "service"}

GUARD = """
import sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {banned!r}:
            raise ImportError(name + " must not be imported here")

sys.meta_path.insert(0, Wall())
{code}
"""


def run_without(banned: set[str], code: str, folder: Path = ROOT) -> str:
    """What the code prints in a fresh interpreter that has a wall around some packages."""
    program = GUARD.format(banned=banned, code=code)
    result = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def refusal(banned: set[str], code: str, folder: Path = ROOT) -> str:
    """The last line that the code says when it fails."""
    program = GUARD.format(banned=banned, code=code)
    result = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120)
    assert result.returncode != 0
    return result.stderr.strip().splitlines()[-1]


def modules(folder: str, *, without: tuple[str, ...] = ()) -> list[str]:
    """Every module under a package but those under some names."""
    files = sorted((ROOT / folder).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return [name for name in names if not re.match(rf"({'|'.join(without) or '$'})(\.|$)", name)]


def imports(names: list[str]) -> str:
    return "\n".join(f"import {name}" for name in names)


def test_the_wall_stops() -> None:
    assert refusal({"json"}, "import json").endswith("json must not be imported here")


def test_the_service_needs_no_torch() -> None:
    names = modules("service", without=(r"service\.migrations\.(env|versions)",))
    assert "service.app" in names
    run_without(TORCH, f"{imports(names)}\nservice.app.create_app().openapi()")


def test_commands_start_without_the_recipes_models() -> None:
    """They take longer to import than all else that a command needs."""
    run_without(TORCH, "import sys, retort.cli.main\nassert 'retort.recipe' not in sys.modules")


def test_the_celery_worker_needs_no_torch() -> None:
    run_without(TORCH, imports(modules("worker")))


def test_what_the_api_reads_of_the_library_needs_no_torch() -> None:
    names = ["recipe", "validation", "event", "methods", "architectures", "datasets", "exports", "compressions"]
    run_without(TORCH, imports([f"retort.{name}" for name in names]))


def test_the_engine_needs_no_celery_database_or_http() -> None:
    names = modules("retort", without=(r"retort\.cli", r"retort\.client"))
    assert "retort.engine.__main__" in names
    run_without(SERVICE, imports(names))


def test_the_client_needs_pydantic_and_httpx2_alone() -> None:
    allowed = needed_by("pydantic") | needed_by("httpx2") | {"retort"}
    # httpx2 takes a decoder of zstd where one is installed, as it is for data sets; the client needs none.
    code = f"before = set(sys.modules)\n{imports(modules('retort/client'))}\nprint(*sorted(set(sys.modules) - before))"
    loaded = {name.partition(".")[0] for name in run_without({"backports"}, code).split()}
    assert "httpx2" in loaded
    foreign = loaded - allowed - set(sys.stdlib_module_names)
    assert not [name for name in foreign if not name.startswith("_sysconfigdata")]


def needed_by(package: str) -> set[str]:
    """What a distribution and all that it needs bring to be imported."""
    seen: set[str] = set()
    left = [package]
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            requires = distribution(name).requires or []
        except ImportError:  # needed on other systems only
            continue
        left += [re.split(r"[^\w.-]", entry)[0] for entry in requires if "extra ==" not in entry]
    brought = packages_distributions()
    return {top for top, by in brought.items() if {re.sub(r"[-_.]+", "-", each).lower() for each in by} & seen}


@pytest.mark.parametrize("for_types", [False, True], ids=["at run time", "types too"])
def test_no_files_import_each_other_in_a_circle(for_types: bool) -> None:
    graph = grimp.build_graph(
        "retort", "service", "worker", exclude_type_checking_imports=not for_types, cache_dir=None
    )
    TopologicalSorter({name: graph.find_modules_directly_imported_by(name) for name in graph.modules}).prepare()


# One new file

CATALOGUE = """
import json, os
os.environ["RETORT_DATA_DIR"] = os.getcwd() + "/data"
from starlette.testclient import TestClient
from service.app import create_app
from service.db import get_engine, transaction
from service.keys.service import ensure_first_key
from service.migrations import upgrade

upgrade(get_engine())
with transaction() as session:
    key = ensure_first_key(session)
client = TestClient(create_app(), headers={"Authorization": "Bearer " + key})

def get(path):
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()

def validate(recipe):
    answer = client.post("/v1/jobs/validate", json=recipe)
    assert answer.status_code == 200, answer.text
    return answer.json()

recipe = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "resnet20", "teach": {"epochs": 2}},
    "student": {"architecture": "resnet8"},
    "methods": [{"name": "kd"}],
    "training": {"epochs": 2},
}
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The tree, to be changed; an interpreter started in it imports the copy."""
    for folder in ("retort", "service"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def said(code: str, folder: Path) -> Any:
    """What the API of a copy answers; the code sets `answer`."""
    where = "import retort; assert retort.__file__.startswith(__import__('os').getcwd()), retort.__file__"
    return json.loads(run_without(TORCH, f"{where}\n{CATALOGUE}\n{code}\nprint(json.dumps(answer))", folder))


def test_one_new_file_is_a_new_method(copy: Path) -> None:
    kd = (ROOT / "retort/methods/kd.py").read_text()
    changed = kd.replace("class KD", "class Likeness").replace('"kd"', '"likeness"')
    (copy / "retort/methods/likeness.py").write_text(changed)
    answer = said(
        """
schemas = get("/openapi.json")["components"]["schemas"]
recipe["methods"] = [{"name": "likeness", "temperature": 3}]
answer = {
    "mapping": schemas["Student"]["properties"]["methods"]["items"]["discriminator"]["mapping"],
    "fields": list(schemas["Likeness"]["properties"]),
    "listed": [item["name"] for item in get("/v1/methods")["items"]],
    "alone": get("/v1/methods/likeness")["formula"],
    "validated": validate(recipe),
}
""",
        copy,
    )
    assert answer["mapping"]["likeness"] == "#/components/schemas/Likeness"
    assert answer["fields"] == ["name", "temperature", "weight", "teacher_top"]
    assert "likeness" in answer["listed"]
    assert answer["alone"].startswith("weight * T^2")
    (method,) = answer["validated"]["resolved"]["students"][0]["methods"]
    assert method == {"name": "likeness", "temperature": 3.0, "weight": 0.9, "teacher_top": None}


def test_one_new_file_is_a_new_family_of_architectures(copy: Path) -> None:
    family = (ROOT / "retort/architectures/cifar_resnet.py").read_text()
    changed = family.replace('"cifar_resnet"', '"other_resnet"').replace('"resnet', '"other_resnet')
    (copy / "retort/architectures/other_resnet.py").write_text(changed)
    answer = said(
        """
recipe["student"] = {"architecture": "other_resnet8"}
answer = {
    "listed": [item["name"] for item in get("/v1/architectures")["items"] if item["family"] == "other_resnet"],
    "alone": get("/v1/architectures/other_resnet8"),
    "validated": validate(recipe),
}
""",
        copy,
    )
    assert "other_resnet8" in answer["listed"]
    assert answer["alone"]["card"] is None
    assert answer["validated"]["valid"] is True


def test_one_new_file_is_a_new_export(copy: Path) -> None:
    export = (ROOT / "retort/exports/safetensors.py").read_text()
    changed = export.replace("class Safetensors", "class Raw").replace('= "safetensors"', '= "raw"')
    changed = changed.replace('Literal["safetensors"]', 'Literal["raw"]').replace('".safetensors"', '".raw"')
    (copy / "retort/exports/raw.py").write_text(changed)
    answer = said(
        """
answer = {
    "listed": [item["name"] for item in get("/v1/exports")["items"]],
    "mapping": get("/openapi.json")["components"]["schemas"]["Recipe"]["properties"]["exports"]["items"],
    "validated": validate(recipe),
}
""",
        copy,
    )
    assert answer["listed"] == ["onnx", "raw", "safetensors"]
    assert answer["mapping"]["discriminator"]["mapping"]["raw"] == "#/components/schemas/Raw"
    assert {"name": "raw"} in answer["validated"]["resolved"]["exports"]


@pytest.mark.parametrize(("file", "found"), [("misnamed", "['kd']"), ("two", "['two', 'two']"), ("none", "[]")])
def test_a_file_that_is_no_entry_says_what_was_wanted(copy: Path, file: str, found: str) -> None:
    kd = (ROOT / "retort/methods/kd.py").read_text()
    two = kd.replace('"kd"', '"two"') + "\n\nclass Other(KD):\n    pass\n"
    content = {"misnamed": kd, "two": two, "none": '"""Nothing."""\n'}[file]
    (copy / f"retort/methods/{file}.py").write_text(content)
    assert refusal(set(), "import retort.methods", copy) == (
        f"ImportError: retort/methods/{file}.py must define one Method, named '{file}'; it defines {found}"
    )
