"""The report of an ingestion: what was found, what is odd, what was made of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from retort.datasets._archive import SPLITS
from retort.datasets._listing import Labelled, first_few
from retort.ingest import Ingest
from retort.ingestion.inspection import ImageFindings, misnamed
from retort.ingestion.layout import ImageLayout
from retort.ingestion.members import NAMED, Stray

Broken = dict[str, str]
"""The reason why each image could not be decoded, by its name."""
SHOWN = 20
"""Groups of duplicates, and sizes, that the report shows at most."""
UNEVEN = 10
"""Times as many images of the largest class as of the smallest that are worth a warning."""


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
    used = [findings[name] for split in SPLITS for name, _ in splits[split]]
    report: dict[str, Any] = {
        "layout": layout.found_by,
        "splits": {split: len(splits[split]) for split in SPLITS},
        "parts_made": [*made],
        "classes": _classes(layout, splits),
        "formats": _counted(each.format for each in used),
        "modes": _counted(each.mode for each in used),
        "sizes": _sizes(used),
        "turned": sum(each.turned for each in used),
        "animated": sum(each.animated for each in used),
        "deep": sum(each.deep for each in used),
        "misnamed": sum(misnamed(name, findings[name]) for split in SPLITS for name, _ in splits[split]),
        "duplicates": _duplicates(splits, findings),
        "broken": {
            "count": len(broken),
            "allowed": spec.limits.broken,
            "files": [{"file": name, "why": why} for name, why in list(broken.items())[:NAMED]],
        },
        "stray": {"count": stray.count, "files": stray.first()},
    }
    return {**report, "warnings": [*_warnings(report)]}


def _classes(layout: ImageLayout, splits: Mapping[str, Sequence[Labelled]]) -> list[dict[str, Any]]:
    counts = {split: Counter(label for _, label in splits[split]) for split in SPLITS}
    return [
        {"name": name, **{split: counts[split][label] for split in SPLITS}}
        for label, name in enumerate(layout.class_names)
    ]


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
    if report["turned"]:
        yield f"{_times(report['turned'], 'image')} stored turned or mirrored, and read upright, as the EXIF data say"
    if report["animated"]:
        yield f"{_times(report['animated'], 'image')} animated; the first frame is taken"
    if report["deep"]:
        yield f"{_times(report['deep'], 'image')} of more than 8 bits a channel, which are cut to 8"
    if report["misnamed"]:
        yield f"{_times(report['misnamed'], 'image')} named by another format than it is of"


def _times(count: int, what: str) -> str:
    return f"{count:,} {what} is" if count == 1 else f"{count:,} {what}s are"
