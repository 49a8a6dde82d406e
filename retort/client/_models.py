"""Models: trained networks that you bring, as teachers and as starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import uuid4

from retort.client._transport import Transport, path
from retort.client._types import Answer, Job


class Model(Answer):
    """A trained network that was brought."""

    id: str
    """What a recipe names: `"teacher": {"model": id}`."""
    name: str
    state: Literal["checking", "ready", "refused"]
    error: str | None
    """Why it cannot be used, if it cannot."""
    form: Literal["safetensors", "onnx"]
    architecture: str
    classes: int | None
    class_names: list[str] | None
    """In the order of its outputs."""
    expects: dict[str, Any] | None
    """What its images must look like: size, channel_order, range, mean, std."""
    size: int
    """Of its file, in bytes."""
    sha256: str
    job_id: str | None
    """The job that takes or took it in."""
    created_at: datetime
    report: dict[str, Any] | None = None
    """What was found when it was taken in; lists leave it out."""


class Models:
    """What `client.models` offers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        name: str,
        *,
        upload: str | None = None,
        form: Literal["safetensors", "onnx"] | None = None,
        architecture: str | None = None,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
        expects: Mapping[str, Any] | None = None,
        job: str | None = None,
        network: str | None = None,
        idempotency_key: str | None = None,
    ) -> Model:
        """Bring a network: a complete upload, or a network of a job. A job takes it in; see its `state`."""
        body = {
            "name": name, "upload": upload, "form": form, "architecture": architecture, "classes": classes,
            "class_names": class_names and [*class_names], "expects": expects and {**expects}, "job": job,
            "network": network,
        }  # fmt: skip
        given = {field: value for field, value in body.items() if value is not None}
        return self._transport.read(self._post("/v1/models", given, idempotency_key), Model)

    def list(self, *, page: int = 50) -> Iterator[Model]:
        """Newest first; pages are fetched as they are reached."""
        return self._transport.pages("/v1/models", Model, {"limit": page})

    def get(self, model_id: str) -> Model:
        return self._transport.get(path("models", model_id), Model)

    def check(
        self,
        model_id: str,
        dataset: Mapping[str, Any],
        *,
        images: int | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Try a model on a data set, as recipes name one; the job's `report.json` says what was found."""
        body = {"dataset": {**dataset}} | ({} if images is None else {"images": images})
        return self._transport.read(self._post(f"{path('models', model_id)}/check", body, idempotency_key), Job)

    def delete(self, model_id: str) -> None:
        """Remove a model that no job goes on to use."""
        self._transport.request("DELETE", path("models", model_id), again=False)

    def _post(self, address: str, body: Mapping[str, Any], idempotency_key: str | None) -> Any:
        headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
        return self._transport.request("POST", address, json=body, headers=headers)
