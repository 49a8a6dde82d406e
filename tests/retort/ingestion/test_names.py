"""Names of files and classes that lie: in other encodings, in several spellings, with characters that nobody sees."""

from __future__ import annotations

import struct
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from retort.dataset import DatasetError
from retort.ingestion.layout import find_layout
from retort.ingestion.members import Bounds, members_of
from tests.retort.ingestion.packing import request, tar

Entries = Mapping[bytes, int]


def zip_of(names: Mapping[bytes, str | None], flags: int = 0, system: int = 0) -> bytes:
    """A zip of empty files by the bytes of their names, each perhaps with a further field that has its name in
    UTF-8."""
    body, listed = b"", b""
    for name, further in names.items():
        extra = b""
        if further is not None:
            field = struct.pack("<BI", 1, zlib.crc32(name)) + further.encode()
            extra = struct.pack("<HH", 0x7075, len(field)) + field
        sizes = struct.pack("<IIIHH", 0, 0, 0, len(name), len(extra))
        listed += (
            b"PK\1\2"
            + struct.pack("<BBHHHHH", 20, system, 20, flags, 0, 0, 33)
            + sizes
            + struct.pack("<HHHII", 0, 0, 0, 0, len(body))
            + name
            + extra
        )
        body += b"PK\3\4" + struct.pack("<HHHHH", 20, flags, 0, 0, 33) + sizes + name + extra
    ends = struct.pack("<HHHHIIH", 0, 0, len(names), len(names), len(listed), len(body), 0)
    return body + listed + b"PK\5\6" + ends


def names_in(place: Path, content: bytes, encoding: str | None = None) -> list[str]:
    file = place / "archive"
    file.write_bytes(content)
    return [member.name for member in members_of(file, Bounds(), encoding)]


@pytest.mark.parametrize("encoding", ["gbk", "cp932", "cp949", "cp437", "cp1251"])
def test_names_of_a_zip_in_a_code_page(tmp_path: Path, encoding: str) -> None:
    words = {"gbk": "猫狗", "cp932": "猫表", "cp949": "고양", "cp437": "äö", "cp1251": "Жк"}[encoding]
    names = [f"{word}/1.jpg" for word in words]
    content = zip_of({name.encode(encoding): None for name in names})
    assert names_in(tmp_path, content, encoding) == names
    unread = names_in(tmp_path, content)
    with pytest.raises(DatasetError, match=r"is not in UTF-8 .*; `encoding` says what it is in") as refused:
        find_layout([name for name in unread if name.endswith(".jpg")], {}, request())
    assert any(f"'{word}' in " in str(refused.value) for word in words)


def test_names_of_a_zip_in_utf_8(tmp_path: Path) -> None:
    names = ["caf\u00e9/1.jpg", "\u732b/2.jpg", "\u3042\u3044/3.jpg"]
    marked, unmarked = (zip_of({name.encode(): None for name in names}, flags) for flags in (0x800, 0))
    for content in (marked, unmarked):
        assert names_in(tmp_path, content) == names_in(tmp_path, content, "gbk") == names
    further = zip_of({b"caf\x82/1.jpg": "caf\u00e9/1.jpg", b"\xff\xff/2.jpg": "\u732b/2.jpg"})
    assert names_in(tmp_path, further) == names[:2]
    lying = further.replace(struct.pack("<I", zlib.crc32(b"caf\x82/1.jpg")), b"\0\0\0\0")
    assert names_in(tmp_path, lying)[0] == "caf\\x82/1.jpg"
    # Two bytes in GBK that are UTF-8 by chance, as Windows writes them; and the same as macOS does.
    assert names_in(tmp_path, zip_of({b"\xc3\xa8/1.jpg": None})) == ["\\xc3\\xa8/1.jpg"]
    assert names_in(tmp_path, zip_of({b"\xc3\xa8/1.jpg": None}, system=3)) == ["\u00e8/1.jpg"]


def test_names_of_a_tar_in_a_code_page(tmp_path: Path) -> None:
    content = tar({"K\udce4fer/1.jpg": b"", "caf\u00e9/1.jpg": b""}, form=tarfile.GNU_FORMAT)
    assert names_in(tmp_path, content) == ["K\\xe4fer/1.jpg", "caf\u00e9/1.jpg"]
    assert names_in(tmp_path, content, "cp1252") == ["K\u00e4fer/1.jpg", "caf\u00e9/1.jpg"]


def test_strange_names_of_files_alone_are_told_and_taken_in() -> None:
    layout = find_layout(["a/\\xb9\\xb7.jpg", "b/1.jpg"], {}, request())
    assert layout.class_names == ("a", "b")
    (warning,) = layout.warnings
    assert warning.startswith("1 names are not text, such as 'a/\\xb9\\xb7.jpg' is not in UTF-8 ('a/\u72d7.jpg' in gbk")


@pytest.mark.parametrize(
    "name",
    [
        *("\u06a9\u062a\u0627\u0628\u200c\u0647\u0627", "\u0915\u094d\u200d\u0937", "\u0d28\u0d4d\u200d"),
        *("\U0001f469\u200d\U0001f692", "\U0001f3f3\ufe0f\u200d\U0001f308", "golden\u00a0retriever"),
        *("\u732b\u3000\u72ac", "\u0153illet d'Inde", "C++ (2)", "100%"),
    ],
)  # fmt: skip
def test_classes_in_all_scripts(name: str) -> None:
    assert set(find_layout([f"{name}/1.jpg", "x/1.jpg"], {}, request()).class_names) == {name, "x"}


@pytest.mark.parametrize("odd", ["\u202e", "\u200e", "\ufeff", "\u00ad", "\u200b", "\u0007"])
def test_characters_that_nobody_sees_are_named_and_left_out_by_a_field(odd: str) -> None:
    images = [f"ca{odd}t/1.jpg", "dog/1.jpg"]
    with pytest.raises(DatasetError) as refused:
        find_layout(images, {}, request())
    assert f"U+{ord(odd):04X}" in str(refused.value)
    assert str(refused.value).isprintable()
    assert find_layout(images, {}, request(classes=["cat", "dog"])).splits == {
        "train": [(images[0], 0), (images[1], 1)]
    }


def test_a_joiner_between_latin_letters_is_no_spelling() -> None:
    with pytest.raises(DatasetError, match=r"U\+200D ZERO WIDTH JOINER"):
        find_layout(["ca\u200dt/1.jpg", "dog/1.jpg"], {}, request())


@pytest.mark.parametrize("other", ["Dog", "dog ", "DOG", "d\u043eg", "dog_"])
def test_one_name_in_two_spellings(other: str) -> None:
    """A Cyrillic letter is another one, and so are the names."""
    images = [f"{name}/{i}.jpg" for name in ("cat", "dog", other) for i in range(2)]
    if other == "d\u043eg":
        assert len(find_layout(images, {}, request()).class_names) == 3
        return
    with pytest.raises(DatasetError, match="are one name in several spellings; `classes`"):
        find_layout(images, {}, request())
    assert find_layout(images, {}, request(classes=["dog", "cat"])).class_names == ("dog", "cat")
    assert len(find_layout(images, {}, request(classes=["dog", "cat", other])).class_names) == 3
    apart = [f"train/{name}/1.jpg" for name in ("cat", "dog")] + [f"test/{other}/1.jpg"]
    layout = find_layout(apart, {}, request())
    assert layout.splits["test"] == [(f"test/{other}/1.jpg", 1)]
    assert layout.warnings == [f"the test split's class '{other}' is taken for the class 'dog'"]


def test_names_in_sentences_are_escaped() -> None:
    with pytest.raises(DatasetError) as refused:
        find_layout(["train/a\n\u202eb.jpg", "test\u202e/2.jpg"], {}, request())
    assert str(refused.value).isprintable()
