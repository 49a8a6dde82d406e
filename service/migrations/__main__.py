"""`python -m service.migrations`: bring the configured database to the newest revision."""

from __future__ import annotations

from service.db import get_engine
from service.migrations import head, upgrade

if __name__ == "__main__":
    upgrade(get_engine())
    print(f"the database is at revision {head()}")
