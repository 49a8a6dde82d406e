"""Whatever the bytes, a reader of archives gives their files or says in one sentence why not."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from retort.dataset import DatasetError
from retort.ingestion.members import Bounds, members_of
from retort.ingestion.names import DEEPEST, LONGEST_NAME, safe_name
from tests.retort.ingestion.packing import flowers, gz, tar, zipped, zst

FILES = {**flowers(2), "a" * 120 + "/\u00e9\u2603.png": b"long", "notes": bytes(3000)}
WHOLE: dict[str, bytes] = {
    "tar": tar(FILES), "gnu": tar(FILES, form=1), "gz": gz(tar(FILES)), "zst": zst(tar(FILES)), "zip": zipped(FILES),
}  # fmt: skip
BOUNDS = Bounds(bytes=1 << 22, files=1000)
MARKS = (b"\0", b"\xff", b"9", b"7777777", b"=", b"\n", b"x", b"g", b"S", b"L", b"GNU.sparse.map=", b"PK\1\2", b"..")


def read_through(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    with suppress(DatasetError):
        for member in members_of(file, BOUNDS):
            assert sum(map(len, member.blocks())) == member.size


def mutated(content: bytes, seed: int) -> bytes:
    """The bytes with some of them changed, left out, or put in twice."""
    chance, changed = random.Random(seed), bytearray(content)
    for _ in range(chance.randrange(1, 8)):
        place, mark = chance.randrange(len(changed)), chance.choice(MARKS)
        match chance.randrange(4):
            case 0:
                changed[place] = chance.randrange(256)
            case 1:
                changed[place : place + len(mark)] = mark
            case 2:
                end = place + chance.randrange(1, 600)
                changed[place:end] = b"" if len(changed) > 700 else changed[place:end]
            case _:
                start = chance.randrange(len(changed))
                changed[place:place] = changed[start : start + 512]
    return bytes(changed)


@pytest.mark.parametrize("content", WHOLE.values(), ids=WHOLE)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_an_archive_that_was_changed_anywhere(content: bytes, seed: int, tmp_path: Path) -> None:
    read_through(mutated(content, seed), tmp_path / "archive")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(begins=st.sampled_from([b"", b"PK", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"]), content=st.binary(max_size=2000))
def test_any_bytes(begins: bytes, content: bytes, tmp_path: Path) -> None:
    read_through(begins + content, tmp_path / "archive")


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("./\\ a:%2e\u2025\uff0e\u2215\0\udce9C"), max_size=12) | st.text(max_size=40))
@example("aster./x.png.")
def test_a_name_that_is_let_in_leads_nowhere_else(name: str) -> None:
    try:
        safe = safe_name(name)
    except DatasetError:
        return
    splits = safe.split("/")
    assert not safe.startswith("/")
    assert ".." not in splits
    assert "\0" not in safe
    assert len(splits) <= DEEPEST
    assert Path("/base", safe).resolve().is_relative_to("/base")
    assert len(safe) <= 10 * LONGEST_NAME
