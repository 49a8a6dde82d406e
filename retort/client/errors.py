"""Errors of the client.

RetortError
├── UnreachableError             no answer came, in several attempts
├── CorruptDownloadError         the downloaded bytes have another sha256 than the artifact
├── UnexpectedAnswerError        an answer came that no Retort service gives
└── ApiError                     the service refused the request
    ├── BadRequestError          400
    ├── UnauthorizedError        401
    ├── ForbiddenError           403
    ├── NotFoundError            404
    ├── ConflictError            409
    ├── TooLargeError            413
    ├── InvalidError             422
    ├── TooManyRequestsError     429
    └── ServerError              500 and above
"""

from __future__ import annotations

from pydantic import Field

from retort.client._types import Answer, ProblemInfo


class RetortError(Exception):
    """Base of all errors of the client; the text is one sentence."""


class UnreachableError(RetortError):
    """No answer came from the service."""


class CorruptDownloadError(RetortError):
    """The downloaded bytes have another sha256 than the artifact."""


class UnexpectedAnswerError(RetortError):
    """The answer is none that a Retort service gives."""


class ErrorInfo(Answer):
    """The body of an error, RFC 9457."""

    title: str = ""
    status: int
    detail: str = ""
    """One sentence."""
    request_id: str | None = None
    """Names the request in the service's log."""
    errors: list[ProblemInfo] = Field(default_factory=list)
    """Each wrong field."""


class ApiError(RetortError):
    """The service answered with an error."""

    def __init__(self, problem: ErrorInfo) -> None:
        super().__init__(problem.detail or problem.title or f"the service answered with status {problem.status}")
        self.problem = problem

    @property
    def status(self) -> int:
        return self.problem.status

    @property
    def errors(self) -> list[ProblemInfo]:
        """Each wrong field of the request."""
        return self.problem.errors


class BadRequestError(ApiError):
    """The request could not be read."""


class UnauthorizedError(ApiError):
    """The key is missing, unknown or revoked."""


class ForbiddenError(ApiError):
    """The key lacks the permission."""


class NotFoundError(ApiError):
    """No such thing exists, or it belongs to another project."""


class ConflictError(ApiError):
    """The thing's state does not allow the request."""


class TooLargeError(ApiError):
    """The body is larger than the service allows."""


class InvalidError(ApiError):
    """The body, a recipe most often, is well formed but wrong; `errors` has each wrong field."""


class TooManyRequestsError(ApiError):
    """The project is over its limit for now."""


class ServerError(ApiError):
    """The service failed, through no fault of the request."""


BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequestError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    413: TooLargeError,
    422: InvalidError,
    429: TooManyRequestsError,
}


def error_for(problem: ErrorInfo) -> ApiError:
    """The error of the class for the status."""
    return BY_STATUS.get(problem.status, ServerError if problem.status >= 500 else ApiError)(problem)
