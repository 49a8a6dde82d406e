"""Files of users, and the parts of them that have come. Times are epoch seconds by the database's clock."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from service.blobs import references
from service.blobs.models import CHUNK_BYTES
from service.db import Base


class UploadKind(StrEnum):
    """The things that can be made of a file."""

    dataset = "dataset"
    model = "model"


class UploadState(StrEnum):
    """Whether all bytes are there and are those that were promised."""

    open = "open"
    complete = "complete"


class UploadRow(Base):
    """A file of a user. Its blob has no name before all parts are there and agree with the promise."""

    __tablename__ = "uploads"
    __table_args__ = (
        UniqueConstraint("project_id", "idempotency_key"),
        Index("ix_uploads_list", "project_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    """`upload_` and 26 characters that sort by the time of creation."""
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    kind: Mapped[UploadKind]
    name: Mapped[str]
    """The file's name, for people; nothing is ever opened by it."""
    size: Mapped[int] = mapped_column(BigInteger)
    """Promised, in bytes."""
    sha256: Mapped[str]
    """Promised, hex."""
    part_bytes: Mapped[int]
    """Size of every part but the last: a multiple of a chunk's."""
    blob_id: Mapped[str] = mapped_column(ForeignKey("blobs.id"), index=True)
    state: Mapped[UploadState] = mapped_column(default=UploadState.open)
    idempotency_key: Mapped[str | None]
    body_digest: Mapped[str]
    """sha256, hex, of what was asked."""
    created_at: Mapped[float]
    expires_at: Mapped[float] = mapped_column(index=True)

    @property
    def parts(self) -> int:
        """Number of its parts, which count from 1."""
        return -(-self.size // self.part_bytes)

    def part_size(self, number: int) -> int:
        """Bytes of that part."""
        return min(self.part_bytes, self.size - (number - 1) * self.part_bytes)

    def chunks(self, number: int) -> range:
        """Numbers of the blob's chunks that are that part."""
        first = (number - 1) * (self.part_bytes // CHUNK_BYTES)
        return range(first, first - (-self.part_size(number) // CHUNK_BYTES))


class UploadPartRow(Base):
    """A part that has come whole, with the digest that was promised for it. Gone once the upload is complete."""

    __tablename__ = "upload_parts"

    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    size: Mapped[int]
    sha256: Mapped[str]
    """Hex."""
    at: Mapped[float]


references.register(UploadRow, reserved=UploadRow.state == UploadState.open)
