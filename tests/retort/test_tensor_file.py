"""Headers of safetensors files, good and hostile."""

import io
import json
import pickle
import struct
from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from retort.tensor_file import TensorFileError, read_header


def reader(content: bytes) -> Callable[[int, int], bytes]:
    return lambda begin, end: content[begin:end]


def file_of(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int, end: int, shape: object = (1,), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def pickled() -> bytes:
    file = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, file)
    return file.getvalue()


def test_what_the_library_writes_is_read() -> None:
    content = save({"a": torch.zeros(2, 3), "b": torch.zeros(0), "c": torch.tensor(1)}, {"format": "pt"})
    header = read_header(reader(content), len(content))
    assert {name: (place.dtype, place.shape) for name, place in header.tensors.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("F32", (0,)),
        "c": ("I64", ()),
    }
    assert header.metadata == {"format": "pt"}


HOSTILE = {
    "nothing": (b"", "0 bytes"),
    "two gigabytes of header": (file_of({}, length=2 * 10**9), "2,000,000,000 bytes; at most"),
    "a header longer than the file": (file_of({"a": entry(0, 4)}, bytes(4), length=5000), "5,000 bytes, the file has"),
    "a pickle": (pickle.dumps({"a": 1}), "is a pickle"),
    "what torch.save writes": (pickled(), "is a pickle"),
    "no JSON": (file_of(b"{nonsense!}"), "is not JSON"),
    "no UTF-8": (file_of(b'{"\xff": 1}'), "is not JSON"),
    "a list": (file_of([1, 2]), "no object"),
    "deep nesting": (file_of(b"[" * 100_000), "is not JSON"),
    "the same key twice": (
        file_of(f'{{"a": {json.dumps(entry(0, 4))}, "a": {json.dumps(entry(0, 4))}}}'.encode(), bytes(4)),
        "gives 'a' twice",
    ),
    "no tensor": (file_of({"__metadata__": {}}), "holds no tensor"),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}, "a": entry(0, 4)}, bytes(4)), "no object of texts"),
    "overlap": (file_of({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)), "'a' and 'b' overlap"),
    "the same place twice": (file_of({"a": entry(0, 4), "b": entry(0, 4)}, bytes(4)), "overlap"),
    "a gap": (file_of({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)), "4 bytes before tensor 'b' belong to none"),
    "bytes behind": (file_of({"a": entry(0, 4)}, bytes(9)), "end after 4 bytes, the file has 9"),
    "bytes missing": (file_of({"a": entry(0, 400, [100])}, bytes(9)), "end after 400 bytes, the file has 9"),
    "a wrong length": (file_of({"a": entry(0, 8)}, bytes(8)), "takes 4 bytes, its data_offsets hold 8"),
    "an unknown dtype": (file_of({"a": entry(0, 4, dtype="F8_E4M3")}, bytes(4)), "dtype 'F8_E4M3'"),
    "a dtype that is none": (file_of({"a": entry(0, 4, dtype=[1])}, bytes(4)), "has the dtype"),
    "a negative shape": (file_of({"a": entry(0, 4, shape=[-1])}, bytes(4)), "is no list of"),
    "a shape beyond counting": (file_of({"a": entry(0, 4, shape=[2**70])}, bytes(4)), "is no list of"),
    "a shape whose product is beyond 64 bits": (
        file_of({"a": entry(0, 4, shape=[2**40, 2**40])}, bytes(4)),
        "takes 4,835,703,278,458,516,698,824,704 bytes, its data_offsets hold 4",
    ),
    "a number of 5,000 digits": (file_of(b'{"a": ' + b"1" * 5000 + b"}"), "is not JSON"),
    "a name that is no text": (file_of(b'{"\\ud800": 1}'), "is not an object of"),
    "a true shape": (file_of({"a": entry(0, 4, shape=[True])}, bytes(4)), "is no list of"),
    "offsets the wrong way": (file_of({"a": entry(4, 0)}, bytes(4)), "not where it begins"),
    "another field": (file_of({"a": entry(0, 4) | {"x": 1}}, bytes(4)), "is not an object of"),
    "an entry that is none": (file_of({"a": 3}, bytes(4)), "is not an object of"),
    "a long name": (file_of({"a" * 1000: entry(0, 4)}, bytes(4)), "1,000 characters"),
}


@pytest.mark.parametrize(("content", "says"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_in_one_sentence(content: bytes, says: str) -> None:
    with pytest.raises(TensorFileError) as refusal:
        read_header(reader(content), len(content))
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_key_twice_among_many_is_found_at_once() -> None:
    """Where comparing all with all would take an hour."""
    keys = ",".join(f'"{number}":0' for number in range(200_000))
    content = file_of(f'{{{keys},"199999":0}}'.encode())
    with pytest.raises(TensorFileError, match="gives '199999' twice"):
        read_header(reader(content), len(content))


@settings(max_examples=100, deadline=None)
@given(
    places=st.lists(st.tuples(st.integers(0, 200), st.sampled_from([*b'[]{}",:0-9e\\', 0, 255])), max_size=6),
    cut=st.integers(0, 20) | st.none(),
    noise=st.binary(max_size=40),
)
def test_any_header_is_read_or_refused(places: list[tuple[int, int]], cut: int | None, noise: bytes) -> None:
    content = bytearray(save({"a": torch.zeros(2, 3), "b": torch.zeros(0)}, {"format": "pt"}))
    for place, byte in places:
        content[place % len(content)] = byte
    changed = bytes(content[: len(content) - cut] if cut else content) + (noise if cut == 0 else b"")
    for one in (changed, noise):
        with suppress(TensorFileError):
            header = read_header(reader(one), len(one))
            assert all(place.end <= len(one) for place in header.tensors.values())


def test_no_more_than_the_header_is_read() -> None:
    content = save({"a": torch.zeros(1000)})
    asked: list[tuple[int, int]] = []

    def read(begin: int, end: int) -> bytes:
        asked.append((begin, end))
        return content[begin:end]

    read_header(read, len(content))
    assert sum(end - begin for begin, end in asked) <= len(content) - 4000
