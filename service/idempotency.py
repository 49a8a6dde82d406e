"""The header by which a request that is sent again makes nothing twice."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="The same key and body make one thing, however often they are sent.",
    ),
]
