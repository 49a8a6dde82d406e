"""The least that FastAPI and SQLAlchemy need to create, read and list rows: one statement a request, no keys, no rules.

    python benchmarks/_bare_api.py PORT DATABASE_URL FILE

FILE is what `/file` sends, by starlette's own FileResponse.
"""

from __future__ import annotations

import sys
from typing import Any
from uuid import uuid4

import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse
from pydantic import BaseModel
from sqlalchemy import JSON, create_engine, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

PORT, DATABASE_URL, FILE = sys.argv[1:]

app = FastAPI()
engine = create_engine(DATABASE_URL, pool_size=16)


class Base(DeclarativeBase):
    """Base of all tables."""


class Row(Base):
    """A thing that is created, read and listed."""

    __tablename__ = "rows"

    id: Mapped[str] = mapped_column(primary_key=True)
    body: Mapped[dict[str, Any]] = mapped_column(JSON)


class Shown(BaseModel):
    """A row, as it is answered."""

    id: str
    body: dict[str, Any]


@app.get("/healthz")
def health() -> str:
    """Say that it runs."""
    return "ok"


@app.post("/rows", status_code=201)
def create(body: dict[str, Any]) -> Shown:
    """Store a row."""
    row = Shown(id=uuid4().hex, body=body)
    with Session(engine) as session, session.begin():
        session.execute(insert(Row).values(id=row.id, body=row.body))
    return row


@app.get("/rows/{row_id}")
def read(row_id: str) -> Shown:
    """One row."""
    with Session(engine) as session:
        row = session.scalars(select(Row).where(Row.id == row_id)).one()
        return Shown(id=row.id, body=row.body)


@app.get("/rows")
def rows(limit: int) -> list[Shown]:
    """Some rows."""
    with Session(engine) as session:
        found = session.scalars(select(Row).order_by(Row.id).limit(limit))
        return [Shown(id=row.id, body=row.body) for row in found]


@app.get("/file")
def file() -> FileResponse:
    """A file of the disk."""
    return FileResponse(FILE)


if __name__ == "__main__":
    Base.metadata.create_all(engine)
    uvicorn.run(app, port=int(PORT), loop="uvloop")
