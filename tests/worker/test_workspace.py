"""Folders of attempts and jobs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from retort.kinds import DISTILL, KINDS
from service.jobs.models import State
from tests.service.rows import add_job, add_project
from worker.workspace import Workspace, sweep_folders


def test_every_network_that_starts_from_an_earlier_job_is_named_once() -> None:
    first, second = {"job": "job_1", "network": "teacher"}, {"job": "job_2", "network": "student"}
    students = [{"weights": first}, {"weights": None}, {"weights": second}, {"weights": "published"}, {}]
    recipe = {"teacher": {"weights": first}, "students": students}
    named_weights = KINDS[DISTILL].weights
    assert named_weights(recipe) == [("job_1", "teacher"), ("job_2", "student")]
    assert named_weights({"teacher": None, "students": []}) == []


def test_folders_go_when_their_job_is_over_and_they_are_old(database: str, tmp_path: Path) -> None:
    project_id = add_project()
    names = {state: add_job(project_id, state=state) for state in State}
    for name in [*names.values(), "job_deleted", "not_a_job"]:
        folder = tmp_path / "jobs" / name
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - 100,) * 2)
    assert sweep_folders(tmp_path, grace_seconds=1000) == 0
    assert sweep_folders(tmp_path, grace_seconds=50) == 4
    left = {folder.name for folder in (tmp_path / "jobs").iterdir()}
    assert left == {names[State.queued], names[State.running], names[State.paused], "not_a_job"}


@pytest.mark.parametrize("made", ["link", "pipe", "folder"])
def test_what_is_no_plain_file_is_not_read(tmp_path: Path, made: str) -> None:
    (tmp_path / "secret").write_text("hidden")
    path = tmp_path / "artifacts.json"
    {"link": lambda: path.symlink_to("secret"), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[made]()
    with pytest.raises((OSError, ValueError), match=r"artifacts\.json"):
        list(Workspace(tmp_path, tmp_path).shipped())


def test_a_list_without_end_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "artifacts.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="longer than 10,000,000 bytes"):
        list(Workspace(tmp_path, tmp_path).shipped())
