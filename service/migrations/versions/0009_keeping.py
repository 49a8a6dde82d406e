"""Keeping: how long a project keeps things, and when data sets and models were last used.

Revision 0009, after 0008.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

DAYS = ("keep_jobs_days", "keep_datasets_days", "keep_models_days", "keep_uploads_days")
ENDED = sa.text("ended_at IS NOT NULL")


def upgrade() -> None:
    """Add the columns, and an index of ended jobs by age."""
    for name in DAYS:
        op.add_column("projects", sa.Column(name, sa.Double()))
    for table in ("datasets", "models"):
        op.add_column(table, sa.Column("used_at", sa.Double()))
    op.create_index("ix_jobs_ended", "jobs", ["project_id", "ended_at"], postgresql_where=ENDED, sqlite_where=ENDED)


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_jobs_ended", "jobs")
    for table in ("datasets", "models"):
        op.drop_column(table, "used_at")
    for name in DAYS:
        op.drop_column("projects", name)
