"""Which image is of which class and split, by the names of folders and by lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retort.dataset import DatasetError
from retort.ingestion.layout import ImageLayout, find_layout, lists_among, may_matter
from tests.retort.ingestion.packing import flowers, pictures, request, take_in, tar, zipped


def found(*names: str, **lists: str) -> ImageLayout:
    """The layout of files; a list's name is given with _ for its point."""
    return find_layout(names, {name.replace("_", "."): text.encode() for name, text in lists.items()}, request())


@pytest.mark.parametrize("before", ["", "flowers/", "Train/"])
def test_folders_of_classes_with_and_without_one_that_wraps_them(before: str) -> None:
    layout = found(*(before + name for name in ("aster/1.png", "aster/2.png", "poppy/1.png")), f"{before}loose.png")
    assert layout.class_names == ("aster", "poppy")
    assert [(name.removeprefix(before), label) for name, label in layout.splits["train"]] == [
        ("aster/1.png", 0),
        ("aster/2.png", 0),
        ("poppy/1.png", 1),
    ]
    assert layout.stray == [f"{before}loose.png"]


@pytest.mark.parametrize("before", ["", "flowers/"])
@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Training", "Valid", "Testing"), ("train", "validation", "test")]
)
def test_folders_of_parts(before: str, names: tuple[str, str, str]) -> None:
    train, _, test = names
    layout = found(
        *(f"{before}{split}/{name}/{i}.png" for split in names for name in ("poppy", "aster") for i in range(2)),
        f"{before}extra/aster/1.png",
        f"{before}{train}/loose.png",
        f"{before}{test}/aster/inner/deep.png",
    )
    assert layout.class_names == ("aster", "poppy")
    assert {split: len(listed) for split, listed in layout.splits.items()} == {"train": 4, "validation": 4, "test": 5}
    assert layout.splits["test"][2] == (f"{before}{test}/aster/inner/deep.png", 0)
    assert sorted(layout.stray) == sorted([f"{before}extra/aster/1.png", f"{before}{train}/loose.png"])
    assert layout.found_by == "folders of classes in folders of splits"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "no image was found; wanted files like class/1.jpg, or a list beside the images"),
        (("1.png", "2.png"), "no class was found; at least 2 are wanted"),
        (("aster/1.png", "aster/2.png"), "only one class was found, 'aster'; at least 2 are wanted"),
        (("val/a/1.png", "test/a/1.png"), "the folders test, val hold images, and none to train on was found"),
        (
            ("train/a/1.png", "train/b/1.png", "val/a/1.png", "valid/a/1.png"),
            "the folders val, valid are both the validation split; wanted one",
        ),
        (
            ("train/a/1.png", "train/b/1.png", "test/c/1.png"),
            "the test split holds classes that the train split lacks: c",
        ),
        (("a\tb/1.png", "c/1.png"), "the class 'a\\tb' has a name that is not plain text: U+0009; `classes` gives"),
        (("a\u202eb/1.png", "c/1.png"), "the class 'a\\u202eb' has a name that is not plain text: U+202E RIGHT-TO-"),
        (("caf\\xe9/1.png", "c/1.png"), "the class 'caf\\xe9' is not in UTF-8 ('café' in cp1252, "),
        (("c" * 201 + "/1.png", "c/1.png"), f"the class '{'c' * 77}...' has a name that is not plain text"),
    ],
)  # fmt: skip
def test_what_is_no_data_set_is_told(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(DatasetError) as refused:
        find_layout(names, {}, request())
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize("base", ["", "flowers/"])
def test_a_list_in_csv(base: str) -> None:
    rows = ("\ufeffPath, Label, split, note", "a.png,poppy,train,", "deep/b.png,aster,,", "./c.png,aster,val,x")
    text = "\r\n".join([*rows, "d.png,poppy,Test,", ""])
    names = [base + name for name in ("a.png", "deep/b.png", "c.png", "d.png", "e.png")]
    layout = find_layout(
        names, {f"{base}labels.csv": text.encode(), f"{base}other.csv": b"size,price\n1,2\n"}, request()
    )
    assert layout.found_by == f"the list {base}labels.csv (Path as path, Label as label, split as split)"
    assert layout.class_names == ("aster", "poppy")
    assert layout.splits == {
        "train": [(f"{base}deep/b.png", 0), (f"{base}a.png", 1)],
        "validation": [(f"{base}c.png", 0)],
        "test": [(f"{base}d.png", 1)],
    }
    assert layout.stray == [f"{base}e.png", f"{base}other.csv"]


@pytest.mark.parametrize("name", ["l.txt", "l.lst"])
def test_lists_of_numbers_and_whole_floats_are_read_in_their_order(name: str) -> None:
    images = [f"img/{i}.jpg" for i in range(24)]
    rows = "".join(f"{i}\t{i % 12:.6f}\t{image}\n" for i, image in enumerate(images))
    layout = find_layout(images, {name: rows.encode()}, request())
    assert layout.class_names == tuple(f"{i:.6f}" for i in range(12))


@pytest.mark.parametrize("before", ["# labels of 2019\n", "Labels\n\n", "My labels,,\n,,\n", "# one\n# two\n# three\n"])
def test_titles_and_comments_before_a_list_are_passed_over(before: str) -> None:
    layout = found("img/a.png", "img/b.png", l_csv=f"{before}image,label,note\na.png,cat,x\nb.png,dog,\n")
    assert (layout.class_names, layout.found_by) == (("cat", "dog"), "the list l.csv (image as path, label as label)")


@pytest.mark.parametrize("text", ["a.png: cat\nb.png: dog\n", "x,y\n1,2\n", "<a>", "a.png\nb.png\n"])
def test_a_refusal_of_folders_names_the_files_that_are_no_lists(text: str) -> None:
    with pytest.raises(DatasetError, match=r"only one class was found, 'img'.*; no list of classes was found in l.txt"):
        found("img/a.png", "img/b.png", l_txt=text)


def test_labels_that_are_numbers_sort_as_numbers() -> None:
    lines = [json.dumps({"path": f"{label}.png", "label": label}) for label in (10, 9, 2)]
    layout = found("10.png", "9.png", "2.png", list_jsonl="\n".join([*lines, ""]))
    assert layout.class_names == ("2", "9", "10")
    assert layout.splits == {"train": [("2.png", 0), ("9.png", 1), ("10.png", 2)]}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("m_csv", "path,label\na.png,x\nz.png,y\n", "m.csv names 1 files that are not there or are no pictures"),
        ("m_csv", "path,label\na.png,x\na.png,y\n", "row 2 of m.csv gives 'a.png' another label or split than a row"),
        ("m_csv", "path,label,split\na.png,x,dev\n", "row 1 of m.csv has the split 'dev'; wanted train, validation or"),
        ("m_csv", "path,label\na.png,\n", "row 1 of m.csv has no label; wanted text or a whole number"),
        ("m_csv", "path,label\n,x\n", "row 1 of m.csv has no path"),
        ("m_csv", 'path,label\n"a.png,x\n', "row 1 of m.csv cannot be read: "),
        ("m_csv", "path,label\n../z.png,x\n", "m.csv names 1 files that are not there or are no pictures: "),
        ("m_csv", "path,label\n/etc/passwd,x\n", "m.csv names 1 files that are not there or are no pictures: "),
        ("m_csv", "path,label\n", "no class was found"),
        ("m_jsonl", '{"path": "a.png", "label": 1}\n{"path": "b.png"\n', "row 2 of m.jsonl cannot be read: "),
        ("m_jsonl", '{"path": "a.png", "label": 1}\n[]\n', "row 2 of m.jsonl is not an object with path and label"),
        ("m_jsonl", '{"path": "a.png", "label": true}\n', "row 1 of m.jsonl has no label; wanted text"),
        ("m_jsonl", '{"path": "a.png", "label": 1}\n' + "9" * 5000, "row 2 of m.jsonl cannot be read: Exceeds the"),
        ("m_csv", '"path,label\n', "no class was found"),
        ("m_jsonl", '{"path": [5], "label": 1}\n', "row 1 of m.jsonl has no path"),
        ("m_jsonl", '{"path": 5, "label": 1}\n', "m.jsonl names 1 files that are not there or are no pictures: "),
    ],
)  # fmt: skip
def test_a_wrong_list_is_told_by_its_row(name: str, text: str, said: str) -> None:
    with pytest.raises(DatasetError) as refused:
        found("a.png", "b.png", **{name: text})
    assert str(refused.value).startswith(said)


def test_two_lists_are_one_too_many() -> None:
    with pytest.raises(DatasetError, match=r"2 lists were found \(a.csv, b.csv\); wanted one"):
        found("1.png", a_csv="path,label\n1.png,x\n", b_csv="path,label\n1.png,x\n")


@pytest.mark.parametrize(
    "name",
    [
        *("aster/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "$RECYCLE.BIN/1.png", "THUMBS.DB", "aster/Icon\r"),
        *(".DS_Store", "aster/.DS_Store", "__MACOSX/aster/._1.png", "aster/Thumbs.db", ".git/aster/1.png"),
        *("aster/.1.png", "aster/desktop.ini"),
    ],
)
def test_what_systems_leave_does_not_matter(name: str) -> None:
    assert not may_matter(name)


def test_notes_on_single_images_are_no_lists() -> None:
    notes = [f"labels/{i}.txt" for i in range(51)]
    assert lists_among([*notes, "labels/all.csv", "1.txt", "1.png"]) == ["1.txt", "labels/all.csv"]


@pytest.mark.parametrize("pack", [tar, zipped])
def test_stray_files_are_told_and_left_out(tmp_path: Path, pack: object) -> None:
    assert callable(pack)
    stray = {"x/.DS_Store": b"", "__MACOSX/x/._1.png": b"", "x/README": b"hi", "x/aster/Thumbs.db": b"?"}
    taken = take_in(tmp_path, pack({**flowers(before="x/"), **stray, **pictures("x/loose.png")}))
    assert taken.report["stray"] == {
        "count": 5,
        "files": ["__MACOSX/x/._1.png", "x/.DS_Store", "x/README", "x/aster/Thumbs.db", "x/loose.png"],
    }
    (warning,) = [text for text in taken.warnings() if text.startswith("left out")]
    assert warning.endswith("(5 in all)")
    assert not [name for listed in taken.names().values() for name, _ in listed if name in stray]
