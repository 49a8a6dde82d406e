"""Data sets of users.

Revision 0007, after 0006.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "datasets",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("job_id", sa.String()),
        sa.Column("source", sa.JSON(), nullable=False),
        sa.Column("blob_id", sa.String()),
        sa.Column("size", sa.BigInteger()),
        sa.Column("digest", sa.String()),
        sa.Column("facts", sa.JSON()),
        sa.Column("report", sa.JSON()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name=op.f("fk_datasets_blob_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_datasets_job_id"), ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_datasets_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
    )
    op.create_index("ix_datasets_list", "datasets", ["project_id", "created_at", "id"])
    op.create_index(op.f("ix_datasets_job_id"), "datasets", ["job_id"])
    op.create_index(op.f("ix_datasets_blob_id"), "datasets", ["blob_id"])


def downgrade() -> None:
    """Drop the table, and with it all data sets; their archives stay with their jobs."""
    op.drop_table("datasets")
