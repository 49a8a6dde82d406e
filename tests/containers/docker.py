"""A private Docker: its daemon, its network and its mounts end with it, and its images are kept for the next run.

The official images cannot be fetched everywhere, so bases are made by debootstrap, of Debian 12 with its PostgreSQL 15
and Redis 7, and bear the official names. What is built on them is the project's own.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.servers import wait_until

ROOT = Path(__file__).parents[2]
STAND_INS = Path(__file__).parent / "stand_ins"
FOLDER = Path(os.environ.get("TEST_CONTAINERS", "/var/tmp/retort-containers"))
"""Images and the root of the bases, 20 GB; remove it to make all anew."""
BASES = {"python": "python:3.11-slim", "postgres": "postgres:17", "redis": "redis:7"}
DEBIAN = (
    "python3,python3-venv,python3-pip,python-is-python3,ca-certificates,postgresql-15,redis-server"
)  # fmt: skip
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
INDEX = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "http_proxy", "https_proxy", "no_proxy")
"""Variables of this machine that say where packages come from, for builds on the bases."""
BUILD = ("--bridge=none", "--iptables=false", "--ip-forward=false")
"""Builds use this machine's network, and change nothing in it."""
PASSWORD = "p@ss/w#rd?&: 1\"'%40"
BUILD_SECONDS, STEP_SECONDS = 3600, 600


def missing() -> str | None:
    """The reason why no private Docker can be run here; None where it can."""
    if os.geteuid() != 0:
        return "only root starts a Docker daemon"
    programs = ("docker", "dockerd", "debootstrap", "iptables", "unshare", "nsenter", "ip")
    if absent := [name for name in programs if shutil.which(name) is None]:
        return f"not installed: {', '.join(absent)} (Debian's docker.io, debootstrap, iptables, iproute2)"
    for plugin, package in (("compose", "docker-compose"), ("buildx", "docker-buildx")):
        if subprocess.run(["docker", plugin, "version"], capture_output=True, check=False).returncode:
            return f"Docker has no plugin {plugin} (Debian's {package}, from Debian 13 on)"
    return None


class Docker:
    """The client of a private daemon, and of the project that docker-compose.yml describes there."""

    def __init__(self, socket: Path, daemon: subprocess.Popen[bytes]) -> None:
        self.daemon = daemon
        self.environment = {
            **os.environ, "DOCKER_HOST": f"unix://{socket}", "POSTGRES_PASSWORD": PASSWORD,
            "RETORT_IMAGES": str(FOLDER / "images"), "RETORT_LISTEN": "127.0.0.1:8765",
        }  # fmt: skip

    def run(
        self, *words: str, given: bytes | None = None, seconds: float = STEP_SECONDS, **variables: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command of Docker to its end, whatever that is."""
        environment = {**self.environment, **variables}
        return subprocess.run(
            ["docker", *words],
            cwd=ROOT,
            env=environment,
            input=given,
            capture_output=True,
            timeout=seconds,
            check=False,
        )

    def read(self, *words: str, given: bytes | None = None, seconds: float = STEP_SECONDS) -> str:
        """The output of a command that must succeed."""
        result = self.run(*words, given=given, seconds=seconds)
        assert result.returncode == 0, f"docker {' '.join(words)}:\n{result.stderr.decode()[-3000:]}"
        return result.stdout.decode().strip()

    def compose(self, *words: str, given: bytes | None = None) -> str:
        """The output of a command of Compose that must succeed."""
        return self.read("compose", *words, given=given)

    def from_host(self, program: str, *words: str) -> str:
        """The output of a Python program in the daemon's network, as programs of its machine are."""
        into = ["nsenter", f"--net=/proc/{self.daemon.pid}/ns/net", "python3", "-c", program, *words]
        return subprocess.run(into, capture_output=True, text=True, timeout=STEP_SECONDS, check=True).stdout

    def stop(self) -> None:
        """Stop the daemon, which stops all containers at once, as where their machine goes down."""
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait(STEP_SECONDS)


@contextmanager
def started(*options: str) -> Iterator[Docker]:
    """A daemon that keeps its images in FOLDER. Without BUILD it has a network of its own, with no way out."""
    run = FOLDER / "run"
    run.mkdir(parents=True, exist_ok=True)
    docker = _start(run, options)
    try:
        yield docker
    finally:
        if docker.daemon.poll() is None:
            docker.stop()
        _remove_groups()


def restart(docker: Docker) -> None:
    """Start a daemon that was stopped again."""
    docker.daemon = _start(FOLDER / "run", ()).daemon


def _start(run: Path, options: tuple[str, ...]) -> Docker:
    socket, pid = run / "docker.sock", run / "docker.pid"
    pid.unlink(missing_ok=True)
    (run / "daemon.json").write_text("{}")
    command = [
        "dockerd", f"--data-root={FOLDER / 'data'}", f"--exec-root={run / 'exec'}", f"--pidfile={pid}",
        f"--host=unix://{socket}", f"--config-file={run / 'daemon.json'}", *options,
    ]  # fmt: skip
    apart = ["unshare", "--mount", "--propagation=slave"]
    if options != BUILD:
        apart += ["--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    with (run / "log").open("ab") as log:
        daemon = subprocess.Popen([*apart, *command], stdout=log, stderr=log, start_new_session=True)
    docker = Docker(socket, daemon)
    wait_until(lambda: docker.run("info").returncode == 0, f"the Docker daemon answers (see {run / 'log'})")
    return docker


def _remove_groups() -> None:
    """Remove the control groups that a daemon leaves behind."""
    for group in Path("/sys/fs/cgroup").glob("*/docker"):
        for folder in (*group.glob("*"), group):
            with suppress(OSError):
                folder.rmdir()


def build_all(docker: Docker) -> None:
    """The bases, where they are not there yet, and both images; a further one has the tests' needs."""
    if not docker.read("images", "--quiet", "debian-stand-in"):
        _make_root(docker)
    for target, name in BASES.items():
        docker.read("build", "--quiet", f"--target={target}", f"--tag={name}", str(STAND_INS))
    for name in ("service", "worker"):
        build(docker, ROOT, ROOT / f"docker/{name}.Dockerfile", f"retort-{name}")
    build(docker, STAND_INS, STAND_INS / "tested_worker.Dockerfile", "retort-tested-worker")


def build(docker: Docker, context: Path, file: Path, name: str) -> None:
    """Build an image with this machine's network and its index of packages."""
    words = ["build", "--network=host", f"--file={file}", f"--tag={name}", str(context)]
    docker.read(*words, seconds=BUILD_SECONDS)


def _make_root(docker: Docker) -> None:
    root = FOLDER / "root"
    shutil.rmtree(root, ignore_errors=True)
    make = ["debootstrap", "--variant=minbase", f"--include={DEBIAN}", "bookworm", str(root)]
    with (FOLDER / "run" / "debootstrap.log").open("wb") as log:
        subprocess.run(make, stdout=log, stderr=log, timeout=BUILD_SECONDS, check=True)
    if CERTIFICATES.exists():  # an authority of this machine's own among them
        shutil.copyfile(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
    with subprocess.Popen(
        ["tar", "-C", str(root), "--exclude=./var/cache/apt", "-c", "."], stdout=subprocess.PIPE
    ) as tar:
        variables = {"SSL_CERT_FILE": str(CERTIFICATES), "PIP_CERT": str(CERTIFICATES)}
        variables |= {name: os.environ[name] for name in INDEX if name in os.environ}
        changes = [f"--change=ENV {name}={value}" for name, value in variables.items()]
        subprocess.run(
            ["docker", "import", *changes, "-", "debian-stand-in"], stdin=tar.stdout,
            env=docker.environment, stdout=subprocess.DEVNULL, timeout=BUILD_SECONDS, check=True,
        )  # fmt: skip
    shutil.rmtree(root)
