"""The columns that refer to blobs: each feature registers its own, beside its table.

From them follows which blobs nothing refers to, and which belong to a project.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, CompoundSelect, Select, Table, exists, func, inspect, or_, select, union
from sqlalchemy.orm import DeclarativeBase, Session

from service.blobs.models import BlobRow, ChunkRow


@dataclass(frozen=True)
class Reference:
    """A column that refers to blobs."""

    column: Column[Any]
    through: Column[Any] | None = None
    """A column of the same table that refers to the row which has the project; None where the row itself has it."""
    reserved: ColumnElement[bool] | None = None
    """Rows of which this holds have the bytes of their `size` reserved, while their blobs have none yet."""

    @property
    def table(self) -> Table:
        """The column's table."""
        return self.column.table

    def of_project(self, project_id: str) -> Select[Any]:
        """Ids of the blobs that rows of that project refer to."""
        found = select(self.column)
        if self.through is None:
            found = found.where(self.table.c.project_id == project_id)
        else:
            (key,) = self.through.foreign_keys
            owner = key.column
            found = found.join(owner.table, owner == self.through).where(owner.table.c.project_id == project_id)
        return found.where(self.column.is_not(None)) if self.column.nullable else found


REFERENCES: list[Reference] = []
"""All that were registered."""


def register(row: type[DeclarativeBase], *, through: str | None = None, reserved: Any = None) -> None:
    """Register the column `blob_id` of a table. The arguments are those of a Reference, `through` by name."""
    table = row.__table__
    assert isinstance(table, Table)
    columns = table.c
    REFERENCES.append(Reference(columns.blob_id, columns[through] if through else None, reserved))


def is_referenced() -> ColumnElement[bool]:
    """Whether anything refers to a blob, as a condition on BlobRow."""
    return or_(*(exists().where(reference.column == BlobRow.id) for reference in REFERENCES))


def blobs_of(project_id: str) -> CompoundSelect[Any]:
    """Ids of the blobs that the project's things refer to, each once."""
    return union(*(reference.of_project(project_id) for reference in REFERENCES))


def stored_bytes(session: Session, project_id: str) -> int:
    """Bytes of the blobs that the project's things refer to, each blob once, what is reserved for others, and what is
    on its way."""
    counts = [select(func.sum(BlobRow.size)).where(BlobRow.id.in_(blobs_of(project_id)))]
    for reference in REFERENCES:
        if reference.reserved is not None:
            columns = reference.table.c
            counts.append(select(func.sum(columns.size)).where(columns.project_id == project_id, reference.reserved))
    return drafted_bytes(session, project_id) + sum(int(session.scalars(count).one() or 0) for count in counts)


def drafted_bytes(session: Session, project_id: str) -> int:
    """Bytes that are on their way for the project."""
    return int(session.scalar(select(func.sum(BlobRow.draft_bytes)).where(BlobRow.draft_of == project_id)) or 0)


def check_complete(session: Session) -> None:
    """Raise RuntimeError when a table of the database refers to blobs by a column that is not registered: a sweep
    would take blobs away from it."""
    known = {(reference.table.name, reference.column.name) for reference in REFERENCES}
    keys = inspect(session.connection()).get_multi_foreign_keys()
    found = {
        (table, column)
        for (_, table), foreign in keys.items()
        for key in foreign
        if key["referred_table"] == BlobRow.__tablename__ and table != ChunkRow.__tablename__
        for column in key["constrained_columns"]
    }
    if missing := found - known:
        raise RuntimeError(
            f"the columns {sorted(missing)} refer to blobs and are not registered; import service.tables"
        )
