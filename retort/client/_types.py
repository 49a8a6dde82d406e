"""What the service answers, as types. Fields that a newer service adds are ignored."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Scope = Literal["jobs:read", "jobs:write", "data:write", "admin"]
State = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]


class Answer(BaseModel):
    """Base of every answer."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Page(Answer):
    """Some items of a list."""

    items: list[Any]
    next_cursor: str | None = None
    """Asks for the next page; null on the last one."""


class Problem(Answer):
    """One wrong field."""

    pointer: str | None = None
    """JSON pointer into the body that was sent; empty is the whole of it."""
    parameter: str | None = None
    """Name of the query or header parameter, where it is one."""
    detail: str
    """One sentence: what was found, what was wanted."""


class Progress(Answer):
    """Where a running job stands."""

    phase: str
    network: str | None = None
    """The network being trained; several names joined by a comma when they share a pass."""
    epoch: int | None = None
    """Epochs finished in this phase."""
    epochs: int | None = None
    step: int | None = None
    """Optimizer steps done in this phase."""
    steps: int | None = None
    images_per_second: float | None = None
    seconds_left: float | None = None
    """Estimated, for this phase."""
    loss: float | None = None
    accuracy: float | None = None
    """On the validation part, in [0, 1]."""


class Failure(Answer):
    """Why the last attempt did not finish."""

    fault: Literal["recipe", "machine", "service"]
    """What has to change before it can succeed."""
    cause: str
    detail: str
    """One sentence."""


class Waiting(Answer):
    """Why a job has not started."""

    position: int
    """1 is next."""
    workers: int
    """How many are alive."""
    busy: int = 0
    """How many of them run a job."""
    reason: str


class Job(Answer):
    """One run of one recipe."""

    id: str
    kind: str
    name: str
    tags: list[str]
    state: State
    wanted: str
    """What its owner wants of it: `run`, `pause`, `stop` or `cancel`."""
    terminal: bool
    """Whether its state is final."""
    phase: str | None
    progress: Progress | None
    latest: dict[str, dict[str, float]]
    """The newest metrics of each network, by its name."""
    priority: int
    attempt: int
    max_attempts: int
    error: Failure | None
    created_at: datetime
    started_at: datetime | None
    deadline_at: datetime | None = None
    """When its wall-clock time is over; null before the first start and without a limit."""
    ended_at: datetime | None
    spec: dict[str, Any] | None = None
    """The stored recipe; lists of jobs leave it out."""
    waiting: Waiting | None = None
    """Said of a single job that is queued."""


class Event(Answer):
    """One numbered line of a job's diary."""

    number: int
    at: datetime
    kind: str
    attempt: int
    phase: str | None = None
    network: str | None = None
    epoch: int | None = None
    step: int | None = None
    values: dict[str, float] | None = None
    text: str | None = None
    data: dict[str, Any] | None = None


class Point(Answer):
    """One value of a curve."""

    phase: str
    epoch: int | None
    step: int
    value: float


class Curves(Answer):
    """What a job measured over time."""

    students: dict[str, dict[str, list[Point]]]
    """Network to metric to points, oldest first."""


class DataFacts(Answer):
    """What is known of a data set without loading its images."""

    classes: int
    class_names: list[str]
    image_size: int
    train: int
    validation: int
    test: int


class Dataset(Answer):
    """Images that were taken in, or are being."""

    id: str
    """What a recipe names: `{"name": "stored", "dataset": id}`."""
    name: str
    state: Literal["ingesting", "ready", "failed"]
    error: str | None
    """One sentence why it cannot be used, if it cannot."""
    source: dict[str, str | None]
    """Where its images came from: `upload` or `folder`."""
    digest: str | None
    """sha256, hex, of its archive; null until it is ready."""
    size: int | None
    """Bytes of its archive."""
    facts: DataFacts | None
    job_id: str | None
    """The job that makes or made it; null once that was deleted."""
    created_at: datetime
    report: dict[str, Any] | None = None
    """What was found in its images; lists leave it out."""


class Validation(Answer):
    """What the service says of a recipe without queueing it."""

    valid: bool
    problems: list[Problem]
    warnings: list[str]
    resolved: dict[str, Any] | None
    """The recipe as it would be stored; null when it is wrong."""
    sharing: list[list[str]]
    """Names of the students that share one pass over the data, a group each."""
    facts: DataFacts | None
    """Null when only a worker can tell."""


class Artifact(Answer):
    """A file that a job made."""

    name: str
    network: str | None
    """The student, or `teacher`; null for files about the whole job."""
    media_type: str
    size: int
    """In bytes."""
    sha256: str
    """Hex."""
    created_at: datetime


class Conformance(Answer):
    """A value of a published implementation that a method was checked against."""

    case: str
    source: str
    worst_difference: float
    """Of a value or a gradient, as a share of that tensor's largest entry."""


class Method(Answer):
    """One distillation objective."""

    name: str
    summary: str
    source: str
    formula: str
    reconstruction: bool
    """True when the formula is a best reading, not the paper's own."""
    needs_teacher: bool
    label_weight: float | None
    """The published weight of cross-entropy beside it."""
    needs: tuple[str, ...]
    """What it reads, trains and changes with its defaults."""
    refuses: str
    """What it refuses; empty where it serves every pair."""
    conformance: tuple[Conformance, ...]
    """The published values that it agrees with."""
    worst_difference: float | None
    """The largest of those differences."""
    parameters: dict[str, Any]
    """JSON schema of its fields."""


class Card(Answer):
    """What is known of an architecture without building it."""

    embedding: int
    """Width of what goes into the classifier, in features."""
    head: str
    body_parameters: int
    """Numbers to store besides the classifier's."""
    image_size: int
    """Side of the image at which multiply-adds were counted, in pixels."""
    multiply_adds: int
    smallest_image: int = 1
    """Side of the smallest image that it can read, in pixels."""


class Architecture(Answer):
    """A network that a recipe may name."""

    name: str
    family: str
    source: str
    card: Card | None
    """Null where it was not measured yet."""


class Entry(Answer):
    """A data set or an export that the service brings along."""

    name: str
    summary: str
    source: str | None = None
    parameters: dict[str, Any]
    """JSON schema of its fields."""


class UploadPart(Answer):
    """A part of an upload that the service has."""

    number: int
    """From 1."""
    size: int
    """In bytes."""
    sha256: str
    """Hex."""


class Upload(Answer):
    """A file that was brought, or is on its way."""

    id: str
    kind: Literal["dataset", "model"]
    name: str
    size: int
    """In bytes."""
    sha256: str
    """Of the whole, hex."""
    state: Literal["open", "complete"]
    """`complete` once all bytes are there and verified."""
    part_bytes: int
    """Size of every part but the last, in bytes."""
    parts: int
    received_bytes: int
    created_at: datetime
    expires_at: datetime
    """When the service gives it up, unless something is made of it."""
    received: list[UploadPart] = []
    """The parts that the service has; lists of uploads leave them out."""


class Key(Answer):
    """A key, by all but its secret."""

    id: str
    name: str
    prefix: str
    """Its first characters, to recognise it by."""
    project: str
    scopes: list[str]
    """What it may do; `admin` implies all others."""
    replaces: str | None
    """Id of the key whose successor it is."""
    created_at: datetime
    used_at: datetime | None
    """To the minute."""
    expires_at: datetime | None
    revoked_at: datetime | None


class NewKey(Key):
    """A key that was just made."""

    key: str
    """The secret; it is shown this once."""


class Project(Answer):
    """A tenant that owns jobs and keys."""

    id: str
    name: str
    max_running: int | None = None
    """How many of its jobs run at once at most; null sets no limit."""
    max_queued: int | None = None
    """How many wait at once at most; here and below, null is the service's own limit."""
    max_stored_bytes: int | None = None
    max_upload_bytes: int | None = None
    requests_per_second: float | None = None
    keep_jobs_days: float | None = None
    """How long its ended jobs are kept, and below other things since they were last used."""
    keep_datasets_days: float | None = None
    keep_models_days: float | None = None
    keep_uploads_days: float | None = None
    created_at: datetime


class Limits(Answer):
    """What a project may use."""

    max_running: int | None
    """Null is any number."""
    max_queued: int
    max_stored_bytes: int
    max_upload_bytes: int
    requests_per_second: float
    keep_jobs_days: float | None = None
    """Null, as below, is for ever."""
    keep_datasets_days: float | None = None
    keep_models_days: float | None = None
    keep_uploads_days: float | None = None


class Used(Answer):
    """What a project uses now."""

    running: int
    queued: int
    stored_bytes: int


class Usage(Answer):
    """What a project may use and what it uses."""

    project: str
    """Its name."""
    limits: Limits
    used: Used


class AuditEntry(Answer):
    """One request that changed something, or would have; or the removal of what a project keeps no longer."""

    id: str
    at: datetime
    project_id: str | None
    key_id: str | None
    """Null for who showed no live key, and for a removal."""
    method: str
    """Of the request; `retention` for a removal."""
    route: str
    about: dict[str, str]
    """Ids and names in the address, and of what was made."""
    status: int
    request_id: str
