"""The Python client of the service: HTTP only.

with Retort() as client:
    job = client.jobs.create(recipe)
    for event in client.jobs.follow(job.id):
        print(event.kind, event.values)
    client.jobs.download(job.id, "student.onnx", "models/")
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from retort.client._catalogue import Architectures, Compressions, Exports, Methods, Tasks
from retort.client._datasets import Datasets
from retort.client._jobs import Jobs
from retort.client._keys import Audit, Keys, Projects
from retort.client._models import Models
from retort.client._transport import DEFAULT_URL, Transport
from retort.client._types import (
    ArchitectureInfo,
    ArtifactInfo,
    AuditEntryInfo,
    CardInfo,
    ConformanceInfo,
    CurvesInfo,
    DataFactsInfo,
    DatasetInfo,
    EntryInfo,
    EventInfo,
    FailureInfo,
    JobInfo,
    KeyInfo,
    LimitsInfo,
    MethodInfo,
    ModelInfo,
    NewKeyInfo,
    PointInfo,
    ProblemInfo,
    ProgressInfo,
    ProjectInfo,
    Scope,
    State,
    TaskInfo,
    UploadInfo,
    UploadPartInfo,
    UsageInfo,
    UseInfo,
    ValidationInfo,
    WaitingInfo,
)
from retort.client._uploads import Uploads
from retort.client.errors import (
    ApiError,
    BadRequestError,
    ConflictError,
    CorruptDownloadError,
    ErrorInfo,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    RetortError,
    ServerError,
    TooLargeError,
    TooManyRequestsError,
    UnauthorizedError,
    UnexpectedAnswerError,
    UnreachableError,
)

__all__ = [
    "DEFAULT_URL",
    "ApiError",
    "ArchitectureInfo",
    "ArtifactInfo",
    "AuditEntryInfo",
    "BadRequestError",
    "CardInfo",
    "ConflictError",
    "ConformanceInfo",
    "CorruptDownloadError",
    "CurvesInfo",
    "DataFactsInfo",
    "DatasetInfo",
    "EntryInfo",
    "ErrorInfo",
    "EventInfo",
    "FailureInfo",
    "ForbiddenError",
    "InvalidError",
    "JobInfo",
    "KeyInfo",
    "LimitsInfo",
    "MethodInfo",
    "ModelInfo",
    "NewKeyInfo",
    "NotFoundError",
    "PointInfo",
    "ProblemInfo",
    "ProgressInfo",
    "ProjectInfo",
    "Retort",
    "RetortError",
    "Scope",
    "ServerError",
    "State",
    "TaskInfo",
    "TooLargeError",
    "TooManyRequestsError",
    "UnauthorizedError",
    "UnexpectedAnswerError",
    "UnreachableError",
    "UploadInfo",
    "UploadPartInfo",
    "UsageInfo",
    "UseInfo",
    "ValidationInfo",
    "WaitingInfo",
]


class Retort:
    """A client of one service, with one key.

    `url` is RETORT_URL, else http://127.0.0.1:8765. `key` is RETORT_KEY, else, for a service on this machine, the
    one in its data directory. Use it as a context manager, or `close` it. Answers are frozen pydantic models named
    `<Noun>Info`; errors are listed in `retort.client.errors`.
    """

    def __init__(self, url: str | None = None, key: str | None = None) -> None:
        transport = Transport(url, key)
        self._transport = transport
        self.jobs = Jobs(transport)
        self.methods = Methods(transport)
        self.models = Models(transport)
        self.architectures = Architectures(transport)
        self.datasets = Datasets(transport)
        self.exports = Exports(transport)
        self.compressions = Compressions(transport)
        self.tasks = Tasks(transport)
        self.uploads = Uploads(transport)
        self.keys = Keys(transport)
        self.projects = Projects(transport)
        self.audit = Audit(transport)

    @property
    def url(self) -> str:
        return self._transport.url

    @property
    def has_key(self) -> bool:
        """Whether its requests bear a key."""
        return self._transport.has_key

    def ready(self) -> dict[str, str]:
        """The state of the service's components by name. Raises ServerError when the service cannot work."""
        answer: dict[str, str] = self._transport.json(self._transport.request("GET", "/readyz", retry=False))
        return answer

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
