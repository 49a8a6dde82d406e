"""What can go wrong between a client and the service.

RetortError
├── ConnectionFailed        no answer came, though it was asked for several times
├── CorruptDownload         the bytes that came are not those that were promised
├── UnexpectedAnswer        an answer came that no Retort service gives
└── ApiError                the service refused
    ├── BadRequest          400
    ├── Unauthorized        401
    ├── Forbidden           403
    ├── NotFound            404
    ├── Conflict            409
    ├── TooLarge            413
    ├── Invalid             422
    ├── TooManyRequests     429
    └── ServiceFailed       500 and above
"""

from __future__ import annotations

from pydantic import Field

from retort.client._types import Answer, Problem


class RetortError(Exception):
    """Base of all errors of the client; its text is one sentence for people."""


class ConnectionFailed(RetortError):
    """No answer came from the service."""


class CorruptDownload(RetortError):
    """The downloaded bytes have another sha256 than the artifact."""


class UnexpectedAnswer(RetortError):
    """What answered does not speak as a Retort service does."""


class ProblemDetails(Answer):
    """The body of an error, RFC 9457."""

    title: str = ""
    status: int
    detail: str = ""
    """One sentence."""
    request_id: str | None = None
    """Names the request in the service's log."""
    errors: list[Problem] = Field(default_factory=list)
    """Each wrong field."""


class ApiError(RetortError):
    """The service answered with an error."""

    def __init__(self, problem: ProblemDetails) -> None:
        super().__init__(problem.detail or problem.title or f"the service answered with status {problem.status}")
        self.problem = problem

    @property
    def status(self) -> int:
        return self.problem.status

    @property
    def errors(self) -> list[Problem]:
        """Each wrong field of the request."""
        return self.problem.errors


class BadRequest(ApiError):
    """The request could not be read."""


class Unauthorized(ApiError):
    """The key is missing, unknown or revoked."""


class Forbidden(ApiError):
    """The key may not do that."""


class NotFound(ApiError):
    """There is no such thing, or it belongs to another project."""


class Conflict(ApiError):
    """The thing's state does not allow that."""


class TooLarge(ApiError):
    """The body is larger than the service reads."""


class Invalid(ApiError):
    """The body, a recipe most often, is well formed but wrong; `errors` says where."""


class TooManyRequests(ApiError):
    """More was asked than the service allows now."""


class ServiceFailed(ApiError):
    """The service could not answer, through no fault of the request."""


BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest, 401: Unauthorized, 403: Forbidden, 404: NotFound, 409: Conflict, 413: TooLarge,
    422: Invalid, 429: TooManyRequests,
}  # fmt: skip


def error_for(problem: ProblemDetails) -> ApiError:
    """The error whose class says the status."""
    return BY_STATUS.get(problem.status, ServiceFailed if problem.status >= 500 else ApiError)(problem)
