"""Uploads over HTTP: begun, brought in parts, verified, kept once, given up."""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.blobs.models import BlobRow, ChunkRow
from service.blobs.repository import sweep
from service.db import reading, transaction
from service.errors import Invalid
from service.uploads.models import UploadKind, UploadPartRow, UploadRow
from service.uploads.schemas import clean_name
from service.uploads.service import sweep_uploads, use
from tests.service.conftest import bearing, on_sqlite
from tests.service.uploads.conftest import (
    CONTENT,
    MIB,
    begin,
    chunks,
    complete,
    count,
    digest,
    part,
    put,
    sha256,
    stored,
    wish,
)

Bring = Callable[..., dict[str, Any]]
DAY, WEEK = 86_400, 7 * 86_400


def detail(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["detail"]


def seconds(upload: dict[str, Any]) -> float:
    """How long an upload is kept from its creation on."""
    kept = datetime.fromisoformat(upload["expires_at"]) - datetime.fromisoformat(upload["created_at"])
    return kept.total_seconds()


def test_a_file_in_parts(client: TestClient) -> None:
    answer = client.post("/v1/uploads", json=wish())
    upload = answer.json()
    here = f"/v1/uploads/{upload['id']}"
    assert (answer.status_code, answer.headers["Location"]) == (201, here)
    assert upload == {
        "id": upload["id"], "kind": "dataset", "name": "flowers.tar", "size": len(CONTENT), "sha256": sha256(CONTENT),
        "state": "open", "part_bytes": 2 * MIB, "parts": 3, "received_bytes": 0, "created_at": upload["created_at"],
        "expires_at": upload["expires_at"], "received": [],
        "links": {"self": here, "parts": f"{here}/parts", "complete": f"{here}/complete"},
    }  # fmt: skip
    assert seconds(upload) == pytest.approx(DAY, abs=1)
    answer = put(client, upload, 3)
    assert answer.status_code == 200
    assert answer.json() == {
        "number": 3, "size": MIB + 321, "sha256": sha256(part(upload, 3)), "at": answer.json()["at"]
    }  # fmt: skip
    assert detail(complete(client, upload)) == (409, f"upload {upload['id']} lacks 2 of its 3 parts: 1, 2")
    assert put(client, upload, 1).status_code == 200
    seen = client.get(here).json()
    assert [received["number"] for received in seen["received"]] == [1, 3]
    assert seen["received_bytes"] == 3 * MIB + 321
    assert put(client, upload, 2).status_code == 200
    assert client.get(here).json()["state"] == "open"
    answer = complete(client, upload)
    assert answer.status_code == 200
    done = answer.json()
    assert (done["state"], done["received_bytes"], done["received"]) == ("complete", len(CONTENT), [])
    assert seconds(done) == pytest.approx(WEEK, abs=30)
    assert complete(client, upload).json() == client.get(here).json() == done
    assert stored(sha256(CONTENT)) == CONTENT
    assert (count(BlobRow), count(ChunkRow), count(UploadPartRow)) == (1, 6, 0)


@pytest.mark.parametrize("size", [1, MIB - 1, MIB, MIB + 1, 4 * MIB])
@on_sqlite
def test_sizes_at_the_edges_of_parts_and_chunks(bring: Bring, size: int) -> None:
    content = random.Random(size).randbytes(size)
    upload = bring(content, part_bytes=MIB)
    assert upload["parts"] == -(-size // MIB)
    assert stored(sha256(content)) == content


def test_parts_in_any_order_again_and_at_once(client: TestClient) -> None:
    content = random.Random(3).randbytes(12 * MIB + 5)
    upload = begin(client, content, part_bytes=MIB)
    numbers = [*range(1, 14)] * 3
    random.Random(4).shuffle(numbers)
    put(client, upload, 1, content)  # FastAPI builds an endpoint at its first request
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda number: put(client, upload, number, content), numbers))
    assert {answer.status_code for answer in answers} == {200}
    # Every draft went with its part: what is there is the upload's own.
    assert (count(BlobRow), count(ChunkRow), count(UploadPartRow)) == (1, 13, 13)
    assert complete(client, upload).status_code == 200
    assert stored(sha256(content)) == content


def test_complete_twice_at_once_is_complete_once(client: TestClient) -> None:
    upload = begin(client)
    complete(client, upload)  # FastAPI builds an endpoint at its first request
    for number in (1, 2, 3):
        put(client, upload, number)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: complete(client, upload), range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({answer.text for answer in answers}) == 1
    assert (count(BlobRow), count(ChunkRow)) == (1, 6)


def test_a_part_that_comes_again_takes_the_place_of_the_first(client: TestClient) -> None:
    """So a file that changed while it was sent is mended by its digests."""
    upload = begin(client)
    wrong = bytes(2 * MIB)
    address = f"/v1/uploads/{upload['id']}"
    assert client.put(f"{address}/parts/2", content=wrong, headers=digest(wrong)).status_code == 200
    for number in (1, 3):
        put(client, upload, number)
    found = sha256(part(upload, 1) + wrong + part(upload, 3))
    assert detail(complete(client, upload)) == (
        422,
        f"the parts of upload {upload['id']} make a file of sha256 {found}; {sha256(CONTENT)} was promised: "
        "send the parts again whose digests are not yours",
    )
    seen = client.get(address).json()
    assert seen["state"] == "open"
    differing = [
        received["number"] for received in seen["received"]
        if received["sha256"] != sha256(part(upload, received["number"]))
    ]  # fmt: skip
    assert differing == [2]
    assert put(client, upload, 2).status_code == 200
    assert complete(client, upload).status_code == 200
    assert stored(sha256(CONTENT)) == CONTENT


def test_a_part_that_is_replaced_while_the_whole_is_verified_is_noticed(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    upload = begin(client)
    for number in (1, 2, 3):
        put(client, upload, number)
    from service.uploads import service

    wrong, changed = bytes(2 * MIB), []

    def read_and_change(blob_id: str, number: int) -> bytes:
        content = read(blob_id, number)
        if number == 4 and not changed:  # of part 3; part 2 was read already
            changed.append(True)
            address = f"/v1/uploads/{upload['id']}/parts/2"
            assert bearing(key).put(address, content=wrong, headers=digest(wrong)).status_code == 200
        return content

    read = service.read_chunk
    monkeypatch.setattr(service, "read_chunk", read_and_change)
    answer = complete(client, upload)
    assert detail(answer) == (409, f"parts of upload {upload['id']} came while it was verified; complete it again")
    assert complete(client, upload).status_code == 422
    assert put(client, upload, 2).status_code == 200
    assert complete(client, upload).status_code == 200


# A broken part


@pytest.fixture
def whole(client: TestClient) -> Iterator[dict[str, Any]]:
    """An upload whose second part is there; afterwards it is still whole."""
    upload = begin(client)
    put(client, upload, 2)
    before = client.get(f"/v1/uploads/{upload['id']}").json()
    yield upload
    after = client.get(f"/v1/uploads/{upload['id']}").json()
    assert after["received"] == before["received"]
    assert (count(BlobRow), count(ChunkRow)) == (1, 2)
    put(client, upload, 1)
    put(client, upload, 3)
    assert complete(client, upload).status_code == 200
    assert stored(sha256(CONTENT)) == CONTENT


def pieces(content: bytes, size: int = 100_000) -> Iterator[bytes]:
    """Sent so, a body comes in chunks and says no length."""
    for first in range(0, len(content), size):
        yield content[first : first + size]


def test_parts_without_a_length_are_taken(client: TestClient) -> None:
    upload = begin(client)
    for number in (1, 2, 3):
        sent = part(upload, number)
        address = f"/v1/uploads/{upload['id']}/parts/{number}"
        assert client.put(address, content=pieces(sent), headers=digest(sent)).status_code == 200
    assert complete(client, upload).status_code == 200
    assert stored(sha256(CONTENT)) == CONTENT


@pytest.mark.parametrize("length", [0, 1, MIB, 2 * MIB - 1, 2 * MIB + 1, 9 * MIB])
@pytest.mark.parametrize("told", [True, False])
@on_sqlite
def test_a_wrong_length(client: TestClient, whole: dict[str, Any], length: int, told: bool) -> None:
    sent = (CONTENT * 2)[:length]
    body: Any = sent if told else pieces(sent)
    answer = client.put(f"/v1/uploads/{whole['id']}/parts/2", content=body, headers=digest(sent))
    if told:
        assert detail(answer) == (422, f"part 2 has 2,097,152 bytes; Content-Length says '{length}'")
    elif length > 2 * MIB:
        assert detail(answer) == (413, "part 2 has 2,097,152 bytes; more came")
    else:
        assert detail(answer) == (422, f"part 2 has 2,097,152 bytes; {length:,} came")


@on_sqlite
def test_a_wrong_digest(client: TestClient, whole: dict[str, Any]) -> None:
    answer = client.put(f"/v1/uploads/{whole['id']}/parts/2", content=part(whole, 1), headers=digest(part(whole, 2)))
    found, wanted = sha256(part(whole, 1)), sha256(part(whole, 2))
    assert detail(answer) == (422, f"part 2 came with sha256 {found}; its header promised {wanted}")


SHA = b64encode(b"x" * 32).decode()


@pytest.mark.parametrize(
    "value",
    ["", "sha-256", "sha-256=abc", "sha-256=:abc", f"sha-256={SHA}", f"sha-512=:{SHA}:", "sha-256=:YWJj:",
     f"sha-256=:{SHA[:-1]}:", f"SHA-256=:{SHA}:", f"sha-256=:{SHA}: x", f"sha-512=:{SHA}:,", "sha-256=:::", "☃",
     f"sha-256=:{SHA}A:", "a" * 5000],
)  # fmt: skip
@on_sqlite
def test_a_malformed_digest(client: TestClient, whole: dict[str, Any], value: str) -> None:
    headers = {"Content-Digest": value.encode()}
    answer = client.put(f"/v1/uploads/{whole['id']}/parts/2", content=part(whole, 2), headers=headers)
    status, said = detail(answer)
    assert status == 422
    assert said.startswith("Content-Digest is ")
    assert said.endswith("; wanted 'sha-256=:...:' with the part's sha256 in base 64")
    assert len(said) < 200


@on_sqlite
def test_no_digest_and_two_that_differ(client: TestClient, whole: dict[str, Any]) -> None:
    address, sent = f"/v1/uploads/{whole['id']}/parts/2", part(whole, 2)
    assert detail(client.put(address, content=sent)) == (
        422,
        "the header Content-Digest is missing; wanted 'sha-256=:...:' with the part's sha256 in base 64",
    )
    two = {**digest(sent), "Repr-Digest": digest(b"")["Content-Digest"]}
    assert detail(client.put(address, content=sent, headers=two)) == (
        422,
        "Content-Digest and Repr-Digest promise two different sha256",
    )


@pytest.mark.parametrize("name", ["Content-Digest", "Repr-Digest"])
@pytest.mark.parametrize("form", ["{}", "sha-512=:YWJj:, {}", "{};a=1, md5=:YWJj:"])
@on_sqlite
def test_both_headers_and_several_algorithms_are_read(client: TestClient, name: str, form: str) -> None:
    upload = begin(client)
    headers = {name: form.format(digest(part(upload, 2))["Content-Digest"])}
    answer = client.put(f"/v1/uploads/{upload['id']}/parts/2", content=part(upload, 2), headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Content-Type": "application/json"}, "the part's Content-Type is 'application/json'; wanted"),
        ({"Content-Encoding": "gzip"}, "the part's Content-Encoding is 'gzip'; wanted none"),
    ],
)
@on_sqlite
def test_another_kind_of_body(client: TestClient, whole: dict[str, Any], headers: dict[str, str], said: str) -> None:
    sent = part(whole, 2)
    answer = client.put(f"/v1/uploads/{whole['id']}/parts/2", content=sent, headers={**digest(sent), **headers})
    assert answer.status_code == 415
    assert answer.json()["detail"].startswith(said)


@pytest.mark.parametrize("number", ["0", "4", "-1", "10000000000000000000000"])
@on_sqlite
def test_a_number_out_of_range(client: TestClient, whole: dict[str, Any], number: str) -> None:
    answer = client.put(f"/v1/uploads/{whole['id']}/parts/{number}", content=b"x", headers=digest(b"x"))
    assert detail(answer) == (422, f"upload {whole['id']} has the parts 1 to 3; there is no part {number}")


@pytest.mark.parametrize("number", ["x", "1.5", "\uff11", "0x1", "9" * 5000])
@on_sqlite
def test_what_is_no_number(client: TestClient, whole: dict[str, Any], number: str) -> None:
    answer = client.put(f"/v1/uploads/{whole['id']}/parts/{number}", content=b"x", headers=digest(b"x"))
    assert answer.status_code == 422
    assert len(answer.json()["detail"]) < 300


def test_a_complete_upload_takes_no_part(client: TestClient, bring: Bring) -> None:
    upload = bring()
    assert detail(put(client, upload, 1)) == (
        409, f"upload {upload['id']} is complete; its bytes can no longer change"
    )  # fmt: skip


def test_a_body_above_the_limit_of_json_is_taken_as_a_part_alone(
    client: TestClient, key: str, environment: Callable[..., None], database: str
) -> None:
    environment(database_url=database, max_body_bytes=100_000)
    client = bearing(key)
    upload = begin(client)
    assert put(client, upload, 1).status_code == 200
    for method, address in (
        ("POST", "/v1/uploads"), ("POST", f"/v1/uploads/{upload['id']}/parts/1"), ("PUT", "/v1/uploads/x/parts"),
        ("PUT", f"/v1/uploads/{upload['id']}/parts/1/"), ("PUT", "/v1/jobs"),
    ):  # fmt: skip
        answer = client.request(method, address, content=bytes(100_001))
        assert detail(answer) == (413, "the body has 100,001 bytes; at most 100,000 bytes are read"), address
    answer = client.put(f"/v1/uploads/{upload['id']}/parts/1", content=bytes(64 * MIB + 1))
    assert detail(answer) == (413, "the body has 67,108,865 bytes; at most 67,108,864 bytes are read")


# What is asked


@pytest.mark.parametrize(
    ("fields", "pointer", "said"),
    [
        ({"size": 0}, "/size", "size is 0; wanted at least 1"),
        ({"size": -5}, "/size", "size is -5; wanted at least 1"),
        ({"size": 2**64}, "/size", "size: the whole number does not fit 64 bits; wanted a smaller one"),
        ({"size": "5"}, "/size", "size is '5'; wanted a whole number"),
        ({"size": 1.5}, "/size", "size is 1.5; wanted a whole number"),
        ({"size": True}, "/size", "size is true; wanted a whole number"),
        ({"size": None}, "/size", "size is null; wanted a whole number"),
        ({"sha256": ""}, "/sha256", "sha256 is ''; wanted text that matches ^[0-9a-f]{64}$"),
        ({"sha256": "A" * 64}, "/sha256", f"sha256 is '{'A' * 64}'; wanted text that matches ^[0-9a-f]{{64}}$"),
        ({"sha256": "a" * 64 + "\n"}, "/sha256", "sha256 is '"),
        ({"sha256": "a" * 63}, "/sha256", "sha256 is '"),
        ({"sha256": "a" * 100_000}, "/sha256", "sha256 is '"),
        ({"kind": "picture"}, "/kind", "kind is 'picture'; wanted 'dataset' or 'model'"),
        ({"name": ""}, "/name", "name is ''; wanted at least 1 characters"),
        ({"name": "a\0b"}, "/name", "name: 'a\\x00b' holds a NUL character; no text may"),
        ({"name": "x" * 10_000}, "/name", "name is 'xxx"),
        ({"name": "/"}, "/name", "name: '/' names no file; wanted a name like 'flowers.tar'"),
        ({"name": "a/.."}, "/name", "name: 'a/..' names no file; wanted a name like 'flowers.tar'"),
        ({"name": "\u202e\u200b"}, "/name", "name: '\\u202e\\u200b' names no file; wanted a name like 'flowers.tar'"),
        ({"part_bytes": 5}, "/part_bytes", "part_bytes is 5; wanted a multiple of 1048576"),
        ({"part_bytes": MIB + 1}, "/part_bytes", "part_bytes is 1048577; wanted a multiple of 1048576"),
        ({"part_bytes": 65 * MIB}, "/part_bytes", "part_bytes is 68157440; wanted at most 67108864"),
        ({"size": 20 * 2**30, "part_bytes": MIB}, "/part_bytes",
         "21,474,836,480 bytes in parts of 1,048,576 make 20,480 parts; wanted at most 10,000"),
        ({"colour": "red"}, "/colour", "the body has no field 'colour'"),
    ],
)  # fmt: skip
@on_sqlite
def test_a_wrong_wish(client: TestClient, fields: dict[str, Any], pointer: str, said: str) -> None:
    answer = client.post("/v1/uploads", json=wish(**fields))
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == pointer
    assert error["detail"].startswith(said)
    assert len(error["detail"]) < 250
    assert count(UploadRow) == 0


@pytest.mark.parametrize("size", [20 * 2**30 + 1, 10**18, 2**63 - 1])
def test_a_file_that_is_too_large(client: TestClient, size: int) -> None:
    answer = client.post("/v1/uploads", json=wish(size=size))
    said = f"the upload has {size:,} bytes; at most 21,474,836,480 bytes are taken"
    assert detail(answer) == (413, said)
    assert count(UploadRow) == 0


def test_what_is_promised_takes_room_and_what_is_given_up_makes_it(
    client: TestClient, key: str, environment: Callable[..., None], database: str
) -> None:
    environment(database_url=database, max_stored_bytes=3 * len(CONTENT))
    client = bearing(key)
    for number in (1, 2):
        upload = begin(client, CONTENT[number:])
        put(client, upload, 1, CONTENT[number:])
    assert client.get("/v1/usage").json()["used"]["stored_bytes"] == 2 * len(CONTENT) - 3
    answer = client.post("/v1/uploads", json=wish(CONTENT + b"more"))
    assert answer.status_code == 413
    assert "more find no room" in answer.json()["detail"]
    client.delete(f"/v1/uploads/{upload['id']}")
    assert client.post("/v1/uploads", json=wish(CONTENT + b"more")).status_code == 201


@on_sqlite
def test_what_was_begun_and_given_up_is_told_in_the_audit_log(client: TestClient) -> None:
    upload = begin(client)
    put(client, upload, 1)
    complete(client, upload)
    client.delete(f"/v1/uploads/{upload['id']}")
    told = client.get("/v1/audit").json()["items"][::-1]
    assert [(entry["method"], entry["route"], entry["status"]) for entry in told] == [
        ("POST", "/v1/uploads", 201), ("POST", "/v1/uploads/{upload_id}/complete", 409),
        ("DELETE", "/v1/uploads/{upload_id}", 204),
    ]  # fmt: skip
    assert {entry["about"]["upload_id"] for entry in told} == {upload["id"]}


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("flowers.tar", "flowers.tar"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\flowers.zip", "flowers.zip"),
        ("a/b\\c", "c"),
        ("  two   words\t.tar ", "two words.tar"),
        ("line\nbreak\x7f\x1b[31m.tar", "linebreak[31m.tar"),
        ("exe.\u202erat.tar", "exe.rat.tar"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("e\u0301té", "été"),
        ("蒸留 🧪.tar", "蒸留 🧪.tar"),
        ("a\u2028b\u00a0c", "a b c"),
        ("..", ""),
        ("a/", ""),
        (".hidden", ".hidden"),
    ],
)
def test_names_are_cleaned(name: str, cleaned: str) -> None:
    assert clean_name(name) == cleaned


@on_sqlite
def test_the_service_chooses_parts_that_are_not_too_many(client: TestClient) -> None:
    found = [begin(client, size=size, part_bytes=None) for size in (1, 8 * MIB + 1, 8001 * MIB, 20 * 2**30)]
    assert [(upload["part_bytes"] // MIB, upload["parts"]) for upload in found] == [
        (8, 1), (8, 2), (16, 501), (32, 640)
    ]  # fmt: skip


def test_an_idempotency_key_gives_the_same_upload(client: TestClient, stranger: TestClient, bring: Bring) -> None:
    headers = {"Idempotency-Key": "flowers"}
    first = client.post("/v1/uploads", json=wish(), headers=headers)
    again = client.post("/v1/uploads", json=wish(), headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    other = client.post("/v1/uploads", json=wish(name="other.tar"), headers=headers)
    said = f"the idempotency key 'flowers' has begun upload {first.json()['id']} of another body; wanted a new key"
    assert detail(other) == (422, said)
    assert stranger.post("/v1/uploads", json=wish(name="other.tar"), headers=headers).status_code == 201
    client.delete(f"/v1/uploads/{first.json()['id']}")
    anew = client.post("/v1/uploads", json=wish(), headers=headers).json()
    assert anew["id"] != first.json()["id"]


def test_one_key_sent_at_once_begins_one_upload(client: TestClient) -> None:
    def send(_: int) -> str:
        answer = client.post("/v1/uploads", json=wish(), headers={"Idempotency-Key": "one"})
        assert answer.status_code == 201
        return str(answer.json()["id"])

    begin(client)  # FastAPI builds an endpoint at its first request
    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(send, range(6)))) == 1
    assert count(UploadRow) == 2


def test_the_list_is_paged_and_filtered(client: TestClient, bring: Bring, stranger: TestClient) -> None:
    uploads = [begin(client, kind="model"), bring(), begin(client, b"other")]
    put(client, uploads[0], 1)
    begin(stranger)
    listed, cursor = [], None
    while True:
        page = client.get("/v1/uploads", params={"limit": 1, **({"cursor": cursor} if cursor else {})}).json()
        listed += page["items"]
        if (cursor := page["next_cursor"]) is None:
            break
    assert [item["id"] for item in listed] == [upload["id"] for upload in uploads[::-1]]
    assert [item["received_bytes"] for item in listed] == [0, len(CONTENT), 2 * MIB]
    assert "received" not in listed[0]

    def found(**query: str) -> set[str]:
        return {item["id"] for item in client.get("/v1/uploads", params=query).json()["items"]}

    assert found(state="complete") == {uploads[1]["id"]}
    assert found(kind="model", state="open") == {uploads[0]["id"]}
    assert found(sha256=sha256(b"other")) == {uploads[2]["id"]}
    assert client.get("/v1/uploads", params={"sha256": "x"}).status_code == 422


# Who has what


def test_the_same_bytes_are_complete_at_once_and_kept_once(client: TestClient, bring: Bring) -> None:
    first = bring()
    second = begin(client, kind="model", name="other.tar")
    assert (second["state"], second["received_bytes"]) == ("complete", len(CONTENT))
    assert complete(client, second).json()["id"] == second["id"] != first["id"]
    assert (count(BlobRow), count(ChunkRow)) == (1, 6)
    client.delete(f"/v1/uploads/{first['id']}")
    assert sweep(0) == 0
    assert stored(sha256(CONTENT)) == CONTENT
    # Of another size under the same digest there can be nothing.
    assert begin(client, CONTENT, size=len(CONTENT) + 1)["state"] == "open"


def test_two_at_once_of_the_same_bytes_are_kept_once(client: TestClient) -> None:
    uploads = [begin(client), begin(client)]
    for upload in uploads:
        for number in (1, 2, 3):
            put(client, upload, number)
    assert [complete(client, upload).json()["state"] for upload in uploads] == ["complete"] * 2
    assert sweep(3600) == 1  # what the second brought goes at once
    assert (count(BlobRow), count(ChunkRow)) == (1, 6)
    assert stored(sha256(CONTENT)) == CONTENT


def test_a_digest_is_no_way_to_the_bytes_of_others(client: TestClient, stranger: TestClient, bring: Bring) -> None:
    bring()
    theirs = begin(stranger)
    assert (theirs["state"], theirs["received_bytes"]) == ("open", 0)
    assert complete(stranger, theirs).status_code == 409
    for number in (1, 2, 3):
        assert put(stranger, theirs, number).status_code == 200
    assert complete(stranger, theirs).json()["state"] == "complete"
    # Below there is one blob; letting go of one side leaves the other's.
    assert sweep(3600) == 1
    assert (count(BlobRow), count(ChunkRow)) == (1, 6)
    stranger.delete(f"/v1/uploads/{theirs['id']}")
    assert sweep(0) == 0
    assert stored(sha256(CONTENT)) == CONTENT


def test_another_projects_upload_does_not_exist(client: TestClient, stranger: TestClient) -> None:
    upload = begin(client)
    address = f"/v1/uploads/{upload['id']}"
    said = (404, f"there is no upload '{upload['id']}'")
    assert detail(stranger.get(address)) == said
    assert detail(put(stranger, upload, 1)) == said
    assert detail(complete(stranger, upload)) == said
    assert detail(stranger.delete(address)) == said
    assert stranger.get("/v1/uploads").json()["items"] == []
    assert client.get(address).json() == upload


def test_a_job_s_own_file_is_the_project_s_too(client: TestClient, recipe: dict[str, Any]) -> None:
    import io

    from tests.service.artifacts.test_endpoints import store

    job_id = client.post("/v1/jobs", json=recipe).json()["id"]
    store(job_id, "student.safetensors", io.BytesIO(CONTENT))
    assert begin(client, kind="model")["state"] == "complete"


# The end of an upload


def test_what_is_given_up_leaves_nothing(client: TestClient) -> None:
    upload = begin(client)
    put(client, upload, 1)
    address = f"/v1/uploads/{upload['id']}"
    assert client.delete(address).status_code == 204
    assert client.get(address).status_code == 404
    assert put(client, upload, 1).status_code == 404
    assert client.delete(address).status_code == 404
    assert sweep(3600) == 1  # without waiting: nobody else can know these bytes
    assert (count(BlobRow), count(ChunkRow), count(UploadPartRow)) == (0, 0, 0)


@pytest.mark.parametrize("finished", [False, True])
def test_uploads_expire(client: TestClient, bring: Bring, monkeypatch: pytest.MonkeyPatch, finished: bool) -> None:
    upload = bring() if finished else begin(client)
    blob_id, lifetime = blob_of(upload), WEEK if finished else DAY
    later(monkeypatch, lifetime - 60)
    assert sweep_uploads() == 0
    assert client.get(f"/v1/uploads/{upload['id']}").status_code == 200
    later(monkeypatch, lifetime + 60)
    said = (404, f"upload {upload['id']} has expired; wanted a new one")
    for answer in (client.get(f"/v1/uploads/{upload['id']}"), put(client, upload, 1), complete(client, upload)):
        assert detail(answer) == said
    assert client.get("/v1/uploads").json()["items"] == []
    assert sweep_uploads() == 1
    assert sweep(3600) == 1
    assert (count(UploadRow), count(BlobRow), chunks(blob_id)) == (0, 0, 0)
    assert detail(client.get(f"/v1/uploads/{upload['id']}")) == (404, f"there is no upload '{upload['id']}'")


def test_each_part_prolongs(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = begin(client)
    for number, days in ((1, 0.9), (2, 1.8), (3, 2.7)):
        later(monkeypatch, days * DAY)
        assert sweep_uploads() == 0
        assert put(client, upload, number).status_code == 200
    assert complete(client, upload).status_code == 200


def test_an_expired_upload_frees_its_idempotency_key(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"Idempotency-Key": "flowers"}
    first = client.post("/v1/uploads", json=wish(), headers=headers).json()
    later(monkeypatch, 2 * DAY)
    second = client.post("/v1/uploads", json=wish(), headers=headers)
    assert second.status_code == 201
    assert second.json()["id"] != first["id"]
    assert "Idempotent-Replayed" not in second.headers


def test_what_is_used_is_kept_from_then_on(client: TestClient, bring: Bring, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = bring()
    project_id = project_of(upload)
    later(monkeypatch, WEEK - 60)
    with transaction() as session:
        assert use(session, project_id, upload["id"], UploadKind.dataset, "/source/upload").sha256 == sha256(CONTENT)
    later(monkeypatch, 2 * WEEK - 120)
    assert sweep_uploads() == 0
    later(monkeypatch, 2 * WEEK)
    assert sweep_uploads() == 1


def test_only_a_complete_upload_of_the_kind_and_project_is_used(client: TestClient, bring: Bring) -> None:
    done, open_ = bring(), begin(client, b"other")
    project_id = project_of(done)

    def refused(project_id: str, upload_id: str, kind: UploadKind) -> str:
        with pytest.raises(Invalid) as refusal, transaction() as session:
            use(session, project_id, upload_id, kind, "/source/upload")
        (error,) = refusal.value.errors
        assert error.pointer == "/source/upload"
        return error.detail

    assert refused(project_id, done["id"], UploadKind.model) == f"upload {done['id']} is a dataset; wanted a model"
    assert refused(project_id, open_["id"], UploadKind.dataset) == f"upload {open_['id']} is not complete"
    assert refused("project_x", done["id"], UploadKind.dataset) == f"there is no upload '{done['id']}'"


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr("service.db.clock_offset_seconds", seconds)


def blob_of(upload: dict[str, Any]) -> str:
    with reading() as session:
        return session.get_one(UploadRow, upload["id"]).blob_id


def project_of(upload: dict[str, Any]) -> str:
    with reading() as session:
        return session.get_one(UploadRow, upload["id"]).project_id
