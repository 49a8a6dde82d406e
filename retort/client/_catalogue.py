"""The catalogue: all that a recipe may name."""

from __future__ import annotations

from retort.client._transport import Transport, path
from retort.client._types import ArchitectureInfo, EntryInfo, MethodInfo, TaskInfo


class Tasks:
    """`client.tasks`: the tasks that a recipe may name."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[TaskInfo]:
        return [*self._transport.pages("/v1/tasks", TaskInfo)]

    def get(self, name: str) -> TaskInfo:
        return self._transport.get(path("tasks", name), TaskInfo)


class Methods:
    """`client.methods`: the distillation methods."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[MethodInfo]:
        return [*self._transport.pages("/v1/methods", MethodInfo)]

    def get(self, name: str) -> MethodInfo:
        return self._transport.get(path("methods", name), MethodInfo)


class Architectures:
    """`client.architectures`: the networks that a recipe may name."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[ArchitectureInfo]:
        return [*self._transport.pages("/v1/architectures", ArchitectureInfo)]

    def get(self, name: str) -> ArchitectureInfo:
        return self._transport.get(path("architectures", name), ArchitectureInfo)


class Exports:
    """`client.exports`: the formats that a network is exported in."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[EntryInfo]:
        return [*self._transport.pages("/v1/exports", EntryInfo)]


class Compressions:
    """`client.compressions`: the steps that make a student smaller or quicker."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[EntryInfo]:
        return [*self._transport.pages("/v1/compressions", EntryInfo)]
