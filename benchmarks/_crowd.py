"""A crowd of clients of the front end: some ask for jobs every second, others follow event logs.

    python benchmarks/_crowd.py PORT KEYS_FILE JOBS_FILE POLLERS FOLLOWERS SECONDS

KEYS_FILE holds the keys of the projects, JOBS_FILE for each project its jobs in the order in which they will be run, as
JSON. Says how it went as one line of JSON. Requests are spelt out by hand: 700 connections of a client library would
take more of the machine than what they are to measure.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import uvloop

PAUSE_SECONDS = 1.0
"""Between two questions of a poller."""
PATIENCE_SECONDS = 30.0


@dataclass
class Crowd:
    """State shared by all clients, and the figures that they took."""

    port: int
    errors: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    """Of polls, in seconds."""
    news: list[float] = field(default_factory=list)
    """From when an event was written to when a follower had it, in seconds."""
    replayed: int = 0
    streams: int = 0

    async def poll(self, key: str, jobs: list[str], chance: random.Random) -> None:
        """Ask for one job after the other over one connection."""
        await asyncio.sleep(chance.uniform(0, PAUSE_SECONDS))
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while True:
            began = time.monotonic()
            writer.write(asked(f"/v1/jobs/{chance.choice(jobs)}", key))
            status, headers = await head(reader)
            await reader.readexactly(int(headers["content-length"]))
            self.waits.append(time.monotonic() - began)
            if status != 200:
                self.errors.append(f"a poll was answered with {status}")
            await asyncio.sleep(PAUSE_SECONDS)

    async def follow(self, key: str, jobs: list[str]) -> None:
        """Follow one job after the other to its end."""
        for job in jobs:
            last, kind = 0, ""
            while kind not in ("succeeded", "failed"):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                began = time.time()
                writer.write(
                    asked(f"/v1/jobs/{job}/events", key, f"Accept: text/event-stream\r\nLast-Event-ID: {last}")
                )
                status, _ = await head(reader)
                if status != 200:
                    self.errors.append(f"a follower was answered with {status}")
                    return
                self.streams += 1
                while (line := await reader.readline()) not in (b"", b"0\r\n"):
                    if line.startswith(b"data: "):
                        event = json.loads(line.removeprefix(b"data: "))
                        if event["number"] != last + 1:
                            self.errors.append(f"after event {last} came {event['number']}")
                        last, kind = event["number"], event["kind"]
                        self._note(datetime.fromisoformat(event["at"]).timestamp(), began)
                writer.close()
                if kind not in ("succeeded", "failed"):
                    self.errors.append(f"a stream ended after {kind!r}")

    def _note(self, at: float, began: float) -> None:
        if at > began:
            self.news.append(time.time() - at)
        else:
            self.replayed += 1


def asked(address: str, key: str, more: str = "Accept: application/json") -> bytes:
    """A GET request."""
    return f"GET {address} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n{more}\r\n\r\n".encode()


async def head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """The status and headers of an answer."""
    lines = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_SECONDS)).decode().split("\r\n")
    return int(lines[0].split()[1]), {
        name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])
    }


async def gather(
    crowd: Crowd, keys: list[str], jobs: list[list[str]], pollers: int, followers: int, seconds: float
) -> None:
    """Let all of them loose until the time is over."""

    async def kept(client: Any) -> None:
        try:
            await client
        except Exception as error:  # whatever a client met, it is one of the figures
            crowd.errors.append(f"{type(error).__name__}: {error}")

    chances = [random.Random(number) for number in range(pollers)]
    clients = [
        crowd.poll(keys[number % len(keys)], jobs[number % len(keys)], chance) for number, chance in enumerate(chances)
    ]
    each = -(-followers // len(keys))
    for number in range(followers):
        project, place = number % len(keys), number // len(keys)
        clients.append(crowd.follow(keys[project], jobs[project][place::each]))
    # One end for all: uvloop's timers ring up to 1.4 ms early, and a client that then looked at the clock saw a stream
    # that had ended before its time.
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*map(kept, clients))


def main() -> None:
    """Ask and follow until the time is over."""
    port, keys_file, jobs_file, pollers, followers, seconds = sys.argv[1:]
    crowd = Crowd(int(port))
    keys, jobs = (json.loads(Path(name).read_text()) for name in (keys_file, jobs_file))
    uvloop.run(gather(crowd, keys, jobs, int(pollers), int(followers), float(seconds)))
    figures = {
        "errors": len(crowd.errors),
        "first_errors": crowd.errors[:5],
        "polls": len(crowd.waits),
        "poll_milliseconds": round(1000 * statistics.median(crowd.waits), 1),
        "poll_milliseconds_99": round(1000 * statistics.quantiles(crowd.waits, n=100)[98], 1),
        "streams": crowd.streams,
        "told": len(crowd.news),
        "news_seconds": round(statistics.median(crowd.news), 3),
        "news_seconds_99": round(statistics.quantiles(crowd.news, n=100)[98], 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
