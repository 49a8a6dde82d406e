"""Data of version 0.1 are taken up: everything is listed as before, and a paused job comes to the same end."""

from __future__ import annotations

import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from safetensors.torch import load
from starlette.testclient import TestClient

from retort.cli.report import print_report
from retort.client import Retort
from retort.datasets.stored import StoredDataset
from retort.engine.event_log import EventLog
from retort.engine.interrupt import Interrupt
from retort.engine.run import Run
from retort.order import Paths
from retort.recipe import Recipe
from retort.student import load_student
from retort.user_model import RECORD
from service.db import make_engine, reading
from service.migrations import upgrade
from service.models.models import ModelRow, record_of
from service.revisions import current, head
from service.settings import get_settings
from tests.conftest import execute, wait_until
from tests.servers import binary
from tests.service.conftest import bearing
from tests.up import start_up
from tests.version_0_1 import unpack

Environment = Callable[..., None]

EXPECTED = unpack.expected()
RENAMED = {
    "accumulate": "gradient_accumulation",
    "keep_teacher_outputs": "cache_teacher_outputs",
    "require_teacher_accuracy": "require_teacher",
    "images_per_second": "examples_per_second",
    "learners": "networks",
    "collapse": "diagnostics",
    **{f"keep_{thing}_days": f"{thing}_retention_days" for thing in ("jobs", "datasets", "models", "uploads")},
}
"""Fields with another name today, wherever they stand."""
LATER = {"used_at", "waiting"}
"""Fields that change with requests and with workers."""
END_SECONDS = 600


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data/` and `backup.retort`, to be copied."""
    return unpack.unpack(tmp_path_factory.mktemp("version_0_1") / "unpacked")


def upgraded(url: str, before: str | None = "0009") -> None:
    """Migrate a database."""
    engine = make_engine(url)
    assert current(engine) == before
    upgrade(engine)
    assert current(engine) == head()
    engine.dispose()


@pytest.fixture
def data_directory(unpacked: Path, tmp_path: Path) -> str:
    """URL of the SQLite database of the data directory, migrated."""
    shutil.copyfile(unpacked / "data/retort.db", tmp_path / "retort.db")
    upgraded(f"sqlite:///{tmp_path / 'retort.db'}")
    return f"sqlite:///{tmp_path / 'retort.db'}"


@pytest.fixture
def restored(unpacked: Path, tmp_path: Path) -> str:
    """URL of the SQLite database that `retort restore` makes of the backup."""
    folder = tmp_path / "restored"
    restore = [sys.executable, "-m", "retort.cli.main", "restore", str(unpacked / "backup.retort")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RETORT_")}
    done = subprocess.run(
        [*restore, "--data-dir", str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.startswith("Restored 2 projects, 16 jobs, 129 events, 21 artifacts of 2026-11-30T"), done.stderr
    upgraded(f"sqlite:///{folder / 'retort.db'}", before=head())
    return f"sqlite:///{folder / 'retort.db'}"


@pytest.fixture
def dumped(postgresql_url: str) -> Iterator[str]:
    """URL of a database in PostgreSQL that the dump was loaded into, migrated."""
    name = f"version_0_1_{uuid4().hex}"
    execute(postgresql_url, f"CREATE DATABASE {name}")
    address = f"{postgresql_url}/{name}".replace("postgresql+psycopg", "postgresql")
    load_dump = [str(binary("psql")), address, "-qX", "-v", "ON_ERROR_STOP=1"]
    subprocess.run(load_dump, input=unpack.dump(), check=True, stdout=subprocess.DEVNULL)
    upgraded(f"{postgresql_url}/{name}")
    yield f"{postgresql_url}/{name}"
    execute(postgresql_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["data_directory", "restored", pytest.param("dumped", marks=pytest.mark.server)])
def taken_up(request: pytest.FixtureRequest, environment: Environment) -> str:
    """The settings of this process name a database of version 0.1, taken up in one of three ways; its URL."""
    url = str(request.getfixturevalue(request.param))
    # The server that gave the answers had these settings.
    environment(database_url=url, upload_seconds=3e9, unused_upload_seconds=3e9)
    return url


in_data_directory = pytest.mark.parametrize("taken_up", ["data_directory"], indirect=True)
"""Marks a test for one way, since its result depends on none."""


def get(client: TestClient, path: str) -> Any:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return steady(answer.json())


def steady(value: Any) -> Any:
    """An answer without the fields that change with requests and with workers."""
    if isinstance(value, list):
        return [steady(inner) for inner in value]
    if isinstance(value, dict):
        return {key: steady(inner) for key, inner in value.items() if key not in LATER}
    return value


def listed(client: TestClient, path: str) -> list[Any]:
    """Entries of a list, page after page."""
    page = get(client, f"{path}?limit=100")
    entries = page["items"]
    while page["next_cursor"]:
        page = get(client, f"{path}?limit=100&cursor={page['next_cursor']}")
        entries += page["items"]
    return entries


# Answers of version 0.1 in the words of today


def today(value: Any) -> Any:
    """A value with its fields renamed wherever they stand."""
    if isinstance(value, list):
        return [today(inner) for inner in value]
    if isinstance(value, dict):
        return {RENAMED.get(key, key): today(inner) for key, inner in value.items()}
    return value


def job_today(job: dict[str, Any]) -> dict[str, Any]:
    job = today(job)
    if "recipe" in job:
        job["spec"] = job.pop("recipe")
    if job["error"] is not None and job["error"]["fault"] == "recipe":
        job["error"]["fault"] = "spec"
    if (progress := job["progress"]) is not None:
        progress["network"] = progress.pop("student")
        progress["value"] = progress.pop("accuracy")
        progress["metric"] = None if progress["network"] is None else "accuracy"
    return job


def event_today(event: dict[str, Any]) -> dict[str, Any]:
    event = today(event)
    event["network"] = event.pop("student")
    data = event["data"]
    if event["kind"] == "report":
        data = event["data"] = report_today(data)
        if "networks" in data:
            data["class_names"] = data["classes"]
            data["classes"] = len(data["class_names"])
    elif data is not None and data.get("fault") == "recipe":
        data["fault"] = "spec"
    return event


def metrics_today(metrics: dict[str, Any]) -> dict[str, Any]:
    return {"networks" if key == "students" else key: value for key, value in metrics.items()}


def report_today(report: dict[str, Any]) -> dict[str, Any]:
    return {"splits" if key == "parts" else key: value for key, value in report.items()}


def thing_today(thing: dict[str, Any]) -> dict[str, Any]:
    """A data set, a model or an upload."""
    thing = today(thing)
    if thing["id"].startswith("dataset_"):
        thing["links"] |= {"thumbnails": None}
    return {**thing, "report": report_today(thing["report"])} if thing.get("report") else thing


def test_everything_is_listed_as_before(taken_up: str) -> None:
    """Every answer equals that of version 0.1, in the words of today; every download has the bytes that it had."""
    answers = steady(unpack.answers())
    for project, key in (("default", EXPECTED["key"]), ("laboratory", EXPECTED["laboratory_key"])):
        client = bearing(key)
        short = EXPECTED["projects"][project]
        assert listed(client, "/v1/jobs") == [job_today(job) for job in answers[f"{project} /v1/jobs"]]
        for job in short["jobs"]:
            path = f"/v1/jobs/{job['id']}"
            found, events = get(client, path), listed(client, f"{path}/events")
            assert found == job_today(answers[f"{project} {path}"])
            assert all(found[field] == job[field] for field in ("kind", "name", "state", "wanted", "phase", "attempt"))
            assert len(events) == job["events"]
            assert events == [event_today(event) for event in answers[f"{project} {path}/events"]]
            assert get(client, f"{path}/metrics") == metrics_today(answers[f"{project} {path}/metrics"])
            assert [downloaded(client, artifact) for artifact in listed(client, f"{path}/artifacts")] == [
                {field: value for field, value in artifact.items() if field != "network"}
                for artifact in job["artifacts"]
            ]
        for kind in ("datasets", "models", "uploads"):
            things = listed(client, f"/v1/{kind}")
            assert [thing["id"] for thing in things] == [thing["id"] for thing in short[kind]]
            assert [thing["state"] for thing in things] == [thing["state"] for thing in short[kind]]
            for thing in things:
                path = f"/v1/{kind}/{thing['id']}"
                assert get(client, path) == thing_today(answers[f"{project} {path}"])
        assert get(client, "/v1/usage") == today(answers[f"{project} /v1/usage"])
    client = bearing(EXPECTED["key"])
    for path in ("/v1/projects", "/v1/keys", "/v1/audit"):
        assert listed(client, path) == today(answers[f"default {path}"])


def downloaded(client: TestClient, artifact: dict[str, Any]) -> dict[str, Any]:
    """Facts of an artifact, digest and size by its bytes."""
    answer = client.get(artifact["url"])
    assert answer.status_code == 200
    assert (artifact["sha256"], artifact["size"]) == (sha256(answer.content).hexdigest(), len(answer.content))
    return {field: artifact[field] for field in ("name", "media_type", "size", "sha256")} | {
        "etag": answer.headers["etag"]
    }


@in_data_directory
def test_keys_work_and_dead_ones_do_not(taken_up: str) -> None:
    for name in ("key", "laboratory_key", "reading_key", "rotated_key"):
        get(bearing(EXPECTED[name]), "/v1/jobs")
    job = EXPECTED["queued_job"]
    assert bearing(EXPECTED["reading_key"]).post(f"/v1/jobs/{job}/cancel").status_code == 403
    assert bearing(EXPECTED["laboratory_key"]).get(f"/v1/jobs/{job}").status_code == 404
    assert {bearing(key).get("/v1/jobs").status_code for key in EXPECTED["dead_keys"]} == {401}


@in_data_directory
def test_specs_of_old_jobs_are_valid_when_they_are_sent_anew(taken_up: str) -> None:
    """As `retort submit --from JOB` sends them; some name the stored data set, some the stored models."""
    client = bearing(EXPECTED["key"])
    named = set()
    for each in EXPECTED["projects"]["default"]["jobs"]:
        spec = get(client, f"/v1/jobs/{each['id']}")["spec"]
        if each["kind"] in ("distill", "estimate"):
            recipe = spec["recipe"] if each["kind"] == "estimate" else spec
            found = client.post("/v1/jobs/validate", json=recipe).json()
            assert (found["valid"], found["problems"]) == (True, []), each["name"]
            # A baseline is resolved to a student more, the weights' precision to a list of steps; all else is resolved
            # to itself, with what is new.
            assert recipe["compression"] == {"weights": "float32"}
            assert found["resolved"] == recipe | {"fail_if_worse_than_chance": True, "compression": []}
            named |= {recipe["dataset"].get("dataset"), recipe["teacher"]["model"]}
    assert {EXPECTED["dataset"], EXPECTED["model"]} <= named
    old = client.post("/v1/jobs/validate", json=EXPECTED["finished_recipe"]).json()
    assert not old["valid"]
    assert "keep_teacher_outputs" in json.dumps(old["problems"])


@in_data_directory
def test_reports_of_old_jobs_are_shown(taken_up: str, capsys: pytest.CaptureFixture[str]) -> None:
    client = bearing(EXPECTED["key"])
    for job in EXPECTED["projects"]["default"]["jobs"]:
        for event in listed(client, f"/v1/jobs/{job['id']}/events"):
            if event["kind"] == "report":
                print_report(job["kind"], event["data"])
    shown = capsys.readouterr().out
    assert "97.78%" in shown
    assert "Training was stopped early." in shown
    assert "The job would take" in shown


@in_data_directory
def test_archives_and_networks_of_old_jobs_are_read(taken_up: str, tmp_path: Path) -> None:
    """A stored data set, whose archive has `parts`, and students, whose descriptions have no `task`."""
    client = bearing(EXPECTED["key"])

    def download(job: str, name: str, file: Path) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(client.get(f"/v1/jobs/{job}/artifacts/{name}").content)
        return file

    archive = download(EXPECTED["ingest_job"], "dataset.tar", tmp_path / "dataset.tar")
    with tarfile.open(archive) as opened:
        described = opened.extractfile("dataset.json")
        assert described is not None
        assert "parts" in json.load(described)
    (tmp_path / EXPECTED["dataset"]).mkdir()
    archive.rename(tmp_path / EXPECTED["dataset"] / sha256(archive.read_bytes()).hexdigest())
    data = StoredDataset(dataset=EXPECTED["dataset"]).load([tmp_path])
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 10, 10)
    facts = get(client, f"/v1/datasets/{EXPECTED['dataset']}")["facts"]
    assert data.facts.model_dump(mode="json").items() >= facts.items()
    loaded = 0
    for job in EXPECTED["projects"]["default"]["jobs"]:
        for artifact in job["artifacts"]:
            name, _, suffix = artifact["name"].rpartition(".")
            if suffix == "safetensors":
                folder = tmp_path / job["id"]
                download(job["id"], artifact["name"], folder / artifact["name"])
                description = download(job["id"], f"{name}.json", folder / f"{name}.json")
                assert "task" not in json.loads(description.read_text())
                network, _ = load_student(description)
                assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 10)
                loaded += 1
    assert loaded >= 4


# The paused job


@pytest.mark.slow
def test_a_paused_job_is_resumed_to_the_same_end(unpacked: Path, tmp_path: Path, environment: Environment) -> None:
    """`retort up` resumes it from the database alone, and an engine in this process from its folder in `storage/`.

    Everywhere: both give the same bits of every tensor; epochs, steps, best epoch, the number of events, names of
    artifacts and what was trained are those of version 0.1; accuracies of validation and test differ from those of
    version 0.1 by one image at most, and the norm of each tensor by 2 %. On the processor and the torch that made the
    data, with the environment that was set then, the weights have its sha256.
    """
    native = EXPECTED["paused_ends"]["native"]
    folder = tmp_path / "up"
    shutil.copytree(unpacked / "data", folder)
    shutil.rmtree(folder / "storage")
    up = start_up(folder)
    try:
        assert up.key == EXPECTED["key"]
        with Retort(up.url, up.key) as client:
            end, weights = resumed(client, EXPECTED["paused_job"], tmp_path / "downloads")
    finally:
        up.stop()
    compare(end, native)
    for name, tensor in load(weights).items():
        wanted = native["student.safetensors"]["tensors"][name]
        assert list(tensor.shape) == wanted["shape"]
        if "norm" in wanted:
            assert math.isclose(float(tensor.double().norm()), wanted["norm"], rel_tol=0.02), name
    environment(database_url=f"sqlite:///{folder / 'retort.db'}")
    again = resumed_here(unpacked / "data/storage", tmp_path / "here")
    assert sha256(again).hexdigest() == sha256(weights).hexdigest()
    if made_here():
        assert sha256(weights).hexdigest() == native["student.safetensors"]["sha256"]


def resumed(client: Retort, job_id: str, folder: Path) -> tuple[dict[str, Any], bytes]:
    """The end of the job in the words of `paused_ends`, and its weights."""
    client.jobs.resume(job_id)
    wait_until(lambda: client.jobs.get(job_id).terminal, "the paused job ends", END_SECONDS)
    assert client.jobs.get(job_id).state == "succeeded", client.jobs.get(job_id).error
    kinds = [event.kind for event in client.jobs.events(job_id)]
    assert (kinds.count("claimed"), kinds.count("resumed"), kinds.count("resolved")) == (2, 1, 1)
    names = sorted(artifact.name for artifact in client.jobs.artifacts(job_id))
    folder.mkdir()
    files = {name: client.jobs.download(job_id, name, folder / name).read_bytes() for name in names}
    row = next(row for row in json.loads(files["report.json"])["networks"] if row["name"] == "student")
    evaluations = [
        event.values["validation.accuracy"]
        for event in client.jobs.events(job_id)
        if event.kind == "evaluation" and event.values and "validation.accuracy" in event.values
    ]
    end = {
        **{name: row[name] for name in ("best_epoch", "trained", "test")},
        "validation.accuracy": evaluations,
        "artifacts": names,
        "events": len(kinds),
    }
    return end, files["student.safetensors"]


def compare(end: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise where the figures are others than those of version 0.1, within an image."""
    for name in ("best_epoch", "trained", "artifacts", "events"):
        assert end[name] == wanted[name], name
    assert end["test"].keys() == wanted["test"].keys()
    for which, test in end["test"].items():
        assert abs(test["test.correct"] - wanted["test"][which]["test.correct"]) <= 1
        assert test["test.images"] == wanted["test"][which]["test.images"]
    found, accuracies = end["validation.accuracy"], wanted["validation.accuracy"]
    assert len(found) == len(accuracies)
    assert all(abs(one - other) * 180 < 1.5 for one, other in zip(found, accuracies, strict=True))


def resumed_here(storage: Path, folder: Path) -> bytes:
    """The weights to which an engine in this process resumes the job from the checkpoint in `storage/`."""
    folder.mkdir()
    job, model = EXPECTED["paused_job"], EXPECTED["model"]
    shutil.copytree(storage / "jobs" / job / "checkpoints", folder / "checkpoints")
    (folder / model).mkdir()
    with reading() as session:
        row = session.get_one(ModelRow, model)
        record, blob = record_of(row), row.blob_id
    (folder / model / RECORD).write_text(record.model_dump_json())
    with closing(sqlite3.connect(get_settings().database.removeprefix("sqlite:///"))) as driver:
        chunks = driver.execute("SELECT content FROM chunks WHERE blob_id = ? ORDER BY number", (blob,)).fetchall()
        [(spec,)] = driver.execute("SELECT spec FROM jobs WHERE id = ?", (job,))
    (folder / model / record.file).write_bytes(b"".join(content for (content,) in chunks))
    paths = Paths(directory=folder, checkpoints=folder / "checkpoints", weights=folder, checkpoint_seconds=1e9)
    log = folder / "log.jsonl"
    with log.open("wb") as out:
        Run(Recipe.model_validate_json(spec), paths, EventLog(out.fileno()), Interrupt())()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    epochs = [line["epoch"] for line in lines if line.get("kind") == "metrics"]
    assert epochs == [*range(1, 9)], "the events up to the checkpoint are there again, then those of the other epochs"
    assert not [line for line in lines if line.get("kind") == "progress" and line["step"] < 182]
    return (folder / "artifacts/student.safetensors").read_bytes()


def made_here() -> bool:
    """Whether this machine computes as the one that made the data."""
    made, cpuinfo = EXPECTED["made_on"], Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return (
        {f"model name\t: {made['processor']}", *made["cpuinfo"]} <= set(lines)
        and torch.__version__ == made["torch"]
        and torch.backends.cpu.get_cpu_capability() == made["capability"]
        and not EXPECTED["avx2_environment"].keys() & os.environ.keys()
    )
