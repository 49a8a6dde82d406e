"""Words: a job's `recipe` is its `spec`.

Revision 0010, after 0009.
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Rename the column."""
    op.execute("ALTER TABLE jobs RENAME COLUMN recipe TO spec")


def downgrade() -> None:
    """Rename it back."""
    op.execute("ALTER TABLE jobs RENAME COLUMN spec TO recipe")
