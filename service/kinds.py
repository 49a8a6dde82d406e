"""The kinds of jobs, wired with the features that keep what their jobs make."""

from __future__ import annotations

from collections.abc import Mapping

from retort.kinds import CHECK, INGEST
from service.claims.service import Effect
from service.datasets import repository as datasets
from service.models import repository as models

EFFECTS: Mapping[str, Effect] = {INGEST: datasets.note_result, CHECK: models.note_result}
"""The effect of a job's success beside its own row, by kind, for kinds that have one."""
