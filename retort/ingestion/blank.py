"""Classes and splits whose images are all blank and alike: a fault of their decoding, more often than not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from retort.dataset import Decoding
from retort.datasets._listing import first_few
from retort.engine.interrupt import Impossible
from retort.ingestion.inspection import ImageFindings, pooled_deviation
from retort.ingestion.layout import ImageLayout

LEAST_DEVIATION = 0.5
"""Standard deviation, in steps of 255, below which images that had to be converted show nothing together."""
NO_DEVIATION = 1e-3
"""The same for images that were not: they are of one colour."""

Group = tuple[int | None, str | None]
"""A label and a split; None stands for all."""


def refuse_blank(layout: ImageLayout, findings: Mapping[str, ImageFindings], decoding: Decoding) -> None:
    """Raise Impossible where all images of a class, of a split, or of a class in a split are blank and alike."""
    groups: dict[Group, list[ImageFindings]] = defaultdict(list)
    for split, listed in layout.splits.items():
        for name, label in listed:
            if name in findings:
                for group in ((label, None), (None, split), (label, split)):
                    groups[group].append(findings[name])
    blank = {group for group, images in groups.items() if _is_blank(images)}
    # A class or split that is blank as a whole is not named again for its share of the other.
    named = [
        (label, split)
        for label, split in groups
        if (label, split) in blank and (None in (label, split) or blank.isdisjoint({(label, None), (None, split)}))
    ]
    if named:
        first = groups[named[0]]
        colour = tuple(round(sum(each.mean(channel) for each in first) / len(first)) for channel in range(3))
        words = first_few([_words(layout, *group) for group in named])
        raise Impossible(
            f"{words}: every image there is of one colour, {colour}, and shows nothing{_advice(first, decoding)}"
        )


def _is_blank(images: Sequence[ImageFindings]) -> bool:
    converted = any(each.deep or each.transparent for each in images)
    return len(images) > 1 and pooled_deviation(images) < (LEAST_DEVIATION if converted else NO_DEVIATION)


def _words(layout: ImageLayout, label: int | None, split: str | None) -> str:
    parts = ([] if label is None else [f"class {layout.class_names[label]!r}"]) + (
        [] if split is None else [f"the {split} split"]
    )
    return " in ".join(parts)


def _advice(group: Sequence[ImageFindings], decoding: Decoding) -> str:
    """The likely cause, as the rest of a sentence."""
    transparent = sum(each.transparent for each in group)
    if transparent:
        return (
            f"; {transparent} of {len(group)} are transparent and laid on {decoding.background}: try another background"
        )
    if any(each.deep for each in group):
        return (
            f"; they have more than 8 bits a channel, and the set's largest value gives {decoding.white:,.0f} as white"
        )
    return ""
