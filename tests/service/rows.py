"""Rows that tests need before the thing they test."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from service.db import database_now, transaction
from service.jobs.models import JobRow
from service.projects.models import ProjectRow

RECIPE: dict[str, Any] = {"recipe_version": 1, "teacher": None, "students": [{"name": "student", "weights": None}]}
"""As much of a recipe as the ownership of jobs looks at."""


def add_project(name: str = "default") -> str:
    project_id = f"project_{name}"
    with transaction() as session:
        session.add(ProjectRow(id=project_id, name=name, created_at=session.scalar(database_now().select())))
    return project_id


def add_job(project_id: str, **values: Any) -> str:
    """A queued job; `age` is how many seconds ago it was created."""
    job_id = f"job_{uuid4().hex}"
    with transaction() as session:
        created_at = session.scalar(database_now().select()) - values.pop("age", 0)
        defaults = {"spec": RECIPE, "max_attempts": 3, "body_digest": "0" * 64, "created_at": created_at}
        session.add(JobRow(id=job_id, project_id=project_id, **{**defaults, **values}))
    return job_id
