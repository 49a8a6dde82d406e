"""The whole API against its own OpenAPI page: whatever the page allows or forbids is sent, and every answer must be as
the page says. No trace, no 5xx, nothing undocumented."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    missing_required_header,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.service.conftest import application

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance, missing_required_header, unsupported_method,
]  # fmt: skip
"""Besides that invalid data are refused; but not that valid data are accepted: cursors are opaque, and what is wrong
with a recipe no schema can say."""
BRIEF, LONG = 2, 150
LENIENT = {"POST /v1/jobs/validate", "GET /v1/jobs"}
"""Where what is forbidden may be right: to say what is wrong is the work of one, and a tag that is a number is text in
the other's address."""
OPEN = {"GET /healthz", "GET /readyz", "GET /metrics"}

lengths = pytest.mark.parametrize(
    "examples", [BRIEF, pytest.param(LONG, marks=[pytest.mark.long, pytest.mark.longest])]
)


@pytest.fixture
def database_url(sqlite_database: str) -> str:
    """What is shown here depends on no kind of database."""
    return sqlite_database


def failures(
    examples: int, mode: GenerationMode, ask: Callable[[schemathesis.Case], object]
) -> dict[str, BaseException]:
    """What went wrong, an operation, with that many requests each."""
    page = schemathesis.openapi.from_asgi("/openapi.json", application())
    found: dict[str, BaseException] = {}
    for result in page.get_all_operations():
        operation = result.ok()
        # Failures are told by the requests that caused them, so none is made smaller first; the draws are always the
        # same, so that a test of one version ends as it did.
        calm = settings(
            max_examples=examples, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        try:
            calm(given(case=operation.as_strategy(generation_mode=mode))(lambda case: ask(case)))()
        except Unsatisfiable:
            assert operation.label in OPEN, f"nothing was sent to {operation.label}"  # nothing about these can be wrong
        except (FailureGroup, Exception) as error:
            found[operation.label] = error
    return found


@lengths
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allowed", "forbidden"])
def test_every_answer_is_as_documented(key: str, mode: GenerationMode, examples: int) -> None:
    bearer = {"Authorization": f"Bearer {key}"}

    def ask(case: schemathesis.Case) -> None:
        refuses = [] if case.operation.label in LENIENT else [negative_data_rejection]
        answer = case.call_and_validate(headers=bearer, checks=[*CHECKS, *refuses])
        assert "Traceback" not in answer.text

    assert failures(examples, mode, ask) == {}


@pytest.mark.parametrize("examples", [1, pytest.param(LONG, marks=[pytest.mark.long, pytest.mark.longest])])
def test_without_a_key_nothing_is_looked_at(database: str, examples: int) -> None:
    def ask(case: schemathesis.Case) -> None:
        answer = case.call(headers={"Authorization": ""})
        if case.operation.label not in OPEN:
            assert answer.status_code in (400, 401), answer.text
            case.validate_response(answer, checks=[status_code_conformance, content_type_conformance])

    assert failures(examples, GenerationMode.POSITIVE, ask) == {}
