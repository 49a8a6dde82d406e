"""A job as it goes: a bar for each phase on a terminal, a line for each event elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING

from retort.cli.errors import REFUSED, exit_with
from retort.cli.screen import console, duration, print_json_line, print_line
from retort.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from retort.client import EventInfo, JobInfo, ProgressInfo, Retort

POLL_SECONDS = 0.5


def watch_to_the_end(client: Retort, job_id: str, *, as_json: bool = False, with_report: bool = True) -> JobInfo:
    """Show a job until it ends, then its report, also of one that failed. Raises typer.Exit when it did not succeed."""
    follow(client, job_id, as_json=as_json)
    job = client.jobs.get(job_id)
    if with_report and not as_json:
        from retort.cli.report import find_report, print_report

        report = find_report(client, job_id)
        if report:
            print_report(job.kind, report)
    if job.state != "succeeded":
        exit_with(_ending(job), REFUSED)
    return job


def follow(client: Retort, job_id: str, *, as_json: bool = False, quiet: bool = False) -> None:
    """Show a job until it ends; with `quiet` only on a terminal, for commands that print something else."""
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
                    print_line(format_event(event))
    except KeyboardInterrupt:
        exit_with(f"no longer watching; {job_id} goes on", 130)


def format_event(event: EventInfo) -> str:
    """One event as one line of text."""
    where = [f"{event.at:%H:%M:%S}", event.kind]
    where += [word for word in (event.phase, event.network) if word]
    if event.epoch is not None:
        where.append(f"epoch {event.epoch}")
    numbers = [f"{name}={value:.4g}" for name, value in (event.values or {}).items()]
    return "  ".join((" ".join(where), *numbers, *([event.text] if event.text else [])))


def _show_bars(client: Retort, job_id: str, err: Console) -> None:
    with PhaseBars(err) as bars, poll_progress(client, job_id, bars):
        for event in client.jobs.follow(job_id):
            bars.add(event)


@contextmanager
def poll_progress(client: Retort, job_id: str, bars: PhaseBars) -> Iterator[None]:
    """Show the job's progress, read in a thread beside the stream of its events."""
    from retort.client import RetortError

    done = Event()

    def poll() -> None:
        while not done.wait(POLL_SECONDS):
            try:
                job = client.jobs.get(job_id)
            except RetortError:
                continue  # the stream raises when the service cannot be reached
            if job.progress is not None and not job.terminal:
                bars.update(job.progress)

    thread = Thread(target=poll, daemon=True)
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

        label, numbers = (
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[numbers]}", markup=False),
        )
        self._bars = Bars(label, BarColumn(bar_width=24), numbers, console=err)
        self._tasks: dict[str, TaskID] = {}
        self._newest: dict[str, ProgressInfo] = {}
        self._current: str | None = None
        self._stops = False
        """Whether the training was asked to end early, so that the end of a phase need not be that of its epochs."""

    def __enter__(self) -> PhaseBars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def add(self, event: EventInfo) -> None:
        """Show an event: a phase begins, a warning, the end of the job."""
        self._stops |= event.kind == "stop_wanted"
        if event.kind == "phase" and event.phase:
            self._start(event.phase)
        elif event.kind == "metrics" and event.phase in self._newest and event.epoch is not None:
            # Progress is asked for now and then; events tell each epoch.
            self._newest[event.phase] = self._newest[event.phase].model_copy(update={"epoch": event.epoch})
        elif event.kind in ("warning", "requeued", "cancel_wanted") or (event.kind == "failed" and event.text):
            self._bars.console.print(printable(f"{event.kind}: {event.text or ''}"), markup=False)
        if event.kind == "succeeded":
            self._finish()
        elif event.kind in ("failed", "cancelled", "paused", "requeued"):
            self._halt()

    def update(self, at: ProgressInfo) -> None:
        """Show the newest progress; that of a phase that is over is ignored."""
        if self._current is None:
            self._start(at.phase)
        if at.phase != self._current:
            return
        self._newest[at.phase] = at
        total, done = (at.steps, at.step) if at.steps else (at.epochs, at.epoch)
        self._bars.update(
            self._tasks[at.phase], description=description(at.phase, at.network), total=total, completed=done or 0,
            numbers=format_progress(at),
        )  # fmt: skip

    def _start(self, phase: str) -> None:
        if phase == self._current:
            return
        self._finish()
        if phase not in self._tasks:
            self._tasks[phase] = self._bars.add_task(description(phase), total=None, numbers="")
        self._current = phase

    def _finish(self) -> None:
        """Fill the bar of the phase that is over; of a training that was asked to end early, as far as it came."""
        if self._current is None:
            return
        at = self._newest.get(self._current)
        if at is not None and at.epochs and self._stops:
            self._halt()
            return
        numbers = format_progress(at.model_copy(update={"epoch": at.epochs, "seconds_left": None})) if at else ""
        self._bars.update(self._tasks[self._current], total=1, completed=1, numbers=numbers)
        self._current = None

    def _halt(self) -> None:
        """Leave the bar of the present phase where it stands, without its speed and time left."""
        if self._current is not None and (at := self._newest.get(self._current)):
            rest = at.model_copy(update={"examples_per_second": None, "seconds_left": None})
            self._bars.update(self._tasks[self._current], numbers=format_progress(rest))
        self._current = None


def description(phase: str, network: str | None = None) -> str:
    """The label of a bar, of fixed width."""
    return printable(f"{phase} {network or ''}")[:34].ljust(34)


def format_progress(at: ProgressInfo) -> str:
    """Epoch, loss, headline metric, speed and time left, as far as they are known."""
    parts = []
    if at.epochs:
        parts.append(f"epoch {at.epoch or 0}/{at.epochs}")
    if at.loss is not None:
        parts.append(f"loss {at.loss:.3f}")
    if at.value is not None:
        parts.append(f"{at.metric} {at.value:.1%}" if at.metric == "accuracy" else f"{at.metric} {at.value:.4g}")
    if at.examples_per_second is not None:
        parts.append(f"{at.examples_per_second:,.0f} examples/s")
    if at.seconds_left is not None:
        parts.append(f"left {duration(at.seconds_left)}")
    return printable(", ".join(parts))


def _ending(job: JobInfo) -> str:
    if job.error is not None and job.state == "failed":
        return f"{job.id} failed: {job.error.detail}"
    return f"{job.id} is {job.state}"
