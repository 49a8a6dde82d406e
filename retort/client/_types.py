"""The service's answers as types, named `<Noun>Info`. Fields that a newer service adds are ignored."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Scope = Literal["jobs:read", "jobs:write", "data:write", "admin"]
State = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]


class Answer(BaseModel):
    """Base of every answer."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class AnswerPage(Answer):
    """Some items of a list."""

    items: list[Any]
    next_cursor: str | None = None
    """Asks for the next page; null on the last one."""


class ProblemInfo(Answer):
    """One wrong field."""

    pointer: str | None = None
    """JSON pointer into the body that was sent; empty is the whole of it."""
    parameter: str | None = None
    """Name of the query or header parameter, where it is one."""
    detail: str
    """One sentence: found and wanted."""


class ProgressInfo(Answer):
    """The progress of a running job."""

    phase: str
    network: str | None = None
    """The network being trained; several names joined by a comma when they share a pass."""
    epoch: int | None = None
    """Epochs done in this phase."""
    epochs: int | None = None
    step: int | None = None
    """Optimizer steps done in this phase."""
    steps: int | None = None
    examples_per_second: float | None = None
    seconds_left: float | None = None
    """Estimated, for this phase."""
    loss: float | None = None
    metric: str | None = None
    """Name of the task's headline metric."""
    value: float | None = None
    """Its value on the validation split."""


class FailureInfo(Answer):
    """The reason why the last attempt did not succeed."""

    fault: Literal["spec", "machine", "service"]
    """The side that has to change before it can succeed."""
    cause: str
    detail: str
    """One sentence."""


class WaitingInfo(Answer):
    """The reason why a queued job has not started."""

    position: int
    """1 is next."""
    workers: int
    """Number of workers that are alive."""
    busy: int = 0
    """Number of them that run a job."""
    reason: str


class JobInfo(Answer):
    """A job: its spec, its state and its newest metrics."""

    id: str
    kind: str
    name: str
    tags: list[str]
    state: State
    wanted: str
    """The state that its owner asked for: `run`, `pause`, `stop` or `cancel`."""
    terminal: bool
    """Whether its state is final."""
    phase: str | None
    progress: ProgressInfo | None
    latest: dict[str, dict[str, float]]
    """The newest metrics of each network, by its name."""
    priority: int
    attempt: int
    max_attempts: int
    error: FailureInfo | None
    created_at: datetime
    started_at: datetime | None
    deadline_at: datetime | None = None
    """End of its wall-clock time; null before the first start and without a limit."""
    ended_at: datetime | None
    spec: dict[str, Any] | None = None
    """The spec as stored, a recipe for a distillation; lists of jobs leave it out."""
    waiting: WaitingInfo | None = None
    """Given for a single job that is queued."""
    warnings: list[str] | None = None
    """Warnings about the recipe; given for a job that was just made of one."""


class EventInfo(Answer):
    """One numbered entry of a job's event log."""

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


class PointInfo(Answer):
    """One value of a curve."""

    phase: str
    epoch: int | None
    step: int
    value: float


class CurvesInfo(Answer):
    """Metrics of a job over its steps."""

    networks: dict[str, dict[str, list[PointInfo]]]
    """Network to metric to points, oldest first."""


class DataFactsInfo(Answer):
    """Facts of a data set that are known without loading its images."""

    train: int
    """Number of examples, here and below."""
    validation: int
    test: int
    classes: int | None = None
    """Null where targets are not classes."""
    class_names: list[str] | None = None
    image_size: int | None = None
    """Side of the square images, in pixels; null where inputs are not images."""


class DatasetInfo(Answer):
    """A user data set."""

    id: str
    """A recipe names it so: `{"name": "stored", "dataset": id}`."""
    name: str
    state: Literal["ingesting", "ready", "failed"]
    error: str | None
    """One sentence on the reason why it cannot be used; null if it can."""
    source: dict[str, str | None]
    """Source of its images: `upload` or `folder`."""
    digest: str | None
    """sha256, hex, of its archive; null until it is ready."""
    size: int | None
    """Bytes of its archive."""
    facts: DataFactsInfo | None
    job_id: str | None
    """The job that makes or made it; null once that was deleted."""
    created_at: datetime
    report: dict[str, Any] | None = None
    """Findings about its images; lists leave it out."""


class ModelInfo(Answer):
    """A user model."""

    id: str
    """A recipe names it so: `"teacher": {"model": id}`."""
    name: str
    state: Literal["checking", "ready", "refused"]
    error: str | None
    """One sentence on the reason why it cannot be used; null if it can."""
    form: Literal["safetensors", "onnx"]
    architecture: str
    classes: int | None
    class_names: list[str] | None
    """In the order of its outputs."""
    expects: dict[str, Any] | None
    """Format of its input images: size, channel_order, range, mean, std."""
    size: int
    """Of its file, in bytes."""
    sha256: str
    job_id: str | None
    """The job that checks or checked it."""
    created_at: datetime
    report: dict[str, Any] | None = None
    """Findings of its check; lists leave it out."""


class ValidationInfo(Answer):
    """The result of validating a recipe; nothing was queued."""

    valid: bool
    problems: list[ProblemInfo]
    warnings: list[str]
    resolved: dict[str, Any] | None
    """The recipe as it would be stored; null when it is not valid."""
    sharing: list[list[str]]
    """Groups of students that share one pass over the data, by name."""
    facts: DataFactsInfo | None
    """Null when only a worker can tell."""


class ArtifactInfo(Answer):
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


class ConformanceInfo(Answer):
    """A value of a published implementation that a method was checked against."""

    case: str
    source: str
    worst_difference: float
    """Of a value or a gradient, as a share of that tensor's largest entry."""


class MethodInfo(Answer):
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
    tasks: tuple[str, ...] = ()
    """The tasks that it serves."""
    needs: tuple[str, ...]
    """The tensors and views that it reads, and what it trains and changes, with its defaults."""
    refuses: str
    """Pairs of networks that it refuses; empty where it serves every pair."""
    conformance: tuple[ConformanceInfo, ...]
    """The published values that it agrees with."""
    worst_difference: float | None
    """The largest of those differences."""
    parameters: dict[str, Any]
    """JSON schema of its fields."""


class CardInfo(Answer):
    """Facts of an architecture that are known without building it."""

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


class ArchitectureInfo(Answer):
    """A network that a recipe may name."""

    name: str
    family: str
    source: str
    card: CardInfo | None
    """Null where it was not measured yet."""


class TaskInfo(Answer):
    """A task that networks can learn."""

    name: str
    title: str
    summary: str
    headline: str
    """The metric by which the best epoch is chosen."""
    more_is_better: bool
    columns: tuple[str, ...]
    """The metrics that tables show."""
    reads: tuple[str, ...]
    """Everything that methods may read of its networks."""
    label_fields: tuple[str, ...] = ()
    facts: dict[str, Any]
    """JSON schema of the facts that it needs of a data set."""


class EntryInfo(Answer):
    """A data set or an export that comes with the service."""

    name: str
    summary: str
    source: str | None = None
    parameters: dict[str, Any]
    """JSON schema of its fields."""


class UploadPartInfo(Answer):
    """A part of an upload that the service has."""

    number: int
    """From 1."""
    size: int
    """In bytes."""
    sha256: str
    """Hex."""


class UploadInfo(Answer):
    """A file that was uploaded, or is being uploaded."""

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
    """Time at which the service deletes it, unless something is made of it."""
    received: list[UploadPartInfo] = []
    """The parts that the service has; lists of uploads leave them out."""


class KeyInfo(Answer):
    """A key without its secret."""

    id: str
    name: str
    prefix: str
    """Its first characters, to recognise it by."""
    project: str
    scopes: list[str]
    """Its permissions; `admin` implies all others."""
    replaces: str | None
    """Id of the key that it succeeds."""
    created_at: datetime
    used_at: datetime | None
    """To the minute."""
    expires_at: datetime | None
    revoked_at: datetime | None


class NewKeyInfo(KeyInfo):
    """A key that was just made."""

    key: str
    """The secret; it is shown this once."""


class ProjectInfo(Answer):
    """A tenant that owns jobs and keys."""

    id: str
    name: str
    max_running: int | None = None
    """Greatest number of its jobs that run at once; null sets no limit."""
    max_queued: int | None = None
    """Greatest number of queued jobs; here and below, null is the service's own limit."""
    max_stored_bytes: int | None = None
    max_upload_bytes: int | None = None
    requests_per_second: float | None = None
    jobs_retention_days: float | None = None
    """Retention of its ended jobs, and below of other things after their last use."""
    datasets_retention_days: float | None = None
    models_retention_days: float | None = None
    uploads_retention_days: float | None = None
    created_at: datetime


class LimitsInfo(Answer):
    """The limits of a project."""

    max_running: int | None
    """Null is no limit."""
    max_queued: int
    max_stored_bytes: int
    max_upload_bytes: int
    requests_per_second: float
    jobs_retention_days: float | None = None
    """Null, here and below, is for ever."""
    datasets_retention_days: float | None = None
    models_retention_days: float | None = None
    uploads_retention_days: float | None = None


class UseInfo(Answer):
    """The present use of a project."""

    running: int
    queued: int
    stored_bytes: int


class UsageInfo(Answer):
    """Limits and present use of a project."""

    project: str
    """Its name."""
    limits: LimitsInfo
    used: UseInfo


class AuditEntryInfo(Answer):
    """One request that changed something or was refused, or one removal by retention."""

    id: str
    at: datetime
    project_id: str | None
    key_id: str | None
    """Null for a request without a valid key, and for a removal."""
    method: str
    """Of the request; `retention` for a removal."""
    route: str
    about: dict[str, str]
    """Ids and names in the address, and the id of a thing that was made."""
    status: int
    request_id: str
