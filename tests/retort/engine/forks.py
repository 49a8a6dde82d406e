"""Engines as processes of their own, forked from one that has imported what each of them would import: two seconds of
computing and more a process, which is several times what the runs of these tests take.

They begin where `python -m retort.engine` does, with its arguments; a signal ends them as it ends any process.
"""

import ctypes
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from multiprocessing.process import BaseProcess
from pathlib import Path
from runpy import run_module

from retort.event import Event
from tests.servers import free_port, wait_until

PATIENCE_SECONDS = 600
"""For what takes seconds: a machine may do much else meanwhile."""
END_WITH_PARENT = 1
"""PR_SET_PDEATHSIG, so that no engine outlives the tests, however these end."""
FORKS = multiprocessing.get_context("forkserver")
# This file and pytest too: a child looks at what it is to run and at how this process was started.
FORKS.set_forkserver_preload(["pytest", "tests.retort.engine.warm", "tests.retort.engine.forks"])
Moment = tuple[int, dict[str, object]]
"""A signal that an engine sends itself once it has written a line that has these values, and those values."""


@dataclass(frozen=True)
class Program:
    """Runs a module in a fork, with its standard output and error appended to two files."""

    module: str
    arguments: list[str]
    out: Path
    err: Path
    environment: dict[str, str]
    moments: tuple[Moment, ...] = ()
    """One after the other. What a resumed run repeats of the run before does not count."""
    statements: str = ""
    """Python statements that are executed instead of the module."""
    stdin: Path | None = None
    """A named pipe."""

    def __call__(self) -> None:
        ctypes.CDLL(None).prctl(END_WITH_PARENT, signal.SIGKILL)
        for file, descriptor in ((self.out, 1), (self.err, 2)):
            opened = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.dup2(opened, descriptor)
            os.close(opened)
        if self.stdin is not None:
            os.dup2(os.open(self.stdin, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(self.environment)
        sys.argv = [self.module, *self.arguments]
        if self.moments:
            _signal_at(self.moments)
        if self.statements:
            exec(self.statements, {})
        else:
            run_module(self.module, run_name="__main__", alter_sys=True)


def _signal_at(moments: tuple[Moment, ...]) -> None:
    from retort.engine.event_log import EventLog

    left, write, replay = list(moments), EventLog._write, EventLog.replay

    def write_and_look(self: EventLog, line: str) -> None:
        write(self, line)
        if left and left[0][1].items() <= json.loads(line).items():
            os.kill(os.getpid(), left.pop(0)[0])

    def repeat(self: EventLog, said: dict[str, str]) -> None:
        kept, left[:] = left[:], []
        replay(self, said)
        left[:] = kept

    EventLog._write, EventLog.replay = write_and_look, repeat


class Fork:
    """A process that runs a program; looks as subprocess.Popen does."""

    def __init__(self, program: Program) -> None:
        self._process: BaseProcess = FORKS.Process(target=program, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("engine", timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait_until_stopped(self) -> None:
        """Until a SIGSTOP has reached it."""
        wait_until(
            lambda: Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T",
            "it is stopped",
            PATIENCE_SECONDS,
        )


class ForkGroup:
    """Processes that run one program and are told of each other as torch's launcher tells them."""

    def __init__(self, processes: int, program: Program) -> None:
        told = {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo",
            "TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
        }  # fmt: skip
        self.members = [
            Fork(replace(program, environment=program.environment | told | {"RANK": rank, "LOCAL_RANK": rank}))
            for rank in map(str, range(processes))
        ]

    def poll(self) -> int | None:
        """The exit code of one that has ended, a failed one before all."""
        codes = [code for member in self.members if (code := member.poll()) is not None]
        return max(codes, key=abs, default=None)

    def wait(self, timeout: float) -> int:
        """Until all have ended; the exit code of a failed one, if one has."""
        deadline = time.monotonic() + timeout
        return max((member.wait(max(0, deadline - time.monotonic())) for member in self.members), key=abs)

    def send_signal(self, number: int) -> None:
        for member in self.members:
            member.send_signal(number)


class Engine:
    """A run of the engine in a directory of its own; it may be started again."""

    def __init__(self, directory: Path, recipe: dict) -> None:
        self.directory = directory
        directory.mkdir()
        (directory / "recipe.json").write_text(json.dumps(recipe))
        self.log = directory / "log.jsonl"
        self._lines: list[dict] = []
        self._read = 0
        """Bytes of the log that are among the lines."""

    def program(self, *options: str, moments: Sequence[Moment] = ()) -> Program:
        arguments = [str(self.directory / "recipe.json"), str(self.directory), *options]
        stderr = self.directory / "stderr"
        return Program("retort.engine", arguments, self.log, stderr, dict(os.environ), tuple(moments))

    def start(self, *options: str, moments: Sequence[Moment] = ()) -> Fork | ForkGroup:
        return Fork(self.program(*options, moments=moments))

    def run(self, *options: str) -> int:
        return self.start(*options).wait(PATIENCE_SECONDS)

    def run_to(self, number: int, *options: str, **line: object) -> int:
        """Run until it sends itself a signal, after a line with these values; the exit code."""
        return self.start(*options, moments=[(number, line)]).wait(PATIENCE_SECONDS)

    def lines(self) -> list[dict]:
        if self.log.exists():
            with self.log.open("rb") as log:
                log.seek(self._read)
                whole = log.read().rpartition(b"\n")[0]
            if whole:
                self._read += len(whole) + 1
                self._lines += [json.loads(line) for line in whole.splitlines() if line.endswith(b"}")]
        return list(self._lines)

    def events(self) -> list[Event]:
        return [Event.model_validate(line) for line in self.lines() if line["line"] == "event"]

    def digests(self) -> dict[str, str]:
        return {file.name: sha256(file.read_bytes()).hexdigest() for file in self.directory.glob("artifacts/*")}

    def wait_for(self, process: Fork | ForkGroup, wanted: Callable[[dict], bool]) -> None:
        """Until a line says so."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not any(map(wanted, self.lines())):
            assert process.poll() is None, (self.directory / "stderr").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)


class WarmEngine(Engine):
    """An engine that its parent tells what to do, by lines; the parent is gone when `orders` is closed."""

    def start(self) -> Fork:
        pipe = self.directory / "orders"
        os.mkfifo(pipe)
        fork = Fork(replace(self.program(), arguments=["--warm"], stdin=pipe))
        # Waits for the other side.
        self.orders = os.fdopen(os.open(pipe, os.O_WRONLY), "wb", buffering=0)
        return fork


class Together(Engine):
    """A run of the engine in two processes."""

    def start(self, *options: str, moments: Sequence[Moment] = ()) -> ForkGroup:
        return ForkGroup(2, self.program(*options, moments=moments))
