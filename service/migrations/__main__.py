"""`python -m service.migrations`: bring the configured database to the newest revision."""

from __future__ import annotations

import logging

from service.db import get_engine
from service.logs import set_up
from service.migrations import upgrade
from service.revisions import head
from service.settings import get_settings_or_exit

if __name__ == "__main__":
    set_up(get_settings_or_exit())
    upgrade(get_engine())
    logging.getLogger("service.migrations").info("the database is at revision %s", head())
