"""What a key may do, until when, and which key it replaces.

Revision 0004, after 0003. A key that is no admin's keeps what it could do until now: all that concerns its project.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ALL = "jobs:read jobs:write data:write"
FEWER = (
    "",
    *("jobs:read", "jobs:write", "data:write"),
    *("jobs:read jobs:write", "jobs:read data:write", "jobs:write data:write"),
)


def upgrade() -> None:
    """Add columns."""
    op.add_column("keys", sa.Column("scopes", sa.String(), nullable=False, server_default=ALL))
    op.add_column("keys", sa.Column("replaces", sa.String()))
    op.add_column("keys", sa.Column("expires_at", sa.Double()))
    op.create_index("ix_keys_replaces", "keys", ["replaces"], unique=True)


def downgrade() -> None:
    """Revoke the keys that the older code would let do more, or let live longer, and drop the columns."""
    keys = sa.table("keys", *map(sa.column, ("scopes", "expires_at", "created_at", "revoked_at")))
    less = sa.or_(keys.c.scopes.in_(FEWER), sa.and_(keys.c.scopes == ALL, keys.c.expires_at.is_not(None)))
    op.execute(keys.update().where(less, keys.c.revoked_at.is_(None)).values(revoked_at=keys.c.created_at))
    op.drop_index("ix_keys_replaces", "keys")
    for column in ("expires_at", "replaces", "scopes"):
        op.drop_column("keys", column)
