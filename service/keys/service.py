"""Authentication by a key; making, rotating and revoking keys."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Sequence
from math import ceil, inf
from pathlib import Path

from sqlalchemy.orm import Session

from service.access.caller import Caller
from service.access.notes import Note
from service.access.scopes import PROJECT_SCOPES, Scope, read, spell
from service.db import read_now, reading, transaction
from service.errors import Conflict, FieldError, Invalid, NotFound, TooManyRequests, Unauthorized, quote
from service.ids import new_id, random_text
from service.keys import repository
from service.keys.models import KeyRow
from service.keys.repository import LiveKey
from service.keys.schemas import KeyCreate
from service.paging import Position
from service.projects import service as projects
from service.rates import Rates
from service.settings import get_settings

MARK = "rt"
PREFIX_CHARACTERS, SECRET_CHARACTERS = 8, 32
KEY = re.compile(rf"({MARK}_[0-9a-z]{{{PREFIX_CHARACTERS}}})_[0-9a-z]{{{SECRET_CHARACTERS}}}")
USE_NOTED_EVERY_SECONDS = 60.0
ADMIN: tuple[Scope, ...] = ("admin",)

_rates = Rates()


def authenticate(text: str, note: Note | None = None) -> Caller:
    """The caller who shows this key. Raises Unauthorized, and TooManyRequests when its project sends too many requests.

    Notes the use in a transaction of its own, once a minute at most.
    """
    note = note or Note()
    with reading() as session:
        key = _find(session, text)
    if key is None:
        raise Unauthorized("the key is unknown, revoked or expired; wanted one that `retort keys` lists as live")
    note.project_id, note.key_id = key.project_id, key.id
    check_rate(key.project_id, key.requests_per_second)
    if key.unnoted:
        with transaction() as session:
            repository.note_use(session, key.id, USE_NOTED_EVERY_SECONDS)
    return Caller(key.id, key.project_id, key.admin, read(key.scopes), note)


def check_rate(project_id: str, per_second: float | None) -> None:
    """Count a request of that project, whose own limit is given. Raises TooManyRequests."""
    allowed = per_second or get_settings().requests_per_second
    if seconds := _rates.take(project_id, allowed):
        found = f"the project sends more than {allowed:g} requests a second; send this one again in {ceil(seconds)} s"
        raise TooManyRequests(found, retry_seconds=ceil(seconds))


def create(session: Session, caller: Caller, asked: KeyCreate) -> tuple[KeyRow, str, str]:
    """A new key, its project's name and its text. Raises NotFound and Invalid."""
    if asked.project is None:
        project = projects.read(session, caller.project_id)
    else:
        project = projects.by_name(session, asked.project)
    ends = asked.expires_at.timestamp() if asked.expires_at is not None else None
    if ends is not None and ends <= read_now(session):
        found = f"expires_at is {asked.expires_at}, which is over; wanted a time to come"
        raise Invalid.of([FieldError(pointer="/expires_at", detail=found)])
    key, text = make(session, project.id, asked.name, asked.scopes, expires_at=ends)
    return key, project.name, text


def make(
    session: Session,
    project_id: str,
    name: str,
    scopes: Collection[Scope],
    *,
    expires_at: float | None = None,
    replaces: str | None = None,
) -> tuple[KeyRow, str]:
    """A new key and its text, which is kept nowhere."""
    prefix = f"{MARK}_{random_text(PREFIX_CHARACTERS)}"
    text = f"{prefix}_{random_text(SECRET_CHARACTERS)}"
    now, admin = read_now(session), "admin" in scopes
    key = KeyRow(
        id=new_id("key", now), project_id=project_id, name=name, prefix=prefix, sha256=_hash(text), admin=admin,
        scopes=spell(PROJECT_SCOPES if admin else scopes), expires_at=expires_at, replaces=replaces, created_at=now,
    )  # fmt: skip
    repository.add(session, key)
    return key, text


def rotate(session: Session, key_id: str, grace_seconds: float) -> tuple[KeyRow, str, str]:
    """A key's successor, its project's name and its text; the old key ends after the grace time, or at its own end
    where that is sooner.

    The successor lives as long as the old key was made for. Raises NotFound, and Conflict for a key that has ended or
    has a successor.
    """
    old, now = _existing(session, key_id), read_now(session)
    if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
        how = "expired" if old.revoked_at is None else "revoked"
        raise Conflict(f"key {key_id} is {how}; only a live key can be rotated, so make a new one")
    if (newer := repository.successor(session, key_id)) is not None:
        raise Conflict(f"key {key_id} was rotated before; its successor {newer} can be")
    ends = None if old.expires_at is None else now + (old.expires_at - old.created_at)
    old.expires_at = min(now + grace_seconds, old.expires_at or inf)
    project = projects.read(session, old.project_id)
    key, text = make(session, project.id, old.name, old.granted, expires_at=ends, replaces=old.id)
    return key, project.name, text


def create_local_key(
    session: Session, name: str, project: str = projects.DEFAULT, *, scopes: Collection[Scope] = ADMIN
) -> str:
    """The text of a new key, for an operator at the service's own machine; makes the project where it is missing."""
    return make(session, projects.ensure(session, project).id, name, scopes)[1]


def ensure_first_key(session: Session) -> str:
    """The admin key in the data directory's file `key`; made, mode 0600, when none is there that opens this database.

    Called at each start of the embedded service, so that a key file and a database that do not belong together mend.
    """
    file = get_settings().data_dir / "key"
    kept = file.read_text().strip() if file.exists() else ""
    if _find(session, kept) is not None:
        return kept
    text = create_local_key(session, "first")
    _write_secret(file, text)
    return text


def revoke(session: Session, key_id: str) -> None:
    """From now on the key opens nothing; one that was revoked before keeps its time. Raises NotFound."""
    key = _existing(session, key_id)
    if key.revoked_at is None:
        key.revoked_at = read_now(session)


def page(session: Session, after: Position | None, limit: int) -> Sequence[tuple[KeyRow, str]]:
    """All keys, newest first, with their projects' names."""
    return repository.page(session, after, limit)


def _existing(session: Session, key_id: str) -> KeyRow:
    key = repository.lock(session, key_id)
    if key is None:
        raise NotFound(f"there is no key {quote(key_id)}")
    return key


def _find(session: Session, text: str) -> LiveKey | None:
    if KEY.fullmatch(text) is None:
        return None
    return repository.find_live(session, _hash(text), USE_NOTED_EVERY_SECONDS)


def _hash(text: str) -> str:
    # No salt and no slow hash: the text holds 160 bits of chance, which nobody guesses. And the time to look a hash up
    # says nothing of the text: one changed letter gives another hash altogether.
    return hashlib.sha256(text.encode()).hexdigest()


def _write_secret(file: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(f"{text}\n")
    part.replace(file)
