"""FastAPI's way to the caller: the bearer key of a request."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.errors import Unauthorized
from service.keys.service import Caller, authenticate

bearer = HTTPBearer(scheme_name="bearer", description="A key of Retort: `rt_...`.", auto_error=False)


def caller(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> Caller:
    """Who asks. Holds no database connection once it has answered. Raises Unauthorized."""
    if credentials is None:
        raise Unauthorized("the request bears no key; wanted the header 'Authorization: Bearer rt_...'")
    return authenticate(credentials.credentials)


CallerDep = Annotated[Caller, Depends(caller)]
