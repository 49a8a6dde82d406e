"""A folder as a registry: every file in it defines one entry, and the file's name is the entry's."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, TypeVar

Entry = TypeVar("Entry")

LONGEST_NAME = 100
"""Characters of a wrong name up to which a known one is looked for; comparing takes time that grows with them."""


def discover(package: str, path: Iterable[str], kind: type[Entry]) -> dict[str, type[Entry]]:
    """Every entry of a folder by name, sorted; files with a leading underscore are not entries.

    Raises ImportError when a file does not define exactly one subclass of `kind` that bears the file's name.
    """
    files = sorted(info.name for info in iter_modules(path) if not info.name.startswith("_"))
    return {file: _entry_of(import_module(f"{package}.{file}"), kind) for file in files}


def _entry_of(module: ModuleType, kind: type[Entry]) -> type[Entry]:
    package, _, file = module.__name__.rpartition(".")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, kind) and value.__module__ == module.__name__
    ]
    names = [_name_of(entry) for entry in found]
    if names != [file]:
        where = f"{package.replace('.', '/')}/{file}.py"
        raise ImportError(f"{where} must define one {kind.__name__}, named {file!r}; it defines {names}")
    return found[0]


def _name_of(entry: type[Any]) -> str:
    field = getattr(entry, "model_fields", {}).get("name")
    return str(field.default if field is not None else getattr(entry, "name", "?"))


def nearest(name: str, known: Iterable[str]) -> str:
    """A half sentence for a misspelled name: "; did you mean 'kd'?", or nothing."""
    if len(name) > LONGEST_NAME:
        return ""
    known = list(known)
    close = [k for k in known if k.endswith(f".{name}")] or get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
