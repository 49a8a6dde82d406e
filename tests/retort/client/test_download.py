from __future__ import annotations

import os
from pathlib import Path

import pytest

from retort.client import CorruptDownloadError, NotFoundError, Retort, UnreachableError
from tests.retort.client.conftest import Service, Wire

CONTENT = os.urandom(3 << 20) + b"the end"


@pytest.fixture
def job_id(service: Service) -> str:
    return service.create()


def test_artifacts_are_listed_and_downloaded(client: Retort, service: Service, job_id: str, tmp_path: Path) -> None:
    sha256 = service.add_file(job_id, "student.onnx", CONTENT)
    service.add_file(job_id, "empty.json", b"")
    listed = {file.name: file for file in client.jobs.artifacts(job_id)}
    assert (listed["student.onnx"].sha256, listed["student.onnx"].size) == (sha256, len(CONTENT))
    progress: list[tuple[int, int]] = []
    path = client.jobs.download(job_id, "student.onnx", tmp_path, lambda done, total: progress.append((done, total)))
    assert path == tmp_path / "student.onnx"
    assert path.read_bytes() == CONTENT
    assert progress == sorted(progress)
    assert progress[-1] == (len(CONTENT), len(CONTENT))
    assert client.jobs.download(job_id, "empty.json", tmp_path / "other name.json").read_bytes() == b""
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == ["other name.json", "student.onnx"]


def test_a_broken_download_goes_on_where_it_broke(service: Service, job_id: str, wire: Wire, tmp_path: Path) -> None:
    service.add_file(job_id, "student.onnx", CONTENT)
    wire.breaks = [1_000_000, 1_000_000, 0, 500_000]
    with Retort(wire.url, service.key) as unlucky:
        path = unlucky.jobs.download(job_id, "student.onnx", tmp_path)
    assert path.read_bytes() == CONTENT
    assert [*tmp_path.glob("*.part")] == []
    # Heads aside, and what lay unread in buffers when it broke, no byte came twice.
    assert len(CONTENT) < sum(wire.answered) < len(CONTENT) + 400_000


def test_it_goes_on_however_often_it_breaks(service: Service, job_id: str, wire: Wire, tmp_path: Path) -> None:
    service.add_file(job_id, "student.onnx", CONTENT)
    wire.breaks = [500_000] * 6
    with Retort(wire.url, service.key) as unlucky:
        assert unlucky.jobs.download(job_id, "student.onnx", tmp_path).read_bytes() == CONTENT


def test_a_download_that_failed_is_resumed_later(service: Service, job_id: str, wire: Wire, tmp_path: Path) -> None:
    service.add_file(job_id, "student.onnx", CONTENT)
    wire.breaks = [2_000_000] + [0] * 8
    with Retort(wire.url, service.key) as unlucky:
        with pytest.raises(UnreachableError):
            unlucky.jobs.download(job_id, "student.onnx", tmp_path)
        assert not (tmp_path / "student.onnx").exists()
        wire.breaks, before = [], sum(wire.answered)
        assert unlucky.jobs.download(job_id, "student.onnx", tmp_path).read_bytes() == CONTENT
        assert sum(wire.answered) - before < len(CONTENT) - 1_500_000


def test_a_part_file_of_wrong_bytes_is_deleted(client: Retort, service: Service, job_id: str, tmp_path: Path) -> None:
    sha256 = service.add_file(job_id, "student.onnx", CONTENT)
    (tmp_path / f"student.onnx.{sha256[:16]}.part").write_bytes(b"wrong")
    with pytest.raises(CorruptDownloadError):
        client.jobs.download(job_id, "student.onnx", tmp_path)
    assert [*tmp_path.iterdir()] == []
    assert client.jobs.download(job_id, "student.onnx", tmp_path).read_bytes() == CONTENT


def test_a_part_file_of_another_artifact_is_left_alone(
    client: Retort, service: Service, job_id: str, tmp_path: Path
) -> None:
    service.add_file(job_id, "student.onnx", CONTENT)
    other = tmp_path / "student.onnx.0123456789abcdef.part"
    other.write_bytes(b"of another job")
    assert client.jobs.download(job_id, "student.onnx", tmp_path).read_bytes() == CONTENT
    assert other.read_bytes() == b"of another job"


def test_a_missing_file_leaves_nothing_behind(client: Retort, job_id: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        client.jobs.download(job_id, "student.onnx", tmp_path)
    assert [*tmp_path.iterdir()] == []
