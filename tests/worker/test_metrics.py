"""A worker's metrics: their counts and where they are served."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from math import inf
from socket import create_connection, create_server
from typing import Any

import pytest

from docs.operations import PAGE
from retort.event import Progress
from service.jobs.models import State
from service.settings import get_settings
from tests.conftest import free_port, wait_until
from tests.service.conftest import on_sqlite
from tests.service.rows import add_project
from tests.worker.plays import add_play, kinds, running_agent, wait_for_state
from worker import metrics

Environment = Callable[..., None]


def value(name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def grown() -> Iterator[Callable[..., float]]:
    """By how much a counter grew since the test asked for it first."""
    before: dict[tuple[Any, ...], float] = {}

    def since(name: str, **labels: str) -> float:
        key = (name, *sorted(labels.items()))
        return value(name, **labels) - before.setdefault(key, value(name, **labels))

    yield since
    metrics.count_attempt("succeeded")


def progress(step: int | None, phase: str = "distilling", network: str = "student", speed: float = 100.0) -> Progress:
    return Progress(phase=phase, network=network, step=step, examples_per_second=speed)


def test_steps_and_their_seconds_grow_by_what_lies_between_two_reports(
    grown: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 100.0
    monkeypatch.setattr("worker.metrics.time.monotonic", lambda: clock)
    steps, seconds = "retort_worker_steps_total", "retort_worker_steps_seconds_total"
    assert (grown(steps), grown(seconds)) == (0, 0)
    metrics.count_steps(progress(40))  # a resumed run: what came before is another attempt's
    clock += 2
    metrics.count_steps(progress(50))
    clock += 1
    metrics.count_steps(progress(None))
    clock += 1
    metrics.count_steps(progress(60, speed=250.0))
    assert (grown(steps), grown(seconds)) == (20, 4)
    assert value("retort_worker_examples_per_second") == 250
    metrics.count_steps(progress(5, phase="teaching"))
    clock += 1
    metrics.count_steps(progress(2, phase="teaching"))
    assert (grown(steps), grown(seconds)) == (20, 4)


def test_when_an_attempt_has_ended_nothing_trains(grown: Callable[..., float]) -> None:
    assert grown("retort_worker_attempts_total", outcome="failed", cause="SIGKILL") == 0
    metrics.count_steps(progress(1))
    metrics.count_attempt("failed", "SIGKILL")
    assert value("retort_worker_examples_per_second") == 0
    assert grown("retort_worker_attempts_total", outcome="failed", cause="SIGKILL") == 1
    steps = grown("retort_worker_steps_total")
    metrics.count_steps(progress(900))
    assert grown("retort_worker_steps_total") == steps, "another job's steps are not the difference to the one before"


@pytest.mark.parametrize(
    ("cause", "label"),
    [
        (None, ""),
        ("out_of_memory", "out_of_memory"),
        ("SIGSEGV", "SIGSEGV"),
        ("exit_77", "exit"),
        ("KeyError", "worker"),
    ],
)
def test_causes_are_few(cause: str | None, label: str) -> None:
    assert metrics.label_of(cause) == label


def test_without_a_port_nothing_listens(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    environment()
    monkeypatch.setattr("worker.metrics.start_http_server", lambda *_: pytest.fail("it listens"))
    metrics.serve(get_settings())


def test_a_port_that_is_taken_is_refused_in_one_sentence(environment: Environment) -> None:
    with create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment(metrics_port=port)
        with pytest.raises(SystemExit) as refused:
            metrics.serve(get_settings())
    assert str(refused.value) == (
        f"metrics cannot be served at 127.0.0.1:{port}: Address already in use; "
        "set RETORT_METRICS_HOST or RETORT_METRICS_PORT to another"
    )


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("198.51.100.7", "this machine has no such address"),
        ("no-such-host.invalid", "Name or service not known"),
        ("localhost,198.51.100.7", "this machine has no such address"),
    ],
)
def test_a_host_that_is_not_this_machine_is_refused_in_one_sentence(
    environment: Environment, host: str, reason: str
) -> None:
    environment(metrics_port=free_port(), metrics_host=host)
    said = f"^metrics cannot be served at {host.split(',')[-1]}:[0-9]+: {reason}; set RETORT_METRICS_HOST"
    with pytest.raises(SystemExit, match=said):
        metrics.serve(get_settings())


def test_of_a_name_of_several_machines_it_listens_at_its_own_address_alone(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    environment(metrics_port=port, metrics_host="127.0.0.1,workers")
    resolve = metrics.getaddrinfo

    def resolve_workers(host: str, *rest: Any, **more: Any) -> list[Any]:
        addresses = ["198.51.100.7", "127.0.0.2", "198.51.100.8"] if host == "workers" else [host]
        return [found for address in addresses for found in resolve(address, *rest, **more)]

    monkeypatch.setattr(metrics, "getaddrinfo", resolve_workers)
    metrics.serve(get_settings())
    for address in ("127.0.0.1", "127.0.0.2"):
        with create_connection((address, port), timeout=60):
            pass
    with pytest.raises(ConnectionRefusedError):
        create_connection(("127.0.0.3", port), timeout=60)


def test_a_worker_is_alive_for_a_lease_after_the_database_noted_it(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, clock = free_port(), 1000.0
    environment(metrics_port=port, lease_seconds=30)
    monkeypatch.setattr("worker.metrics._noted_at", -inf)
    monkeypatch.setattr("worker.metrics.time.monotonic", lambda: clock)
    metrics.serve(get_settings())

    def check() -> tuple[int, str]:
        """Exit code and error of the health check of a worker's container."""
        result = subprocess.run(
            [sys.executable, "-I", "-S", PAGE.parents[1] / "docker/worker_alive.py"], capture_output=True, text=True,
            env={"RETORT_METRICS_PORT": str(port), "http_proxy": "http://198.51.100.7:1"}, timeout=60, check=False,
        )  # fmt: skip
        return result.returncode, result.stderr

    silent = (1, "the database has not noted within the time of a lease that this worker is alive\n")
    assert check() == silent
    metrics.note_alive()
    assert check() == (0, "")
    clock += 29
    assert value("retort_worker_alive") == 1
    clock += 2
    assert check() == silent


def test_the_page_names_all_metrics_with_their_labels() -> None:
    metrics.count_renewal("ok")
    metrics.count_attempt("succeeded")
    metrics.count_file("artifact", 1)
    rows = re.findall(r"^\| `(retort_worker_\w+)` \| \w+ \| (.*?) \|", PAGE.read_text(), re.MULTILINE)
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    assert {name: set(re.findall(r"\w+", labels)) for name, labels in rows} == {
        sample.name: set(sample.labels) for sample in samples if sample.name.startswith("retort_")
    }


@on_sqlite
def test_an_agent_counts_what_it_does(database: str, environment: Environment, grown: Callable[..., float]) -> None:
    environment(database_url=database, look_seconds=0.2)
    ends = [("succeeded", ""), ("queued", "exit"), ("cancelled", "")]

    def counts() -> dict[str, float]:
        return {
            "claims": grown("retort_worker_claims_total"),
            "renewals": grown("retort_worker_lease_renewals_total", result="ok"),
            "steps": grown("retort_worker_steps_total"),
            "events": grown("retort_worker_events_total"),
            "artifacts": grown("retort_worker_stored_files_total", what="artifact"),
            "bytes": grown("retort_worker_stored_bytes_total", what="artifact"),
            "checkpoints": grown("retort_worker_stored_files_total", what="checkpoint"),
            **{end: grown("retort_worker_attempts_total", outcome=end[0], cause=end[1]) for end in ends},
        }

    counts()
    reports = [("progress", {"network": "student", "step": step, "examples_per_second": 50.0}) for step in (3, 13)]
    metrics = ("event", {"network": "student", "step": 1, "values": {"loss": 0.5}})
    with running_agent():
        first = add_play(
            add_project(), metrics, *reports, ("sleep", 1.0), ("checkpoint", "x"), ("ship", {"a": "12345"})
        )
        wait_for_state(first, State.succeeded)
        crash = add_play("project_default", ("exit", 99))
        wait_until(lambda: "requeued" in kinds(crash), "it is put back")
    found = counts()
    assert found.pop("renewals") >= 2
    assert found.pop("checkpoints") <= 1, "a job that ends sooner than the copy keeps none"
    assert found == {
        "claims": 2, "steps": 10, "events": 1, "artifacts": 1, "bytes": 5,
        ("succeeded", ""): 1, ("queued", "exit"): 1, ("cancelled", ""): 0,
    }  # fmt: skip
    assert value("retort_worker_examples_per_second") == 0
