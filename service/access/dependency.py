"""FastAPI's dependency that gives the caller: the bearer key of a request, and the scope that it needs.

An endpoint says so in its signature, `caller: Annotated[Caller, needs("jobs:write")]`, and the OpenAPI page shows it as
the operation's security.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from service.access.caller import Caller
from service.access.notes import Note, take_note
from service.access.scopes import SCOPES, Scope, spell
from service.errors import Forbidden, Unauthorized

Authenticate = Callable[[str, Note], Caller]
"""Gives the caller who shows a key, and notes it. The application's state has it: service.keys.service.authenticate."""

bearer = HTTPBearer(
    scheme_name="bearer",
    description="A key of Retort: `rt_...`. Its scopes say what it may do; an operation names the one it needs."
    "\n\n" + "\n".join(f"- `{scope}`: {said}" for scope, said in SCOPES.items()),
    auto_error=False,
)


def caller(
    request: Request,
    needed: SecurityScopes,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> Caller:
    """The caller, noted for the request's line in the log and the audit log. Holds no database connection once it has
    answered.

    Raises Unauthorized, Forbidden and TooManyRequests.
    """
    note = take_note(request, needed.scopes)
    if credentials is None:
        raise Unauthorized("the request bears no key; wanted the header 'Authorization: Bearer rt_...'")
    authenticate: Authenticate = request.app.state.authenticate
    known = authenticate(credentials.credentials, note)
    request.state.caller = {"project": known.project_id, "key": known.key_id}
    for scope in needed.scopes:
        if not known.may(scope):
            raise Forbidden(f"this key may {spell(known.scopes) or 'nothing'}; {scope} is wanted here")
    return known


def needs(scope: Scope) -> Any:
    """Marks the parameter that gets the caller, who must have that scope."""
    return Security(caller, scopes=[scope])
