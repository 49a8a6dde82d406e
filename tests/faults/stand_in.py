"""A program that speaks like the engine and "trains" a chain of digests: what it ships depends on the recipe alone.

Run by path, so it starts in a moment and needs nothing of ours. The recipe's `training.epochs` is its number of steps,
`training.data_seed` the seed of the chain; FAULTS_STEP_SECONDS is what a step takes, FAULTS_WORK a folder where every
step that is really done is noted, a file a job.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

FINISHED, NOTHING_TO_KEEP, STOPPED = 0, 73, 75
KEPT = 2
STEPS_A_CHECKPOINT = 4
asked, finish = threading.Event(), threading.Event()
LARGE_BYTES, SMALL_BYTES = 1_300_000, 20_000
"""Sizes of what is shipped: of more than one chunk, and of one."""


def chain(seed: int) -> Iterator[str]:
    """The digests after 0, 1, 2, ... steps."""
    digest = sha256(str(seed).encode()).hexdigest()
    while True:
        yield digest
        digest = sha256(f"{digest} {seed}".encode()).hexdigest()


def digest_after(seed: int, steps: int) -> str:
    return next(digest for number, digest in enumerate(chain(seed)) if number == steps)


def weights(seed: int, steps: int) -> bytes:
    """What a run of that many steps ships."""
    size = LARGE_BYTES if seed % 10 == 0 else SMALL_BYTES
    return (bytes.fromhex(digest_after(seed, steps)) * (size // 32 + 1))[:size]


def metrics(seed: int, step: int) -> dict[str, Any]:
    """What is said about a step."""
    loss = int(digest_after(seed, step)[:8], 16) / 2**32
    return {"kind": "metrics", "phase": "distilling", "network": "student", "step": step, "values": {"loss": loss}}


class Run:
    """One attempt at one job."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.seed = order["spec"]["training"]["data_seed"]
        self.steps = order["spec"]["training"]["epochs"]
        self.checkpoints = Path(order["paths"]["checkpoints"])
        self.step, self.said = self.newest()

    def __call__(self) -> int:
        for event in [{"kind": "phase", "phase": "distilling"}, *self.said]:
            say(line="event", **event)
        while self.step < self.steps and not finish.is_set():
            if asked.wait(float(os.environ["FAULTS_STEP_SECONDS"])):
                self.write_checkpoint()
                return STOPPED
            self.take_step()
        if self.step == 0:
            return NOTHING_TO_KEEP
        self.ship()
        return FINISHED

    def take_step(self) -> None:
        self.step += 1
        self.note_work()
        event = metrics(self.seed, self.step)
        self.said.append(event)
        say(line="event", **event)
        say(line="progress", phase="distilling", network="student", step=self.step, steps=self.steps)
        if self.step % STEPS_A_CHECKPOINT == 0:
            self.write_checkpoint()

    def note_work(self) -> None:
        job_id = Path(self.order["paths"]["directory"]).parent.name
        with Path(os.environ["FAULTS_WORK"], job_id).open("a") as notes:
            notes.write(f"{self.order['paths']['run']} {self.step}\n")

    def newest(self) -> tuple[int, list[dict[str, Any]]]:
        for file in reversed(self.files()):
            try:
                content = file.read_text()
            except OSError:
                continue
            if file.stem.rpartition("-")[2] == name_of(content):
                state = json.loads(content)
                return state["step"], state["said"]
        return 0, []

    def write_checkpoint(self) -> None:
        number = max((int(file.name.partition("-")[0]) for file in self.files()), default=0) + 1
        content = json.dumps({"step": self.step, "said": self.said})
        draft = self.checkpoints / f".{number:08d}-{self.order['paths']['run']}.draft"
        with draft.open("w") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        file = self.checkpoints / f"{number:08d}-{self.order['paths']['run']}-{name_of(content)}.safetensors"
        draft.rename(file)
        for old in self.files()[:-KEPT]:
            old.unlink(missing_ok=True)
        say(line="checkpoint", file=file.name, phase="distilling", step=self.step)

    def files(self) -> list[Path]:
        return sorted(self.checkpoints.glob("[0-9]*.safetensors"))

    def ship(self) -> None:
        folder = Path(self.order["paths"]["directory"], "artifacts")
        folder.mkdir()
        (folder / "student.safetensors").write_bytes(weights(self.seed, self.step))
        (folder / "student.json").write_text(json.dumps({"steps": self.step}))
        listed = [
            {"name": file.name, "network": "student", "media_type": "application/octet-stream",
             "file": f"artifacts/{file.name}"}
            for file in folder.iterdir()
        ]  # fmt: skip
        Path(self.order["paths"]["directory"], "artifacts.json").write_text(json.dumps(listed))


def name_of(content: str) -> str:
    return sha256(content.encode()).hexdigest()[:32]


def say(**line: Any) -> None:
    try:
        os.write(1, json.dumps(line).encode() + b"\n")
    except BrokenPipeError:
        leave()


def leave() -> NoReturn:
    os._exit(STOPPED)


def listen() -> None:
    """Lines on standard input are wishes; its end means that the parent is gone."""
    while line := os.read(0, 4096):
        if b"finish" in line:
            finish.set()
    asked.set()
    time.sleep(5)
    leave()


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    first = b""
    while not first.endswith(b"\n"):  # nothing may be read ahead of it
        byte = os.read(0, 1)
        if not byte:
            return STOPPED
        first += byte
    order = json.loads(first)
    if order.get("finish"):
        finish.set()
    threading.Thread(target=listen, daemon=True).start()
    return Run(order)()


if __name__ == "__main__":
    sys.exit(main())
