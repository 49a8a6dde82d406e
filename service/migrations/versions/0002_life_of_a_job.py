"""The life of a job: checkpoints, deadlines, what a job needs and a worker has, limits of a project.

Revision 0002, after 0001. `wanted` gets the words pause and stop, which need no change of its column.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Columns are not added and dropped in batches: SQLite does that itself with plain ones, and to make a table anew would
# take along the rows that depend on its own.


def upgrade() -> None:
    """Add columns and the table of checkpoints."""
    op.add_column("jobs", sa.Column("deadline_at", sa.Double()))
    op.add_column("jobs", sa.Column("needs_gpu", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("jobs", sa.Column("needs_memory_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("needs_disk_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("workers", sa.Column("gpu", sa.String()))
    op.add_column("workers", sa.Column("memory_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("workers", sa.Column("disk_bytes", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("projects", sa.Column("max_running", sa.Integer()))
    op.create_table(
        "checkpoints",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("file", sa.String(), nullable=False),
        sa.Column("blob_id", sa.String(), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name=op.f("fk_checkpoints_blob_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_checkpoints_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "file", name=op.f("pk_checkpoints")),
    )
    op.create_index(op.f("ix_checkpoints_blob_id"), "checkpoints", ["blob_id"])


def downgrade() -> None:
    """Drop what was added. Jobs paused or to be stopped go on: the older code knows neither wish."""
    op.execute("UPDATE jobs SET state = 'queued' WHERE state = 'paused'")
    op.execute("UPDATE jobs SET wanted = 'run' WHERE wanted IN ('pause', 'stop')")
    op.drop_table("checkpoints")
    op.drop_column("projects", "max_running")
    for column in ("gpu", "memory_bytes", "disk_bytes"):
        op.drop_column("workers", column)
    for column in ("deadline_at", "needs_gpu", "needs_memory_bytes", "needs_disk_bytes"):
        op.drop_column("jobs", column)
