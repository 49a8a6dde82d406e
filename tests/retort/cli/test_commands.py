from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import Result

from service.db import transaction
from service.jobs.event_log import Entry, append
from tests.conftest import wait_until
from tests.retort.client.conftest import RECIPE, Service

Run = Callable[..., Result]


@pytest.fixture
def recipe_file(tmp_path: Path) -> str:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(RECIPE))
    return str(file)


def process(*words: str) -> subprocess.Popen[str]:
    """The command as a process of its own, with a pipe instead of a terminal."""
    command = [sys.executable, "-m", "retort.cli.main", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    heavy = ("torch", "sqlalchemy", "celery", "fastapi", "pydantic", "httpx2", "onnxruntime", "sklearn")
    code = f"import sys, retort.cli.main; print([name for name in {heavy!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Typer itself takes pydantic.
    assert set(json.loads(result.stdout.replace("'", '"'))) <= {"pydantic"}


def test_submit_prints_the_id_and_nothing_else(retort: Run, recipe_file: str) -> None:
    result = retort("submit", recipe_file)
    assert result.exit_code == 0
    (job_id,) = result.stdout.split()
    shown = retort("show", job_id, "--json")
    assert json.loads(shown.stdout)["state"] == "queued"


def test_json_and_standard_input_and_changes(retort: Run) -> None:
    body = json.dumps({**RECIPE, "students": None, "training": {"epochs": 7, "optimizer": {"name": "sgd"}}})
    changes = ("--set", "training.optimizer.learning_rate=1e-3", "--set", "methods.0.temperature=2")
    del_students = json.dumps({key: value for key, value in json.loads(body).items() if key != "students"})
    result = retort("submit", "-", *changes, "--set", "tags=[a, b]", "--json", input=del_students)
    assert result.exit_code == 0, result.stderr
    recipe = json.loads(result.stdout)["spec"]
    assert recipe["training"]["epochs"] == 7
    assert recipe["training"]["optimizer"]["learning_rate"] == 0.001
    assert recipe["students"][0]["methods"][0]["temperature"] == 2
    assert recipe["tags"] == ["a", "b"]


def test_all_problems_are_shown_with_their_place(retort: Run, recipe_file: str) -> None:
    wrong = ("--set", "methods.0.temperature=-1", "--set", "training.epochs=0", "--set", "nonsense=1")
    for command in ("validate", "submit"):
        result = retort(command, recipe_file, *wrong)
        assert result.exit_code == 1
        assert result.stdout == ""
        for place in ("/methods/0/temperature:", "/training/epochs:", "/nonsense:"):
            assert f"\n  {place}" in result.stderr


def test_a_job_is_submitted_again_with_changes(retort: Run, service: Service, tmp_path: Path) -> None:
    first = service.create(baseline=True)
    changed = ("--set", "training.epochs=20", "--set", "students.0.architecture=resnet20", "--set", "name=again")
    again = retort("submit", "--from", first, *changed)
    assert again.exit_code == 0, again.stderr
    (second,) = again.stdout.split()
    old, new = (json.loads(retort("show", job_id, "--json").stdout)["spec"] for job_id in (first, second))
    assert (old["name"], old["training"]["epochs"]) == ("a try", 2)
    assert (new["name"], new["training"].pop("epochs")) == ("again", 20)
    assert [student.pop("architecture") for student in new["students"]] == ["resnet20", "resnet8"]
    for recipe in (old, new):
        del recipe["name"]
    del old["training"]["epochs"]
    for student in old["students"]:
        del student["architecture"]
    assert new == old
    assert "valid" in retort("validate", "--from", second).stdout
    estimate = json.loads(retort("submit", "--from", second, "--estimate", "--json").stdout)
    assert (estimate["kind"], estimate["spec"]["recipe"]["training"]["epochs"]) == ("estimate", 20)
    third = json.loads(retort("submit", "--from", estimate["id"], "--json").stdout)
    assert (third["kind"], third["spec"]["name"]) == ("distill", "again")


def test_a_job_that_cannot_be_submitted_again_is_refused_in_a_sentence(
    retort: Run, service: Service, tmp_path: Path
) -> None:
    job_id = service.create()
    archive = tmp_path / "flowers.tar"
    archive.write_bytes(b"an archive")
    ingesting = json.loads(retort("datasets", "create", "flowers", str(archive), "--json").stdout)["job_id"]
    for words, code, sentence in (
        ((), 2, "wanted a FILE with a recipe, or --from and a job"),
        (("x.yaml", "--from", job_id), 2, f"both the file x.yaml and --from {job_id} are given"),
        (("--from", "job_0"), 1, "there is no job 'job_0'"),
        (("--from", ingesting), 1, f"job {ingesting} is of kind ingest and has no recipe"),
        (("--from", job_id, "--set", "training.epocs=20"), 1, "did you mean 'epochs'?"),
        (("--from", job_id, "--set", "students.7.seed=1"), 2, "names '7' where a number below 1 is wanted"),
    ):
        result = retort("submit", *words)
        assert (result.exit_code, result.stdout) == (code, ""), result.stderr
        assert sentence in result.stderr


def test_a_warning_is_shown_and_the_job_is_queued(retort: Run, recipe_file: str) -> None:
    larger = ("--set", "student.architecture=resnet110", "--set", "teacher.architecture=resnet8")
    result = retort("submit", recipe_file, *larger)
    assert result.exit_code == 0
    assert result.stdout.startswith("job_")
    assert "is larger than its teacher" in result.stderr


@pytest.mark.parametrize(
    ("text", "words", "sentence"),
    [
        ("", (), "standard input holds nothing; a recipe is a mapping of fields"),
        ("[1, 2]", (), "standard input holds a list; a recipe is a mapping of fields"),
        ("{a: [", (), "standard input is neither JSON nor YAML"),
        ("name: 2026-01-01", (), "standard input holds a value that JSON cannot express"),
        ("name: .nan", (), "standard input holds a value that JSON cannot express"),
        ("name: x", ("--set", "name"), "--set 'name' is not a change"),
        ("name: x", ("--set", "a..b=1"), "--set 'a..b=1' is not a change"),
        ("students: [a]", ("--set", "students.4.seed=1"), "names '4' where a number below 1 is wanted"),
        ("students: [a]", ("--set", "students.0.seed=1"), "names 'seed' where a field"),
    ],
)
def test_a_text_that_is_not_a_recipe_is_a_usage_error(
    retort: Run, text: str, words: tuple[str, ...], sentence: str
) -> None:
    result = retort("submit", "-", *words, input=text)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_file_that_cannot_be_read_is_a_usage_error(retort: Run, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("name: ä".encode("latin-1"))
    for file, sentence in (
        (tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory"), (tmp_path / "latin", "UTF-8")
    ):  # fmt: skip
        result = retort("submit", str(file))
        assert result.exit_code == 2
        assert sentence in result.stderr


def test_eleven_megabytes_are_refused_in_one_sentence(retort: Run) -> None:
    result = retort("submit", "-", input=json.dumps({"name": "x" * 11_000_000}))
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert len(result.stderr) < 300


@pytest.mark.parametrize(
    "words",
    [
        ("show", "job_none"),
        ("cancel", "job_none"),
        ("watch", "job_none"),
        ("download", "job_none"),
        ("methods", "none"),
        ("keys", "revoke", "key_none"),
    ],
)
def test_an_unknown_id_is_refused(retort: Run, words: tuple[str, ...]) -> None:
    result = retort(*words)
    assert result.exit_code == 1
    assert result.stderr.startswith("retort: there is no")


def test_a_service_that_cannot_be_reached_is_named(retort: Run) -> None:
    for words in (("jobs",), ("keys",), ("methods",), ("watch", "job_x")):
        result = retort("--url", "http://127.0.0.1:9", *words)
        assert result.exit_code == 3
        assert "no service answers at http://127.0.0.1:9" in result.stderr


def test_jobs_are_listed_and_filtered(retort: Run, service: Service) -> None:
    first, second = service.create(name="first"), service.create(name="second", tags=["t"])
    listed = retort("jobs").stdout
    assert listed.index(second) < listed.index(first)
    assert [job["id"] for job in json.loads(retort("jobs", "--tag", "t", "--json").stdout)] == [second]
    assert [job["id"] for job in json.loads(retort("jobs", "--limit", "1", "--json").stdout)] == [second]
    assert "Nothing there." in retort("jobs", "--state", "failed").stdout
    wrong = retort("jobs", "--state", "bogus")
    assert wrong.exit_code == 1
    assert "'bogus'" in wrong.stderr


def test_show_has_the_reason_why_a_job_waits(retort: Run, service: Service) -> None:
    shown = retort("show", service.create()).stdout
    assert "queued" in shown
    assert "no worker is alive" in shown


def test_cancel_and_watch_of_a_cancelled_job(retort: Run, service: Service) -> None:
    job_id = service.create()
    assert retort("cancel", job_id).stdout == f"{job_id} is cancelled.\n"
    watched = retort("watch", job_id)
    assert watched.exit_code == 1
    assert watched.stderr == f"retort: {job_id} is cancelled\n"
    events = [json.loads(line) for line in retort("watch", job_id, "--json").stdout.splitlines()]
    assert [event["kind"] for event in events] == ["created", "cancelled"]


def test_a_job_is_paused_resumed_and_stopped(retort: Run, service: Service) -> None:
    job_id = service.create()
    assert retort("pause", job_id).stdout == f"{job_id} is paused.\n"
    assert retort("resume", job_id).stdout == f"{job_id} is queued.\n"
    assert retort("stop", job_id).stdout == f"{job_id} is cancelled.\n"
    refused = retort("pause", job_id)
    assert refused.exit_code == 1
    assert refused.stderr == f"retort: job {job_id} is cancelled; it cannot be paused any more\n"


def test_projects_are_made_limited_and_listed(retort: Run, service: Service) -> None:
    project_id = retort("projects", "create", "vision").stdout.strip()
    limits = ("--max-running", "2", "--max-stored-gib", "1.5", "--requests-per-second", "5", "--json")
    set_ = json.loads(retort("projects", "limit", project_id, *limits).stdout)
    assert (set_["max_running"], set_["max_stored_bytes"], set_["requests_per_second"]) == (2, 1_610_612_736, 5)
    listed = {project["name"]: project["max_running"] for project in json.loads(retort("projects", "--json").stdout)}
    assert listed["vision"] == 2
    unset = ("--unset", "max-running", "--unset", "max-stored-gib", "--json")
    left = json.loads(retort("projects", "limit", project_id, *unset).stdout)
    assert (left["max_running"], left["max_stored_bytes"], left["requests_per_second"]) == (None, None, 5)
    retention = ("--jobs-retention-days", "30", "--datasets-retention-days", "0.5", "--uploads-retention-days", "2")
    assert "jobs 30 d, data sets 0.5 d, uploads 2 d" in retort("projects", "limit", project_id, *retention).stdout
    changed = ("--models-retention-days", "9", "--unset", "jobs-retention-days", "--json")
    limited = json.loads(retort("projects", "limit", project_id, *changed).stdout)
    assert [limited[f"{name}_retention_days"] for name in ("jobs", "datasets", "models", "uploads")] == [
        None,
        0.5,
        9,
        2,
    ]
    assert retort("projects", "limit", project_id).exit_code == 1
    used = json.loads(retort("usage", "--json").stdout)
    assert used["limits"]["max_queued"] == 10_000
    shown = retort("usage").stdout
    assert "queued jobs" in shown
    assert re.search("retention of data sets +for ever", shown)
    assert re.search("retention of uploads +7 days", shown)


def test_an_interrupted_watch_leaves_the_job_alone(retort: Run, service: Service) -> None:
    job_id = service.create()
    with process("watch", job_id) as watching:
        assert watching.stdout is not None
        assert "created" in watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        try:
            _, errors = watching.communicate(timeout=20)
        finally:
            watching.kill()
    assert watching.returncode == 130
    assert errors == f"retort: no longer watching; {job_id} goes on\n"
    assert json.loads(retort("show", job_id, "--json").stdout)["wanted"] == "run"


def test_a_watch_shows_events_as_they_come(service: Service) -> None:
    job_id = service.create()
    with process("watch", job_id) as watching:
        assert watching.stdout is not None
        assert "created" in watching.stdout.readline()
        entry = Entry("metrics", {"phase": "distilling", "network": "student", "epoch": 3, "values": {"loss": 0.25}})
        with transaction() as session:
            append(session, job_id, 1, [entry])
        assert watching.stdout.readline().endswith("metrics distilling student epoch 3  loss=0.25\n")
        watching.terminate()


def test_download_takes_all_files_or_those_that_are_named(retort: Run, service: Service, tmp_path: Path) -> None:
    job_id = service.create()
    nothing = retort("download", job_id)
    assert (nothing.exit_code, nothing.stderr) == (1, f"retort: {job_id} has no files yet\n")
    contents = {"student.onnx": os.urandom(200_000), "student.json": b"{}"}
    for name, content in contents.items():
        service.add_file(job_id, name, content)
    result = retort("download", job_id, "--to", str(tmp_path / "all"))
    assert result.exit_code == 0, result.stderr
    assert sorted(result.stdout.split()) == [str(tmp_path / "all" / name) for name in sorted(contents)]
    assert {file.name: file.read_bytes() for file in (tmp_path / "all").iterdir()} == contents
    retort("download", job_id, "student.json", "--to", str(tmp_path / "one"))
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["student.json"]
    unknown = retort("download", job_id, "teacher.onnx", "--to", str(tmp_path / "none"))
    assert unknown.exit_code == 2
    assert "it has student.json, student.onnx" in unknown.stderr
    (tmp_path / "file").touch()
    blocked = retort("download", job_id, "--to", str(tmp_path / "file"))
    assert (blocked.exit_code, "cannot be created" in blocked.stderr) == (1, True)


def test_keys_are_made_listed_and_revoked(retort: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    key = retort("keys", "create", "laptop").stdout.strip()
    (made,) = (one for one in json.loads(retort("keys", "--json").stdout) if one["name"] == "laptop")
    assert key.startswith(made["prefix"])
    assert made["scopes"] == ["jobs:read", "jobs:write", "data:write"]
    newer = retort("keys", "rotate", made["id"], "--grace-hours", "1").stdout.strip()
    (successor,) = (one for one in json.loads(retort("keys", "--json").stdout) if one["replaces"] == made["id"])
    assert newer.startswith(successor["prefix"])
    assert retort("keys", "revoke", made["id"]).exit_code == 0
    assert "revoked" in retort("keys").stdout
    narrow = retort("keys", "create", "narrow", "--scope", "jobs:read", "--expires-days", "2", "--json").stdout
    assert json.loads(narrow)["scopes"] == ["jobs:read"]
    assert json.loads(narrow)["expires_at"] is not None
    assert retort("keys", "create", "wrong", "--scope", "jobs").exit_code == 2
    monkeypatch.setenv("RETORT_KEY", key)
    refused = retort("keys")
    assert refused.exit_code == 1
    assert "unknown, revoked or expired" in refused.stderr


def test_the_audit_log_is_shown(retort: Run) -> None:
    made = json.loads(retort("keys", "create", "watched", "--json").stdout)["id"]
    newest, *_ = json.loads(retort("audit", "--limit", "3", "--json").stdout)
    assert (newest["method"], newest["route"], newest["about"]) == ("POST", "/v1/keys", {"key_id": made})
    (mine,) = json.loads(retort("audit", "--key", newest["key_id"], "--json").stdout)
    assert mine == newest
    assert "/v1/keys" in retort("audit").stdout


def test_the_first_key_of_a_database_is_made_beside_it(retort: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    key = retort("keys", "create", "first", "--local", "--admin").stdout.strip()
    monkeypatch.setenv("RETORT_KEY", key)
    (shown,) = (one for one in json.loads(retort("keys", "--json").stdout) if key.startswith(one["prefix"]))
    assert (shown["name"], shown["scopes"], shown["project"]) == ("first", ["admin"], "default")


def test_methods_and_architectures_are_shown(retort: Run) -> None:
    assert "kd" in retort("methods").stdout
    shown = retort("methods", "kd").stdout
    assert "temperature" in shown
    assert "Hinton" in shown
    assert "resnet8x4" in retort("architectures", "--family", "cifar_resnet").stdout
    assert json.loads(retort("architectures", "resnet8", "--json").stdout)["name"] == "resnet8"


def test_a_pipe_gets_neither_colours_nor_folded_tables(service: Service) -> None:
    service.create(name="a name " * 12)
    with process("jobs") as listing:
        out, _ = listing.communicate(timeout=20)
    assert listing.returncode == 0
    assert "\x1b" not in out
    assert ("a name " * 12).strip() in out


def test_a_closed_pipe_gives_no_traceback(service: Service) -> None:
    with process("methods", "--json") as listing:
        assert listing.stdout is not None
        listing.stdout.close()
        listing.wait(20)
        assert listing.stderr is not None
        assert "Traceback" not in listing.stderr.read()


def test_a_wrong_word_is_a_usage_error(retort: Run) -> None:
    assert retort("submit").exit_code == 2
    assert retort("bogus").exit_code == 2
    assert retort("jobs", "--limit", "0").exit_code == 2


def test_submit_and_watch_in_one(recipe_file: str, retort: Run, service: Service) -> None:
    with process("submit", recipe_file, "--watch") as watching:
        assert watching.stdout is not None
        job_id = watching.stdout.readline().strip()
        assert "created" in watching.stdout.readline()
        retort("cancel", job_id)
        begin = time.monotonic()
        wait_until(lambda: watching.poll() is not None, "the watch ends with the job", 20)
        assert time.monotonic() - begin < 20
    assert watching.returncode == 1
