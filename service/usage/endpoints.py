"""HTTP for limits and use."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from service.access.caller import Caller
from service.access.dependency import needs
from service.db import reading
from service.usage import service
from service.usage.schemas import Usage

router = APIRouter(prefix="/v1/usage", tags=["projects"])


@router.get("")
def read_usage(caller: Annotated[Caller, needs("jobs:read")]) -> Usage:
    """The limits of the key's project, and its present use."""
    with reading() as session:
        return service.usage(session, caller.project_id)
