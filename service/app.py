"""The HTTP front end, put together: `python -m service.app` starts it."""

from __future__ import annotations

import argparse
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Route

import service.architectures.endpoints
import service.artifacts.endpoints
import service.audit.endpoints
import service.compressions.endpoints
import service.datasets.endpoints
import service.events.endpoints
import service.exports.endpoints
import service.health.endpoints
import service.jobs.endpoints
import service.keys.endpoints
import service.methods.endpoints
import service.models.endpoints
import service.projects.endpoints
import service.recipes.endpoints
import service.tasks.endpoints
import service.uploads.endpoints
import service.usage.endpoints
from service.audit.service import settle
from service.db import LOST, POOL_SIZE, DatabaseFull, why
from service.edge import Edge
from service.errors import (
    RETRY_SECONDS,
    BadRequest,
    Invalid,
    MethodNotAllowed,
    NotFound,
    ProblemDetails,
    ServiceError,
    Unavailable,
    problem_response,
    problems,
    quote,
)
from service.fields import parameter_errors
from service.keys.service import authenticate
from service.logs import set_up
from service.settings import get_settings, get_settings_or_exit
from service.wire import BoundedProtocol

DEFAULT_PORT = 8765
GOODBYE_SECONDS = 5
"""Seconds for which followers and downloads may go on once the process is asked to stop."""
FEATURES = (
    service.recipes, service.jobs, service.events, service.artifacts, service.tasks, service.methods,
    service.architectures, service.datasets, service.uploads, service.models, service.exports, service.compressions,
    service.keys, service.projects, service.usage, service.audit, service.health,
)  # fmt: skip
CORS_REQUEST_HEADERS = [
    "Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "If-Range", "Last-Event-ID", "Range",
]  # fmt: skip
CORS_ANSWER_HEADERS = ["Content-Range", "ETag", "Idempotent-Replayed", "Location", "Retry-After", "X-Request-ID"]
"""Headers that pages of allowed origins may send, and read."""

log = logging.getLogger(__name__)


class RetortAPI(FastAPI):
    """FastAPI with an OpenAPI page that has the problems of every endpoint."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            schema = get_openapi(
                title=self.title, version=self.version, description=self.description, routes=self.routes,
                separate_input_output_schemas=self.separate_input_output_schemas,
            )  # fmt: skip
            problem = ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
            components = schema["components"]["schemas"]
            components |= {**problem.pop("$defs"), "Problem": problem}
            _drop_other_errors(schema)
            _add_shared_refusals(schema)
            self.openapi_schema = schema
        return self.openapi_schema


def _drop_other_errors(schema: dict[str, Any]) -> None:
    """Drop FastAPI's own kind of 422, which it documents where an endpoint names none; none here answers with it."""
    for path in schema["paths"].values():
        for operation in path.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)


def _add_shared_refusals(schema: dict[str, Any]) -> None:
    """Add the refusals of any endpoint: for want of a key or a scope, or before the endpoint is called."""
    for path in schema["paths"].values():
        for operation in path.values():
            shared = problems(400, 414, 431, 503) | (problems(401, 403, 429) if "security" in operation else {})
            if "requestBody" in operation:
                shared |= problems(408, 413)
            for status, response in shared.items():
                operation["responses"].setdefault(str(status), response)


def create_app() -> FastAPI:
    """A fresh application; tests make their own."""
    app = RetortAPI(
        title="Retort",
        version="1",
        description="Distillation as a service: a large trained network in, a small one out.",
        separate_input_output_schemas=False,
        redirect_slashes=False,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.authenticate = authenticate
    for feature in FEATURES:
        app.include_router(feature.endpoints.router)
    larger = service.uploads.endpoints.LARGER_BODIES
    app.add_middleware(Edge, settle=settle, larger=larger)
    if origins := get_settings().cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=CORS_REQUEST_HEADERS,
            expose_headers=CORS_ANSWER_HEADERS,
        )  # fmt: skip
    app.add_exception_handler(ServiceError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_http)
    app.add_exception_handler(RequestValidationError, _refuse_parameters)
    for lost in LOST:
        app.add_exception_handler(lost, _refuse_without_database)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    # A thread uses one connection at a time: so none waits for one, which would end after seconds with a 503, and
    # requests wait in their order for a thread. One connection is left for the look on behalf of followers.
    current_default_thread_limiter().total_tokens = POOL_SIZE - 1
    yield


def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return problem_response(request, error)


def _refuse_http(request: Request, error: Exception) -> Response:
    """Refuse for the router: there is no such address, or not with that method."""
    assert isinstance(error, HTTPException)
    address = quote(request.url.path)
    if error.status_code == 404:
        return problem_response(request, NotFound(f"there is no address {address}; /openapi.json lists all"))
    if error.status_code == 405:
        allowed = ", ".join(sorted(_methods_of(request)))
        found = f"{request.method} does not go with the address {address}; wanted {allowed}"
        return problem_response(request, MethodNotAllowed(found, allowed=allowed))
    return problem_response(request, BadRequest(str(error.detail)))


def _methods_of(request: Request) -> set[str]:
    """All methods of the request's address; the router names those of one endpoint alone."""
    routes = [*request.app.routes, *(route for feature in FEATURES for route in feature.endpoints.router.routes)]
    found = [route for route in routes if isinstance(route, Route) and route.path_regex.match(request.url.path)]
    return {method for route in found for method in route.methods or ()}


def _refuse_parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(request, Invalid.of(parameter_errors(error.errors())))


def _refuse_without_database(request: Request, error: Exception) -> Response:
    full = isinstance(error, DatabaseFull)
    found = (
        "the database takes nothing: its disk is full, or it may only be read"
        if full
        else "the database does not answer"
    )
    log.error("%s: %s", found, why(error))
    detail = f"{found}; ask again in {RETRY_SECONDS} seconds"
    return problem_response(request, Unavailable(detail))


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m service.app", description="Retort's HTTP front end.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; the default is this machine alone")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    parser.add_argument("--fd", type=int, help="an inherited socket that listens already, instead of both")
    chosen = parser.parse_args()
    set_up(get_settings_or_exit())
    # Edge writes each request's line, with its id and its project; uvicorn's other lines go through the same log.
    uvicorn.run(
        create_app(), host=chosen.host, port=chosen.port, fd=chosen.fd, loop="uvloop", server_header=False,
        timeout_graceful_shutdown=GOODBYE_SECONDS, log_config=None, access_log=False, http=BoundedProtocol, ws="none",
    )  # fmt: skip


if __name__ == "__main__":
    main()
