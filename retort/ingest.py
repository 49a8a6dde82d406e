"""The spec of a job of kind `ingest`: the source of images, and how they become a data set. No torch."""

from __future__ import annotations

import codecs
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from retort.dataset import WHITE, Colour
from retort.datasets._roots import LONGEST_PATH, PATH_PATTERN
from retort.recipe import Deadline, Seed
from retort.spec import AtMost, Spec

ARCHIVE, REPORT, THUMBNAILS = "dataset.tar", "report.json", "thumbnails.jpg"
"""The files that such a job leaves: the data set; its description, as JSON of `facts` and `report`; and small images of
each class, see retort.ingestion.thumbnails."""
LONGEST_SECONDS = 6 * 3600.0
"""Seconds that an ingestion may last unless the spec gives others: the largest public sets take a fraction of that."""

MOST_FILES = 1_500_000
"""Files that a source may have unless a setting gives another number: the largest public set of images has 1.4
million."""


Name = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
"""Of a folder, a file, a column or a class, as the source has it."""
MOST_NAMES = 1000
"""Names of splits' folders, or of lists, that a spec may give."""
MOST_CLASSES = 100_000
CodePage = Literal[
    "utf-8", "utf-16", "utf-16-le", "utf-16-be", "cp437", "cp850", "cp852", "cp866", "cp874", "cp932", "cp949", "cp950",
    "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "big5", "euc_jp",
    "euc_kr", "gb18030", "gbk", "iso8859-1", "iso8859-2", "iso8859-5", "iso8859-7", "iso8859-9", "iso8859-15", "koi8-r",
    "koi8-u", "mac-cyrillic", "mac-roman", "shift_jis",
]  # fmt: skip


def _common_name(found: Any) -> Any:
    """The name of a code page as it stands above, where it was given by another that Python knows."""
    try:
        name = codecs.lookup(found).name
    except (LookupError, TypeError, ValueError):
        return found
    return name if name in get_args(CodePage) else found


Layout = Literal["auto", "folders", "split_folders", "inner_folders", "file_names", "list"]


class Columns(Spec):
    """Columns of lists, by their names in the first row, or by their numbers from 1 where it names none; null is found
    by the columns' names and contents."""

    path: Name | None = None
    """Column of the images' files."""
    label: Name | None = None
    """Column of the classes."""
    split: Name | None = None
    """Column of the splits."""


class Origin(Spec):
    """The source of the images: one of these."""

    upload: str | None = Field(default=None, pattern=r"^upload_[0-9a-z]+$")
    """Id of a finished upload of kind `dataset`: a tar, tar.gz, tar.zst or zip archive."""
    folder: str | None = Field(default=None, min_length=1, max_length=LONGEST_PATH, pattern=PATH_PATTERN)
    """A folder of the workers' machines, under one that the server allows (RETORT_DATA_ROOTS)."""

    @model_validator(mode="after")
    def _is_one(self) -> Origin:
        if (self.upload is None) == (self.folder is None):
            found = "neither upload nor folder is given" if self.upload is None else "both upload and folder are given"
            raise PydanticCustomError("one_origin", "{found}; wanted one of them", {"found": found})
        return self


class SplitNames(Spec):
    """Names of splits, of folders or in a list's column, besides the usual ones; each split may have several."""

    train: Annotated[tuple[Name, ...], AtMost(MOST_NAMES)] = ()
    """Names of the training split."""
    validation: Annotated[tuple[Name, ...], AtMost(MOST_NAMES)] = ()
    """Names of the validation split."""
    test: Annotated[tuple[Name, ...], AtMost(MOST_NAMES)] = ()
    """Names of the test split."""

    def by_name(self) -> dict[str, str]:
        """The split of each name."""
        return {name: split for split in ("train", "validation", "test") for name in getattr(self, split)}

    @model_validator(mode="after")
    def _differ(self) -> SplitNames:
        names = [*self.train, *self.validation, *self.test]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise PydanticCustomError("split_name_twice", "the name {found} stands twice", {"found": repr(twice)})
        return self


class Splits(Spec):
    """The making of splits that the source does not have; each class gives its share, which a seed draws."""

    validation_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of each class's training images that becomes the validation split where there is none."""
    test_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of each class's training images that becomes the test split where there is none."""
    seed: Seed = 0
    """Rules the choice of these images."""
    names: SplitNames = SplitNames()
    """Names of splits, of folders or in a list's column, besides the usual ones."""


class Tolerance(Spec):
    """Limits of an ingestion."""

    broken: int = Field(default=0, ge=0, le=1_000_000)
    """Number of images that may be broken: they are left out and named in the report. With more the job fails."""
    missing: int = Field(default=0, ge=0, le=10_000_000)
    """Number of files that lists may name and that are not there. With more the job fails."""
    files: int | None = Field(default=None, ge=1)
    """Number of entries of any kind that an archive or a folder may have; null is as many as the server allows. Of a
    zip no more than 300,000 are read."""


class Ingest(Spec):
    """Images taken in as a data set: looked at one by one, split, and stored so that recipes can name them."""

    ingest_version: Literal[1] = 1
    """Version of this contract."""
    name: str = Field(min_length=1, max_length=200)
    """Name of the data set, for people."""
    source: Origin
    """Upload or folder of the images."""
    layout: Layout = "auto"
    """The source of classes and splits. `auto` reads a list of the images, or else folders, and fails where more than
    one reading is possible. `folders`: each outermost folder is a class. `split_folders`: the outermost folders are
    splits, and those in them classes. `inner_folders`: the innermost folder of each image is its class. `file_names`:
    the names of files begin with one of `classes`. `list`: lists alone."""
    lists: Annotated[tuple[Name, ...], AtMost(MOST_NAMES)] = ()
    """Names of the files that are lists of the images, if not all that look like it."""
    columns: Columns = Columns()
    """Columns of lists."""
    encoding: Annotated[CodePage, BeforeValidator(_common_name)] | None = None
    """Code page of names in an archive, and of lists, that are not UTF-8."""
    classes: Annotated[tuple[Name, ...], AtMost(MOST_CLASSES)] = ()
    """Names of the classes in their order, which may be spelt in other cases in the source; images of no other are
    taken. Without any, all that are found, sorted by name."""
    splits: Splits = Splits()
    """The making of missing splits."""
    limits: Tolerance = Tolerance()
    """Limits of an ingestion."""
    image_size: int = Field(default=224, ge=8, le=1024)
    """Side of the square that images are resized to unless a recipe gives another, in pixels; images are stored as they
    are."""
    background: Colour = WHITE
    """Colour on which transparent pixels are laid: red, green and blue, 0 to 255."""
    deadline: Deadline = Deadline(seconds=LONGEST_SECONDS)
    """Limit of its time."""

    @model_validator(mode="after")
    def _has_classes(self) -> Ingest:
        if len(self.classes) == 1 or len(set(self.classes)) < len(self.classes):
            found = "one name" if len(self.classes) == 1 else "a name twice"
            raise PydanticCustomError(
                "classes", "classes has {found}; wanted at least two, each once, or none", {"found": found}
            )
        return self
