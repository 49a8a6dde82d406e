"""Which columns refer to blobs: each is registered, or nothing is swept."""

from __future__ import annotations

import io

import pytest
from sqlalchemy import func, select

import service.blobs.references
from service.artifacts.models import ArtifactRow
from service.blobs.models import BlobRow, ChunkRow
from service.blobs.references import REFERENCES
from service.blobs.repository import sweep, write_blob
from service.db import reading
from service.tables import METADATA

pytestmark = pytest.mark.usefixtures("database")


def test_every_column_that_refers_to_blobs_is_registered_once() -> None:
    referring = {
        (table.name, key.parent.name) for table in METADATA.tables.values() for key in table.foreign_keys
        if key.column.table is BlobRow.__table__ and table is not ChunkRow.__table__
    }  # fmt: skip
    registered = [(reference.table.name, reference.column.name) for reference in REFERENCES]
    assert sorted(registered) == sorted(referring)


def test_nothing_is_swept_while_a_table_is_not_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    write_blob(io.BytesIO(b"to be swept"))
    others = [reference for reference in REFERENCES if reference.table is not ArtifactRow.__table__]
    with monkeypatch.context() as without:
        without.setattr(service.blobs.references, "REFERENCES", others)
        with pytest.raises(RuntimeError, match=r"'artifacts', 'blob_id'.* are not registered; import service.tables"):
            sweep(0)
        with reading() as session:
            assert session.scalar(select(func.count()).select_from(BlobRow)) == 1
    assert sweep(0) == 1
