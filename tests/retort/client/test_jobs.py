from __future__ import annotations

import threading
import time

import pytest

from retort.client import ConflictError, InvalidError, NotFoundError, Retort, UnauthorizedError, UnreachableError
from retort.client import _jobs as jobs_module
from retort.recipe import Recipe
from tests.retort.client.conftest import RECIPE, Service, Wire


def test_a_job_is_queued_and_read_back(client: Retort) -> None:
    job = client.jobs.create({**RECIPE, "tags": ["a", "b"]})
    assert (job.state, job.terminal, job.name, job.tags, job.attempt) == ("queued", False, "a try", ["a", "b"], 0)
    again = client.jobs.get(job.id)
    assert again.spec is not None
    assert again.spec["students"][0]["methods"][0]["name"] == "kd"
    assert again.waiting is not None
    assert again.waiting.position >= 1
    assert again.created_at == job.created_at
    assert again.created_at.tzinfo is not None


def test_a_typed_recipe_goes_over_the_wire_as_its_stored_form(client: Retort) -> None:
    recipe = Recipe.model_validate(RECIPE)
    stored = client.jobs.create(recipe).spec
    assert stored is not None
    assert [student["name"] for student in stored["students"]] == ["student"]


def test_the_same_key_and_recipe_give_the_same_job(client: Retort) -> None:
    first = client.jobs.create(RECIPE, idempotency_key="one")
    assert client.jobs.create(RECIPE, idempotency_key="one").id == first.id
    assert client.jobs.create(RECIPE).id != first.id
    with pytest.raises(InvalidError):
        client.jobs.create({**RECIPE, "name": "another"}, idempotency_key="one")


def test_a_lost_answer_makes_no_second_job(service: Service, wire: Wire, client: Retort) -> None:
    wire.breaks = [0, 20]
    with Retort(wire.url, service.key) as unlucky:
        job = unlucky.jobs.create({**RECIPE, "name": "once"})
    assert len(wire.answered) == 3
    assert [found.id for found in client.jobs.list(name="once")] == [job.id]


def test_a_wrong_recipe_names_each_wrong_field(client: Retort) -> None:
    wrong = {**RECIPE, "methods": [{"name": "kd", "temperature": -1}], "training": {"epochs": 0}}
    with pytest.raises(InvalidError) as caught:
        client.jobs.create(wrong)
    assert caught.value.status == 422
    assert {problem.pointer for problem in caught.value.errors} == {"/methods/0/temperature", "/training/epochs"}
    assert caught.value.problem.request_id


def test_validate_lists_problems_and_warnings(client: Retort) -> None:
    good = client.jobs.validate({**RECIPE, "baseline": True})
    assert good.valid
    assert good.facts is not None
    assert good.facts.classes == 10
    assert good.sharing == [["student", "baseline"]]
    bad = client.jobs.validate({**RECIPE, "training": {"epochs": 0}})
    assert (bad.valid, bad.resolved) == (False, None)
    assert [problem.pointer for problem in bad.problems] == ["/training/epochs"]


def test_lists_are_whole_however_small_their_pages(client: Retort) -> None:
    tags: list[list[str]] = [["even"], []]
    made = [client.jobs.create({**RECIPE, "name": f"job {i}", "tags": tags[i % 2]}) for i in range(5)]
    newest_first = [job.id for job in reversed(made)]
    assert [job.id for job in client.jobs.list(page=2)] == newest_first
    assert [job.id for job in client.jobs.list(tag="even", page=1)] == newest_first[::2]
    assert [job.id for job in client.jobs.list(state="queued", name="job 3")] == [made[3].id]
    assert [*client.jobs.list(state="failed")] == []


def test_cancelling_twice_does_no_harm(client: Retort, service: Service) -> None:
    job_id = service.create()
    assert client.jobs.cancel(job_id).state == "cancelled"
    assert client.jobs.cancel(job_id).state == "cancelled"


def test_only_an_ended_job_is_deleted(client: Retort, service: Service) -> None:
    job_id = service.create()
    with pytest.raises(ConflictError):
        client.jobs.delete(job_id)
    client.jobs.cancel(job_id)
    client.jobs.delete(job_id)
    with pytest.raises(NotFoundError):
        client.jobs.get(job_id)


@pytest.mark.parametrize("job_id", ["job_none", "../keys", "a/b?c=d#e"])
def test_an_id_never_leaves_its_place_in_the_path(client: Retort, job_id: str) -> None:
    with pytest.raises(NotFoundError):
        client.jobs.get(job_id)


def test_a_wrong_key_is_refused(service: Service) -> None:
    with Retort(service.url, "rt_00000000_wrong") as client, pytest.raises(UnauthorizedError):
        client.jobs.get("job_none")


def test_events_come_in_pages(client: Retort, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "PAGE", 3)
    job_id = service.create()
    service.write_events(job_id, 7)
    events = [*client.jobs.events(job_id)]
    assert [event.number for event in events] == [*range(1, 9)]
    assert [event.kind for event in events] == ["created"] + ["metrics"] * 7
    assert [event.number for event in client.jobs.events(job_id, after=6)] == [7, 8]


def test_metrics_are_curves(client: Retort, service: Service) -> None:
    assert client.jobs.metrics(service.create()).networks == {}


def test_follow_ends_with_the_job(client: Retort, service: Service) -> None:
    job_id = service.create()
    cancelling = threading.Timer(0.5, lambda: client.jobs.cancel(job_id))
    cancelling.start()
    assert [event.kind for event in client.jobs.follow(job_id)] == ["created", "cancelled"]
    cancelling.join()
    assert [event.kind for event in client.jobs.follow(job_id, after=1)] == ["cancelled"]
    assert [*client.jobs.follow(job_id, after=2)] == []


def test_follow_resumes_a_broken_stream_where_it_broke(service: Service, wire: Wire, client: Retort) -> None:
    job_id = service.create()
    service.write_events(job_id, 40)
    client.jobs.cancel(job_id)
    # The request for the job's state and the stream share a connection, which breaks within the stream.
    wire.breaks = [6_000, 9_000, 100]
    with Retort(wire.url, service.key) as unlucky:
        numbers = [event.number for event in unlucky.jobs.follow(job_id)]
    assert numbers == [*range(1, 43)]
    assert len(wire.answered) >= 4
    assert wire.answered[:2] == [6_000, 9_000]


def test_follow_gives_up_on_a_service_that_cannot_be_reached(
    service: Service, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "RECONNECT_SECONDS", 0.5)
    job_id = service.create()
    service.write_events(job_id, 40)
    wire.breaks = [5_000] + [0] * 100
    seen: list[int] = []
    with Retort(wire.url, service.key) as unlucky, pytest.raises(UnreachableError):
        seen.extend(event.number for event in unlucky.jobs.follow(job_id))
    assert seen == [*range(1, len(seen) + 1)]
    assert seen


def test_an_unreachable_service_raises_soon() -> None:
    begin = time.monotonic()
    with Retort("http://127.0.0.1:9", "rt_x") as client, pytest.raises(UnreachableError, match="retort up"):
        client.jobs.get("job_none")
    assert time.monotonic() - begin < 10
