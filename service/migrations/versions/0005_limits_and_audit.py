"""Limits of a project, and the audit log.

Revision 0005, after 0004.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns and the log's table."""
    op.add_column("projects", sa.Column("max_queued", sa.Integer()))
    op.add_column("projects", sa.Column("max_stored_bytes", sa.BigInteger()))
    op.add_column("projects", sa.Column("max_upload_bytes", sa.BigInteger()))
    op.add_column("projects", sa.Column("requests_per_second", sa.Double()))
    op.create_table(
        "audit",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("project_id", sa.String()),
        sa.Column("key_id", sa.String()),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("route", sa.String(), nullable=False),
        sa.Column("about", sa.JSON(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_at", "audit", ["at", "id"])
    op.create_index("ix_audit_project", "audit", ["project_id", "at", "id"])


def downgrade() -> None:
    """Drop what was added; the settings' limits do not hold for older code either."""
    op.drop_table("audit")
    for column in ("requests_per_second", "max_upload_bytes", "max_stored_bytes", "max_queued"):
        op.drop_column("projects", column)
