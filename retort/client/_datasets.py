"""Data sets: those that come along, and one's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

from retort.client._transport import Transport, path
from retort.client._types import Dataset, Entry


class Datasets:
    """What `client.datasets` offers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def builtin(self) -> list[Entry]:
        """The data sets that a recipe names by `name`."""
        return [*self._transport.pages("/v1/datasets/builtin", Entry)]

    def create(
        self,
        name: str,
        *,
        upload: str | None = None,
        folder: str | None = None,
        idempotency_key: str | None = None,
        **settings: Mapping[str, Any] | int,
    ) -> Dataset:
        """Have images taken in, from an upload or from a folder that the service's operator allows.

        `settings` are further fields of the request: `splits`, `limits`, `image_size`, `deadline`. The same key and
        request give the same data set; without a key one is made for this call. Follow its job to see it become ready.
        """
        source = {field: value for field, value in {"upload": upload, "folder": folder}.items() if value is not None}
        headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
        body = {"name": name, "source": source, **settings}
        return self._transport.read(
            self._transport.request("POST", "/v1/datasets", json=body, headers=headers), Dataset
        )

    def list(self, *, page: int = 50) -> Iterator[Dataset]:
        """One's own, newest first; pages are fetched as they are reached."""
        return self._transport.pages("/v1/datasets", Dataset, {"limit": page})

    def get(self, dataset_id: str) -> Dataset:
        return self._transport.get(path("datasets", dataset_id), Dataset)

    def delete(self, dataset_id: str) -> None:
        """Remove a data set that no job goes on to use, with its bytes."""
        self._transport.request("DELETE", path("datasets", dataset_id), again=False)
