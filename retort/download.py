"""Files from the network, fetched block by block. No torch."""

from __future__ import annotations

from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

BLOCK = 2**20
SILENCE_SECONDS = 60.0
"""Longest silence of a server."""
PASSING = frozenset({408, 425, 429})
"""HTTP statuses besides 5xx that mean: later."""


class Unreachable(Exception):
    """A download failed through the network, and may succeed later; the sentence names the failure."""


def download(url: str, file: Path, most_bytes: int) -> None:
    """Fetch a URL into a file.

    Raises Unreachable when the network or the server failed, HTTPError when the server refuses it, ValueError
    when it has more bytes than `most_bytes`, and OSError when it cannot be written.
    """
    came = 0
    with _opened(url) as answer, file.open("wb") as out:
        announced = answer.length
        while block := _read(answer):
            came += len(block)
            if came > most_bytes:
                raise ValueError(f"more than {most_bytes:,} bytes came from {url}")
            out.write(block)
    if announced is not None and came < announced:
        raise Unreachable(f"{came:,} of {announced:,} bytes came")


def is_passing(status: int) -> bool:
    """True if a server with that status may answer otherwise later."""
    return status >= 500 or status in PASSING


def _opened(url: str) -> HTTPResponse:
    try:
        answer: HTTPResponse = urlopen(url, timeout=SILENCE_SECONDS)
    except HTTPError as error:
        error.close()  # it is the answer too, and holds the connection
        if is_passing(error.code):
            raise Unreachable(str(error)) from error
        raise
    except (OSError, HTTPException) as error:
        raise Unreachable(str(error)) from error
    return answer


def _read(answer: HTTPResponse) -> bytes:
    try:
        return answer.read(BLOCK)
    except (OSError, HTTPException) as error:
        raise Unreachable(str(error) or type(error).__name__) from error
