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
"""Standard deviation, in steps of 255, below which the pixels of several images together show nothing."""


def refuse_blank(layout: ImageLayout, findings: Mapping[str, ImageFindings], decoding: Decoding) -> None:
    """Raise Impossible where all images of a class, of a split, or of a class in a split are blank and alike."""
    groups = _groups(layout, findings)
    blank = [words for words, group in groups.items() if len(group) > 1 and pooled_deviation(group) < LEAST_DEVIATION]
    # A class or split that is blank as a whole is not named again for its share of the other.
    named = [words for words in blank if not any(words != other and other in words for other in blank)]
    if not named:
        return
    first = groups[named[0]]
    means = tuple(round(sum(each.mean(channel) for each in first) / len(first)) for channel in range(3))
    raise Impossible(
        f"{first_few(named)}: every image there is of one colour, {means}, and shows nothing{_advice(first, decoding)}"
    )


def _groups(layout: ImageLayout, findings: Mapping[str, ImageFindings]) -> dict[str, list[ImageFindings]]:
    """The images that are looked at together, by words for them."""
    groups: dict[str, list[ImageFindings]] = defaultdict(list)
    for split, listed in layout.splits.items():
        for name, label in listed:
            if name in findings:
                shown = f"class {layout.class_names[label]!r}"
                for words in (shown, f"the {split} split", f"{shown} in the {split} split"):
                    groups[words].append(findings[name])
    return groups


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
