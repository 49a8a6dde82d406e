"""Health check of a worker's container: exits with 0 when its worker was alive within the time of a lease."""

from __future__ import annotations

import socket
import sys

from sqlalchemy import select

from service.db import database_now, reading
from service.settings import get_settings
from service.workers.models import WorkerRow

with reading() as session:
    recently = database_now() - get_settings().lease_seconds
    alive = session.scalar(
        select(WorkerRow.id).where(WorkerRow.host == socket.gethostname(), WorkerRow.seen_at > recently)
    )
sys.exit(None if alive else f"no worker on {socket.gethostname()} was alive within the time of a lease")
