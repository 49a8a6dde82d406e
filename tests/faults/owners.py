"""The users of an installation: they send jobs and have wishes, and ask again when an answer is lost."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from retort.client import ApiError, ConflictError, Retort, ServerError, UnreachableError

PATIENCE_SECONDS = 180.0
NEWEST = 8
WISHES = ("cancel", "pause", "resume", "stop")

Answer = TypeVar("Answer")


class Owner:
    """One project's user, a thread of its own."""

    def __init__(
        self, client: Retort, project: str, recipes: list[dict[str, Any]], chance: random.Random, *,
        pause_seconds: float, wishes: float,
    ) -> None:  # fmt: skip
        self.client, self.project, self.recipes, self.chance = client, project, recipes, chance
        self.pause_seconds = pause_seconds
        self.wishes = wishes
        """How likely it is that it wishes something of one of its jobs after sending another."""
        self.accepted: dict[str, str] = {}
        """The job of each idempotency key."""
        self.recipe_of: dict[str, dict[str, Any]] = {}
        self.wished: Counter[str] = Counter()
        self.wished_of: dict[str, set[str]] = {}
        self.again = 0
        """Requests that had to be sent again."""
        self.violations: list[str] = []
        self.thread = threading.Thread(target=self._run, name=f"owner-{project}", daemon=True)

    def _run(self) -> None:
        try:
            for number, recipe in enumerate(self.recipes):
                self._send(f"{self.project}-{number}", recipe)
                if self.chance.random() < self.wishes:
                    self._wish()
                time.sleep(self.chance.uniform(0, 2 * self.pause_seconds))
        except Exception as error:
            self.violations.append(f"the user of {self.project} was told: {type(error).__name__}: {error}")

    def _send(self, key: str, recipe: dict[str, Any]) -> None:
        job = self.insist(lambda: self.client.jobs.create(recipe, idempotency_key=key))
        if self.chance.random() < 0.1:  # as if the answer had been lost
            twin = self.insist(lambda: self.client.jobs.create(recipe, idempotency_key=key))
            if twin.id != job.id:
                self.violations.append(f"the key {key} made {job.id} and {twin.id}")
        self.accepted[key] = job.id
        self.recipe_of[job.id] = recipe

    def _wish(self) -> None:
        """Of one of its newest jobs: most others have ended."""
        self.wish(self.chance.choice(WISHES), self.chance.choice(list(self.accepted.values())[-NEWEST:]))

    def wish(self, wish: str, job_id: str) -> None:
        """Ask something of a job, which may be past it."""
        self.wished_of.setdefault(job_id, set()).add(wish)  # before: the answer may be lost, the wish not
        try:
            self.insist(lambda: getattr(self.client.jobs, wish)(job_id))
        except ConflictError:
            self.wished["refused"] += 1
        else:
            self.wished[wish] += 1

    def insist(self, ask: Callable[[], Answer]) -> Answer:
        """Ask until there is an answer: no connection and 503 are none."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return ask()
            except (UnreachableError, ServerError) as error:
                if isinstance(error, ApiError) and error.status != 503:
                    self.violations.append(f"the API answered {error.status}: {error}")
                if time.monotonic() > deadline:
                    raise
                self.again += 1
                time.sleep(0.2)
