"""Wake-ups on both brokers, and on one that is not there."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from celery import Celery
from kombu.connection import Connection
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.broker import QUEUE, celery_options
from service.db import get_engine, transaction
from service.settings import get_settings
from service.wake_up import get_sender, reachable, wake, wake_after_commit
from tests.conftest import free_port, wait_until

Environment = Callable[..., None]


def messages() -> int:
    """Take all messages off the broker and count them."""
    app = Celery("reader", set_as_current=False)
    app.conf.update(celery_options(get_settings()))
    connection: Connection
    with app.connection_for_read() as connection:
        channel, count = connection.default_channel, 0
        while (message := channel.basic_get(QUEUE, no_ack=True)) is not None:
            assert message.headers["task"] == "retort.look"
            count += 1
    app.close()
    return count


def test_a_wake_up_arrives(environment: Environment, broker_url: str) -> None:
    environment(broker_url=broker_url)
    assert reachable() is None
    wake()
    wait_until(messages, "a message arrives")


def test_wake_ups_in_a_burst_are_few_messages(environment: Environment, broker_url: str) -> None:
    environment(broker_url=broker_url)
    for _ in range(500):
        wake()
    time.sleep(0.3)
    assert 1 <= messages() < 250


def test_a_broker_that_is_not_there_costs_the_caller_nothing(
    environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    environment(broker_url=f"redis://:secret@127.0.0.1:{free_port()}/0")
    started = time.monotonic()
    wake()
    assert time.monotonic() - started < 0.5
    with caplog.at_level(logging.WARNING, "service.wake_up"):
        wait_until(lambda: caplog.records, "the failure is logged")
        for _ in range(3):
            wake()
            time.sleep(0.1)
    assert len(caplog.records) == 1
    assert "workers find jobs later" in caplog.text
    assert "secret" not in caplog.text
    reason = reachable()
    assert reason is not None
    assert "secret" not in reason


def test_a_broker_that_never_answers_is_unreachable_within_a_second_or_so(environment: Environment) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        environment(broker_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        started = time.monotonic()
        assert reachable() is not None
        assert 0.9 < time.monotonic() - started < 4


def test_a_folder_that_cannot_be_made_is_unreachable(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environment(data_dir=tmp_path / "file" / "data")
    wake()
    reason = reachable()
    assert reason is not None
    assert "file" in reason


def test_it_wakes_after_the_commit_and_not_before(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bool] = []
    monkeypatch.setattr(get_sender(), "wake", lambda: sent.append(True))
    with transaction() as session:
        wake_after_commit(session)
        with session.begin_nested():
            session.execute(text("SELECT 1"))
        assert sent == []
    assert sent == [True]


def test_it_does_not_wake_for_what_was_rolled_back(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bool] = []
    monkeypatch.setattr(get_sender(), "wake", lambda: sent.append(True))
    with Session(get_engine()) as session:
        wake_after_commit(session)
        session.execute(text("SELECT 1"))
        session.rollback()
    assert sent == []
