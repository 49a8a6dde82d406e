from __future__ import annotations

import ssl
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from retort.client import (
    ForbiddenError,
    NotFoundError,
    Retort,
    ServerError,
    TooManyRequestsError,
    UnauthorizedError,
    UnreachableError,
)
from retort.client._transport import authorities, read_embedded_key
from tests.retort.client.conftest import Service


def test_a_key_opens_until_it_is_revoked(client: Retort, service: Service) -> None:
    made = client.keys.create("laptop")
    with Retort(service.url, made.key) as other:
        assert [*other.jobs.list()] == []
        client.keys.revoke(made.id)
        with pytest.raises(UnauthorizedError):
            [*other.jobs.list()]
    (kept,) = (key for key in client.keys.list() if key.id == made.id)
    assert kept.revoked_at is not None
    with pytest.raises(NotFoundError):
        client.keys.revoke("key_none")


def test_a_key_with_few_scopes_and_an_end(client: Retort, service: Service) -> None:
    ends = datetime.now() + timedelta(days=1)
    made = client.keys.create("reader", scopes=["jobs:read"], expires_at=ends)
    assert (made.scopes, made.expires_at) == (["jobs:read"], ends.astimezone())
    with Retort(service.url, made.key) as reader, pytest.raises(ForbiddenError, match="admin is wanted here"):
        reader.keys.list()
    newer = client.keys.rotate(made.id, grace_seconds=0)
    assert newer.replaces == made.id
    with Retort(service.url, made.key) as old, pytest.raises(UnauthorizedError):
        [*old.jobs.list()]


def test_another_project_sees_nothing_of_this_one(client: Retort, service: Service) -> None:
    job_id = service.create()
    project = client.projects.create(f"other-than-{job_id}".replace("_", "-"))
    assert project.name in {found.name for found in client.projects.list()}
    key = client.keys.create("stranger", project=project.name)
    assert (key.project, key.scopes) == (project.name, ["jobs:read", "jobs:write", "data:write"])
    with Retort(service.url, key.key) as stranger:
        assert [*stranger.jobs.list()] == []
        with pytest.raises(NotFoundError):
            stranger.jobs.get(job_id)


def test_use_and_the_audit_log(client: Retort, service: Service) -> None:
    job_id = service.create()
    used = client.projects.usage()
    assert (used.used.queued, used.used.stored_bytes) == (1, 0)
    own = next(project for project in client.projects.list() if project.name == used.project)
    assert client.projects.limit(own.id, max_queued=1).max_queued == 1
    with pytest.raises(TooManyRequestsError, match="as many as it may"):  # at once: in a minute is too long to wait for
        service.create()
    refused, limited, created = client.audit.list(project_id=own.id)
    assert [refused.status, limited.route, created.about] == [429, "/v1/projects/{project_id}", {"job_id": job_id}]


def test_the_embedded_key_goes_to_this_machine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETORT_DATA_DIR", str(tmp_path))
    assert read_embedded_key("http://127.0.0.1:8765") is None
    (tmp_path / "key").write_text("rt_secret\n")
    for here in ("http://127.0.0.1:8765", "http://localhost", "http://[::1]:1"):
        assert read_embedded_key(here) == "rt_secret"
    for elsewhere in ("http://retort.example:8765", "http://127.0.0.1.example", "http://192.0.2.1"):
        assert read_embedded_key(elsewhere) is None


def test_a_wrong_address_is_refused() -> None:
    for url in ("http://host:port", "nonsense", "ftp://127.0.0.1", "http://", "127.0.0.1:8765"):
        with pytest.raises(UnreachableError, match="wanted one like"):
            Retort(url, "rt_x")


def test_ready_names_the_components(client: Retort) -> None:
    assert client.ready()["database"] == "ok"


def test_another_server_than_retort_is_recognised(tmp_path: Path) -> None:
    import threading
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    (tmp_path / "readyz").write_text("<html>a web page</html>")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with Retort(f"http://127.0.0.1:{server.server_port}", "rt_x") as client:
            with pytest.raises(Exception, match="not JSON"):
                client.ready()
            with pytest.raises(NotFoundError):
                client.methods.list()
            with pytest.raises(ServerError):
                client.keys.create("x")
        server.shutdown()
        thread.join()


def test_certificates_are_validated_and_read_for_https_alone() -> None:
    for url in ("https://retort.example", "HTTPS://retort.example/"):
        assert authorities(url).verify_mode == ssl.CERT_REQUIRED
        assert authorities(url).cert_store_stats()["x509_ca"] > 0
    assert authorities("http://127.0.0.1:8765").verify_mode == ssl.CERT_REQUIRED
    assert authorities("http://127.0.0.1:8765").cert_store_stats()["x509_ca"] == 0
