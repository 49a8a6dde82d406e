"""Jobs as the API takes and shows them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Union

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from retort.event import Progress
from retort.kinds import KINDS, KindName
from service.jobs.models import TERMINAL, JobRow, State, Wanted
from service.paging import PageQuery
from service.schemas import DescribedBy, ResponseModel


@dataclass(frozen=True)
class MarksTerminal:
    """Names the final states in the schema of State, for who writes a client from it."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        reference = handler(schema)
        handler.resolve_ref_schema(reference)["x-terminal-states"] = sorted(TERMINAL)
        return reference


StoredSpec = Annotated[dict[str, Any], DescribedBy(Union[tuple(kind.spec for kind in KINDS.values())])]  # noqa: UP007
"""The same, of a job of any kind."""
StoredProgress = Annotated[dict[str, Any], DescribedBy(Progress, leaves_out=("line",))]
ShownState = Annotated[State, MarksTerminal()]


class JobQuery(PageQuery):
    """Filters of the list of jobs."""

    state: list[State] = Field(default=[], max_length=len(State))
    """Only jobs in this state; given several times, in any of these."""
    kind: list[KindName] = Field(default=[], max_length=len(KINDS))
    """Only jobs of this kind; given several times, of any of these."""
    name: str | None = Field(default=None, max_length=200)
    """Only jobs of exactly this name."""
    tag: list[str] = Field(default=[], max_length=32)
    """Only jobs with this tag; given several times, with all of these."""


def _in_todays_words(fault: str) -> str:
    """A worker of version 0.1 that outlived the migration wrote `recipe` for `spec`."""
    return "spec" if fault == "recipe" else fault


class Failure(ResponseModel):
    """The reason that the last attempt did not finish."""

    fault: Annotated[Literal["spec", "machine", "service"], BeforeValidator(_in_todays_words)]
    """The thing that has to change before it can succeed."""
    cause: str
    """A word for it: an exit code, a signal, out of memory, heartbeat lost."""
    detail: str
    """One sentence."""


class JobLinks(ResponseModel):
    """Paths of the job's parts."""

    self: str
    events: str
    metrics: str
    artifacts: str


class QueuePlace(ResponseModel):
    """The place of a queued job and the reason that it has not started, at most a second old."""

    position: int
    """Its place among the queued jobs; 1 is next."""
    workers: int
    """Number of live workers."""
    busy: int
    """Number of them that run a job."""
    reason: str
    """One sentence."""


class JobRead(ResponseModel):
    """One run of one spec."""

    id: str
    kind: str
    """Its work: `distill`, or work for another feature, such as `ingest`."""
    name: str
    tags: list[str]
    state: ShownState
    """Its state."""
    wanted: Wanted
    """Its owner's wish."""
    terminal: bool
    """Whether its state is final."""
    phase: str | None
    """Its present work: preparing, teaching, a method's own phase, distilling, compressing, exporting, evaluating; the
    last that it did once it has ended, and null while it waits or is paused."""
    progress: StoredProgress | None
    """Its progress in that phase; of a job that has ended the place that it reached, without speed and time left."""
    latest: dict[str, dict[str, float]]
    """The newest metrics of each network, by its name."""
    priority: int
    """Higher ones start first within the project."""
    attempt: int
    """Number of its starts."""
    max_attempts: int
    error: Failure | None
    """The reason that the last attempt did not finish."""
    created_at: datetime
    started_at: datetime | None
    deadline_at: datetime | None
    """When its wall-clock time is over; null before the first start and without a limit."""
    ended_at: datetime | None
    links: JobLinks


class JobDetail(JobRead):
    """One job, with its spec and the reason that it waits."""

    spec: StoredSpec
    """The spec as it was resolved and stored; of a job of kind `distill`, the recipe."""
    waiting: QueuePlace | None
    """Null unless it is queued."""


def shown(job: JobRow) -> JobRead:
    """A job as lists show it."""
    return JobRead(**_fields(job))


def detail(job: JobRow, waiting: QueuePlace | None) -> JobDetail:
    """A job as it is shown alone."""
    return JobDetail(**_fields(job), spec=job.spec, waiting=waiting)


def _fields(job: JobRow) -> dict[str, Any]:
    here = f"/v1/jobs/{job.id}"
    copied = ("id", "kind", "name", "state", "wanted", "phase", "latest", "priority", "attempt", "max_attempts",
              "error", "created_at", "started_at", "deadline_at", "ended_at")  # fmt: skip
    progress = job.progress and {name: value for name, value in job.progress.items() if name != "line"}
    parts = {part: f"{here}/{part}" for part in ("events", "metrics", "artifacts")}
    return {
        **{name: getattr(job, name) for name in copied},
        "tags": job.spec.get("tags", []),
        "terminal": job.state in TERMINAL,
        "progress": progress,
        "links": JobLinks(self=here, **parts),
    }
