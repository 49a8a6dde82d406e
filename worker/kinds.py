"""The kinds of jobs: for each, the spec that its jobs hold, and what in the engine carries it out. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from worker.check import Check
from worker.estimate import Estimate
from worker.ingest import Ingest
from worker.recipe import Recipe
from worker.registry import nearest
from worker.spec import Spec

DISTILL, INGEST, CHECK, ESTIMATE = "distill", "ingest", "check", "estimate"


@dataclass(frozen=True)
class Kind:
    """What a kind of job is."""

    spec: type[Spec]
    work: str
    """Names a class of the engine, as module:class. It is made of a spec, place, diary, interrupt and group of
    processes; called, it does the work."""
    inputs: Callable[[Mapping[str, Any]], Iterable[str]] = lambda spec: ()
    """Ids of the stored things (`upload_...`, say) that a stored spec names: a worker fetches them beforehand."""


def _recipes_inputs(spec: Mapping[str, Any]) -> Iterator[str]:
    dataset = spec.get("dataset") or {}
    if dataset.get("name") == "stored":
        yield dataset["dataset"]
    named = {network.get("model") for network in (spec.get("teacher") or {}, *spec.get("students", ()))}
    yield from sorted(named - {None})


def _checks_inputs(spec: Mapping[str, Any]) -> Iterator[str]:
    yield spec["model"]
    yield from _recipes_inputs(spec)


def _ingests_inputs(spec: Mapping[str, Any]) -> Iterator[str]:
    if spec["source"]["upload"] is not None:
        yield spec["source"]["upload"]


KINDS: dict[str, Kind] = {
    DISTILL: Kind(Recipe, "worker.engine.run:Run", _recipes_inputs),
    INGEST: Kind(Ingest, "worker.engine.ingest:Ingestion", _ingests_inputs),
    CHECK: Kind(Check, "worker.engine.check:Checkup", _checks_inputs),
    ESTIMATE: Kind(Estimate, "worker.engine.estimate:Estimation", lambda spec: _recipes_inputs(spec["recipe"])),
}


def _is_known(name: str) -> str:
    if name not in KINDS:
        said = "{found} is no kind of job; wanted {known}{hint}"
        context = {"found": repr(name), "known": " or ".join(KINDS), "hint": nearest(name, KINDS)}
        raise PydanticCustomError("unknown_kind", said, context)
    return name


KindName = Annotated[str, AfterValidator(_is_known)]
