"""A program with the engine's protocol that does the steps under `play` in the spec: a list of [verb, argument].

Run by path, so it starts in a moment and needs nothing of ours.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

STOPPED = 75
stopping = threading.Event()
finishing = threading.Event()


def say(**line: Any) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


def checkpoint(job: dict[str, Any], text: str) -> None:
    """Leave a checkpoint and say so."""
    name = f"{len(list(Path(job['paths']['checkpoints']).iterdir())):04d}-{job['paths']['run']}.checkpoint"
    Path(job["paths"]["checkpoints"], name).write_text(text)
    say(line="checkpoint", file=name, phase="distilling", step=1)


def stop(job: dict[str, Any]) -> NoReturn:
    checkpoint(job, "stopped")
    os._exit(STOPPED)


def watch_parent() -> None:
    while said := os.read(0, 4096):
        if b"finish" in said:
            finishing.set()
    stopping.set()


def train(job: dict[str, Any], seconds: float) -> None:
    """Go on until the time is over, or until it is to stop or to finish."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and not finishing.is_set():
        if stopping.wait(0.05):
            stop(job)


def train_once(job: dict[str, Any], seconds: float) -> None:
    if not any(Path(job["paths"]["checkpoints"]).iterdir()):
        train(job, seconds)


def ship_checkpoint(job: dict[str, Any], _: None) -> None:
    """Ship the newest checkpoint's text and whether it was asked to finish."""
    newest = max(Path(job["paths"]["checkpoints"]).iterdir())
    ship(job, {"student.txt": newest.read_text(), "finish.txt": str(finishing.is_set())})


def sleep(job: dict[str, Any], seconds: float) -> None:
    if stopping.wait(seconds):
        stop(job)


def sleep_once(job: dict[str, Any], seconds: float) -> None:
    if not any(Path(job["paths"]["checkpoints"]).iterdir()):
        sleep(job, seconds)


def fail_once(job: dict[str, Any], code: int) -> None:
    if not any(Path(job["paths"]["checkpoints"]).iterdir()):
        Path(job["paths"]["checkpoints"], f"{job['paths']['run']}.checkpoint").write_text("")
        os._exit(code)


def ship(job: dict[str, Any], files: dict[str, str]) -> None:
    folder = Path(job["paths"]["directory"], "artifacts")
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    listed = [
        {"name": name, "network": name.partition(".")[0], "media_type": "text/plain", "file": f"artifacts/{name}"}
        for name in files
    ]
    Path(job["paths"]["directory"], "artifacts.json").write_text(json.dumps(listed))


def ship_weights(job: dict[str, Any], _: None) -> None:
    """Ship what was put into the weights folder, under its path."""
    folder = Path(job["paths"]["weights"])
    ship(job, {f.relative_to(folder).as_posix().replace("/", "."): f.read_text() for f in folder.rglob("*.*")})


def leave(job: dict[str, Any], found: dict[str, Any]) -> None:
    """Leave a list of artifacts as given, and beside it files, links and a file with two names."""
    folder = Path(job["paths"]["directory"])
    (folder / "file").write_text("content")
    (folder / "link").symlink_to("/etc/hostname")
    (folder / "folder").symlink_to("/etc")
    (folder / "twice").write_text("content")
    os.link(folder / "twice", folder / "again")
    with (folder / "large").open("wb") as large:
        large.truncate(found.get("large", 1))
    artifact = {"name": "a", "network": None, "media_type": "text/plain", "file": "file"}
    listed = [{**artifact, **changes} for changes in found["files"]]
    (folder / "artifacts.json").write_text(json.dumps(listed))


def flood(job: dict[str, Any], _: None) -> None:
    """Report without end."""
    line = {"line": "event", "kind": "metrics", "phase": "p", "network": "student", "values": {"loss": 1.0}}
    step = 0
    while True:
        os.write(1, b"".join(json.dumps({**line, "step": step + i}).encode() + b"\n" for i in range(100)))
        step += 100


def litter(job: dict[str, Any], path: str) -> None:
    """Leave a process behind in the group, which holds standard output open and does not mind SIGTERM."""
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    Path(path).write_text(str(subprocess.Popen([sys.executable, "-c", program]).pid))


VERBS: dict[str, Callable[[dict[str, Any], Any], object]] = {
    "event": lambda job, fields: say(line="event", **{"kind": "metrics", "phase": "distilling", **fields}),
    "progress": lambda job, fields: say(line="progress", **{"phase": "distilling", **fields}),
    "resolve": lambda job, fields: say(
        line="event", kind="resolved", phase="preparing", data={**job["spec"], **fields}
    ),
    "say": lambda job, text: os.write(1, text.encode()),
    "words": lambda job, text: os.write(2, text.encode()),
    "checkpoint": checkpoint,
    "train": train,
    "train_once": train_once,
    "ship_checkpoint": ship_checkpoint,
    "sleep": sleep,
    "sleep_once": sleep_once,
    "deaf": lambda job, seconds: time.sleep(seconds),
    "exit": lambda job, code: os._exit(code),
    "fail_once": fail_once,
    "die": lambda job, number: os.kill(os.getpid(), number),
    "ship": ship,
    "ship_weights": ship_weights,
    "flood": flood,
    "leave": leave,
    "litter": litter,
    "note": lambda job, path: Path(path).write_text(json.dumps({**job, "pid": os.getpid(), "env": dict(os.environ)})),
}


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    line = sys.stdin.readline()
    if not line:
        sys.exit(STOPPED)
    job = json.loads(line)
    if job["finish"]:
        finishing.set()
    threading.Thread(target=watch_parent, daemon=True).start()
    for verb, argument in job["spec"]["play"]:
        VERBS[verb](job, argument)


if __name__ == "__main__":
    main()
