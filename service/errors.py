"""Refusals of the service, as problem details (RFC 9457).

ServiceError
├── BadRequest              400  the request cannot be read
├── Unauthorized            401  no key, or an unknown one
├── Forbidden               403  the key may not do that
├── NotFound                404  there is no such thing, or it is another project's
├── MethodNotAllowed        405  the address has other methods
├── TooSlow                 408  the body comes too slowly
├── Conflict                409  the thing's state does not allow that
├── TooLarge                413  the body is larger than is read, or finds no room
├── TargetTooLong           414  the address is longer than is read
├── UnsupportedMediaType    415  the body's Content-Type is another one
├── RangeNotSatisfiable     416  the range begins beyond the end
├── Invalid                 422  the request is well formed but wrong; `errors` says where
├── TooManyRequests         429  more requests or jobs than are allowed now
├── HeadTooLarge            431  the head has more fields or bytes than are read
├── InternalError           500  a fault of the service
└── Unavailable             503  the database does not answer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import SerializerFunctionWrapHandler, model_serializer
from starlette.requests import Request
from starlette.responses import Response

from retort.spec import Described
from service.redaction import without_secrets

PROBLEM_JSON = "application/problem+json"
RETRY_SECONDS = 5
"""Seconds after which to ask again after a 503."""
MOST_ERRORS = 100
"""Wrong fields that one answer lists."""
LONGEST_QUOTE = 80
"""Characters of a wrong value that a sentence repeats."""
LONGEST_READ = 100 * LONGEST_QUOTE
"""Characters of it that are searched for secrets: more than any password has."""


class FieldError(Described):
    """One wrong field."""

    pointer: str | None = None
    """JSON pointer into the request's body; empty is the whole body. Absent where the field is not in the body."""
    parameter: str | None = None
    """Name of the query, path or header parameter, where it is one."""
    detail: str
    """One sentence: what was found, what was wanted."""
    found: Any = None
    """The wrong value, where there is one and it is short."""
    wanted: str | None = None
    """The values that would be right."""

    @model_serializer(mode="wrap")
    def _leave_out_what_is_absent(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}


BEYOND = FieldError(detail="one of more wrong fields than an answer lists")
"""Stands for each wrong field that is counted only: a sentence takes time, and an answer lists MOST_ERRORS."""


class ProblemDetails(Described):
    """The body of every error, RFC 9457."""

    type: str
    """URN of the kind of problem."""
    title: str
    """The kind of problem, for people."""
    status: int
    """The HTTP status."""
    detail: str
    """One sentence about this occurrence of the problem."""
    instance: str
    """Path of the request; empty where its head was refused."""
    request_id: str
    """Id of the request in the service's log; also in the header X-Request-ID."""
    errors: list[FieldError] | None = None
    """The wrong fields, where the problem lies in fields; a hundred at most."""


@dataclass(eq=False)
class ServiceError(Exception):
    """A refusal, in one sentence; each kind has its HTTP status."""

    status: ClassVar[int]
    title: ClassVar[str]

    detail: str
    errors: Sequence[FieldError] = ()

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers that go with the refusal."""
        return {}

    def __str__(self) -> str:
        return self.detail


class BadRequest(ServiceError):
    """The request cannot be read."""

    status = 400
    title = "Bad request"


class Unauthorized(ServiceError):
    """The request has no key, or an unknown one."""

    status = 401
    title = "Unauthorized"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"WWW-Authenticate": 'Bearer realm="retort"'}


class Forbidden(ServiceError):
    """The key may not do that."""

    status = 403
    title = "Forbidden"


class NotFound(ServiceError):
    """There is no such thing, or it belongs to another project: both read alike."""

    status = 404
    title = "Not found"


@dataclass(eq=False)
class MethodNotAllowed(ServiceError):
    """The address has other methods."""

    status = 405
    title = "Method not allowed"

    allowed: str = ""

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Allow": self.allowed}


class Conflict(ServiceError):
    """The thing's state does not allow that."""

    status = 409
    title = "Conflict"


class TooSlow(ServiceError):
    """The body comes too slowly."""

    status = 408
    title = "Request timeout"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Connection": "close"}


class TooLarge(ServiceError):
    """The body is larger than the service reads, or its content has no room."""

    status = 413
    title = "Content too large"


class TargetTooLong(ServiceError):
    """The request's target is longer than the service reads."""

    status = 414
    title = "URI too long"


class UnsupportedMediaType(ServiceError):
    """The body's Content-Type is another one than the endpoint reads."""

    status = 415
    title = "Unsupported media type"


@dataclass(eq=False)
class RangeNotSatisfiable(ServiceError):
    """The range begins beyond the end."""

    status = 416
    title = "Range not satisfiable"

    size: int = 0

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Content-Range": f"bytes */{self.size}"}


class Invalid(ServiceError):
    """The request is well formed but wrong."""

    status = 422
    title = "Invalid content"

    @classmethod
    def of(cls, errors: Sequence[FieldError]) -> Invalid:
        """A refusal with one sentence: that of the only error, or of the first with the number of the others."""
        others = len(errors) - 1
        more = f" (and {others} more wrong {'field' if others == 1 else 'fields'})" if others else ""
        return cls(errors[0].detail + more, errors)


@dataclass(eq=False)
class TooManyRequests(ServiceError):
    """More is wanted than is allowed now."""

    status = 429
    title = "Too many requests"

    retry_seconds: int = RETRY_SECONDS

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Retry-After": str(self.retry_seconds)}


class HeadTooLarge(ServiceError):
    """The request's head has more fields or bytes than the service reads."""

    status = 431
    title = "Request header fields too large"


class InternalError(ServiceError):
    """A fault of the service; the log has the trace under the request's id."""

    status = 500
    title = "Internal error"


class Unavailable(ServiceError):
    """The database does not answer."""

    status = 503
    title = "Service unavailable"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Retry-After": str(RETRY_SECONDS)}


def problem_response(request: Request, error: ServiceError) -> Response:
    """The answer to a request that is refused."""
    body = problem_body(error, request.url.path, request.state.request_id)
    return Response(body, error.status, dict(error.headers), media_type=PROBLEM_JSON)


def problem_body(error: ServiceError, instance: str, request_id: str) -> str:
    """The JSON of a refusal, without secrets; `instance` is the request's path."""
    problem = ProblemDetails(
        type=f"urn:retort:problem:{error.title.lower().replace(' ', '-')}",
        title=error.title,
        status=error.status,
        detail=error.detail,
        instance=instance,
        request_id=request_id,
        errors=list(error.errors)[:MOST_ERRORS] or None,
    )
    return without_secrets(problem.model_dump_json(exclude_none=True))


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an endpoint that may refuse in these ways, for the OpenAPI."""
    titles = {kind.status: kind.title for kind in ServiceError.__subclasses__()}
    content = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": titles[status], "content": content} for status in statuses}


def quote(value: object) -> str:
    """A value as a sentence repeats it: short, in one line, and without secrets."""
    text = without_secrets(repr(value[:LONGEST_READ] if isinstance(value, str) else value))
    return text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 3]}..."
