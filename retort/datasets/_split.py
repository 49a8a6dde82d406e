"""Stratified parts, drawn without a library's generator: the same seed gives the same parts for ever. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

from retort.dataset import DatasetError
from retort.datasets._listing import Labelled


def apportion(total: int, counts: Sequence[int]) -> tuple[int, ...]:
    """Share out a total in proportion to some counts, in whole numbers (largest remainder, the first at a tie)."""
    whole = sum(counts)
    exact = [total * count / whole for count in counts]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(counts)), key=lambda i: (shares[i] - exact[i], i))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return tuple(shares)


def drawn_order(count: int, seed: int, purpose: str) -> list[int]:
    """The numbers from 0 to count - 1 in an order that depends on seed and purpose alone."""
    return sorted(range(count), key=lambda i: sha256(f"{seed}/{purpose}/{i}".encode()).digest())


def take_splits(
    images: Sequence[Labelled], class_names: Sequence[str], shares: Mapping[str, float], seed: int
) -> dict[str, list[Labelled]]:
    """Training images, and the parts that are taken out of them by their shares, class by class; one image at least.

    Raises DatasetError for a class that has too few.
    """
    members: list[list[Labelled]] = [[] for _ in class_names]
    for image in images:
        members[image[1]].append(image)
    splits: dict[str, list[Labelled]] = {split: [] for split in ("train", *shares)}
    for name, own in zip(class_names, members, strict=True):
        if len(own) < 1 + len(shares):
            what = f"one for training and each split ({', '.join(shares)})" if shares else "one"
            raise DatasetError(f"class {name!r} has too few images ({len(own)}) to train on: it needs {what}")
        drawn = [own[i] for i in drawn_order(len(own), seed, f"class {name}")]
        for split, share in shares.items():
            # Rounded down, so that something is left to train on.
            count = max(1, int(share * len(own)))
            splits[split] += sorted(drawn[:count])
            drawn = drawn[count:]
        splits["train"] += sorted(drawn)
    return splits


def split_off(labels: Sequence[int], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Positions that stay and positions that are split off, each in rising order; as many as `split_count` gives.

    Classes give in proportion to their sizes; which of their images is drawn by the seed.
    """
    members: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        members.setdefault(label, []).append(position)
    classes = sorted(members)
    given = apportion(split_count(len(labels), share), [len(members[label]) for label in classes])
    off = [
        members[label][i]
        for label, count in zip(classes, given, strict=True)
        for i in drawn_order(len(members[label]), seed, f"class {label}")[:count]
    ]
    return sorted(set(range(len(labels))).difference(off)), sorted(off)


def split_count(total: int, share: float) -> int:
    """Number of images that are split off, known without their labels."""
    return round(total * share)
