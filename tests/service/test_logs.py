"""The log: one line an event, of any logger, and no secret in it."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest

from service.db import transaction
from service.keys.service import create_local_key
from service.logs import bound, formatter, logger_for
from service.redaction import without_secrets
from tests.service.conftest import Server, on_sqlite

Start = Callable[..., Server]


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def printed(code: str, **variables: str) -> list[str]:
    """What a fresh interpreter writes to a standard error that is no terminal, once the log is set up."""
    program = f"from service import logs\nfrom service.settings import Settings\n{code}"
    environment = {"PATH": "/usr/bin:/bin", **{f"RETORT_{name.upper()}": value for name, value in variables.items()}}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60
    )
    assert result.stdout == ""
    return result.stderr.splitlines()


@pytest.fixture
def written() -> Callable[..., str]:
    """The line of one record."""

    def write(say: Callable[[Any], None], log: Any = None, *, as_json: bool = True) -> str:
        texts: list[str] = []

        class Collector(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                texts.append(formatter(as_json=as_json, colours=False, always={"worker": "w-1"}).format(record))

        handler = Collector()
        logging.getLogger("a.b").addHandler(handler)
        try:
            say(log or logging.getLogger("a.b"))
        finally:
            logging.getLogger("a.b").removeHandler(handler)
        (line,) = texts
        return line

    return write


def test_a_line_has_time_level_logger_message_and_the_fields_that_are_known(written: Callable[..., str]) -> None:
    log = logger_for("a.b", job="job_1", attempt=2, fence=3)
    with bound(request_id="req_1"):
        line = json.loads(written(lambda log: log.warning("%d images\nleft", 7), log))
    moment = line.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", moment)
    assert abs((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()) < 60
    assert line == {
        "level": "warning", "logger": "a.b", "message": "7 images\nleft", "worker": "w-1", "request_id": "req_1",
        "job": "job_1", "attempt": 2, "fence": 3,
    }  # fmt: skip


def test_a_trace_is_one_field_of_one_line(written: Callable[..., str]) -> None:
    def fail(log: logging.Logger) -> None:
        try:
            raise OSError("no space\nleft")
        except OSError:
            log.exception("it failed")

    line = written(fail)
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("OSError: no space\nleft")
    assert "Traceback (most recent call last)" in written(fail, as_json=False)


def test_what_libraries_hang_on_their_records_is_left_out(written: Callable[..., str]) -> None:
    line = json.loads(written(lambda log: log.error("a task failed", extra={"data": object(), "job": {1, 2}})))
    assert "data" not in line
    assert line["job"] == "{1, 2}"


def test_text_is_for_people(written: Callable[..., str]) -> None:
    line = written(lambda log: log.error("it failed"), logger_for("a.b", job="job_1"), as_json=False)
    assert re.fullmatch(r"\S+Z \[error +\] it failed \[a\.b\] worker=w-1 job=job_1", line)


def test_a_field_that_no_line_has_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no fields \['jobs'\]; wanted some of job, attempt"):
        logger_for("a.b", jobs=1)


def test_secrets_are_hidden_wherever_they_stand(database: str, written: Callable[..., str]) -> None:
    with transaction() as session:
        key = create_local_key(session, "test")
    for as_json in (True, False):
        line = written(lambda log: log.error("%s", {"redis://:pass-word@h/0": key}), as_json=as_json)
        assert key[:11] in line
        assert key not in line
        assert "pass-word" not in line
    assert without_secrets("postgresql+psycopg://me:a:b@h/d?x=y") == "postgresql+psycopg://me:***@h/d?x=y"
    assert without_secrets("http://127.0.0.1:8765/v1 and a@b") == "http://127.0.0.1:8765/v1 and a@b"
    assert without_secrets('{"a":"http://h:1","b":"c@d"}') == '{"a":"http://h:1","b":"c@d"}'


@pytest.mark.parametrize("password", ["pa@ss", "pa/ss", "pa#ss", "pa?ss", "@", "1/2@3", "[p]a:s&s;", "p@a/s#s?", 'p"s'])
def test_a_password_is_hidden_with_signs_that_end_an_address_elsewhere(password: str) -> None:
    address = f"postgresql+psycopg://me:{password}@h/d"
    assert without_secrets(json.dumps([address, "a@b"])) == '["postgresql+psycopg://me:***@h/d", "a@b"]'


def test_without_a_terminal_it_is_json() -> None:
    (line,) = lines("\n".join(printed("logs.set_up(Settings(), worker='w')\nlogs.logging.getLogger('x').info('hi')")))
    assert (line["message"], line["worker"]) == ("hi", "w")
    (text,) = printed("logs.set_up(Settings())\nlogs.logging.getLogger('x').info('hi')", log_format="text")
    assert text.endswith(" hi [x]")


def test_the_level_is_a_setting() -> None:
    code = "logs.set_up(Settings())\nlog = logs.logging.getLogger('x')\nlog.info('quiet')\nlog.warning('loud')"
    assert [line["message"] for line in lines("\n".join(printed(code, log_level="WARNING")))] == ["loud"]


def test_warnings_and_uncaught_exceptions_are_lines_too() -> None:
    code = """
import threading, warnings
logs.set_up(Settings())
warnings.warn("careful")
thread = threading.Thread(target=lambda: 1 / 0, name="loop")
thread.start()
thread.join()
raise RuntimeError("the end")
"""
    careful, thread, end = lines("\n".join(printed(code)))
    assert "UserWarning: careful" in careful["message"]
    assert (thread["level"], thread["message"]) == ("error", "thread loop ended by ZeroDivisionError: division by zero")
    assert (end["level"], end["message"]) == ("critical", "ended by RuntimeError: the end")
    assert "RuntimeError: the end" in end["exception"]


# The front end


@on_sqlite
def test_every_request_is_one_line_with_who_asked_and_no_secret(key: str, start: Start) -> None:
    server = start()
    headers = {"Authorization": f"Bearer {key}"}
    known = httpx2.get(f"{server.url}/v1/jobs", headers=headers)
    refused = httpx2.post(f"{server.url}/v1/jobs", headers=headers, content=b"{", params={"a": key})
    httpx2.delete(f"{server.url}/v1/keys/{key}")
    server.process.terminate()
    server.process.wait(20)
    logged = lines(server.log.read_text())
    assert key not in server.log.read_text()
    requests = {line["request_id"]: line for line in logged if line["logger"] == "service.edge"}
    line = requests[known.headers["X-Request-ID"]]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/v1/jobs", 200)
    assert 0 < line["milliseconds"] < 30_000
    assert line["sent_bytes"] == len(known.content)
    assert line["project"].startswith("project_")
    assert line["key"].startswith("key_")
    line = requests[refused.headers["X-Request-ID"]]
    assert (line["path"], line["status"], line["received_bytes"]) == ("/v1/jobs", 415, 0)
    (line,) = (line for line in requests.values() if line["method"] == "DELETE")
    assert (line["path"], line["status"]) == (f"/v1/keys/{key[:11]}_***", 401)
    assert "project" not in line
    assert {line["logger"] for line in logged} == {"uvicorn.error", "service.edge"}


@on_sqlite
def test_what_is_logged_while_a_request_runs_carries_its_id(database: str, start: Start) -> None:
    server = start(database_url="postgresql+psycopg://me:hidden-word@127.0.0.1:1/none")
    answer = httpx2.get(f"{server.url}/readyz")
    assert answer.status_code == 503
    server.process.terminate()
    server.process.wait(20)
    text = server.log.read_text()
    assert "hidden-word" not in text
    of_request = [line for line in lines(text) if line.get("request_id") == answer.headers["X-Request-ID"]]
    assert [line["level"] for line in of_request] == ["error", "info"]
    assert of_request[0]["message"].startswith("the database does not answer: ")


def test_migrations_log_alike(environment: Callable[..., None]) -> None:
    environment()
    result = subprocess.run(
        [sys.executable, "-m", "service.migrations"], capture_output=True, text=True, timeout=60, check=True
    )
    assert lines(result.stderr)[-1]["message"].startswith("the database is at revision 00")


def test_text_for_a_terminal_cannot_steer_it(written: Callable[..., str]) -> None:
    def say(log: Any) -> None:
        try:
            raise ValueError("c\x1b[2Jd")
        except ValueError:
            log.exception("job %s\nforged line", "a\x9b31m\u202eb")

    text = written(say, as_json=False)
    assert "\x1b" not in text
    assert r"job a\u009b31m\u202eb\u000aforged line" in text
    assert r"ValueError: c\u001b[2Jd" in text
    assert "\n  File " in text, "a trace has its lines"
