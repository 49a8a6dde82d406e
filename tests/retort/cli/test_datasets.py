"""Data sets from the command line."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import Result

from retort import ingest
from retort.cli import datasets
from retort.cli.packing import pack
from retort.datasets._archive import SPLITS
from tests.service.datasets.taking import finish, take

Run = Callable[..., Result]


def test_the_command_knows_the_layouts_and_splits_of_the_contract() -> None:
    assert get_args(datasets.Layout) == get_args(ingest.Layout)
    assert datasets.SPLITS == SPLITS


def test_an_archive_is_uploaded_and_ingested(retort: Run, tmp_path: Path) -> None:
    archive = tmp_path / "flowers.tar"
    archive.write_bytes(b"an archive")
    dataset_id = retort("datasets", "create", "flowers", str(archive), "--broken", "2", "--seed", "7").stdout.strip()
    assert dataset_id.startswith("dataset_")
    shown = json.loads(retort("datasets", "show", dataset_id, "--json").stdout)
    assert (shown["state"], shown["source"]["folder"]) == ("ingesting", None)
    taken = take(shown["job_id"])
    assert (taken.kind, taken.spec["limits"]["broken"], taken.spec["splits"]["seed"]) == ("ingest", 2, 7)
    shown = retort("datasets", "show", dataset_id).stdout
    assert "it is still being taken in by job" in shown
    classes = [{"name": "aster", "train": 40, "validation": 5, "test": 5}]
    finish(taken, report={"layout": "folders of classes", "classes": classes, "warnings": ["left out: x"]})
    shown = retort("datasets", "show", dataset_id).stdout
    for words in ("ready", "2 classes, 80 training, 10 validation and 10 test examples", "left out: x", "aster"):
        assert words in shown
    assert dataset_id in retort("datasets", "list").stdout
    assert "ingest" in retort("jobs", "--kind", "ingest").stdout
    assert retort("datasets", "delete", dataset_id).stdout == f"{dataset_id} is deleted.\n"
    assert json.loads(retort("datasets", "list", "--json").stdout) == []


def test_an_earlier_upload_or_a_folder_may_be_named(retort: Run, tmp_path: Path) -> None:
    archive = tmp_path / "flowers.tar"
    archive.write_bytes(b"an archive")
    upload = retort("upload", str(archive), "--kind", "dataset").stdout.strip()
    made = json.loads(retort("datasets", "create", "flowers", upload, "--json").stdout)
    assert made["source"] == {"upload": upload, "folder": None}
    refused = retort("datasets", "create", "flowers", "/data/flowers", "--on-workers")
    assert refused.exit_code != 0
    assert "this server allows no local folders" in refused.stderr


def test_the_layout_is_given_by_options(retort: Run, tmp_path: Path) -> None:
    archive = tmp_path / "flowers.tar"
    archive.write_bytes(b"an archive")
    given = (
        *("--layout", "list", "--list", "a.csv", "--list", "b.csv", "--label-column", "Art", "--encoding", "cp1252"),
        *("--class", "poppy", "--class", "aster", "--split-name", "test=fold5", "--split-name", "test=fold6"),
        *("--missing", "3"),
    )
    made = json.loads(retort("datasets", "create", "flowers", str(archive), *given, "--json").stdout)
    again = json.loads(retort("datasets", "create", "flowers", str(archive), "--json").stdout)
    assert again["source"] == made["source"]
    spec = take(made["job_id"]).spec
    assert {field: spec[field] for field in ("layout", "lists", "columns", "encoding", "classes")} == {
        "layout": "list",
        "lists": ["a.csv", "b.csv"],
        "columns": {"path": None, "label": "Art", "split": None},
        "encoding": "cp1252",
        "classes": ["poppy", "aster"],
    }
    assert spec["splits"]["names"] == {"train": [], "validation": [], "test": ["fold5", "fold6"]}
    assert spec["limits"]["missing"] == 3
    for wrong in ("fold5", "dev=fold5", "test="):
        refused = retort("datasets", "create", "flowers", str(archive), "--split-name", wrong)
        assert "wanted train, validation, test, and a name after =" in refused.stderr


def test_built_in_ones_are_listed(retort: Run) -> None:
    shown = retort("datasets", "list", "--builtin").stdout
    assert "digits" in shown
    assert "stored" in shown
    assert "cifar100" in {
        entry["name"] for entry in json.loads(retort("datasets", "list", "--builtin", "--json").stdout)
    }


def test_a_folder_is_packed_and_ingested(retort: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "flowers", tmp_path / "again" / "flowers"
    for folder in (first, second):
        for name in ("poppy/2.jpg", "aster/1.jpg") if folder is first else ("aster/1.jpg", "poppy/2.jpg"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(name.encode() * 1000)
    (second / "poppy" / "2.jpg").chmod(0o600)
    (second / "aster" / "1.jpg").rename(tmp_path / "1.jpg")
    (second / "aster" / "1.jpg").symlink_to(tmp_path / "1.jpg")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    made = [json.loads(retort("datasets", "create", "f", str(folder), "--json").stdout) for folder in (first, second)]
    uploads = json.loads(retort("uploads", "--json").stdout)
    assert {upload["id"] for upload in uploads} == {one["source"]["upload"] for one in made}
    assert len({upload["sha256"] for upload in uploads}) == 1
    assert (len(uploads), uploads[0]["name"], uploads[0]["kind"]) == (1, "flowers.tar", "dataset")
    assert list(scratch.iterdir()) == []
    with pack(first, lambda done, total: None) as archive, tarfile.open(archive) as tar:
        assert tar.getnames() == ["aster/1.jpg", "poppy/2.jpg"]


def test_a_folder_that_cannot_be_packed_is_refused_in_a_sentence(retort: Run, tmp_path: Path) -> None:
    folder = tmp_path / "flowers"
    folder.mkdir()

    def refused(*words: str) -> str:
        result = retort("datasets", "create", "f", str(folder), *words)
        assert (result.exit_code, result.stdout) != (0, ""), result.stderr
        return result.stderr

    assert f"{folder} holds no files; wanted a folder of images" in refused()
    (folder / "gone.jpg").symlink_to(tmp_path / "nowhere")
    assert f"{folder}/gone.jpg cannot be read: No such file or directory" in refused()
    (folder / "gone.jpg").unlink()
    (folder / "aster").symlink_to(tmp_path)
    assert f"{folder}/aster is a link to a folder; wanted the folder itself" in refused()
    (folder / "aster").unlink()
    os.mkfifo(folder / "pipe.jpg")
    assert f"{folder}/pipe.jpg is not a regular file" in refused()
    assert "this server allows no local folders" in refused("--on-workers")
    (folder / "pipe.jpg").unlink()
    folder.rmdir()
    assert f"there is no file or folder '{folder}' here" in refused()
