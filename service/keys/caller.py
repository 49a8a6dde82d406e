"""FastAPI's way to the caller: the bearer key of a request."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.errors import Unauthorized
from service.keys.service import Caller, authenticate

bearer = HTTPBearer(scheme_name="bearer", description="A key of Retort: `rt_...`.", auto_error=False)


def caller(request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> Caller:
    """Who asks, noted for the request's line in the log. Holds no database connection once it has answered.

    Raises Unauthorized.
    """
    if credentials is None:
        raise Unauthorized("the request bears no key; wanted the header 'Authorization: Bearer rt_...'")
    known = authenticate(credentials.credentials)
    request.state.caller = {"project": known.project_id, "key": known.key_id}
    return known


CallerDep = Annotated[Caller, Depends(caller)]
