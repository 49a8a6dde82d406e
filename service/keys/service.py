"""What one can do with keys."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.db import database_now, reading, transaction
from service.errors import Forbidden, NotFound, Unauthorized, quote
from service.ids import new_id, random_text
from service.keys import repository
from service.keys.models import Key
from service.keys.repository import Known
from service.keys.schemas import KeyCreate
from service.paging import Position
from service.projects import service as projects
from service.projects.models import Project
from service.settings import get_settings

MARK = "rt"
PREFIX_CHARACTERS, SECRET_CHARACTERS = 8, 32
KEY = re.compile(rf"({MARK}_[0-9a-z]{{{PREFIX_CHARACTERS}}})_[0-9a-z]{{{SECRET_CHARACTERS}}}")
USE_NOTED_EVERY_SECONDS = 60.0


@dataclass(frozen=True)
class Caller:
    """Who asks, as the key tells."""

    key_id: str
    project_id: str
    admin: bool

    @property
    def sees(self) -> str | None:
        """The project whose keys and whose self it sees; None is all of them."""
        return None if self.admin else self.project_id


def authenticate(text: str) -> Caller:
    """Who shows this key. Raises Unauthorized. Notes the use in a transaction of its own, once a minute at most."""
    with reading() as session:
        key = _find(session, text)
    if key is None:
        raise Unauthorized("the key is unknown or revoked; wanted one that `retort keys` lists as live")
    if key.unnoted:
        with transaction() as session:
            repository.note_use(session, key.id, USE_NOTED_EVERY_SECONDS)
    return Caller(key.id, key.project_id, key.admin)


def create(session: Session, caller: Caller, asked: KeyCreate) -> tuple[Key, str, str]:
    """A new key, its project's name and its text. Raises Forbidden and NotFound."""
    if asked.admin and not caller.admin:
        raise Forbidden("this key is no admin's; only an admin key can make an admin key")
    own = projects.read(session, caller.project_id)
    project = own
    if asked.project is not None and asked.project != own.name:
        if not caller.admin:
            raise Forbidden(f"this key opens project {own.name!r}; only an admin key can make a key for another")
        project = projects.by_name(session, asked.project)
    key, text = make(session, project, asked.name, admin=asked.admin)
    return key, project.name, text


def make(session: Session, project: Project, name: str, *, admin: bool) -> tuple[Key, str]:
    """A new key and its text, which is kept nowhere."""
    prefix = f"{MARK}_{random_text(PREFIX_CHARACTERS)}"
    text = f"{prefix}_{random_text(SECRET_CHARACTERS)}"
    now = session.scalars(select(database_now())).one()
    key = Key(
        id=new_id("key", now), project_id=project.id, name=name, prefix=prefix, sha256=_hash(text), admin=admin,
        created_at=now,
    )  # fmt: skip
    repository.add(session, key)
    return key, text


def create_local_key(session: Session, name: str, project: str = projects.DEFAULT, *, admin: bool = True) -> str:
    """The text of a new key, for who sits at the service's own machine; makes the project where it is missing."""
    return make(session, projects.ensure(session, project), name, admin=admin)[1]


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


def revoke(session: Session, caller: Caller, key_id: str) -> None:
    """From now on the key opens nothing. Raises NotFound."""
    if repository.find(session, key_id, caller.sees) is None:
        raise NotFound(f"there is no key {quote(key_id)}")
    repository.revoke(session, key_id)


def page(session: Session, caller: Caller, after: Position | None, limit: int) -> Sequence[tuple[Key, str]]:
    """The project's keys, an admin's all keys, newest first, with their projects' names."""
    return repository.page(session, caller.sees, after, limit)


def _find(session: Session, text: str) -> Known | None:
    if KEY.fullmatch(text) is None:
        return None
    return repository.find_live(session, _hash(text), USE_NOTED_EVERY_SECONDS)


def _hash(text: str) -> str:
    # No salt and no slow hash: the text holds 160 bits of chance, which nobody guesses.
    return hashlib.sha256(text.encode()).hexdigest()


def _write_secret(file: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(f"{text}\n")
    part.replace(file)
