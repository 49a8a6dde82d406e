"""Indexes that find the next job however many are queued.

Revision 0003, after 0002. None of them holds the end of a lease: its renewal then changes no index.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the new indexes in the place of the old one."""
    queued = sa.text("state = 'queued'")
    columns = ["project_id", "priority", "created_at", "id"]
    op.create_index("ix_jobs_queue", "jobs", columns, postgresql_where=queued, sqlite_where=queued)
    op.create_index("ix_jobs_state", "jobs", ["state", "wanted", "deadline_at"])
    op.drop_index("ix_jobs_claim", "jobs")


def downgrade() -> None:
    """Make the old index in the place of the new ones."""
    op.create_index("ix_jobs_claim", "jobs", ["state", "not_before", "lease_ends"])
    op.drop_index("ix_jobs_state", "jobs")
    op.drop_index("ix_jobs_queue", "jobs")
