"""README's way with Compose, walked in a private Docker; the three official images have stand-ins, made by debootstrap.

Its tests go on from each other. It takes Docker, debootstrap and root, half an hour when it first makes its images, and
20 GB of disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.containers.docker import BUILD, ROOT, Docker, build_all, missing, restart, started
from tests.servers import wait_until

REASON = missing()
pytestmark = [pytest.mark.long, pytest.mark.longest, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

RECIPE = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "resnet8x4", "teach": {"epochs": 1}},
    "student": {"architecture": "resnet8"},
    "methods": [{"name": "kd"}],
}
CONNECT = """
import socket, sys
for address in sys.argv[1:]:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        print("reached")
    except OSError as error:
        print("not reached")
"""
SERVICES = ["api", "broker", "database", "worker"]


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    """A daemon with both images, and nothing of the project before and after."""
    with started(*BUILD) as builder:
        build_all(builder)
    with started() as docker:
        docker.compose("down", "--volumes", "--remove-orphans")
        yield docker
        if docker.daemon.poll() is None:
            docker.compose("down", "--volumes", "--remove-orphans")


@pytest.fixture(scope="module")
def key(docker: Docker) -> str:
    """The first key of a service that runs."""
    docker.compose("up", "--detach", "--no-build")
    wait_until_healthy(docker)
    return docker.compose("exec", "-T", "api", "retort", "keys", "create", "me", "--local", "--admin")


def wait_until_healthy(docker: Docker, services: list[str] = SERVICES) -> None:
    """Wait until these run, with as many containers of each as it is named, and all are healthy."""

    def healthy() -> bool:
        listed = [json.loads(line) for line in docker.compose("ps", "--format", "{{json .}}").splitlines()]
        return sorted(each["Service"] for each in listed if each["Health"] == "healthy") == services

    wait_until(healthy, "all containers are healthy", 300)


def not_well(docker: Docker, service: str) -> list[str]:
    """The checks of `retort doctor` in a service's container that are not ok; it ends with 0 where none fails."""
    checks = json.loads(docker.compose("exec", "-T", service, "retort", "doctor", "--json"))["checks"]
    return [check["name"] for check in checks if check["status"] != "ok"]


def retort(docker: Docker, key: str, *words: str, given: bytes | None = None) -> str:
    """The output of a users' command."""
    return docker.compose("exec", "-T", "-e", f"RETORT_KEY={key}", "api", "retort", *words, given=given)


def submit(docker: Docker, key: str, epochs: int) -> str:
    recipe = json.dumps({**RECIPE, "training": {"epochs": epochs}}).encode()
    docker.compose("exec", "-T", "api", "sh", "-c", "cat > /tmp/recipe.json", given=recipe)
    return retort(docker, key, "submit", "/tmp/recipe.json")


def job(docker: Docker, key: str, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(retort(docker, key, "show", job_id, "--json"))
    return found


def address(docker: Docker, service: str, network: str) -> str:
    container = docker.compose("ps", "--quiet", service).split()[0]
    return docker.read(
        "inspect", "--format", f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}', container
    )


def test_it_asks_for_a_password(docker: Docker) -> None:
    refused = docker.run("compose", "up", "--detach", POSTGRES_PASSWORD="")
    assert refused.returncode != 0
    assert b"set POSTGRES_PASSWORD in the environment or in the file .env" in refused.stderr


def test_all_is_well_with_any_password(docker: Docker, key: str) -> None:
    assert key.startswith("rt_")
    for service in ("api", "worker"):
        # The broker has a second to answer, which is little on a busy machine.
        wait_until(lambda: not_well(docker, service) == ["key"], f"doctor finds all well in {service}")  # noqa: B023
    volumes = docker.read("volume", "ls", "--quiet").split()
    assert sorted(volumes) == ["retort_database", "retort_storage"]


def test_the_inner_network_is_reached_from_within_alone(docker: Docker, key: str) -> None:
    ports = {"worker": 9123, "broker": 6379, "database": 5432}
    inner = [f"{address(docker, service, 'retort_inner')}:{port}" for service, port in ports.items()]
    outer = f"{address(docker, 'worker', 'retort_outer')}:9123"
    seen = docker.from_host(CONNECT, "127.0.0.1:8765", *inner, outer).splitlines()
    assert seen == ["reached", *["not reached"] * 4]
    for network, expected in (("outer", ["not reached"] * 4), ("inner", [*["reached"] * 3, "not reached"])):
        run = ["run", "--rm", f"--network=retort_{network}", "python:3.11-slim", "python", "-c", CONNECT]
        assert docker.read(*run, *inner, outer).splitlines() == expected


def test_a_limit_of_a_container_is_seen(docker: Docker) -> None:
    program = "from retort.limits import *; print(memory() >> 20, processors())"
    for limits, seen in (
        (("--memory=2g", "--cpus=0.5"), "2048 1"),
        (("--memory=512m", "--cpuset-cpus=0"), "512 1"),
    ):
        words = ("run", "--rm", "--network=none", *limits, "retort-worker", "python", "-c", program)
        assert docker.read(*words) == seen


def test_a_job_that_runs_while_all_is_stopped_at_once_loses_no_attempt(docker: Docker, key: str) -> None:
    job_id = submit(docker, key, epochs=1000)
    wait_until(lambda: job(docker, key, job_id)["phase"] == "distilling", "it distils", 1800)
    docker.stop()
    restart(docker)
    wait_until_healthy(docker)
    wait_until(lambda: job(docker, key, job_id)["state"] == "running", "it runs again")
    assert job(docker, key, job_id)["attempt"] == 1
    retort(docker, key, "cancel", job_id)


def test_a_killed_workers_job_is_finished_by_another(docker: Docker, key: str) -> None:
    docker.compose("up", "--detach", "--no-build", "--scale", "worker=2")
    wait_until_healthy(docker, [*SERVICES, "worker"])
    job_id = submit(docker, key, epochs=20)
    wait_until(lambda: job(docker, key, job_id)["phase"] == "distilling", "it distils", 1800)
    log = docker.compose("logs", "worker").splitlines()
    begun = next(line for line in reversed(log) if f'"job": "{job_id}"' in line)
    docker.read("kill", begun.split("|")[0].strip().replace("worker", "retort-worker", 1))
    wait_until(lambda: job(docker, key, job_id)["terminal"], "it ends", 1800)
    ended = job(docker, key, job_id)
    assert (ended["state"], ended["attempt"]) == ("succeeded", 2)


def test_a_backup_comes_back_into_an_empty_database(docker: Docker, key: str) -> None:
    before = retort(docker, key, "jobs", "--json")
    made = docker.run("compose", "exec", "-T", "api", "retort", "backup", "-")
    assert (made.returncode, made.stdout[:6]) == (0, b"SQLite")
    docker.compose("down", "--volumes")
    docker.compose("up", "--detach", "--no-build")
    docker.compose("run", "--rm", "-T", "api", "retort", "restore", "-", given=made.stdout)
    assert retort(docker, key, "jobs", "--json") == before


def test_a_wrong_password_ends_it_with_the_reason(docker: Docker, key: str) -> None:
    docker.compose("stop")
    refused = docker.run("compose", "up", "--detach", "--no-build", POSTGRES_PASSWORD="another")
    assert refused.returncode != 0
    assert b"didn't complete successfully" in refused.stderr
    log = docker.compose("logs", "--no-log-prefix", "migrate").splitlines()
    assert "password authentication failed for user" in log[-1]
    assert "Traceback" not in log[-1]


def test_engines_are_confined_in_the_workers_image(docker: Docker) -> None:
    confined = ("--cap-drop=ALL", "--security-opt=no-new-privileges:true", "--pids-limit=16384", "--network=none")
    mounted = [f"--volume={ROOT / name}:/src/{name}:ro" for name in ("tests", "pyproject.toml", "docs")]
    words = ["run", "--rm", *confined, *mounted, "--workdir=/src", "retort-tested-worker", "python", "-m", "pytest"]
    ran = docker.run(*words, "-q", "-p", "no:cacheprovider", "tests/worker/test_sandbox.py")
    assert ran.returncode == 0, ran.stdout.decode()[-5000:]
