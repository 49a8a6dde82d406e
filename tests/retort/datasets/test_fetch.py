"""Downloads: from a real HTTP server, checked, unpacked member by member, kept."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import socket
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import retort.download
from retort.dataset import DatasetError
from retort.datasets import DATASETS, _fetch
from retort.datasets._fetch import Download, fetch
from retort.datasets._published import OfficialFacts
from retort.download import Unreachable
from retort.engine.causes import cause_of
from retort.engine.interrupt import DISK_FULL
from tests.retort.datasets.published import WRITERS
from tests.retort.datasets.test_published import dataset


class Server(ThreadingHTTPServer):
    """Serves a folder and counts the requests."""

    daemon_threads = False  # so that none outlives its test

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.ends = threading.Event()
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class _Handler(SimpleHTTPRequestHandler):
    """Says that it is busy, that it forbids, or less than it announces, or nothing, where the name asks for that."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        name = self.path.removeprefix("/")
        if name.isdigit():
            self.send_error(int(name))
        elif name == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"goo")
        elif name == "silent":
            self.server.ends.wait()
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        assert isinstance(self.server, Server)
        self.server.asked.append(self.path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    with Server(tmp_path / "served") as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.ends.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache of data sets, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "datasets"


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def serve(server: Server, name: str, content: bytes, **given: object) -> Download:
    (server.folder / name).write_bytes(content)
    fields: dict[str, object] = {"urls": (server.url(name),), "md5": md5(content)}
    return Download(**(fields | given))  # type: ignore[arg-type]


def tar_gz(folder: Path) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        archive.add(folder, folder.name)
    return made.getvalue()


def zipped(folder: Path) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return made.getvalue()


def packed(name: str, folder: Path) -> dict[str, bytes]:
    """A small set as its publisher serves it: what each download's file holds."""
    if name in ("mnist", "fashion_mnist"):
        return {
            f"{file.name.removesuffix('.gz')}.gz": file.read_bytes()
            if file.suffix == ".gz"
            else gzip.compress(file.read_bytes())
            for file in folder.iterdir()
        }
    (download,) = DATASETS[name].downloads
    return {download.name: zipped(folder) if download.name.endswith(".zip") else tar_gz(folder)}


def serve_set(name: str, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a data set be downloaded from the server, and be whole with what is there."""
    entry = DATASETS[name]
    given = dataset(name, folder, validation_share=0)
    facts = given.facts([folder])
    assert facts is not None
    content = packed(name, folder)
    downloads = tuple(
        serve(server, one.name, content[one.name], folder=one.folder, members=one.members) for one in entry.downloads
    )
    monkeypatch.setattr(entry, "downloads", downloads)
    official = OfficialFacts(facts.train, facts.test, entry.official.mean, entry.official.std)
    monkeypatch.setattr(entry, "official", official)


@pytest.mark.parametrize("name", [name for name, entry in DATASETS.items() if getattr(entry, "downloads", ())])
def test_what_is_downloaded_is_what_lies_in_a_folder(
    name: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    folder = WRITERS[name](tmp_path / "local")
    serve_set(name, server, folder, monkeypatch)
    here, fetched = dataset(name, folder), dataset(name, None)
    local, came = here.load([tmp_path]), fetched.load([])
    assert (came.digest, came.facts, came.warnings) == (local.digest, local.facts, ())
    asked = len(server.asked)
    assert asked == len(fetched.downloads)
    assert fetched.load([]).digest == local.digest
    assert len(server.asked) == asked, "it is downloaded once"
    if fetched.facts([]) is not None:
        assert fetched.facts([]) == local.facts
    assert {file.name for file in (cache / name).iterdir()} <= {
        *(download.name for download in fetched.downloads),
        *(download.folder for download in fetched.downloads),
    }


def test_only_named_members_are_unpacked(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "inner").mkdir(parents=True)
    for name in ("wanted.bin", "other.bin", "inner/wanted.bin"):
        (folder / name).write_bytes(name.encode())
    (folder / "link.bin").symlink_to("/etc/passwd")
    download = serve(server, "set.tar.gz", tar_gz(folder), folder="set", members=("set/wanted.bin", "set/link.bin"))
    unpacked = fetch("any", [download]) / "set"
    assert [file.name for file in unpacked.iterdir()] == ["wanted.bin"]


def archive_of(names: list[str], content: bytes = b"evil") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def zip_of(names: list[str]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in names:
            archive.writestr(name, b"evil")
    return made.getvalue()


@pytest.mark.parametrize("name", ["../evil", "set/../../evil", "/tmp/evil", "set/..", "set\\..\\evil"])
@pytest.mark.parametrize("make", [archive_of, zip_of])
def test_members_that_lead_elsewhere_are_refused(name: str, make: object, server: Server, cache: Path) -> None:
    content = make(["set/good", name])  # type: ignore[operator]
    download = serve(server, "set.archive", content, folder="set", members=("*",))
    with pytest.raises(DatasetError, match="which leads out of the folder"):
        fetch("any", [download])
    assert [file.name for file in (cache / "any").iterdir()] == ["set.archive"], "nothing of it is left"


def test_bytes_are_counted_while_unpacking(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fetch, "LARGEST_UNPACKED", 5_000_000)
    bomb = archive_of(["set/1", "set/2"], bytes(4_000_000))
    assert len(bomb) < 50_000
    with pytest.raises(DatasetError, match="more than 1,000,000 bytes came"):
        fetch("any", [serve(server, "set.tar.gz", bomb, folder="set", members=("set/*",))])


def test_bytes_are_counted_while_downloading(server: Server, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(_fetch, "LARGEST_FILE", 1000)
    with pytest.raises(DatasetError, match="more than 1,000 bytes came"):
        fetch("any", [serve(server, "file", bytes(1001))])
    assert not list((cache / "any").iterdir())


@pytest.mark.parametrize(
    "content",
    [b"no archive", archive_of(["set/1"])[:-30], archive_of(["other/1"])],
    ids=["no archive", "cut short", "another's"],  # an archive's bytes hold the second in which it was made
)
def test_broken_archives_are_refused(content: bytes, server: Server) -> None:
    download = serve(server, "set.tar.gz", content, folder="set", members=("*",))
    with pytest.raises(DatasetError, match=r"set\.tar\.gz (cannot be unpacked|holds nothing in a folder 'set')"):
        fetch("any", [download])


def test_another_file_than_the_published_one_is_not_kept(server: Server, cache: Path) -> None:
    download = serve(server, "file", b"another", md5=md5(b"the published one"))
    with pytest.raises(DatasetError, match="what came is not the published file") as raised:
        fetch("any", [download])
    assert "\n" not in str(raised.value)
    assert not list((cache / "any").iterdir())


def test_a_damaged_file_is_fetched_again(server: Server, cache: Path) -> None:
    download = serve(server, "file", b"good")
    fetch("any", [download])
    (cache / "any" / "file").write_bytes(b"damaged")
    fetch("any", [download])
    assert (cache / "any" / "file").read_bytes() == b"good"
    assert len(server.asked) == 2


def test_the_next_address_is_tried(server: Server) -> None:
    good = serve(server, "file", b"good")
    missing = Download((server.url("missing"), *good.urls), good.md5)
    assert (fetch("any", [missing]) / "missing").read_bytes() == b"good"
    server.folder.joinpath("bad").write_bytes(b"bad")
    changed = Download((server.url("bad"), *good.urls), good.md5)
    assert (fetch("any", [changed]) / "bad").read_bytes() == b"good"


@pytest.mark.parametrize("name", ["503", "500", "429", "cut", "silent"])
def test_failures_that_may_pass_are_distinguished(
    name: str, server: Server, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(retort.download, "SILENCE_SECONDS", 0.2)
    wanted = {"cut": "3 of 5 bytes came", "silent": "timed out"}.get(name, name)
    with pytest.raises(Unreachable, match=f"^{name} cannot be had from http.*{wanted}.*, or give path") as raised:
        fetch("any", [Download((server.url(name),), md5(b"good!"))])
    assert "\n" not in str(raised.value)
    assert not list((cache / "any").iterdir())


@pytest.mark.parametrize("name", ["403", "404", "410"])
def test_what_the_server_refuses_is_the_recipes_fault(name: str, server: Server) -> None:
    with pytest.raises(DatasetError, match=f"{name} cannot be had from http.*HTTP Error {name}"):
        fetch("any", [Download((server.url(name),), md5(b"good!"))])


def test_one_address_that_may_answer_later_is_worth_another_attempt(server: Server) -> None:
    with pytest.raises(Unreachable, match="503"):
        fetch("any", [Download((server.url("503"), server.url("404")), md5(b"good!"))])


def test_a_name_that_no_server_bears_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="file cannot be had from"):
        fetch("any", [Download(("http://published.invalid/file",), md5(b"good!"))])


def test_a_file_that_is_another_is_fetched_once_more(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = serve(server, "file", b"another", md5=md5(b"good"))
    with pytest.raises(DatasetError, match="what came is not the published file"):
        fetch("any", [wanted])
    assert len(server.asked) == 2
    came = _fetch.download

    def damaged_once(url: str, file: Path, most_bytes: int) -> None:
        came(url, file, most_bytes)
        (server.folder / "file").write_bytes(b"good")

    monkeypatch.setattr(_fetch, "download", damaged_once)
    assert (fetch("any", [wanted]) / "file").read_bytes() == b"good"


def test_a_full_disk_is_no_fault_of_the_server_and_leaves_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    make = _fetch.TemporaryDirectory

    def full(**where: object) -> object:
        scratch = make(**where)  # type: ignore[call-overload]
        Path(scratch.name, "file").symlink_to("/dev/full")
        return scratch

    monkeypatch.setattr(_fetch, "TemporaryDirectory", full)
    with pytest.raises(DatasetError, match="No space left") as raised:
        fetch("any", [serve(server, "file", b"good")])
    found = cause_of(raised.value, (cache,))
    assert found is not None
    assert found[0] == DISK_FULL
    assert not list((cache / "any").iterdir())


def test_without_a_network_it_says_what_to_do_and_a_file_put_there_is_taken(cache: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    download = Download((f"http://127.0.0.1:{port}/file",), md5(b"good"))
    with pytest.raises(
        Unreachable, match=r"^file cannot be had from http.*refused.*put it into .*, or give path"
    ) as no:
        fetch("any", [download])
    assert "\n" not in str(no.value)
    (cache / "any" / "file").write_bytes(b"good")
    assert fetch("any", [download]) == cache / "any"


def test_what_a_killed_run_left_is_removed_after_a_day(server: Server, cache: Path) -> None:
    for name, age in (("old", 100_000), ("new", 1000)):
        folder = cache / "any" / f".partial-{name}"
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"half")
        os.utime(folder, (time.time() - age,) * 2)
    fetch("any", [serve(server, "file", b"good")])
    assert {entry.name for entry in (cache / "any").iterdir()} == {".partial-new", "file"}


def test_a_cache_that_cannot_be_written_is_refused(server: Server, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"a file where a folder should be")
    with pytest.raises(DatasetError, match="file cannot be had from"):
        fetch("any", [serve(server, "file", b"good")])


def test_two_runs_at_once_fetch_it_whole(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_set("cifar100", server, WRITERS["cifar100"](tmp_path / "local"), monkeypatch)
    digests = []
    threads = [
        threading.Thread(target=lambda: digests.append(dataset("cifar100", None).load([]).digest)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 4
    assert len(set(digests)) == 1


def test_what_was_downloaded_and_is_not_whole_any_more_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    serve_set("cifar100", server, WRITERS["cifar100"](tmp_path / "local"), monkeypatch)
    dataset("cifar100", None).load([])
    file = cache / "cifar100" / "cifar-100-binary" / "test.bin"
    file.write_bytes(file.read_bytes()[:-3074])
    with pytest.raises(DatasetError, match="what was downloaded is not whole any more: 1,000 training and 99 test"):
        dataset("cifar100", None).load([])
