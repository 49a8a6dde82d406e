"""The log of all processes of the service: one event a line on standard error, JSON for programs and text for people.

Every line has `time` (RFC 3339, UTC), `level`, `logger` and `message`, those of FIELDS that are known, and, where
something was raised, the whole trace as one field `exception`. All loggers are the standard library's, those of
libraries too.
"""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType
from typing import Any, TextIO

from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import EventRenamer, JSONRenderer, StackInfoRenderer, TimeStamper, format_exc_info
from structlog.stdlib import ExtraAdder, ProcessorFormatter, add_log_level, add_logger_name
from structlog.typing import EventDict, Processor, WrappedLogger

from retort.printable import printable
from service.redaction import without_secrets
from service.settings import Settings

FIELDS = (
    "job", "attempt", "fence", "worker", "request_id", "method", "path", "status", "milliseconds", "received_bytes",
    "sent_bytes", "project", "key",
)  # fmt: skip
"""Further fields of a line: attributes of a record that the standard library calls extra. Others are left out, since
libraries put objects there."""
FIRST = ("time", "level", "logger", "message")
CHATTY = ("celery.worker.strategy", "celery.app.trace", "httpx2")
"""Loggers that note every wake-up and every request of the service's own; logged from `warning` on."""
bound = bound_contextvars
"""`with bound(request_id=...)`: what is logged inside, in threads that the request goes through too, carries it."""


def logger_for(name: str, **fields: object) -> logging.LoggerAdapter[logging.Logger]:
    """A logger whose every line carries those fields: `logger_for(__name__, job=..., attempt=..., fence=...)`."""
    if unknown := fields.keys() - set(FIELDS):
        raise ValueError(f"a log line has no fields {sorted(unknown)}; wanted some of {', '.join(FIELDS)}")
    return logging.LoggerAdapter(logging.getLogger(name), fields)


def set_up(settings: Settings, **always: object) -> None:
    """Log to standard error from now on, as the settings say; every line of this process carries those fields.

    An exception that nothing catches, in whatever thread, becomes a line too.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(as_json=wants_json(settings, sys.stderr), always=always))
    logging.basicConfig(handlers=[handler], level=settings.log_level, force=True)
    if settings.log_level != "DEBUG":
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_of_thread


def wants_json(settings: Settings, stream: TextIO) -> bool:
    """Whether lines are JSON: as set, or else unless the stream is a terminal."""
    return settings.log_format == "json" or (settings.log_format == "auto" and not stream.isatty())


def formatter(
    *, as_json: bool, colours: bool | None = None, always: dict[str, object] | None = None
) -> logging.Formatter:
    """A formatter that turns a record into its line."""
    known: list[Processor] = [
        merge_contextvars,
        add_log_level,
        add_logger_name,
        ExtraAdder(allow=FIELDS),
        TimeStamper(fmt="iso", utc=True, key="time"),
        StackInfoRenderer(),
        format_exc_info,
        *([] if as_json else [_escape]),
    ]

    def render(logger: WrappedLogger, method: str, event: EventDict) -> str:
        first = {name: event.pop(name) for name in FIRST}
        line = renderer(logger, method, {**first, **(always or {}), **event})
        return without_secrets(line if isinstance(line, str) else line.decode())

    renderer = JSONRenderer(default=repr) if as_json else _text_renderer(colours)
    last: list[Processor] = [ProcessorFormatter.remove_processors_meta, EventRenamer("message"), render]
    return ProcessorFormatter(foreign_pre_chain=known, processors=last)


def _escape(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Escape what could steer a terminal: names of users and words of engines stand in lines and traces."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = printable(value, keep="\n\t" if name in ("exception", "stack") else "")
    return event


def _text_renderer(colours: bool | None) -> ConsoleRenderer:
    return ConsoleRenderer(
        colors=sys.stderr.isatty() if colours is None else colours, exception_formatter=plain_traceback,
        sort_keys=False, event_key="message", timestamp_key="time", pad_event_to=0,
    )  # fmt: skip


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("service").critical("ended by %s: %s", kind.__name__, error, exc_info=(kind, error, trace))


def _log_uncaught_of_thread(arguments: Any) -> None:
    name, kind, error = arguments.thread and arguments.thread.name, arguments.exc_type, arguments.exc_value
    trace = (kind, error, arguments.exc_traceback)
    logging.getLogger("service").error("thread %s ended by %s: %s", name, kind.__name__, error, exc_info=trace)
