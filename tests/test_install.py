"""The client alone: what `pip install retort`, without an extra, brings and can do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from typer.main import get_command

from retort.cli.main import app
from tests.test_boundaries import ROOT, needed_by

USERS = {
    *("validate", "submit", "jobs", "show", "watch", "pause", "resume", "stop", "cancel", "download", "upload"),
    *("methods", "architectures", "usage", "audit", "datasets", "keys", "projects", "models", "uploads"),
}
"""The commands of a client alone."""
OPERATORS = {"up", "demo", "doctor", "backup", "restore", "disown"}
"""The commands that come with `retort[service]`."""
HEAVY = {"torch", "numpy", "fastapi", "sqlalchemy", "celery", "redis", "onnxruntime"}
"""Some of the packages that a client alone does not bring."""

ABSENT = """
import sys
from importlib.machinery import PathFinder

class Installed:
    found = sys.meta_path[:]
    find_distributions = staticmethod(PathFinder.find_distributions)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            return None
        specs = (finder.find_spec(name, path, target) for finder in self.found)
        return next((spec for spec in specs if spec is not None), None)

sys.meta_path[:] = [Installed()]
{code}
"""


@cache
def absent() -> frozenset[str]:
    """The top-level packages installed here that a client alone does not bring."""
    return frozenset(set(packages_distributions()) - needed_by("retort") - {"retort", "service", "worker"})


def run_client_alone(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds no package but those of a client alone."""
    program = ABSENT.format(absent=set(absent()), code=code)
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)


def retort(*words: str) -> subprocess.CompletedProcess[str]:
    return run_client_alone(f"sys.argv = ['retort', *{words!r}]\nfrom retort.cli.main import app\napp()")


def check_users_commands_alone(help_text: str) -> None:
    listed = set(re.findall(r"^\W*([a-z]+) ", help_text, re.MULTILINE))
    assert listed >= USERS
    assert not listed & OPERATORS
    assert "For operators" not in help_text


def imported(package: str) -> set[str]:
    """Every module of this project that the files of a package import, also within functions and for types."""
    found = set()
    for file in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("retort"):
                found.add(str(node.module))
    return found


def test_the_packages_of_the_service_and_the_engine_are_absent() -> None:
    assert absent() >= HEAVY
    result = run_client_alone("import sqlalchemy")
    assert result.stderr.endswith("ModuleNotFoundError: No module named 'sqlalchemy'\n")


def test_the_client_and_all_that_its_commands_import_is_there() -> None:
    names = sorted({"retort.client", "retort.cli.main"} | imported("retort/client") | imported("retort/cli"))
    assert "retort.user_model" in names
    result = run_client_alone("\n".join(["from retort.client import Retort", *(f"import {name}" for name in names)]))
    assert result.returncode == 0, result.stderr


def test_the_users_commands_are_there_and_no_others() -> None:
    here = get_command(app).commands  # type: ignore[attr-defined]
    assert set(here) == USERS | OPERATORS
    shown = retort("--help")
    assert shown.returncode == 0, shown.stderr
    check_users_commands_alone(shown.stdout)


def test_a_key_is_made_over_http_alone() -> None:
    shown = retort("keys", "create", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "--scope" in shown.stdout
    assert "--local" not in shown.stdout


def test_a_service_that_is_not_there_is_one_sentence() -> None:
    result = retort("--url", "http://127.0.0.1:9", "jobs")
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.startswith("retort: no service answers at http://127.0.0.1:9 (")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.long
def test_a_wheel_in_a_fresh_environment(tmp_path: Path) -> None:
    """Needs the network: pip fetches the packages of a client alone."""

    def run(*command: object) -> str:
        result = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert result.returncode == 0, result.stderr
        return result.stdout

    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = (tmp_path / "dist").iterdir()
    programs = tmp_path / "venv" / "bin"
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    run(programs / "pip", "install", wheel)
    installed = {line.partition("==")[0].lower().replace("_", "-") for line in run(programs / "pip", "freeze").split()}
    assert "httpx2" in installed
    assert not installed & {"torch", "numpy", "fastapi", "starlette", "sqlalchemy", "celery", "redis", "uvicorn"}
    run(programs / "python", "-c", "from retort.client import Retort")
    check_users_commands_alone(run(programs / "retort", "--help"))
    assert "--local" not in run(programs / "retort", "keys", "create", "--help")
