"""A short form of benchmarks/load.py: a long queue, many who ask and follow, workers that go on; and no error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import absent, binary

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "load.py"
SIZE = {"seconds": 8, "jobs": 3000, "pollers": 20, "followers": 60}


@pytest.mark.server
def test_a_crowd_of_clients_is_served_while_workers_go_on() -> None:
    if not binary("postgres"):
        absent("PostgreSQL")
    options = [word for name, value in SIZE.items() for word in (f"--{name}", str(value))]
    run = subprocess.run([sys.executable, str(PROGRAM), *options], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    figures = json.loads(run.stdout.splitlines()[-1])
    assert (figures["errors"], figures["first_errors"]) == (0, [])
    assert figures["polls"] >= SIZE["pollers"]
    assert figures["streams"] >= SIZE["followers"]
    assert figures["told"] > 0
    assert figures["grew_mib"] < 30
    # Whatever else the machine does. A claim is some 15 statements; one that looks through the queue took as long as
    # a hundred.
    assert figures["claim_over_statement"] < 40
    assert figures["news_seconds"] < 3
