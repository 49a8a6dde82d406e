"""A job as it goes: a bar for each phase on a terminal, a line for each event elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event as Flag
from threading import Thread
from typing import TYPE_CHECKING, Annotated

import typer

from retort.cli.errors import REFUSED, leave, speaks
from retort.cli.jobs import JobId
from retort.cli.screen import console, duration, print_json_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from retort.client import Event, Job, Progress, Retort

POLL_SECONDS = 0.5


@speaks
def watch(
    job: JobId,
    as_json: Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")] = False,
) -> None:
    """Follow a job to its end; leaves with 1 when it did not succeed."""
    from retort.client import Retort

    with Retort() as client:
        watch_to_the_end(client, job, as_json=as_json)


def watch_to_the_end(client: Retort, job_id: str, *, as_json: bool = False, tells_result: bool = True) -> Job:
    """Show a job until it ends, then what came of it; leave when it did not succeed."""
    follow(client, job_id, as_json=as_json)
    job = client.jobs.get(job_id)
    if job.state != "succeeded":
        leave(_ending(job), REFUSED)
    if tells_result and not as_json:
        from retort.cli.report import print_report, report_of

        report = report_of(client, job_id)
        if report:
            print_report(job.kind, report)
    return job


def follow(client: Retort, job_id: str, *, as_json: bool = False, quiet: bool = False) -> None:
    """Show a job until it ends; a quiet one only on a terminal, since its command prints something else."""
    err = console(stderr=True)
    try:
        if as_json:
            for event in client.jobs.follow(job_id):
                print_json_line(event)
        elif err.is_terminal:
            _show_bars(client, job_id, err)
        else:
            for event in client.jobs.follow(job_id):
                if not quiet:
                    typer.echo(line_of(event))
    except KeyboardInterrupt:
        leave(f"no longer watching; {job_id} goes on", 130)


def line_of(event: Event) -> str:
    """One event as one line of text."""
    where = [f"{event.at:%H:%M:%S}", event.kind]
    where += [word for word in (event.phase, event.network) if word]
    if event.epoch is not None:
        where.append(f"epoch {event.epoch}")
    numbers = [f"{name}={value:.4g}" for name, value in (event.values or {}).items()]
    return "  ".join((" ".join(where), *numbers, *([event.text] if event.text else [])))


def _show_bars(client: Retort, job_id: str, err: Console) -> None:
    with PhaseBars(err) as bars, polled(client, job_id, bars):
        for event in client.jobs.follow(job_id):
            bars.heard(event)


@contextmanager
def polled(client: Retort, job_id: str, bars: PhaseBars) -> Iterator[None]:
    """Ask for the job's progress beside the stream of its events."""
    from retort.client import RetortError

    done = Flag()

    def ask() -> None:
        while not done.wait(POLL_SECONDS):
            try:
                job = client.jobs.get(job_id)
            except RetortError:
                continue  # the stream says it when the service stays away
            if job.progress is not None and not job.terminal:
                bars.update(job.progress)

    thread = Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class PhaseBars:
    """One bar a phase, with the newest numbers beside it."""

    def __init__(self, err: Console) -> None:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), TextColumn("{task.fields[said]}"),
            console=err,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {}
        self._newest: dict[str, Progress] = {}
        self._current: str | None = None

    def __enter__(self) -> PhaseBars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def heard(self, event: Event) -> None:
        """Take in what the diary says: a phase begins, something is odd, the job has ended."""
        if event.kind == "phase" and event.phase:
            self._turn_to(event.phase)
        elif event.kind in ("warning", "requeued", "cancel_wanted") or (event.kind == "failed" and event.text):
            self._bars.console.print(f"{event.kind}: {event.text or ''}", markup=False)
        elif event.kind == "succeeded":
            self._finish()

    def update(self, at: Progress) -> None:
        """Take in the newest progress; what belongs to a phase that is over is left out."""
        if self._current is None:
            self._turn_to(at.phase)
        if at.phase != self._current:
            return
        self._newest[at.phase] = at
        total, done = (at.steps, at.step) if at.steps else (at.epochs, at.epoch)
        self._bars.update(
            self._tasks[at.phase], description=description(at.phase, at.network), total=total, completed=done or 0,
            said=numbers_of(at),
        )  # fmt: skip

    def _turn_to(self, phase: str) -> None:
        if phase == self._current:
            return
        self._finish()
        if phase not in self._tasks:
            self._tasks[phase] = self._bars.add_task(description(phase), total=None, said="")
        self._current = phase

    def _finish(self) -> None:
        """The phase before is over: its bar is full, and its time left is no longer told."""
        if self._current is None:
            return
        said = ""
        if at := self._newest.get(self._current):
            said = numbers_of(at.model_copy(update={"epoch": at.epochs, "seconds_left": None}))
        self._bars.update(self._tasks[self._current], total=1, completed=1, said=said)
        self._current = None


def description(phase: str, network: str | None = None) -> str:
    """What stands before a bar, as wide as any other."""
    return f"{phase} {network or ''}"[:34].ljust(34)


def numbers_of(at: Progress) -> str:
    """Epoch, loss, accuracy, speed and time left, as far as they are known."""
    parts = []
    if at.epochs:
        parts.append(f"epoch {at.epoch or 0}/{at.epochs}")
    if at.loss is not None:
        parts.append(f"loss {at.loss:.3f}")
    if at.accuracy is not None:
        parts.append(f"accuracy {at.accuracy:.1%}")
    if at.images_per_second is not None:
        parts.append(f"{at.images_per_second:,.0f} images/s")
    if at.seconds_left is not None:
        parts.append(f"left {duration(at.seconds_left)}")
    return ", ".join(parts)


def _ending(job: Job) -> str:
    if job.error is not None and job.state == "failed":
        return f"{job.id} failed: {job.error.detail}"
    return f"{job.id} is {job.state}"
