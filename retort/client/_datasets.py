"""Data sets: built-in ones and user data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

from retort.client._transport import Transport, path
from retort.client._types import DatasetInfo, EntryInfo


class Datasets:
    """`client.datasets`: data sets, built-in ones and user data sets."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def builtin(self) -> list[EntryInfo]:
        """The data sets that come with the service; a recipe names one by its `name`."""
        return [*self._transport.pages("/v1/datasets/builtin", EntryInfo)]

    def create(
        self,
        name: str,
        *,
        upload: str | None = None,
        folder: str | None = None,
        idempotency_key: str | None = None,
        **settings: Mapping[str, Any] | Sequence[str] | Sequence[int] | str | int | None,
    ) -> DatasetInfo:
        """Make a user data set from an upload, or from a folder that the service's operator allows.

        `settings` are further fields of the request: `splits`, `limits`, `image_size`, `background`, `deadline`; and,
        where the archive's layout is not clear by itself, `layout`, `lists`, `columns`, `encoding`, `classes`. The same
        key and request give the same data set; without a key one is made for this call. A job ingests the images:
        follow it to see the data set become ready. One that failed over its layout is made again of the same upload.
        """
        source = {field: value for field, value in {"upload": upload, "folder": folder}.items() if value is not None}
        headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
        body = {"name": name, "source": source, **settings}
        return self._transport.read(
            self._transport.request("POST", "/v1/datasets", json=body, headers=headers), DatasetInfo
        )

    def list(self, *, page: int = 50) -> Iterator[DatasetInfo]:
        """User data sets, newest first; pages are fetched as they are reached."""
        return self._transport.pages("/v1/datasets", DatasetInfo, {"limit": page})

    def get(self, dataset_id: str) -> DatasetInfo:
        return self._transport.get(path("datasets", dataset_id), DatasetInfo)

    def delete(self, dataset_id: str) -> None:
        """Delete a data set, with its bytes. Raises ConflictError while a job that has not ended uses it."""
        self._transport.request("DELETE", path("datasets", dataset_id), retry=False)
