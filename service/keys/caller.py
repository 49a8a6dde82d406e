"""FastAPI's way to the caller: the bearer key of a request, and what it has to be allowed.

An endpoint says so in its signature, `caller: Annotated[Caller, needs("jobs:write")]`, and the OpenAPI page shows it as
the operation's security.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from service.audit.notes import take_note
from service.errors import Forbidden, Unauthorized
from service.keys.scopes import SCOPES, Scope, spell
from service.keys.service import Caller, authenticate

bearer = HTTPBearer(
    scheme_name="bearer",
    description="A key of Retort: `rt_...`. What it may do is told by its scopes; an operation names the one it needs."
    "\n\n" + "\n".join(f"- `{scope}`: {said}" for scope, said in SCOPES.items()),
    auto_error=False,
)


def caller(
    request: Request,
    needed: SecurityScopes,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> Caller:
    """Who asks, noted for the request's line in the log and the audit log. Holds no database connection once it has
    answered.

    Raises Unauthorized, Forbidden and TooManyRequests.
    """
    note = take_note(request, needed.scopes)
    if credentials is None:
        raise Unauthorized("the request bears no key; wanted the header 'Authorization: Bearer rt_...'")
    known = authenticate(credentials.credentials, note)
    request.state.caller = {"project": known.project_id, "key": known.key_id}
    for scope in needed.scopes:
        if not known.may(scope):
            raise Forbidden(f"this key may {spell(known.scopes) or 'nothing'}; {scope} is wanted here")
    return known


def needs(scope: Scope) -> Any:
    """Marks the parameter that gets the caller: who asks must have that scope."""
    return Security(caller, scopes=[scope])
