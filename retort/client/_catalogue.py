"""What a recipe may name."""

from __future__ import annotations

from retort.client._transport import Transport, path
from retort.client._types import Architecture, Entry, Method


class Methods:
    """What `client.methods` offers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[Method]:
        return [*self._transport.pages("/v1/methods", Method)]

    def get(self, name: str) -> Method:
        return self._transport.get(path("methods", name), Method)


class Architectures:
    """What `client.architectures` offers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[Architecture]:
        return [*self._transport.pages("/v1/architectures", Architecture)]

    def get(self, name: str) -> Architecture:
        return self._transport.get(path("architectures", name), Architecture)


class Exports:
    """What `client.exports` offers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[Entry]:
        return [*self._transport.pages("/v1/exports", Entry)]
