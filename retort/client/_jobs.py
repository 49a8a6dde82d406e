"""Jobs: send, list, follow, download."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx2
from pydantic import BaseModel

from retort.client._download import Progressed, download
from retort.client._transport import Busy, Transport, path, pause_seconds, unreachable
from retort.client._types import Artifact, Curves, Event, Job, Validation
from retort.client.errors import ConnectionFailed, RetortError, ServiceFailed, error_for

if TYPE_CHECKING:
    from retort.recipe import Recipe

RECONNECT_SECONDS = 60.0
"""How long `follow` tries to get the diary back before it gives up."""
PAGE = 200


class Jobs:
    """What `client.jobs` offers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, recipe: Recipe | Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Queue a job. The same key and recipe give the same job; without a key one is made for this call."""
        key = idempotency_key or uuid4().hex
        response = self._transport.request("POST", "/v1/jobs", json=body_of(recipe), headers={"Idempotency-Key": key})
        return self._transport.read(response, Job)

    def validate(self, recipe: Recipe | Mapping[str, Any]) -> Validation:
        """Say all that is wrong with a recipe, and queue nothing."""
        response = self._transport.request("POST", "/v1/jobs/validate", json=body_of(recipe))
        return self._transport.read(response, Validation)

    def estimate(self, recipe: Recipe | Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Queue a job that runs some of a recipe's steps; its `report.json` says what all of it would take."""
        headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
        response = self._transport.request("POST", "/v1/jobs/estimate", json=body_of(recipe), headers=headers)
        return self._transport.read(response, Job)

    def list(
        self,
        *,
        state: str | None = None,
        kind: str | None = None,
        name: str | None = None,
        tag: str | None = None,
        page: int = 50,
    ) -> Iterator[Job]:
        """Newest first; pages are fetched as they are reached."""
        params = {"state": state, "kind": kind, "name": name, "tag": tag, "limit": page}
        return self._transport.pages("/v1/jobs", Job, params)

    def get(self, job_id: str) -> Job:
        return self._transport.get(path("jobs", job_id), Job)

    def cancel(self, job_id: str) -> Job:
        """Ask a job to end; a running one ends a little later. Asking twice does no harm."""
        return self._transport.read(self._transport.request("POST", path("jobs", job_id, "cancel")), Job)

    def pause(self, job_id: str) -> Job:
        """Hold a job back; a running one leaves a checkpoint and frees its worker a little later."""
        return self._transport.read(self._transport.request("POST", path("jobs", job_id, "pause")), Job)

    def resume(self, job_id: str) -> Job:
        """Let a paused job go on from its checkpoint."""
        return self._transport.read(self._transport.request("POST", path("jobs", job_id, "resume")), Job)

    def stop(self, job_id: str) -> Job:
        """Ask a job to end early and keep the best students so far; before there is one it is cancelled."""
        return self._transport.read(self._transport.request("POST", path("jobs", job_id, "stop")), Job)

    def delete(self, job_id: str) -> None:
        """Remove a job that has ended, with all that it made."""
        self._transport.request("DELETE", path("jobs", job_id), again=False)

    def events(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """The diary so far."""
        return self._transport.pages(path("jobs", job_id, "events"), Event, {"after": after or None, "limit": PAGE})

    def follow(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """The diary as it grows, to its end. A broken connection is taken up again where it broke.

        Raises ConnectionFailed when the service stays away for a minute.
        """
        heard_at: float | None = None
        failures = 0
        while True:
            before = after
            try:
                # Asked before the stream: one that ends by itself after that holds all there is.
                terminal = self.get(job_id).terminal
                heard_at, failures = time.monotonic(), 0
                for event in self._stream(job_id, after):
                    after, heard_at = event.number, time.monotonic()
                    yield event
                if terminal:
                    return
            except (httpx2.TransportError, Busy, ConnectionFailed, ServiceFailed) as error:
                if heard_at is None or time.monotonic() - heard_at > RECONNECT_SECONDS:
                    raise self._gave_up(error) from error
                failures += 1
            if failures or after == before:
                time.sleep(pause_seconds(min(failures + 1, 5)))

    def metrics(self, job_id: str) -> Curves:
        return self._transport.get(path("jobs", job_id, "metrics"), Curves)

    def artifacts(self, job_id: str) -> tuple[Artifact, ...]:
        return (*self._transport.pages(path("jobs", job_id, "artifacts"), Artifact),)

    def download(self, job_id: str, name: str, to: Path | str = ".", progressed: Progressed | None = None) -> Path:
        """Fetch one artifact to a file, or into a folder under its own name; says where it lies.

        Constant memory; a broken transfer goes on where it broke, also one of an earlier call. The file appears
        whole, with the promised sha256, or not at all. Raises CorruptDownload.
        """
        return download(self._transport, path("jobs", job_id, "artifacts", name), name, Path(to), progressed)

    def _stream(self, job_id: str, after: int) -> Iterator[Event]:
        headers = {"Last-Event-ID": str(after)} if after else {}
        with self._transport.server_sent_events(path("jobs", job_id, "events"), headers) as source:
            for sent in source:
                yield self._transport.parse(sent.json(), Event)

    def _gave_up(self, error: Exception) -> RetortError:
        if isinstance(error, Busy):
            return error_for(error.problem)
        if isinstance(error, RetortError):
            return error
        return ConnectionFailed(unreachable(self._transport.url, error))


def body_of(recipe: Recipe | Mapping[str, Any]) -> Any:
    """What goes over the wire: a typed recipe in its stored form, anything else as it is."""
    return recipe.model_dump(mode="json") if isinstance(recipe, BaseModel) else recipe
