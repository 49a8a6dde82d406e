"""Records of an engine, held against what its job was asked for: hostile input may have taken the engine over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from retort.event import Event, Progress
from retort.kinds import KINDS
from retort.recipe import TEACHER_NAME
from retort.spec import wrong_at
from service.blobs.service import read_json

AUTO = "auto"
RESOLVED = ("learning_rate", "precision", "threads", "weight")
"""Fields that a spec may leave to the engine as `auto`."""
MOST_METRICS = 1000
"""Metrics of one network by name; those of a job are all shown at once."""


class InvalidRecord(ValueError):
    """The engine says of its job what it cannot say; the sentence says what."""


def check_network(spec: Mapping[str, Any], record: Event | Progress) -> None:
    """Raise InvalidRecord where a record is about a network that the spec does not name."""
    if record.network is None:
        return
    recipe = spec.get("recipe") or spec  # of an estimate
    known = {TEACHER_NAME, *(student["name"] for student in recipe.get("students") or ())}
    strange = {record.network} if isinstance(record, Event) else {*record.network.split(", ")}
    if strange := strange - known:
        found, wanted = sorted(strange)[0], ", ".join(sorted(known))
        raise InvalidRecord(f"a record is about the network {found[:100]!r}; the job has {wanted}")


def resolved_spec(kind: str, asked: dict[str, Any], said: Any) -> dict[str, Any]:
    """The spec that was asked for, with the values that the engine took for its fields of RESOLVED.

    Raises InvalidRecord where the engine says anything else than what was asked for: inputs, weights and limits are
    the owner's.
    """
    model = KINDS[kind].spec
    try:
        whole = model.model_validate(asked).model_dump(mode="json")  # with fields that are newer than the spec
    except ValidationError:
        return dict(_resolved(asked, said, ()))
    found = dict(_resolved(whole, said, ()))
    try:
        model.model_validate(found)
    except ValidationError as error:
        raise InvalidRecord(f"the engine resolved what cannot be: {wrong_at('recipe', error)}") from None
    return found


def _resolved(asked: Any, said: Any, path: tuple[str | int, ...]) -> Any:
    if asked == AUTO and path and path[-1] in RESOLVED and isinstance(said, str | int | float):
        return said
    if isinstance(asked, dict) and isinstance(said, dict) and asked.keys() == said.keys():
        return {name: _resolved(value, said[name], (*path, name)) for name, value in asked.items()}
    if isinstance(asked, list) and isinstance(said, list) and len(asked) == len(said):
        return [_resolved(*both, (*path, place)) for place, both in enumerate(zip(asked, said, strict=True))]
    if asked != said:
        where = "".join(f"/{step}" for step in path) or "/"
        raise InvalidRecord(f"the engine resolved another spec than it was given; they differ at {where}")
    return asked


def with_metrics(
    latest: Mapping[str, Mapping[str, float]], network: str, values: Mapping[str, float]
) -> dict[str, Mapping[str, float]]:
    """The newest metrics of each network, with further ones of one network. Raises InvalidRecord for too many."""
    merged = {**latest.get(network, {}), **values}
    if len(merged) > MOST_METRICS:
        raise InvalidRecord(
            f"network {network!r} has {len(merged):,} metrics by name; at most {MOST_METRICS:,} are stored"
        )
    return {**latest, network: merged}


def read_report(session: Session, blobs: Mapping[str, str], name: str) -> dict[str, Any]:
    """The report among the files of a job; `blobs` are their ids by name. Raises InvalidRecord."""
    if name not in blobs:
        raise InvalidRecord(f"the engine left no {name}")
    try:
        found = read_json(session, blobs[name])
    except ValueError as error:
        raise InvalidRecord(f"{name} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise InvalidRecord(f"{name} is not a JSON object")
    return found
