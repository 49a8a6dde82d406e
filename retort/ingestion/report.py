"""The report of an ingestion: what was found, what is odd, what was made of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from retort.datasets._archive import SPLITS
from retort.datasets._listing import Labelled, first_few
from retort.ingest import Ingest
from retort.ingestion.inspection import ImageFindings, misnamed, pooled_deviation
from retort.ingestion.layout import ImageLayout, may_matter
from retort.ingestion.members import NAMED, Stray

Broken = dict[str, str]
"""The reason why each image could not be decoded, by its name."""
SHOWN = 20
"""Groups of duplicates, and sizes, that the report shows at most."""
FAINT = 8
"""Standard deviation, in steps of 255, of images of more than 8 bits below which a warning is worth while."""
UNEVEN = 10
"""Times as many images of the largest class as of the smallest that are worth a warning."""


ODD: dict[str, tuple[Callable[[str, ImageFindings], bool], str]] = {
    "turned": (
        lambda _, found: found.turned,
        "stored turned or mirrored, and read upright, as the EXIF data say",
    ),
    "animated": (lambda _, found: found.animated, "of several frames or pages, of which the first is taken"),
    "transparent": (lambda _, found: found.transparent, "transparent in places, and laid on the background"),
    "deep": (lambda _, found: found.deep, "of more than 8 bits a channel, scaled to 8 by one scale for all"),
    "other_colours": (
        lambda _, found: found.mode in ("CMYK", "LAB"),
        "in the colours of print (CMYK) or in CIELAB, and read without a profile",
    ),
    "extra_bands": (lambda _, found: found.extra_bands, "of further bands besides their colours, which are left out"),
    "one_colour": (lambda _, found: found.one_colour, "of one colour everywhere"),
    "misnamed": (misnamed, "named by another format than it is of"),
}
"""A test of a name and an image's findings for each oddity that is counted and named, and the words for it."""


def report_of(
    layout: ImageLayout,
    splits: Mapping[str, Sequence[Labelled]],
    made: Sequence[str],
    findings: Mapping[str, ImageFindings],
    broken: Broken,
    stray: Stray,
    spec: Ingest,
) -> dict[str, Any]:
    """The report, as JSON; a function of the images and the spec alone."""
    listed = {name: findings[name] for split in SPLITS for name, _ in splits[split]}
    used = [*listed.values()]
    odd = {
        oddity: sorted(name for name, found in listed.items() if holds(name, found))
        for oddity, (holds, _) in ODD.items()
    }
    report: dict[str, Any] = {
        "layout": layout.found_by,
        "splits": {split: len(splits[split]) for split in SPLITS},
        "parts_made": [*made],
        "classes": _classes(layout, splits),
        "formats": _counted(each.format for each in used),
        "modes": _counted(each.mode for each in used),
        "sizes": _sizes(used),
        **{oddity: len(names) for oddity, names in odd.items()},
        "duplicates": _duplicates(splits, findings),
        "broken": {
            "count": len(broken),
            "allowed": spec.limits.broken,
            "files": [{"file": name, "why": why} for name, why in list(broken.items())[:NAMED]],
        },
        "stray": {"count": stray.count, "files": stray.first()},
        "folders_without_images": _folders_without_images(stray.first(), [*listed, *broken]),
    }
    return {**report, "warnings": [*layout.warnings, *_warnings(report), *_odd_warnings(odd), *_faint_warnings(used)]}


def _classes(layout: ImageLayout, splits: Mapping[str, Sequence[Labelled]]) -> list[dict[str, Any]]:
    counts = {split: Counter(label for _, label in splits[split]) for split in SPLITS}
    return [
        {"name": name, **{split: counts[split][label] for split in SPLITS}}
        for label, name in enumerate(layout.class_names)
    ]


def _folders_without_images(stray: Iterable[str], images: Iterable[str]) -> list[str]:
    """Folders of stray files that stand beside folders of images and hold none, as far as stray files are named."""
    holding = {PurePosixPath(name).parent for name in images}
    beside = {folder.parent for folder in holding}
    found = {PurePosixPath(name).parent for name in stray if may_matter(name)} - holding
    return sorted(str(folder) for folder in found if folder.parent in beside and folder.name)


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _sizes(findings: Sequence[ImageFindings]) -> dict[str, Any]:
    """Widths and heights as the files have them, before they are turned."""
    sizes = Counter((each.width, each.height) for each in findings)
    shorter = sorted(min(size) for size in sizes.elements())
    common = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    return {
        "different": len(sizes),
        "shorter_side": {"least": shorter[0], "median": shorter[len(shorter) // 2], "most": shorter[-1]},
        "most_common": [{"width": width, "height": height, "images": count} for (width, height), count in common],
    }


def _duplicates(splits: Mapping[str, Sequence[Labelled]], findings: Mapping[str, ImageFindings]) -> dict[str, Any]:
    """Images that are there more than once: by their files' bytes, and by their pixels."""
    found: dict[str, Any] = {}
    ways: dict[str, Callable[[ImageFindings], bytes]] = {
        "files": lambda each: each.sha256,
        "pixels": lambda each: each.pixels,
    }
    for way, key in ways.items():
        groups: dict[bytes, list[tuple[str, str, int]]] = defaultdict(list)
        for split in SPLITS:
            for name, label in splits[split]:
                groups[key(findings[name])].append((split, name, label))
        several = [group for group in groups.values() if len(group) > 1]
        across = [group for group in several if len({split for split, _, _ in group}) > 1]
        torn = [group for group in several if len({label for _, _, label in group}) > 1]
        found[way] = {
            "groups": len(several),
            "across_parts": len(across),
            "of_several_classes": len(torn),
            "examples": [
                [f"{split}: {name}" for split, name, _ in group[:SHOWN]]
                for group in (across or torn or several)[:SHOWN]
            ],
        }
    return found


def _warnings(report: Mapping[str, Any]) -> Iterable[str]:
    if report["stray"]["count"]:
        named = first_few(report["stray"]["files"])
        yield f"left out, as no images of any class: {named} ({report['stray']['count']} in all)"
    if report["folders_without_images"]:
        yield f"no class, since none of its files is a picture: {first_few(report['folders_without_images'])}"
    if report["broken"]["count"]:
        named = first_few([each["file"] for each in report["broken"]["files"]])
        yield f"left out, as broken: {named} ({report['broken']['count']} in all)"
    seen = report["duplicates"]["pixels"]
    if seen["across_parts"]:
        yield (
            f"{_times(seen['across_parts'], 'picture')} in more than one split, so that a network is evaluated on "
            "images that it was trained on"
        )
    if seen["of_several_classes"]:
        yield f"{_times(seen['of_several_classes'], 'picture')} in more than one class"
    totals = [sum(each[split] for split in SPLITS) for each in report["classes"]]
    if max(totals) >= UNEVEN * min(totals):
        yield f"the largest class has {max(totals):,} images and the smallest {min(totals):,}"
    for split in SPLITS:
        empty = [each["name"] for each in report["classes"] if not each[split]]
        if empty:
            yield f"the {split} split has no image of {first_few(empty)}"


def _odd_warnings(odd: Mapping[str, Sequence[str]]) -> Iterable[str]:
    for oddity, names in odd.items():
        if names:
            yield f"{_times(len(names), 'image')} {ODD[oddity][1]}: {first_few([*names])}"


def _faint_warnings(findings: Iterable[ImageFindings]) -> Iterable[str]:
    """Whether the images of more than 8 bits differ by little once they are scaled, as beside a few bright pixels."""
    deep = [found for found in findings if found.deep]
    if deep and (deviation := pooled_deviation(deep)) < FAINT:
        yield (
            f"images of more than 8 bits a channel are nearly plain: their values deviate by {deviation:.1f} of 255 "
            "steps; where a few are much larger than all others, cut those before"
        )


def _times(count: int, what: str) -> str:
    return f"{count:,} {what} is" if count == 1 else f"{count:,} {what}s are"
