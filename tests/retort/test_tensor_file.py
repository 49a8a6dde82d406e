"""Safetensors files, good and hostile: the start, which Retort reads, and the rest, which safetensors checks."""

import io
import json
import pickle
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from retort.engine.interrupt import Impossible
from retort.engine.user_weights import load_tensors, user_network
from retort.tensor_file import LARGEST_HEADER, TensorFileError, parse_metadata, read_header
from retort.user_model import UserModel

MODEL = UserModel(
    id="model_1", form="safetensors", architecture="resnet8", classes=10, class_names=None, expects=None, card=None
)
LONGEST_SENTENCE = 1000
"""Characters; hostile names and shapes are cut."""


def reader(content: bytes) -> Callable[[int, int], bytes]:
    return lambda begin, end: content[begin:end]


def metadata_of(content: bytes) -> dict[str, str]:
    return parse_metadata(read_header(reader(content), len(content)))


def written(folder: Path, content: bytes) -> Path:
    file = folder / MODEL.file
    file.write_bytes(content)
    return file


def file_of(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int, end: int, shape: object = (1,), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def pickled() -> bytes:
    file = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, file)
    return file.getvalue()


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    tensors = {"a": torch.rand(2, 3), "b": torch.zeros(0), "c": torch.tensor(1)}
    content = save(tensors, {"format": "pt"})
    assert metadata_of(content) == {"format": "pt"}
    assert metadata_of(save(tensors)) == {}
    found = load_tensors(written(tmp_path, content))
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


START = {
    "nothing": (b"", "0 bytes"),
    "two gigabytes of header": (file_of({}, length=2 * 10**9), "2,000,000,000 bytes by its own account; at most"),
    "a header longer than the file": (
        file_of({"a": entry(0, 4)}, bytes(4), length=5000),
        "5,000 bytes by its own account, the file has",
    ),
    "a pickle": (pickle.dumps({"a": 1}), "is a pickle"),
    "what torch.save writes": (pickled(), "is a pickle"),
}
"""Refused by the front end and the engine, with the same sentence."""
METADATA = {
    "no JSON": (file_of(b"{nonsense!}"), "is not JSON"),
    "no UTF-8": (file_of(b'{"\xff": 1}'), "is not JSON"),
    "a list": (file_of([1, 2]), "not an object"),
    "deep nesting": (file_of(b"[" * 100_000), "is not JSON"),
    "a number of 5,000 digits": (file_of(b'{"a": ' + b"1" * 5000 + b"}"), "is not JSON"),
    "metadata of numbers": (
        file_of({"__metadata__": {"a": 1}, "a": entry(0, 4)}, bytes(4)),
        "not an object of texts",
    ),
}
"""Refused by the front end with that sentence, by the engine with safetensors' own."""
TENSORS = {
    "overlap": (file_of({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)), "invalid offset for tensor `b`"),
    "the same place twice": (file_of({"a": entry(0, 4), "b": entry(0, 4)}, bytes(4)), "invalid offset for tensor"),
    "a gap": (file_of({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)), "invalid offset for tensor `b`"),
    "bytes behind": (file_of({"a": entry(0, 4)}, bytes(9)), "file not fully covered"),
    "bytes missing": (file_of({"a": entry(0, 400, [100])}, bytes(9)), "file not fully covered"),
    "a wrong length": (file_of({"a": entry(0, 8)}, bytes(8)), "invalid shape, data type, or offset"),
    "a dtype that is none": (file_of({"a": entry(0, 4, dtype=[1])}, bytes(4)), "invalid JSON in header"),
    "a negative shape": (file_of({"a": entry(0, 4, shape=[-1])}, bytes(4)), "`-1`, expected usize"),
    "a shape beyond counting": (file_of({"a": entry(0, 4, shape=[2**70])}, bytes(4)), "expected usize"),
    "a shape whose product is beyond 64 bits": (
        file_of({"a": entry(0, 4, shape=[2**40, 2**40])}, bytes(4)),
        "overflow computing buffer size",
    ),
    "a name that is no text": (file_of(b'{"\\ud800": 1}'), "invalid JSON in header"),
    "a true shape": (file_of({"a": entry(0, 4, shape=[True])}, bytes(4)), "boolean `true`, expected usize"),
    "offsets the wrong way": (file_of({"a": entry(4, 0)}, bytes(4)), "invalid offset for tensor `a`"),
    "an entry that is none": (file_of({"a": 3}, bytes(4)), "expected struct TensorInfo"),
    "a long name at a wrong place": (file_of({"a" * 10**6: entry(4, 8)}, bytes(8)), "invalid offset for tensor"),
}
"""Refused by safetensors."""
FIT = {
    "an unknown dtype": (file_of({"a": entry(0, 4, [4], dtype="F8_E4M3")}, bytes(4)), "dtype 'F8_E4M3'; wanted one of"),
    "numbers of four bits": (file_of({"a": entry(0, 4, [8], dtype="F4")}, bytes(4)), "dtype 'F4'; wanted one of"),
    "a long name of a wrong dtype": (file_of({"a" * 10**6: entry(0, 4, [8], dtype="F4")}, bytes(4)), "dtype 'F4'"),
    "too many tensors": (
        file_of({str(number): entry(0, 0, [0]) for number in range(60_000)}),
        "60,000 tensors; at most 50,000 are read",
    ),
    # safetensors reads these; they fit no network.
    "no tensor": (file_of({"__metadata__": {}}), "conv1.weight is missing"),
    "the same key twice": (
        file_of(f'{{"a": {json.dumps(entry(0, 4))}, "a": {json.dumps(entry(0, 4))}}}'.encode(), bytes(4)),
        "conv1.weight is missing",
    ),
    "another field": (file_of({"a": entry(0, 4) | {"x": 1}}, bytes(4)), "conv1.weight is missing"),
    "a long name": (file_of({"a" * 10**6: entry(0, 4)}, bytes(4)), "conv1.weight is missing"),
    "a million sides": (
        file_of({"conv1.weight": entry(0, 4, [1] * 10**6)}, bytes(4)),
        "conv1.weight has the shape [1, 1, ",
    ),
}
"""Refused by the engine's own checks behind safetensors'."""


def refusal(folder: Path, content: bytes) -> str:
    """The sentence with which the engine refuses a file."""
    written(folder, content)
    with pytest.raises(Impossible) as found:
        user_network(MODEL, folder)
    sentence = str(found.value)
    assert "\n" not in sentence
    assert len(sentence) <= LONGEST_SENTENCE + sentence.count(" is missing") * 100
    return sentence


def test_hostile_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    for name, (content, says) in (START | TENSORS | FIT).items():
        assert says in refusal(tmp_path, content), name
    for name, (content, _) in METADATA.items():
        assert "cannot be read as safetensors: " in refusal(tmp_path, content), name
    for name, (content, says) in (START | METADATA).items():
        with pytest.raises(TensorFileError) as found:
            metadata_of(content)
        assert says in str(found.value), name
        assert "\n" not in str(found.value), name


def test_a_key_twice_among_many_is_refused_at_once(tmp_path: Path) -> None:
    """Comparing all with all would take an hour."""
    keys = ",".join(f'"{number}":0' for number in range(200_000))
    assert "expected struct TensorInfo" in refusal(tmp_path, file_of(f'{{{keys},"199999":0}}'.encode()))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    places=st.lists(st.tuples(st.integers(0, 200), st.sampled_from([*b'[]{}",:0-9e\\', 0, 255])), max_size=6),
    cut=st.integers(0, 20) | st.none(),
    noise=st.binary(max_size=40),
)
def test_any_file_is_read_or_refused(
    places: list[tuple[int, int]], cut: int | None, noise: bytes, tmp_path: Path
) -> None:
    content = bytearray(save({"a": torch.zeros(2, 3), "b": torch.zeros(0)}, {"format": "pt"}))
    for place, byte in places:
        content[place % len(content)] = byte
    changed = bytes(content[: len(content) - cut] if cut else content) + (noise if cut == 0 else b"")
    for one in (changed, noise):
        with suppress(TensorFileError):
            metadata_of(one)
        with suppress(Impossible):
            tensors = load_tensors(written(tmp_path, one))
            assert sum(tensor.nbytes for tensor in tensors.values()) <= len(one)


def test_no_more_than_the_header_is_read() -> None:
    content = save({"a": torch.zeros(1000)})
    asked: list[tuple[int, int]] = []

    def read(begin: int, end: int) -> bytes:
        asked.append((begin, end))
        return content[begin:end]

    read_header(read, len(content))
    assert sum(end - begin for begin, end in asked) <= len(content) - 4000


def test_a_header_that_safetensors_would_read_for_minutes_is_refused_by_its_length(tmp_path: Path) -> None:
    content = file_of(b" " * (LARGEST_HEADER + 1))
    assert "at most 8,388,608 are read" in refusal(tmp_path, content)
