"""Paths, cells and columns of lists, in the ways that people write them."""

from __future__ import annotations

import json
import unicodedata

import pytest

from retort.dataset import DatasetError
from retort.ingestion.layout import find_layout
from tests.retort.ingestion.packing import request

CAFE = "caf\u00e9"
IMAGES = (f"pictures/{CAFE}/1.jpg", "pictures/bar/1.jpg", "pictures/bar/2 b.JPEG", "pictures/bar/3.v2.png", "0004.png")


@pytest.mark.parametrize(
    ("cell", "meant"),
    [
        ("bar/1.jpg", "pictures/bar/1.jpg"),
        ("BAR/1.JPG", "pictures/bar/1.jpg"),
        ("bar\\1", "pictures/bar/1.jpg"),
        (".\\bar\\1.jpg", "pictures/bar/1.jpg"),
        ("/home/me/pictures/bar/1.jpg", "pictures/bar/1.jpg"),
        ("D:\\data\\pictures\\bar\\1.jpg", "pictures/bar/1.jpg"),
        ("https://example.org/pictures/bar/1.jpg?size=2", "pictures/bar/1.jpg"),
        ("../pictures/bar/1.jpg", "pictures/bar/1.jpg"),
        ("2 b", "pictures/bar/2 b.JPEG"),
        ("2%20b.jpg", "pictures/bar/2 b.JPEG"),
        (" '2 b.jpeg' ", "pictures/bar/2 b.JPEG"),
        ("3.v2", "pictures/bar/3.v2.png"),
        (unicodedata.normalize("NFD", f"{CAFE}/1.jpg"), f"pictures/{CAFE}/1.jpg"),
        ("CAFE\u0301/1", f"pictures/{CAFE}/1.jpg"),
        ("caf%C3%A9/1.jpg", f"pictures/{CAFE}/1.jpg"),
        ("0004", "0004.png"),
        ("1.jpg", None),
        ("foo/1.jpg", None),
        ("4", None),
        ("3.v2.jpg", None),
        ("../../etc/passwd", None),
    ],
)
def test_paths_mean_images_in_many_spellings(cell: str, meant: str | None) -> None:
    """None is a path that no image, or more than one, is like."""
    text = (
        f"path\tlabel\n{cell}\tx\npictures/bar/1.jpg\ty\n"
        if meant != "pictures/bar/1.jpg"
        else f"path\tlabel\n{cell}\tx\n"
    )
    sent = request(layout="list", classes=["x", "y"])
    if meant is None:
        with pytest.raises(
            DatasetError, match=r"row 1 of notes/l.tsv: .* may be |l.tsv names 1 files that are not there"
        ):
            find_layout(IMAGES, {"notes/l.tsv": text.encode()}, sent)
        return
    text += "0004.png\ty\n" if meant != "0004.png" else ""
    layout = find_layout(IMAGES, {"notes/l.tsv": text.encode()}, sent)
    assert (meant, 0) in layout.splits["train"]


LIST = "path,label\na.jpg,K\u00e4fer\nb.jpg,Raupe\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_lists_in_unicode_are_read(encoding: str) -> None:
    layout = find_layout(("a.jpg", "b.jpg"), {"l.csv": LIST.encode(encoding)}, request())
    assert layout.class_names == ("K\u00e4fer", "Raupe")


def test_lists_in_code_pages_want_a_field_where_it_matters() -> None:
    images = ("a.jpg", "b.jpg")
    with pytest.raises(DatasetError) as refused:
        find_layout(images, {"l.csv": LIST.encode("cp1252")}, request())
    assert str(refused.value) == (
        "row 1 of l.csv: 'K\\xe4fer' is not in UTF-8 ('K\u00e4fer' in cp1252, 'K\u00f5fer' in cp850, 'K\u03a3fer' in "
        "cp437, 'K\u0434fer' in cp1251, 'K\u0444fer' in cp866); `encoding` says what it is in"
    )
    for name in ("cp1252", "windows-1252", "latin1"):
        layout = find_layout(images, {"l.csv": LIST.encode("cp1252")}, request(encoding=name))
        assert layout.class_names == ("K\u00e4fer", "Raupe")
    elsewhere = "path,label,note\na.jpg,x,sch\u00f6n\nb.jpg,y,\n"
    assert find_layout(images, {"l.csv": elsewhere.encode("cp1252")}, request()).class_names == ("x", "y")
    with pytest.raises(DatasetError, match=r"l.csv is not in the `encoding` gbk: .* at byte \d+"):
        find_layout(images, {"l.csv": b"path,label\na.jpg,\xff\xff\n"}, request(encoding="gbk"))


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.jpg,cat|dog\nb.jpg,cat\n",
        "path,labels\na.jpg,1;2\nb.jpg,2;3\nc.jpg,1;3\nd.jpg,1;2;3\n",
        "file,cat,dog\na.jpg,1,1\nb.jpg,0,1\n",
        "file,cat,dog\na.jpg,0,0\nb.jpg,0,1\n",
        "path,label\na.jpg,cat\na.jpg,dog\nb.jpg,cat\n",
        json.dumps([{"file": "a.jpg", "labels": ["cat", "dog"]}]),
        json.dumps({"a.jpg": ["cat", "dog"], "b.jpg": ["cat"]}),
        json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [
            {"image_id": 1, "category_id": 1}, {"image_id": 1, "category_id": 2}]}),
    ],
)  # fmt: skip
def test_images_of_several_classes_are_refused(text: str) -> None:
    name = "l.json" if text[0] in "[{" else "l.csv"
    with pytest.raises(DatasetError, match="wanted one class an image"):
        find_layout(("a.jpg", "b.jpg", "c.jpg", "d.jpg"), {name: text.encode()}, request(layout="list"))


def test_classes_that_are_asked_for_are_one_each_whatever_their_names_hold() -> None:
    text = b"path,label\na.jpg,cat &amp; dog\nb.jpg,dog\n"
    with pytest.raises(DatasetError, match="wanted one class an image, or `classes` with that name"):
        find_layout(("a.jpg", "b.jpg"), {"l.csv": text}, request())
    layout = find_layout(("a.jpg", "b.jpg"), {"l.csv": text}, request(classes=["cat &amp; dog", "dog"]))
    assert layout.class_names == ("cat &amp; dog", "dog")


def test_commas_within_names_are_no_several_classes() -> None:
    names = [f"{first}, {second}" for first in "abc" for second in "xyz"]
    text = "path,label\n" + "".join(f'{i}.jpg,"{name}"\n' for i, name in enumerate(names))
    layout = find_layout([f"{i}.jpg" for i in range(9)], {"l.csv": text.encode()}, request())
    assert layout.class_names == tuple(names)


def test_a_list_of_other_things_is_left_out_by_name() -> None:
    images = ("x/1.jpg", "x/2.jpg", "y/1.jpg", "y/2.jpg")
    layout = find_layout(images, {"prices.csv": b"day,price\n1,2\n2,3\n", "n.txt": b"hello\n"}, request())
    assert (layout.class_names, layout.stray) == (("x", "y"), ["prices.csv", "n.txt"])
    with pytest.raises(
        DatasetError, match=r"no list with a column of images and one of classes was found among n.txt, p"
    ):
        find_layout(images, {"prices.csv": b"day,price\n1,2\n", "n.txt": b"hello\n"}, request(layout="list"))


def test_files_that_are_not_there_are_allowed_by_number() -> None:
    text = b"path,label\na.jpg,x\nb.jpg,y\nc.jpg,y\n"
    with pytest.raises(
        DatasetError, match=r"l.csv names 1 files that are not there .*: c.jpg; `limits.missing` allows"
    ):
        find_layout(("a.jpg", "b.jpg"), {"l.csv": text}, request())
    layout = find_layout(("a.jpg", "b.jpg"), {"l.csv": text}, request(limits={"missing": 1}))
    assert layout.warnings == ["l.csv names 1 files that are not there or are no pictures: c.jpg"]


def test_a_form_for_answers_is_no_list() -> None:
    lists = {"train.csv": b"id,label\na,x\nb,y\n", "sample_submission.csv": b"id,label\nc,x\nd,x\n"}
    layout = find_layout(("train/a.jpg", "train/b.jpg", "test/c.jpg", "test/d.jpg"), lists, request())
    assert layout.splits == {"train": [("train/a.jpg", 0), ("train/b.jpg", 1)]}
    assert layout.warnings == [
        "2 images of the test split, such as test/c.jpg, stand in no list and are left out",
        "left out, as a form for answers: sample_submission.csv",
    ]


def test_numbers_are_named_by_a_file_of_classes() -> None:
    for name, text in (
        ("classes.txt", "1 cat\n0 dog\n"),
        ("label_names.csv", "name,id\ncat,1\ndog,0\n"),
        ("class_to_idx.json", '{"cat": 1, "dog": 0}'),
        ("classes.txt", "dog\ncat\n"),
    ):
        lists = {"l.csv": b"path,label\n0.jpg,0\n1.jpg,1\n", name: text.encode()}
        layout = find_layout(("0.jpg", "1.jpg"), lists, request())
        assert layout.class_names == ("cat", "dog"), name
        assert layout.splits["train"] == [("1.jpg", 0), ("0.jpg", 1)], name
        assert layout.found_by.endswith(f", names of classes in {name}")


def test_numbers_of_rows_are_no_classes() -> None:
    images = [f"images/{'ab'[i % 2]}/{i}.jpg" for i in range(12)]
    numbered = "".join(f"{i + 1} {name.removeprefix('images/')}\n" for i, name in enumerate(images))
    layout = find_layout(images, {"images.txt": numbered.encode()}, request())
    assert (layout.class_names, layout.found_by) == (("a", "b"), "folders of classes")
    with_index = ",id,file,label\n" + "".join(f"{i},{i},{i}.jpg,{'xy'[i % 2]}\n" for i in range(12))
    layout = find_layout(images, {"l.csv": with_index.encode()}, request())
    assert layout.found_by == "the list l.csv (file as path, label as label)"


def test_labels_are_in_the_composed_form() -> None:
    text = "path,label\na.jpg,caf\u00e9\nb.jpg,cafe\u0301\nc.jpg,bar\n"
    layout = find_layout(("a.jpg", "b.jpg", "c.jpg"), {"l.csv": text.encode()}, request())
    assert layout.class_names == ("bar", "caf\u00e9")


def test_tables_that_are_no_text_are_not_passed_over() -> None:
    images = ("camera_1/1.jpg", "camera_2/1.jpg")
    with pytest.raises(DatasetError, match=r"labels.xlsx may be a list of the images and is no text; wanted it as CSV"):
        find_layout(images, {"labels.xlsx": b"PK"}, request())
    assert find_layout(images, {"labels.xlsx": b"PK"}, request(layout="folders")).stray == ["labels.xlsx"]


def test_a_column_that_no_list_has_is_named() -> None:
    with pytest.raises(
        DatasetError, match=r"`columns.label` is 'x', which no list has \(l.csv has the columns kind, path"
    ):
        find_layout(("1.jpg", "2.jpg"), {"l.csv": b"path,kind\n1.jpg,a\n2.jpg,b\n"}, request(columns={"label": "x"}))


@pytest.mark.parametrize(
    "text",
    [b"1.jpg," * 200_000, b"\n" * 500_000, (b"1.jpg," * 2_000 + b"\n") * 20, b"x" * 2_000_000, b"\0" * 1000],
)
def test_lists_that_somebody_made_to_do_harm_cost_little(text: bytes) -> None:
    layout = find_layout(("a/1.jpg", "b/2.jpg"), {"l.csv": text}, request())
    assert layout.class_names == ("a", "b")


def test_many_images_of_one_name_are_told_apart_by_their_folders() -> None:
    images = [f"photos/{i}/1.jpg" for i in range(200)]
    rows = "".join(f"old/place/{i}/1.jpg,{'ab'[i % 2]}\n" for i in range(200))
    with pytest.raises(DatasetError, match=r"l.csv names 200 files that are not there"):
        find_layout(images, {"l.csv": f"path,label\n{rows}".encode()}, request())
    rows = rows.replace("old/place", "old/photos")
    layout = find_layout(images, {"l.csv": f"path,label\n{rows}".encode()}, request())
    assert dict(layout.splits["train"]) == {name: i % 2 for i, name in enumerate(images)}
    with pytest.raises(DatasetError, match=r"row 1 of l.csv: '1.jpg' may be 'photos/0/1.jpg' or 'photos/1/1.jpg'"):
        find_layout(images, {"l.csv": b"path,label\n1.jpg,a\n"}, request())
