"""The kinds of jobs: for each, the spec that its jobs hold, and the class that carries it out. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from retort.check import Check
from retort.estimate import Estimate
from retort.ingest import Ingest
from retort.recipe import Recipe
from retort.registry import nearest
from retort.spec import Spec

DISTILL, INGEST, CHECK, ESTIMATE = "distill", "ingest", "check", "estimate"


@dataclass(frozen=True)
class Use:
    """Something that a spec names: a stored thing, or an earlier job whose network it starts from."""

    pointer: str
    """JSON pointer into the stored spec."""
    id: str
    network: str | None = None
    """Of a job, the network whose weights are meant."""

    @property
    def kind(self) -> str:
        """`dataset`, `model`, `upload` or `job`."""
        return self.id.partition("_")[0]


@dataclass(frozen=True)
class Kind:
    """A kind of job: its spec, its work, and the stored things that it uses."""

    spec: type[Spec]
    work: str
    """Names a class, as module:class. An object of it is made of a spec, paths, event log, interrupt and group of
    processes; called, it does the work."""
    uses: Callable[[Mapping[str, Any]], Iterable[Use]] = lambda spec: ()
    """All stored things and earlier jobs that a stored spec names."""

    def inputs(self, spec: Mapping[str, Any]) -> list[str]:
        """Ids of the stored things that a stored spec names, each once: a worker fetches them beforehand."""
        return sorted({use.id for use in self.uses(spec) if use.kind != "job"})

    def weights(self, spec: Mapping[str, Any]) -> list[tuple[str, str]]:
        """The networks of earlier jobs that a stored spec starts from: (job, network), each once."""
        return sorted({(use.id, use.network) for use in self.uses(spec) if use.network is not None})


def _recipes_uses(spec: Mapping[str, Any], pointer: str = "") -> Iterator[Use]:
    dataset = spec.get("dataset") or {}
    if dataset.get("name") == "stored":
        yield Use(f"{pointer}/dataset", dataset["dataset"])
    students = ((f"{pointer}/students/{i}", student) for i, student in enumerate(spec.get("students", ())))
    for place, network in ((f"{pointer}/teacher", spec.get("teacher") or {}), *students):
        if network.get("model") is not None:
            yield Use(f"{place}/model", network["model"])
        if isinstance(network.get("weights"), Mapping):
            yield Use(f"{place}/weights/job", network["weights"]["job"], network["weights"]["network"])


def _checks_uses(spec: Mapping[str, Any]) -> Iterator[Use]:
    yield Use("/model", spec["model"])
    yield from _recipes_uses(spec)


def _ingests_uses(spec: Mapping[str, Any]) -> Iterator[Use]:
    if spec["source"]["upload"] is not None:
        yield Use("/source/upload", spec["source"]["upload"])


KINDS: dict[str, Kind] = {
    DISTILL: Kind(Recipe, "retort.engine.run:Run", _recipes_uses),
    INGEST: Kind(Ingest, "retort.ingestion:Ingestion", _ingests_uses),
    CHECK: Kind(Check, "retort.engine.check:ModelCheck", _checks_uses),
    ESTIMATE: Kind(
        Estimate, "retort.engine.estimate:Estimation", lambda spec: _recipes_uses(spec["recipe"], "/recipe")
    ),
}


def _is_known(name: str) -> str:
    if name not in KINDS:
        text = "{found} is not a kind of job; wanted {known}{hint}"
        context = {"found": repr(name), "known": " or ".join(KINDS), "hint": nearest(name, KINDS)}
        raise PydanticCustomError("unknown_kind", text, context)
    return name


KindName = Annotated[str, AfterValidator(_is_known)]
