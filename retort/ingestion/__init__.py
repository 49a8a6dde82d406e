"""Ingestion of images as a data set: read, inspect each, split, store; the work of a job of kind `ingest`."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from hashlib import sha256
from itertools import chain
from pathlib import Path

from retort.dataset import Channels, DatasetError, Decoding
from retort.datasets._archive import SPLITS, ArchiveDescription, PackedFile, SplitDescription, in_blocks, write_archive
from retort.datasets._deep import DeepRange, white_of
from retort.datasets._listing import Labelled, first_few
from retort.datasets._memory import ONE_STEP
from retort.datasets._picture_formats import HEAD_BYTES, format_of, may_be_picture
from retort.datasets._pictures import QUEUED, threads
from retort.datasets._roots import Files, Roots, fetched
from retort.datasets._split import take_splits
from retort.engine.artifacts import Packer
from retort.engine.event_log import EventLog
from retort.engine.group import ALONE, Group
from retort.engine.interrupt import Impossible, Interrupt, NothingToKeep
from retort.ingest import ARCHIVE, REPORT, THUMBNAILS, Ingest
from retort.ingestion.blank import refuse_blank
from retort.ingestion.inspection import LARGEST_FILE, ImageFindings, inspect_image, measure_image
from retort.ingestion.layout import (
    LIST_BYTES,
    ImageLayout,
    find_layout,
    is_named_list,
    lists_among,
    may_matter,
    refuse_no_images,
)
from retort.ingestion.members import Bounds, Member, Stray, files_of, members_of
from retort.ingestion.names import shown
from retort.ingestion.report import Broken, report_of
from retort.ingestion.thumbnails import draw_thumbnails
from retort.order import Paths

Piece = tuple[int, int]
"""Offset of a file's bytes in the spool, and their number."""


class Ingestion:
    """Carries out a spec of kind `ingest`. Raises DatasetError or Impossible where the source cannot be ingested."""

    bounds = Bounds()
    """Limits of reading."""

    def __init__(
        self, spec: Ingest, paths: Paths, event_log: EventLog, interrupt: Interrupt, group: Group = ALONE
    ) -> None:
        self.spec = spec
        self.paths = paths
        self.event_log = event_log
        self.interrupt = interrupt
        self.stray = Stray()
        self.made: dict[str, float] = {}
        """The splits that the source did not have, with the share of each."""
        self.decoding = Decoding(background=spec.background)
        """Its white is measured while images are inspected."""

    def __call__(self) -> None:
        try:
            # Nothing of it is worth a checkpoint: a stopped run begins anew.
            with self.interrupt.at_once(nothing_to_keep=True):
                self._take_in()
        except NothingToKeep:
            raise NothingToKeep("asked to finish before the data set was whole: there is nothing to keep") from None

    def _take_in(self) -> None:
        with _spool(self.paths.directory / "spool") as spool:
            pieces = self._read(spool)
            lists, images = self._lists_and_images(spool, pieces)
            if not images:
                refuse_no_images([*self.stray.first(), *lists])
            layout = find_layout(images, lists, self.spec)
            self.stray.extend(layout.stray)
            findings, broken = self._inspect(spool, pieces, layout)
            self._refuse_broken(broken, len(findings) + len(broken))
            refuse_blank(layout, findings, self.decoding)
            splits = self._split(layout, findings)
            self._pack(spool, pieces, layout, splits, findings, broken)

    # Reading

    def _read(self, spool: int) -> dict[str, Piece]:
        """Copy all that may matter to the spool. Returns the place of each file there, by its name."""
        self.event_log.enter("reading")
        pieces: dict[str, Piece] = {}
        end = number = 0
        for number, member in enumerate(self._members(), 1):
            with closing(member.blocks()) as blocks:
                first = next(blocks, b"") if may_matter(member.name) else None
                if first is None or not _is_wanted(member, first[:HEAD_BYTES]):
                    self.stray.append(member.name)
                elif member.name in pieces:
                    raise DatasetError(f"the name {shown(member.name)} stands twice; each file needs a name of its own")
                else:
                    _copy(chain([first], blocks), spool)
                    pieces[member.name] = (end, member.size)
                    end += member.size
            self._progress(number, None)
        self._ended(number)
        return pieces

    def _lists_and_images(self, spool: int, pieces: dict[str, Piece]) -> tuple[dict[str, bytes], list[str]]:
        """Content of files that may be lists, by name, none where folders alone are asked for; and names of images.
        Raises DatasetError for more bytes of lists than are read."""
        named = {
            name
            for name, (place, size) in pieces.items()
            if is_named_list(name) and format_of(os.pread(spool, HEAD_BYTES, place)[:size]) is None
        }
        wanted = lists_among(named) if self.spec.layout in ("auto", "list") else []
        self.stray.extend(named.difference(wanted))
        size = sum(pieces[name][1] for name in wanted)
        if size > LIST_BYTES:
            raise DatasetError(
                f"{len(wanted)} files that may be lists ({first_few(wanted)}) have {size:,} bytes; at most "
                f'{LIST_BYTES:,} are read, and none with `layout` "folders"'
            )
        lists = {name: b"".join(in_blocks(spool, *pieces[name])) for name in wanted}
        return lists, [name for name in pieces if name not in named]

    def _members(self) -> Iterator[Member]:
        source, bounds = self.spec.source, replace(self.bounds, files=self.spec.limits.files or self.bounds.files)
        if source.folder is not None:
            roots = Roots(self.paths.data_roots)
            folder = roots.folder(source.folder)
            if not folder.is_dir():
                raise DatasetError(f"{source.folder!r} is not a folder")
            return files_of(Files(folder, roots), self.stray, bounds, self.spec.encoding)
        assert source.upload is not None, "the spec says so"
        file = fetched(self.paths.data_roots, source.upload)
        if file is None:
            raise DatasetError(f"the upload {source.upload!r} was not fetched to this machine")
        return members_of(file, bounds, self.spec.encoding)

    # Inspecting

    def _inspect(
        self, spool: int, pieces: dict[str, Piece], layout: ImageLayout
    ) -> tuple[dict[str, ImageFindings], Broken]:
        """Findings about each image, by name; and the reasons why others cannot be decoded."""
        self.event_log.enter("checking images")
        names = [name for split in layout.splits.values() for name, _ in split]
        findings: dict[str, ImageFindings] = {}
        deep: dict[str, DeepRange] = {}
        broken: Broken = {}

        def inspect(name: str) -> None:
            content = _content(spool, *pieces[name])
            if name not in deep and (found := measure_image(content)) is not None:
                deep[name] = found
            else:
                findings[name] = inspect_image(content, self.spec.image_size, self.decoding)

        def look(name: str) -> None:
            try:
                inspect(name)
            except Exception as error:  # a decoder's error on a hostile file may be anything
                broken[name] = " ".join(str(error).split()) or type(error).__name__

        self._for_each(look, names, 0)
        # Those of more than 8 bits wait until all are seen: one white holds for the whole set.
        self.decoding = self.decoding.model_copy(update={"white": white_of(dict(sorted(deep.items())))})
        self._for_each(look, [*deep], len(names) - len(deep))
        self._ended(len(names))
        return findings, dict(sorted(broken.items()))

    def _for_each(self, look: Callable[[str], None], names: Sequence[str], done: int) -> None:
        """Call it for each image, in threads; `done` images were looked at before."""
        for start in range(0, len(names), QUEUED):
            list(threads().map(look, names[start : start + QUEUED]))
            self._progress(done + min(start + QUEUED, len(names)), done + len(names))

    def _refuse_broken(self, broken: Broken, count: int) -> None:
        most = self.spec.limits.broken
        if len(broken) > most:
            for name, why in list(broken.items())[:100]:
                self.event_log.record("warning", text=f"{name} cannot be read: {why}")
            named = first_few([f"{name} ({why})" for name, why in broken.items()])
            raise Impossible(f"{len(broken)} of {count} images cannot be read, and limits.broken is {most}: {named}")

    # Splitting

    def _split(self, layout: ImageLayout, findings: dict[str, ImageFindings]) -> dict[str, list[Labelled]]:
        """The images of all three splits. A split drawn from the training images keeps equal pictures together."""
        given = {split: [item for item in listed if item[0] in findings] for split, listed in layout.splits.items()}
        shares = {"validation": self.spec.splits.validation_share, "test": self.spec.splits.test_share}
        self.made = {split: share for split, share in shares.items() if not given.get(split)}
        alike: dict[tuple[int, bytes], list[Labelled]] = defaultdict(list)
        for name, label in given["train"]:
            alike[label, findings[name].pixels].append((name, label))
        self._refuse_alike(layout, alike)
        first = {group[0]: group for group in alike.values()}
        drawn = take_splits([*first], layout.class_names, self.made, self.spec.splits.seed)
        return given | {split: [item for one in firsts for item in first[one]] for split, firsts in drawn.items()}

    def _refuse_alike(self, layout: ImageLayout, alike: dict[tuple[int, bytes], list[Labelled]]) -> None:
        """Raise DatasetError for a class whose images are enough to be split, and its different pictures are not."""
        images, pictures, wanted = Counter[int](), Counter[int](), 1 + len(self.made)
        for (label, _), group in alike.items():
            images[label] += len(group)
            pictures[label] += 1
        for label, count in sorted(pictures.items()):
            if count < wanted <= images[label]:
                raise DatasetError(
                    f"class {layout.class_names[label]!r} has {images[label]} images, and {count} of them differ; at "
                    f"least {wanted} are wanted, since equal ones stay in one split"
                )

    # Storing

    def _pack(
        self,
        spool: int,
        pieces: dict[str, Piece],
        layout: ImageLayout,
        splits: dict[str, list[Labelled]],
        findings: dict[str, ImageFindings],
        broken: Broken,
    ) -> None:
        self.event_log.enter("packing")
        mean, std = statistics([findings[name] for name, _ in splits["train"]], self.spec.image_size)
        description = ArchiveDescription(
            class_names=layout.class_names,
            image_size=self.spec.image_size,
            mean=mean,
            std=std,
            decoding=self.decoding,
            splits={split: _describe(splits[split], pieces, findings) for split in SPLITS},
        )
        images = [
            PackedFile(split, label, findings[name].ending, pieces[name][1], name)
            for split in SPLITS
            for name, label in splits[split]
        ]
        with Packer(self.paths.directory) as packer:
            archive = packer.directory / ARCHIVE
            write_archive(archive, description, images, self._contents(spool, pieces, images))
            packer.add(archive, None, "application/x-tar")
            drawn = draw_thumbnails(splits["train"], lambda name: _content(spool, *pieces[name]), self.decoding)
            file = packer.directory / THUMBNAILS
            file.write_bytes(drawn.content)
            packer.add(file, None, "image/jpeg")
            report = report_of(layout, splits, [*self.made], findings, broken, self.stray, self.spec)
            report |= {"decoding": self.decoding.model_dump(mode="json"), "thumbnails": drawn.described}
            for warning in report["warnings"]:
                self.event_log.record("warning", text=warning)
            self.event_log.record("report", data=report)
            facts = description.facts().model_dump(mode="json")
            packer.write_json(REPORT, None, {"facts": facts, "report": report})

    def _contents(
        self, spool: int, pieces: dict[str, Piece], images: Sequence[PackedFile]
    ) -> Iterator[Iterator[bytes]]:
        for number, image in enumerate(images):
            self._progress(number, len(images))
            yield in_blocks(spool, *pieces[image.source])
        self._ended(len(images))

    def _ended(self, steps: int) -> None:
        """Write that all of a phase is done."""
        self.event_log.progress(step=steps, steps=steps)

    def _progress(self, step: int, steps: int | None) -> None:
        if self.event_log.progress_is_due():
            self.event_log.progress(step=step, steps=steps)


def statistics(findings: Sequence[ImageFindings], side: int) -> tuple[Channels, Channels]:
    """Mean and standard deviation of each channel over the squares of all those images, in [0, 1]; exact sums.

    A channel that has one value everywhere gets ONE_STEP, as in `channel_statistics`.
    """
    count = len(findings) * side * side
    means, deviations = [], []
    for channel in range(3):
        mean = sum(each.sums[channel] for each in findings) / count
        square = sum(each.squares[channel] for each in findings) / count
        means.append(round(mean / 255, 6))
        deviation = max(0.0, square - mean**2) ** 0.5 / 255
        deviations.append(round(deviation, 6) or round(ONE_STEP, 6))
    return (means[0], means[1], means[2]), (deviations[0], deviations[1], deviations[2])


def _describe(
    listed: Sequence[Labelled], pieces: dict[str, Piece], findings: dict[str, ImageFindings]
) -> SplitDescription:
    made = sha256()
    for name, label in listed:
        made.update(f"{label}\0".encode() + findings[name].sha256)
    return SplitDescription(
        images=len(listed), bytes=sum(pieces[name][1] for name, _ in listed), digest=made.hexdigest()
    )


@contextmanager
def _spool(path: Path) -> Iterator[int]:
    """A file without a name, to write to at its end and read anywhere; gone when it is closed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        path.unlink()
        yield descriptor
    finally:
        os.close(descriptor)


def _is_wanted(member: Member, head: bytes) -> bool:
    """Whether a file is a picture or may be a list, by its name and beginning."""
    return is_named_list(member.name) or may_be_picture(member.name, lambda: head)


def _copy(blocks: Iterable[bytes], spool: int) -> None:
    """Copy a member's bytes to the end of the spool."""
    for block in blocks:
        view = memoryview(block)
        while view:
            view = view[os.write(spool, view) :]


def _content(spool: int, place: int, size: int) -> bytes:
    """The bytes of an image. Raises ValueError for more than are decoded."""
    if size > LARGEST_FILE:
        raise ValueError(f"its file has {size:,} bytes; at most {LARGEST_FILE:,} are decoded")
    return b"".join(in_blocks(spool, place, size))
