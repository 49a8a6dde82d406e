"""Recipe files: YAML or JSON, and changes to their fields on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retort.cli.errors import USAGE, CommandError

if TYPE_CHECKING:
    from retort.client import Retort


def load_recipe(client: Retort, file: str | None, job_id: str | None, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The recipe in a file, or else that of a job, with each change applied in turn."""
    if file is not None and job_id is not None:
        raise CommandError(f"both the file {file} and --from {job_id} are given; wanted one of them", USAGE)
    if file is not None:
        return read_recipe(file, changes)
    if job_id is None:
        raise CommandError("wanted a FILE with a recipe, or --from and a job", USAGE)
    return _apply_changes(fetch_recipe(client, job_id), changes, f"the recipe of {job_id}")


def fetch_recipe(client: Retort, job_id: str) -> dict[str, Any]:
    """The recipe of a distillation, or the one that an estimate was made of."""
    job = client.jobs.get(job_id)
    recipe = (job.spec or {}).get("recipe") if job.kind == "estimate" else job.spec
    if job.kind not in ("distill", "estimate") or recipe is None:
        raise CommandError(
            f"job {job_id} is of kind {job.kind} and has no recipe; wanted one of kind distill or estimate"
        )
    return deepcopy(recipe)


def read_recipe(file: str, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The recipe in a file, `-` for standard input, with each `path=value` applied in turn.

    The service validates it; only values that JSON cannot express are refused here.
    """
    where = "standard input" if file == "-" else file
    recipe = _parse(_text(file), where)
    if not isinstance(recipe, dict):
        raise CommandError(f"{where} holds {_kind(recipe)}; a recipe is a mapping of fields", USAGE)
    return _apply_changes(recipe, changes, where)


def _apply_changes(recipe: dict[str, Any], changes: Sequence[str], where: str) -> dict[str, Any]:
    for change in changes:
        apply_change(recipe, change)
    try:
        json.dumps(recipe, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise CommandError(f"{where} holds a value that JSON cannot express: {error}", USAGE) from None
    return recipe


def apply_change(recipe: dict[str, Any], change: str) -> None:
    """Set one field in place: `training.epochs=5`, `students.0.seed=1`. The value is read as JSON, else as YAML."""
    where, equals, value = change.partition("=")
    names = where.split(".")
    if not equals or not all(names):
        raise CommandError(f"--set {change!r} is not a change; wanted one like training.epochs=5", USAGE)
    holder: Any = recipe
    for name in names[:-1]:
        holder = _inside(holder, name, change)
    key = _place(holder, names[-1], change)
    holder[key] = _parse(value, f"--set {change!r}")


def _inside(holder: Any, name: str, change: str) -> Any:
    key = _place(holder, name, change)
    if isinstance(holder, dict) and not isinstance(holder.get(key), (dict, list)):
        holder[key] = {}
    return holder[key]


def _place(holder: Any, name: str, change: str) -> Any:
    """The key of a mapping or the position in a list that a part of a path names."""
    if isinstance(holder, dict):
        return name
    if isinstance(holder, list) and name.isdecimal() and int(name) < len(holder):
        return int(name)
    wanted = (
        f"a number below {len(holder)}" if isinstance(holder, list) else "a field, which a single value does not have"
    )
    raise CommandError(f"--set {change!r} names {name!r} where {wanted} is wanted", USAGE)


def _text(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}", USAGE) from None
    except UnicodeDecodeError:
        raise CommandError(f"{file} is not text in UTF-8", USAGE) from None


def _parse(text: str, where: str) -> Any:
    try:
        # First as JSON: YAML 1.1 reads 1e-3 as a string.
        return json.loads(text)
    except ValueError:
        return _parse_yaml(text, where)


def _parse_yaml(text: str, where: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CommandError(f"{where} is neither JSON nor YAML: {_one_line(error)}", USAGE) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
