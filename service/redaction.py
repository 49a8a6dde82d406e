"""Redaction of secrets in all that is written: keys, and passwords in addresses."""

from __future__ import annotations

import re

SECRETS = (
    (re.compile(r"(rt_[0-9a-z]{8})_[0-9a-z]{32}"), r"\1_***"),
    (re.compile(r"(?<![0-9A-Za-z])(rt_[0-9a-z]{8})_[0-9a-z]+"), r"\1_***"),
    (re.compile(r"""(://[^/\s:@"]*):(?:\\"|(?!://)[^\s"])+@"""), r"\1:***@"),
)
"""Patterns of secrets with what stands in their place. A key, also where a sentence cuts it short: its beginning names
it and opens nothing. The password of an address, up to the last @: it may hold signs that end an address elsewhere."""


def without_secrets(text: str) -> str:
    """The text with keys cut short and passwords hidden."""
    for found, shown in SECRETS:
        text = found.sub(shown, text)
    return text
