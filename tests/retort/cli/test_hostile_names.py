"""No command prints what could steer a terminal, whatever stands in names, sentences, files and reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unicodedata import category

import pytest
from sqlalchemy import update
from typer.main import get_command
from typer.testing import Result

from retort.cli.main import app
from retort.printable import printable
from service.audit.models import AuditRow
from service.datasets.models import DatasetRow
from service.db import transaction
from service.jobs.event_log import Entry, append
from service.jobs.models import JobRow, State
from service.keys.models import KeyRow
from service.models.models import ModelRow
from service.projects.models import ProjectRow
from service.uploads.models import UploadRow
from tests.conftest import forget_settings
from tests.retort.client.conftest import Service
from tests.service.datasets.taking import FACTS

Run = Callable[..., Result]
HOSTILE = "a\x1b]0;owned\x07b\x9b31mc\r\nforged\u202ed\u2028e\x7f[red]\x00"
AS_STORED = HOSTILE.replace("\x00", "")
"""PostgreSQL and the API hold no NUL."""


def steering(text: str) -> set[str]:
    """Characters of a text that steer a terminal, but for ends of lines."""
    return {sign for sign in text if (category(sign) in ("Cc", "Cs", "Zl", "Zp") or sign == "\u202e") and sign != "\n"}


def all_commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    command = get_command(app) if command is None else command
    inner = getattr(command, "commands", {})
    if not inner or getattr(command, "invoke_without_command", False):
        yield path
    for name, each in inner.items():
        yield from all_commands(each, (*path, name))


def test_what_steers_a_terminal_is_escaped_and_what_people_write_is_not() -> None:
    shown = r"a\u001b]0;owned\u0007b\u009b31mc\u000d\u000aforged\u202ed\u2028e\u007f[red]\u0000"
    assert printable(HOSTILE) == shown
    assert printable("a\nb\tc", keep="\n\t") == "a\nb\tc"
    assert printable("half \ud800") == r"half \ud800"
    for name in ("größe 猫 ñandú", "क्\u200dष", "👩\u200d👩\u200d👧", "naïve\u00a0café"):
        assert printable(name) == name


@pytest.fixture
def ids(service: Service, retort: Run, tmp_path: Path) -> dict[str, str]:
    """Ids of things whose every text is hostile."""
    job, ended = service.create(), service.create()
    service.add_file(ended, "student.onnx", b"network")
    archive = tmp_path / "archive.tar"
    archive.write_bytes(b"an archive")
    dataset = retort("datasets", "create", "flowers", str(archive)).stdout.strip()
    upload = retort("uploads", "--json").stdout.partition('"id": "')[2].partition('"')[0]
    key = retort("keys", "--json").stdout.partition('"id": "')[2].partition('"')[0]
    network = {AS_STORED: {AS_STORED: 0.5}}
    error = {"fault": "machine", "cause": AS_STORED, "detail": AS_STORED}
    report = {
        "layout": AS_STORED,
        "warnings": [AS_STORED],
        "classes": [{"name": AS_STORED, **dict.fromkeys(("train", "validation", "test"), 1)}],
    }
    with transaction() as session:
        project_id = session.get_one(JobRow, job).project_id
        here = {"project_id": project_id}
        progress = {
            "phase": AS_STORED,
            "network": AS_STORED,
            "metric": AS_STORED,
            "value": 1.0,
            "epoch": 1,
            "epochs": 2,
        }
        common = {"name": AS_STORED, "phase": AS_STORED, "latest": network, "error": error, "progress": progress}
        session.execute(update(JobRow).where(JobRow.id == job).values(state=State.running, **common))
        failed = {"state": State.failed, "ended_at": 1.0, **common}
        session.execute(update(JobRow).where(JobRow.id == ended).values(failed))
        spec = session.get_one(JobRow, ended).spec
        session.execute(update(JobRow).where(JobRow.id == ended).values(spec={**spec, "tags": [AS_STORED]}))
        body = {"phase": AS_STORED, "network": AS_STORED, "values": {AS_STORED: 1.0}, "text": AS_STORED, "step": 1}
        entries = [Entry(kind, {**body, "data": {"sentences": [AS_STORED]}}) for kind in ("warning", "report")]
        append(session, ended, 1, entries)
        facts = {**FACTS, "class_names": [AS_STORED, "b"]}
        session.execute(update(DatasetRow).values(name=AS_STORED, report=report, facts=facts, digest="0" * 64, size=1))
        session.execute(update(UploadRow).values(name=AS_STORED))
        session.execute(update(KeyRow).values(name=AS_STORED).where(KeyRow.project_id == project_id))
        session.execute(update(ProjectRow).values(name=AS_STORED).where(ProjectRow.id == project_id))
        session.execute(update(AuditRow).values(route=AS_STORED, about={"x": AS_STORED}))
        model = ModelRow(
            id="model_1", name=AS_STORED, form="onnx", architecture=AS_STORED, classes=2, class_names=[AS_STORED, "b"],
            blob_id=session.query(UploadRow).first().blob_id, size=1, sha256="0" * 64, created_at=1.0,
            report={AS_STORED: AS_STORED}, **here,
        )  # fmt: skip
        session.add(model)
    return {"job": job, "ended": ended, "dataset": dataset, "upload": upload, "key": key, "project": project_id}


def test_every_command_escapes_what_it_prints(retort: Run, ids: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / AS_STORED
    file.write_text(f"name: {AS_STORED!r}\nmethods: [{{name: {AS_STORED!r}}}]\n", encoding="utf-8", errors="replace")
    weights = file.with_suffix(".onnx")
    weights.write_bytes(b"no network")
    job, ended = ids["job"], ids["ended"]
    calls: dict[tuple[str, ...], list[tuple[str, ...]]] = {
        ("validate",): [(str(file),), (AS_STORED,), ("--from", ended, "--set", f"{AS_STORED}=1")],
        ("submit",): [(str(file),), ("--from", AS_STORED)],
        ("jobs",): [(), ("--json",), ("--name", AS_STORED)],
        ("show",): [(job,), (ended,), (ended, "--json"), (AS_STORED,)],
        ("watch",): [(ended,), (ended, "--json")],
        ("pause",): [(AS_STORED,), (ended,)],
        ("resume",): [(AS_STORED,)],
        ("stop",): [(AS_STORED,)],
        ("cancel",): [(AS_STORED,)],
        ("download",): [(ended, AS_STORED), (ended, "--to", str(tmp_path / AS_STORED))],
        ("upload",): [(str(weights), "--kind", "model"), (AS_STORED, "--kind", "model")],
        ("methods",): [(AS_STORED,)],
        ("architectures",): [(AS_STORED,)],
        ("usage",): [(), ("--json",)],
        ("audit",): [(), ("--json",)],
        ("datasets", "list"): [(), ("--json",)],
        ("datasets", "show"): [(ids["dataset"],), (ids["dataset"], "--json")],
        ("datasets", "create"): [(AS_STORED, AS_STORED), (AS_STORED, str(file))],
        ("datasets", "delete"): [(AS_STORED,)],
        ("keys",): [(), ("--json",)],
        ("keys", "create"): [(AS_STORED, "--project", AS_STORED)],
        ("keys", "rotate"): [(AS_STORED,)],
        ("keys", "revoke"): [(AS_STORED,)],
        ("projects",): [(), ("--json",)],
        ("projects", "create"): [(AS_STORED,)],
        ("projects", "limit"): [(ids["project"], "--max-running", "3"), (AS_STORED, "--max-running", "3")],
        ("models",): [(), ("--json",)],
        ("models", "show"): [("model_1",), ("model_1", "--json")],
        ("models", "add"): [("--from", AS_STORED), (str(file),)],
        ("models", "check"): [("model_1", AS_STORED)],
        ("models", "delete"): [(AS_STORED,)],
        ("uploads",): [(), ("--json",)],
        ("uploads", "delete"): [(AS_STORED,)],
        ("backup",): [(str(file),)],
        ("restore",): [(str(file),)],
        ("up",): [("--data-dir", str(file))],
        ("doctor",): [("--data-dir", str(file))],
    }
    unnamed = {("demo",), ("disown",)}
    """Commands that are given and print no name: one starts a service, one prints a number."""
    assert calls.keys() | unnamed >= set(all_commands()), "a command is missing here"
    quoting = 0
    for words, arguments in calls.items():
        for further in arguments:
            forget_settings()  # operators' commands take their folder as an argument
            result = retort(*words, *further)
            for text in (result.stdout, result.stderr):
                assert not steering(text), (words, further, text)
                assert "\nforged" not in text
            quoting += "owned" in result.stdout + result.stderr
    assert quoting > 50
