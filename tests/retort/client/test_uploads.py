"""Uploads by the client: broken wires, killed servers and killed clients, in constant memory."""

from __future__ import annotations

import hashlib
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from retort.client import InvalidError, NotFoundError, Retort, UnreachableError
from retort.client._uploads import _PartSender
from service.blobs.repository import read_chunk
from service.db import reading, transaction
from service.keys.service import create_local_key
from service.uploads.models import UploadPartRow, UploadRow
from tests.conftest import free_port, wait_until
from tests.retort.client.conftest import Service, Wire
from tests.servers import get

MIB = 1 << 20
ROOT = Path(__file__).parents[3]


def make_file(file: Path, mebibytes: int, seed: int = 0) -> str:
    """Write so many MiB, no two alike, and one byte; its sha256."""
    chance, digest = random.Random(seed), hashlib.sha256()
    noise = chance.randbytes(MIB)
    with file.open("wb") as out:
        for number in range(mebibytes):
            block = number.to_bytes(8, "big") + noise[8:]
            out.write(block)
            digest.update(block)
        out.write(b"x")
    digest.update(b"x")
    return digest.hexdigest()


def stored(upload_id: str) -> str:
    """sha256 of what the database holds of a complete upload."""
    digest = hashlib.sha256()
    with reading() as session:
        upload = session.get_one(UploadRow, upload_id)
    for number in range(-(-upload.size // MIB)):
        digest.update(read_chunk(upload.blob_id, number))
    return digest.hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """17 MiB and a byte: three parts, the last of 1 MiB and a byte."""
    made = tmp_path / "flowers.tar"
    make_file(made, 17)
    return made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retort.client._uploads.PATIENCE_SECONDS", 1.0)


def test_a_file_is_uploaded(client: Retort, file: Path) -> None:
    progress: list[tuple[int, int]] = []
    done = client.uploads.upload(file, kind="dataset", on_progress=lambda done, total: progress.append((done, total)))
    assert (done.name, done.kind, done.state, done.parts) == ("flowers.tar", "dataset", "complete", 3)
    assert done.sha256 == stored(done.id) == hashlib.sha256(file.read_bytes()).hexdigest()
    size = file.stat().st_size
    assert progress == sorted(progress)
    assert progress[-1] == (size, size)
    assert client.uploads.get(done.id) == done
    assert [upload.id for upload in client.uploads.list(kind="dataset", state="complete")] == [done.id]
    assert [*client.uploads.list(state="open")] == []
    client.uploads.delete(done.id)
    assert [*client.uploads.list()] == []


def test_what_the_service_has_is_not_sent_again(client: Retort, service: Service, wire: Wire, file: Path) -> None:
    done = client.uploads.upload(file, kind="dataset")
    with Retort(wire.url, service.key) as other:
        assert other.uploads.upload(file, kind="dataset") == done
        named = other.uploads.upload(file, kind="model", name="other")
    assert named.id != done.id
    assert (named.name, named.state) == ("other", "complete")
    assert sum(wire.requested) < 10_000


def test_a_wire_that_breaks_within_parts(service: Service, wire: Wire, file: Path) -> None:
    size = file.stat().st_size
    # The first connection begins the upload; then each of the next ones breaks within a part.
    wire.cuts = [3 * MIB, 5 * MIB, 400_000, 0, 2 * MIB]
    with Retort(wire.url, service.key) as unlucky:
        done = unlucky.uploads.upload(file, kind="dataset")
    assert done.state == "complete"
    assert stored(done.id) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert size < sum(wire.requested) < size + 11 * MIB + 400_000


def test_lost_answers_are_asked_for_again(service: Service, wire: Wire, file: Path) -> None:
    """The part came, its answer did not: it is sent again, or its end asked for again."""
    wire.breaks = [10, 1300, 0, 50]
    with Retort(wire.url, service.key) as unlucky:
        done = unlucky.uploads.upload(file, kind="dataset")
    assert stored(done.id) == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.usefixtures("impatient")
def test_an_upload_that_failed_is_resumed_later(service: Service, wire: Wire, file: Path) -> None:
    size = file.stat().st_size
    with Retort(service.url, service.key) as lucky:
        begun = lucky.uploads._create("dataset", "flowers.tar", size, hashlib.sha256(file.read_bytes()).hexdigest())
    wire.cuts = [10 * MIB, 4 * MIB, 4 * MIB, *[0] * 200]  # one part gets through, or two
    with Retort(wire.url, service.key) as unlucky:
        with pytest.raises(UnreachableError):
            unlucky.uploads.upload(file, kind="dataset")
        wire.cuts = []
        left = size - unlucky.uploads.get(begun.id).received_bytes
        assert 0 < left < size
        before = sum(wire.requested)
        assert unlucky.uploads.upload(file, kind="dataset").id == begun.id
        assert left <= sum(wire.requested) - before < left + 100_000


def test_a_part_of_other_bytes_is_sent_anew(client: Retort, file: Path) -> None:
    """As after an upload of a file of that name that changed in between: parts are compared, not counted."""
    content = file.read_bytes()
    begun = client.uploads._create("dataset", "flowers.tar", len(content), hashlib.sha256(content).hexdigest())
    other = file.with_name("other")
    other.write_bytes(bytes(len(content)))
    with other.open("rb") as wrong:
        _PartSender(client._transport, begun, wrong.fileno(), None).run()
    with pytest.raises(InvalidError, match="make a file of sha256"):
        client.uploads._complete(begun)
    done = client.uploads.upload(file, kind="dataset")
    assert done.id == begun.id
    assert stored(done.id) == done.sha256


def test_a_file_that_changes_meanwhile_is_refused(client: Retort, file: Path) -> None:
    changed = []

    def change(done: int, total: int) -> None:
        if not changed:
            changed.append(True)
            with file.open("r+b") as out:
                out.truncate(9 * MIB)

    with pytest.raises((OSError, InvalidError)):
        client.uploads.upload(file, kind="dataset", on_progress=change)
    assert next(client.uploads.list()).state == "open"


def test_refusals_are_sentences(client: Retort, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(InvalidError, match="size is 0; wanted at least 1"):
        client.uploads.upload(empty, kind="dataset")
    with pytest.raises(FileNotFoundError):
        client.uploads.upload(tmp_path / "none", kind="dataset")


def test_a_file_that_another_client_uploads_meanwhile_counts_as_uploaded(
    client: Retort, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = file.read_bytes()
    stale = client.uploads._create("dataset", "flowers.tar", len(content), hashlib.sha256(content).hexdigest())
    done = client.uploads.upload(file, kind="dataset")
    monkeypatch.setattr(client.uploads, "_create", lambda *_: stale)
    assert client.uploads.upload(file, kind="dataset") == done
    client.uploads.delete(done.id)
    with pytest.raises(NotFoundError, match="there is no upload"):
        client.uploads.upload(file, kind="dataset")


# Processes that are killed


class Api:
    """The front end on one port, which may be killed and started again, over the test's database."""

    def __init__(self, folder: Path) -> None:
        self.port, self.log = free_port(), folder / "api.log"
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "service.app", "--port", str(self.port)]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
        wait_until(lambda: get(f"{self.url}/healthz").is_success, "the front end starts")

    def end(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)


@pytest.fixture
def own_api(
    request: pytest.FixtureRequest,
    environment: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Api]:
    """A front end of this test's own; the command line reads its address and key from the environment."""
    kind = getattr(request, "param", "sqlite")
    environment(database_url=request.getfixturevalue(f"{kind}_database"))
    with transaction() as session:
        monkeypatch.setenv("RETORT_KEY", create_local_key(session, "test"))
    api = Api(tmp_path)
    monkeypatch.setenv("RETORT_URL", api.url)
    api.start()
    yield api
    api.end()


def retort_upload(file: Path, url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "retort.cli.main", "--url", url, "upload", str(file), "--kind", "dataset"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def received_parts() -> int:
    with reading() as session:
        return session.query(UploadPartRow).count()


def memory_mib(process: int, name: str = "VmHWM") -> float:
    """The most that a process ever held."""
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found
    return int(found[1]) / 1024


# tests/service/uploads runs on both databases; here SQLite stands for both, and PostgreSQL runs with the long tests.
@pytest.mark.parametrize(
    "own_api", ["sqlite", pytest.param("postgresql", marks=[pytest.mark.server, pytest.mark.long])], indirect=True
)
def test_300_mb_in_constant_memory_though_the_api_is_killed(own_api: Api, tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    make_file(small, 1)
    sha256 = make_file(large, 300)
    with Retort(own_api.url) as client:
        client.uploads.upload(small, kind="model")
    assert own_api.process is not None
    before = memory_mib(own_api.process.pid)
    command = retort_upload(large, own_api.url)
    wait_until(lambda: received_parts() >= 15, "parts come", 120)
    held = [memory_mib(own_api.process.pid) - before]
    own_api.end()
    killed_at = received_parts()
    assert killed_at < 38, "all was over before the API was killed"
    time.sleep(1)
    own_api.start()
    wait_until(lambda: received_parts() >= 36 or command.poll() is not None, "the others come", 120)
    client_memory = memory_mib(command.pid) if command.poll() is None else 0.0
    output, errors = command.communicate(timeout=300)
    assert command.returncode == 0, errors
    held.append(memory_mib(own_api.process.pid) - before)
    assert stored(output.strip()) == sha256
    assert max(held) < 60
    assert client_memory < 150
    print(f"server +{max(held):.0f} MiB, client {client_memory:.0f} MiB")


def test_a_killed_client_goes_on_where_it_was(own_api: Api, tmp_path: Path) -> None:
    file = tmp_path / "large"
    sha256 = make_file(file, 80)
    wire = Wire(own_api.port)
    try:
        first = retort_upload(file, wire.url)
        wait_until(lambda: received_parts() >= 3, "parts come", 60)
        first.kill()
        first.communicate()
        # What was on its way comes to its end, or breaks.
        time.sleep(1)
        there = received_parts()
        assert there < 10
        before = sum(wire.requested)
        second = retort_upload(file, wire.url)
        output, errors = second.communicate(timeout=300)
        assert second.returncode == 0, errors
        assert sum(wire.requested) - before < file.stat().st_size - (there * 8 - 1) * MIB
    finally:
        wire.close()
    assert stored(output.strip()) == sha256
