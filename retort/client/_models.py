"""User models: trained networks, as teachers and as starts of students."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal
from uuid import uuid4

from retort.client._transport import Transport, path
from retort.client._types import JobInfo, ModelInfo


class Models:
    """`client.models`: user models."""

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
    ) -> ModelInfo:
        """Make a user model of a complete upload, or of a network of a job. A job checks it; see its `state`."""
        body = {
            "name": name, "upload": upload, "form": form, "architecture": architecture, "classes": classes,
            "class_names": class_names and [*class_names], "expects": expects and {**expects}, "job": job,
            "network": network,
        }  # fmt: skip
        given = {field: value for field, value in body.items() if value is not None}
        return self._transport.read(self._post("/v1/models", given, idempotency_key), ModelInfo)

    def list(self, *, page: int = 50) -> Iterator[ModelInfo]:
        """Newest first; pages are fetched as they are reached."""
        return self._transport.pages("/v1/models", ModelInfo, {"limit": page})

    def get(self, model_id: str) -> ModelInfo:
        return self._transport.get(path("models", model_id), ModelInfo)

    def check(
        self,
        model_id: str,
        dataset: Mapping[str, Any],
        *,
        images: int | None = None,
        idempotency_key: str | None = None,
    ) -> JobInfo:
        """Evaluate a model on a data set, as recipes name one; the result is the job's `report.json`."""
        body = {"dataset": {**dataset}} | ({} if images is None else {"images": images})
        return self._transport.read(self._post(f"{path('models', model_id)}/check", body, idempotency_key), JobInfo)

    def delete(self, model_id: str) -> None:
        """Delete a model. Raises ConflictError while a job that has not ended uses it."""
        self._transport.request("DELETE", path("models", model_id), retry=False)

    def _post(self, address: str, body: Mapping[str, Any], idempotency_key: str | None) -> Any:
        headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
        return self._transport.request("POST", address, json=body, headers=headers)
