"""Data sets from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

from tests.service.datasets.taking import finish, take

Run = Callable[..., Result]


def test_an_archive_is_brought_and_taken_in(retort: Run, tmp_path: Path) -> None:
    archive = tmp_path / "flowers.tar"
    archive.write_bytes(b"an archive")
    dataset_id = retort("datasets", "create", "flowers", str(archive), "--broken", "2", "--seed", "7").stdout.strip()
    assert dataset_id.startswith("dataset_")
    shown = json.loads(retort("datasets", "show", dataset_id, "--json").stdout)
    assert (shown["state"], shown["source"]["folder"]) == ("ingesting", None)
    taken = take(shown["job_id"])
    assert (taken.kind, taken.recipe["limits"], taken.recipe["splits"]["seed"]) == ("ingest", {"broken": 2}, 7)
    told = retort("datasets", "show", dataset_id).stdout
    assert "it is still being taken in by job" in told
    classes = [{"name": "aster", "train": 40, "validation": 5, "test": 5}]
    finish(taken, report={"layout": "folders of classes", "classes": classes, "warnings": ["left out: x"]})
    told = retort("datasets", "show", dataset_id).stdout
    for words in ("ready", "2 classes, 80 images to train on, 10 to choose by, 10 to test on", "left out: x", "aster"):
        assert words in told
    assert dataset_id in retort("datasets", "list").stdout
    assert "ingest" in retort("jobs", "--kind", "ingest").stdout
    assert retort("datasets", "delete", dataset_id).stdout == f"{dataset_id} is deleted.\n"
    assert json.loads(retort("datasets", "list", "--json").stdout) == []


def test_an_upload_of_before_or_a_folder_may_be_named(retort: Run, tmp_path: Path) -> None:
    archive = tmp_path / "flowers.tar"
    archive.write_bytes(b"an archive")
    upload = retort("upload", str(archive), "--kind", "dataset").stdout.strip()
    made = json.loads(retort("datasets", "create", "flowers", upload, "--json").stdout)
    assert made["source"] == {"upload": upload, "folder": None}
    refused = retort("datasets", "create", "flowers", "/data/flowers")
    assert refused.exit_code != 0
    assert "this server allows no local folders" in refused.stderr


def test_those_that_come_along_are_listed(retort: Run) -> None:
    told = retort("datasets", "list", "--builtin").stdout
    assert "digits" in told
    assert "stored" in told
    assert "cifar100" in {
        entry["name"] for entry in json.loads(retort("datasets", "list", "--builtin", "--json").stdout)
    }
