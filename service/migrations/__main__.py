"""`python -m service.migrations`: bring the configured database to the newest revision."""

from __future__ import annotations

import logging
import sys

from service.db import LOST, get_engine
from service.logs import set_up
from service.migrations import upgrade
from service.revisions import head
from service.settings import get_settings_or_exit

log = logging.getLogger("service.migrations")


def main() -> None:
    """Bring it there, or end with the exit code 1 and the reason in the log."""
    set_up(get_settings_or_exit())
    try:
        upgrade(get_engine())
    except LOST as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        log.critical("nothing was migrated, since the database cannot be used: %s", reason)
        sys.exit(1)
    log.info("the database is at revision %s", head())


if __name__ == "__main__":
    main()
