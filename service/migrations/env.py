"""Run by Alembic for each command, on the connection that service.migrations gave it."""

from __future__ import annotations

from alembic import context

from service.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,  # SQLite alters a table by making it anew
    transactional_ddl=True,  # true of both databases, though Alembic doubts it of SQLite
)
context.run_migrations()
