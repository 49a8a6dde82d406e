"""Health check of the API's container: exits with 0 while the API answers. It imports little and uses no proxy."""

from __future__ import annotations

import sys
from http.client import HTTPConnection

asked = HTTPConnection("127.0.0.1", 8765, timeout=4)
asked.request("GET", "/healthz")
if (status := asked.getresponse().status) != 200:
    sys.exit(f"/healthz answered with {status}; wanted 200")
