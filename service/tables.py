"""All tables: to import this is to import each feature's, and what they register."""

from __future__ import annotations

import service.artifacts.models
import service.audit.models
import service.blobs.models
import service.checkpoints.models
import service.datasets.models
import service.jobs.models
import service.keys.models
import service.models.models
import service.projects.models
import service.uploads.models
import service.workers.models  # noqa: F401 - these imports fill the metadata
from service.db import Base

METADATA = Base.metadata
"""Describes them."""
