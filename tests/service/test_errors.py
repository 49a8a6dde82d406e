"""The tree of refusals: each has its status, and each becomes a problem."""

from __future__ import annotations

import inspect
import json

import pytest
from starlette.requests import Request

from service import errors
from service.errors import FieldError, Invalid, ServiceError, problem_response, problems, quote

KINDS = ServiceError.__subclasses__()


def request() -> Request:
    scope = {"type": "http", "path": "/v1/x", "headers": [], "query_string": b"", "state": {"request_id": "req_1"}}
    return Request({**scope, "server": ("test", 80), "scheme": "http", "method": "GET"})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_is_drawn_in_the_tree_with_its_status(kind: type[ServiceError]) -> None:
    assert any(line.split()[1:3] == [kind.__name__, str(kind.status)] for line in inspect.getdoc(errors).splitlines())
    assert list(problems(kind.status)) == [kind.status]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_becomes_a_problem(kind: type[ServiceError]) -> None:
    answer = problem_response(request(), kind("one sentence"))
    body = json.loads(bytes(answer.body))
    assert answer.media_type == "application/problem+json"
    assert (body["status"], body["detail"], body["instance"]) == (kind.status, "one sentence", "/v1/x")
    assert body["type"] == f"urn:retort:problem:{body['title'].lower().replace(' ', '-')}"
    assert "errors" not in body


def test_statuses_differ() -> None:
    assert len({kind.status for kind in KINDS}) == len(KINDS)


def test_one_sentence_for_several_wrong_fields() -> None:
    wrong = [FieldError(pointer=f"/{i}", detail=f"{i} is wrong") for i in range(3)]
    assert Invalid.of(wrong[:1]).detail == "0 is wrong"
    assert Invalid.of(wrong[:2]).detail == "0 is wrong (and 1 more wrong field)"
    assert Invalid.of(wrong).detail == "0 is wrong (and 2 more wrong fields)"


def test_a_quote_is_short_and_in_one_line() -> None:
    assert quote("a\nb") == r"'a\nb'"
    assert len(quote("x" * 1000)) == errors.LONGEST_QUOTE
    secret = "rt_abcdefgh_" + "0123456789abcdef" * 2
    assert quote(f"{'x' * 40} {secret} {'y' * 10**7}").startswith(f"'{'x' * 40} rt_abcdefgh_*** yyy")
