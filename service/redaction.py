"""What nothing that we write may hold: keys, and passwords in addresses."""

from __future__ import annotations

import re

SECRETS = (
    (re.compile(r"\b(rt_[0-9a-z]{8})_[0-9a-z]{32}\b"), r"\1_***"),
    (re.compile(r"""(://[^/\s:@"]*):[^/\s@"]+@"""), r"\1:***@"),
)
"""A key's text, of which the beginning names it and opens nothing; the password of an address."""


def without_secrets(text: str) -> str:
    """The text with keys cut short and passwords hidden."""
    for found, shown in SECRETS:
        text = found.sub(shown, text)
    return text
