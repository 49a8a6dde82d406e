"""Blobs: bytes in chunks."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, LargeBinary, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from service.db import Base

CHUNK_BYTES = 1 << 20
"""Size of every chunk of a blob but the last."""


class BlobRow(Base):
    """Bytes in chunks. Written under a private id; named by digest and size in the transaction that commits it."""

    __tablename__ = "blobs"
    __table_args__ = (UniqueConstraint("sha256", "size"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str | None]
    """Hex; null while it is being written."""
    size: Mapped[int | None] = mapped_column(BigInteger)
    touched_at: Mapped[float]
    """When it was last written to or referred to; what nothing refers to is collected some time after."""
    draft_of: Mapped[str | None] = mapped_column(index=True)
    """Id of the project for which it comes in; null unless it is on its way and nothing refers to it yet."""
    draft_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Bytes that come in at most."""


class ChunkRow(Base):
    """One piece of a blob."""

    __tablename__ = "chunks"

    blob_id: Mapped[str] = mapped_column(ForeignKey("blobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)
