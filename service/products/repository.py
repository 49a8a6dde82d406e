"""All SQL that products have in common; `table` is the kind's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import Select, delete, select, tuple_
from sqlalchemy.orm import Session

from service.blobs.models import BlobRow
from service.jobs.models import JobRow
from service.paging import Position
from service.products.models import ProductRow

Row = TypeVar("Row", bound=ProductRow)
RowAndJob = tuple[Row, JobRow | None]
"""A product and the job that makes or made it."""


def find(session: Session, table: type[Row], project_id: str, product_id: str) -> RowAndJob[Row] | None:
    """A product of that project with its job."""
    row = session.execute(_rows(table, project_id).where(table.id == product_id)).one_or_none()
    return (row[0], row[1]) if row else None


def lock(session: Session, table: type[Row], project_id: str, product_id: str) -> RowAndJob[Row] | None:
    """The same; nobody else changes the product until the transaction ends."""
    found = _rows(table, project_id).where(table.id == product_id).with_for_update(of=table)
    row = session.execute(found).one_or_none()
    return (row[0], row[1]) if row else None


def of_job(session: Session, table: type[Row], job_id: str) -> Row | None:
    """The product that a job makes or made."""
    return session.scalar(select(table).where(table.job_id == job_id))


def page(
    session: Session, table: type[Row], project_id: str, after: Position | None, limit: int
) -> Sequence[RowAndJob[Row]]:
    """Products of that project with their jobs, newest first."""
    found = _rows(table, project_id)
    if after is not None:
        found = found.where(tuple_(table.created_at, table.id) < after)
    rows = session.execute(found.order_by(table.created_at.desc(), table.id.desc()).limit(limit))
    return [(product, job) for product, job in rows]


def add(session: Session, product: ProductRow) -> None:
    """Store a product."""
    session.add(product)
    session.flush()


def remove(session: Session, product: ProductRow) -> None:
    """Delete a product's row."""
    table = type(product)
    session.execute(delete(table).where(table.id == product.id))


def find_blob(session: Session, table: type[ProductRow], project_id: str, product_id: str) -> BlobRow | None:
    """The file of a product of that project, if it has one."""
    joined = select(BlobRow).join(table, table.blob_id == BlobRow.id)
    return session.scalar(joined.where(table.id == product_id, table.project_id == project_id))


def _rows(table: type[Row], project_id: str) -> Select[Row, JobRow]:
    joined = select(table, JobRow).outerjoin(JobRow, JobRow.id == table.job_id)
    return joined.where(table.project_id == project_id)
