"""Jobs: submit, list, follow, download."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx2
from pydantic import BaseModel

from retort.client._download import ProgressCallback, download
from retort.client._transport import ServiceBusy, Transport, path, pause_seconds, unreachable
from retort.client._types import ArtifactInfo, CurvesInfo, EventInfo, JobInfo, ValidationInfo
from retort.client.errors import RetortError, ServerError, UnreachableError, error_for

if TYPE_CHECKING:
    from retort.recipe import Recipe

RECONNECT_SECONDS = 60.0
"""Time after which `follow` gives up on a service that cannot be reached."""
PAGE = 200


class Jobs:
    """`client.jobs`: the jobs of the key's project."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, recipe: Recipe | Mapping[str, Any], *, idempotency_key: str | None = None) -> JobInfo:
        """Queue a job. The same key and recipe give the same job; without a key one is made for this call."""
        key = idempotency_key or uuid4().hex
        response = self._transport.request("POST", "/v1/jobs", json=body_of(recipe), headers={"Idempotency-Key": key})
        return self._transport.read(response, JobInfo)

    def validate(self, recipe: Recipe | Mapping[str, Any]) -> ValidationInfo:
        """Validate a recipe: all problems and warnings, and the resolved recipe. Nothing is queued."""
        response = self._transport.request("POST", "/v1/jobs/validate", json=body_of(recipe))
        return self._transport.read(response, ValidationInfo)

    def estimate(self, recipe: Recipe | Mapping[str, Any], *, idempotency_key: str | None = None) -> JobInfo:
        """Queue a job that runs some of a recipe's steps; its `report.json` estimates the whole."""
        headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
        response = self._transport.request("POST", "/v1/jobs/estimate", json=body_of(recipe), headers=headers)
        return self._transport.read(response, JobInfo)

    def list(
        self,
        *,
        state: str | None = None,
        kind: str | None = None,
        name: str | None = None,
        tag: str | None = None,
        page: int = 50,
    ) -> Iterator[JobInfo]:
        """Newest first; pages are fetched as they are reached."""
        params = {"state": state, "kind": kind, "name": name, "tag": tag, "limit": page}
        return self._transport.pages("/v1/jobs", JobInfo, params)

    def get(self, job_id: str) -> JobInfo:
        return self._transport.get(path("jobs", job_id), JobInfo)

    def cancel(self, job_id: str) -> JobInfo:
        """Cancel a job; a running one ends a little later. A second call changes nothing."""
        return self._transport.read(self._transport.request("POST", path("jobs", job_id, "cancel")), JobInfo)

    def pause(self, job_id: str) -> JobInfo:
        """Pause a job; a running one writes a checkpoint and frees its worker a little later."""
        return self._transport.read(self._transport.request("POST", path("jobs", job_id, "pause")), JobInfo)

    def resume(self, job_id: str) -> JobInfo:
        """Queue a paused job again; it goes on from its checkpoint."""
        return self._transport.read(self._transport.request("POST", path("jobs", job_id, "resume")), JobInfo)

    def stop(self, job_id: str) -> JobInfo:
        """End a job early with the best students so far; before there is one it is cancelled."""
        return self._transport.read(self._transport.request("POST", path("jobs", job_id, "stop")), JobInfo)

    def delete(self, job_id: str) -> None:
        """Delete a job with all that it made. Raises ConflictError while it has not ended."""
        self._transport.request("DELETE", path("jobs", job_id), retry=False)

    def events(self, job_id: str, *, after: int = 0) -> Iterator[EventInfo]:
        """The events of a job so far, in order."""
        return self._transport.pages(path("jobs", job_id, "events"), EventInfo, {"after": after or None, "limit": PAGE})

    def follow(self, job_id: str, *, after: int = 0) -> Iterator[EventInfo]:
        """The events of a job as they come, to its last one. A broken connection is resumed after the last event.

        Raises UnreachableError when the service cannot be reached for a minute.
        """
        last_at: float | None = None
        failures = 0
        while True:
            before = after
            try:
                # Read before the stream: a stream that ends by itself after that was complete.
                terminal = self.get(job_id).terminal
                last_at, failures = time.monotonic(), 0
                for event in self._stream(job_id, after):
                    after, last_at = event.number, time.monotonic()
                    yield event
                if terminal:
                    return
            except (httpx2.TransportError, ServiceBusy, UnreachableError, ServerError) as error:
                if last_at is None or time.monotonic() - last_at > RECONNECT_SECONDS:
                    raise self._final_error(error) from error
                failures += 1
            if failures or after == before:
                time.sleep(pause_seconds(min(failures + 1, 5)))

    def metrics(self, job_id: str) -> CurvesInfo:
        return self._transport.get(path("jobs", job_id, "metrics"), CurvesInfo)

    def artifacts(self, job_id: str) -> tuple[ArtifactInfo, ...]:
        return (*self._transport.pages(path("jobs", job_id, "artifacts"), ArtifactInfo),)

    def download(
        self, job_id: str, name: str, to: Path | str = ".", on_progress: ProgressCallback | None = None
    ) -> Path:
        """Download one artifact to a file, or into a folder under its own name; the file's path.

        Constant memory; a broken transfer goes on where it broke, also one of an earlier call. The file appears whole,
        with the artifact's sha256, or not at all. `on_progress` is called with (bytes done, bytes in all). Raises
        CorruptDownloadError.
        """
        return download(self._transport, path("jobs", job_id, "artifacts", name), name, Path(to), on_progress)

    def _stream(self, job_id: str, after: int) -> Iterator[EventInfo]:
        headers = {"Last-Event-ID": str(after)} if after else {}
        with self._transport.server_sent_events(path("jobs", job_id, "events"), headers) as source:
            for message in source:
                yield self._transport.parse(message.json(), EventInfo)

    def _final_error(self, error: Exception) -> RetortError:
        if isinstance(error, ServiceBusy):
            return error_for(error.problem)
        if isinstance(error, RetortError):
            return error
        return UnreachableError(unreachable(self._transport.url, error))


def body_of(recipe: Recipe | Mapping[str, Any]) -> Any:
    """The request's JSON: a typed recipe in its stored form, anything else as it is."""
    return recipe.model_dump(mode="json") if isinstance(recipe, BaseModel) else recipe
