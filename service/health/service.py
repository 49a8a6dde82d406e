"""Whether the service can work."""

from __future__ import annotations

from service import revisions, wake_up
from service.db import get_engine
from service.errors import Unavailable
from service.health.schemas import Readiness


def ready() -> Readiness:
    """The state of database and broker. Raises Unavailable unless the database answers and is migrated."""
    found, wanted = revisions.current(get_engine()), revisions.head()
    if found != wanted:
        raise Unavailable(f"the database stands at migration {found or 'none'}; {wanted} is wanted, so migrate it")
    problem = wake_up.reachable()
    if problem is None:
        return Readiness(status="ok", broker="ok")
    return Readiness(status="degraded", broker=f"unreachable: {problem}")
