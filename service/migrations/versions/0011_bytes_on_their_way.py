"""Bytes on their way: a part that comes in counts against its project's limit.

Revision 0011, after 0010.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and their index."""
    op.add_column("blobs", sa.Column("draft_of", sa.String()))
    op.add_column("blobs", sa.Column("draft_bytes", sa.BigInteger()))
    op.create_index(op.f("ix_blobs_draft_of"), "blobs", ["draft_of"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index(op.f("ix_blobs_draft_of"), "blobs")
    op.drop_column("blobs", "draft_bytes")
    op.drop_column("blobs", "draft_of")
