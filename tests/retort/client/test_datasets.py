from __future__ import annotations

from pathlib import Path

import pytest

from retort.client import ConflictError, InvalidError, NotFoundError, Retort
from tests.retort.client.conftest import Service
from tests.service.datasets.taking import finish, take


@pytest.fixture
def upload(client: Retort, tmp_path: Path) -> str:
    """The id of an uploaded archive; its content does not matter here."""
    file = tmp_path / "flowers.tar"
    file.write_bytes(b"an archive")
    return client.uploads.upload(file, kind="dataset").id


def test_a_data_set_from_an_upload_to_its_end(client: Retort, upload: str) -> None:
    made = client.datasets.create("flowers", upload=upload, image_size=32, limits={"broken": 3})
    assert (made.state, made.source, made.facts, made.report) == (
        "ingesting", {"upload": upload, "folder": None}, None, None,
    )  # fmt: skip
    assert made.job_id is not None
    job = client.jobs.get(made.job_id)
    assert job.spec is not None
    assert (job.kind, job.spec["image_size"], job.spec["limits"]["broken"]) == ("ingest", 32, 3)
    assert [each.id for each in client.jobs.list(kind="ingest")] == [job.id]
    with pytest.raises(ConflictError, match="is being taken in by job"):
        client.datasets.delete(made.id)
    finish(take(job.id))
    done = client.datasets.get(made.id)
    assert (done.state, done.error, done.digest is None) == ("ready", None, False)
    assert done.facts is not None
    assert (done.facts.class_names, done.facts.train) == (["aster", "poppy"], 80)
    assert done.report is not None
    assert [one.id for one in client.datasets.list()] == [made.id]
    client.datasets.delete(made.id)
    with pytest.raises(NotFoundError):
        client.datasets.get(made.id)


def test_the_same_key_gives_the_same_one(client: Retort, upload: str) -> None:
    first, again = (client.datasets.create("flowers", upload=upload, idempotency_key="k").id for _ in range(2))
    assert first == again
    assert client.datasets.create("flowers", upload=upload).id != first


def test_wrong_input_is_refused_in_a_sentence(client: Retort, service: Service) -> None:
    with pytest.raises(InvalidError, match="neither upload nor folder is given; wanted one of them"):
        client.datasets.create("flowers")
    with pytest.raises(InvalidError, match="this server allows no local folders"):
        client.datasets.create("flowers", folder="/etc")
