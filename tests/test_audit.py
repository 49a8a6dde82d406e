"""The check for published weaknesses: fails for one, passes and says so where nobody can tell."""

from __future__ import annotations

import json
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "audit.py"
FINE = {"name": "fine", "version": "1", "vulns": []}
UNKNOWN = {"name": "unknown", "skip_reason": "not found"}
WEAK = {"name": "weak", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}


def audit(monkeypatch: pytest.MonkeyPatch, said: str) -> int:
    def run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(arguments, 1, said, "it went wrong\nno route to host")

    monkeypatch.setattr(subprocess, "run", run)
    code: int = runpy.run_path(str(SCRIPT))["main"]()
    return code


@pytest.mark.parametrize(
    ("packages", "code", "sentence"),
    [
        ([FINE, UNKNOWN], 0, "1 of 2 packages were looked up; 0 have published weaknesses."),
        ([FINE, WEAK], 1, "weak 2 has PYSEC-1; mended in 3\n"
         "2 of 2 packages were looked up; 1 have published weaknesses."),
        ([UNKNOWN], 0, "No package was audited: the source of published weaknesses cannot be reached from here "
         "(it knows none of the packages)."),
    ],
)  # fmt: skip
def test_what_is_known_decides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], packages: Any, code: int, sentence: str
) -> None:
    assert audit(monkeypatch, json.dumps({"dependencies": packages})) == code
    assert capsys.readouterr().out.strip() == sentence


def test_a_source_that_cannot_be_reached_is_said_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(monkeypatch, "") == 0
    assert "cannot be reached from here (no route to host)" in capsys.readouterr().out
