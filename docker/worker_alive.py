"""Health check of a worker's container: exits with 0 while the worker's metrics say that it is alive.

It imports little and starts at once, also beside a job that has all processors.
"""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection

scrape = HTTPConnection("127.0.0.1", int(os.environ["RETORT_METRICS_PORT"]), timeout=8)
scrape.request("GET", "/metrics")
if b"\nretort_worker_alive 1.0\n" not in scrape.getresponse().read():
    sys.exit("the database has not noted within the time of a lease that this worker is alive")
