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

from retort.client._catalogue import Architectures, Exports, Methods
from retort.client._datasets import Datasets
from retort.client._jobs import Jobs
from retort.client._keys import Audit, Keys, Projects
from retort.client._models import Model, Models
from retort.client._transport import DEFAULT_URL, Transport
from retort.client._types import (
    Architecture,
    Artifact,
    AuditEntry,
    Card,
    Curves,
    DataFacts,
    Dataset,
    Entry,
    Event,
    Failure,
    Job,
    Key,
    Method,
    NewKey,
    Point,
    Problem,
    Progress,
    Project,
    Scope,
    Upload,
    UploadPart,
    Usage,
    Validation,
    Waiting,
)
from retort.client._uploads import Uploads
from retort.client.errors import (
    ApiError,
    BadRequest,
    Conflict,
    ConnectionFailed,
    CorruptDownload,
    Forbidden,
    Invalid,
    NotFound,
    RetortError,
    ServiceFailed,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    UnexpectedAnswer,
)

__all__ = [
    "DEFAULT_URL",
    "ApiError",
    "Architecture",
    "Artifact",
    "AuditEntry",
    "BadRequest",
    "Card",
    "Conflict",
    "ConnectionFailed",
    "CorruptDownload",
    "Curves",
    "DataFacts",
    "Dataset",
    "Entry",
    "Event",
    "Failure",
    "Forbidden",
    "Invalid",
    "Job",
    "Key",
    "Method",
    "Model",
    "NewKey",
    "NotFound",
    "Point",
    "Problem",
    "Progress",
    "Project",
    "Retort",
    "RetortError",
    "Scope",
    "ServiceFailed",
    "TooLarge",
    "TooManyRequests",
    "Unauthorized",
    "UnexpectedAnswer",
    "Upload",
    "UploadPart",
    "Usage",
    "Validation",
    "Waiting",
]


class Retort:
    """A service, as seen by one key.

    `url` is RETORT_URL, else http://127.0.0.1:8765. `key` is RETORT_KEY, else, for a service on this machine, the
    one that it left in its data directory. Use it as a context manager, or `close` it.
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
        self.uploads = Uploads(transport)
        self.keys = Keys(transport)
        self.projects = Projects(transport)
        self.audit = Audit(transport)

    @property
    def url(self) -> str:
        return self._transport.url

    def ready(self) -> dict[str, str]:
        """What the service says of its own parts. Raises ServiceFailed when it cannot work."""
        answer: dict[str, str] = self._transport.json(self._transport.request("GET", "/readyz", again=False))
        return answer

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
