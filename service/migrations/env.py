"""Run by Alembic for each command, on the connection that service.migrations gave it."""

from __future__ import annotations

from alembic import context

import service.artifacts.models
import service.audit.models
import service.checkpoints.models
import service.datasets.models
import service.events.models
import service.jobs.models
import service.keys.models
import service.models.models
import service.projects.models
import service.uploads.models
import service.workers.models  # noqa: F401 - these imports fill the metadata
from service.db import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by making it anew
    transactional_ddl=True,  # true of both databases, though Alembic doubts it of SQLite
)
context.run_migrations()
