"""Every family of architectures, found by looking in this folder: adding one is adding a file here."""

from __future__ import annotations

from retort.architecture import Architecture, Card
from retort.registry import discover

FAMILIES: dict[str, Architecture] = {
    # A family is a class without state; mypy cannot know that discover() gives no abstract one.
    name: family()
    for name, family in discover(__name__, __path__, Architecture).items()  # type: ignore[type-abstract]
}


def _by_name() -> dict[str, Architecture]:
    found: dict[str, Architecture] = {}
    for family in FAMILIES.values():
        for name in family.names():
            if name in found:
                raise ImportError(
                    f"{name!r} is defined by retort/architectures/{found[name].name}.py "
                    f"and by {family.name}.py; an architecture has one home"
                )
            found[name] = family
    return found


ARCHITECTURES: dict[str, Architecture] = _by_name()
"""The family of every architecture, by the architecture's name."""

CARDS: dict[str, Card] = {name: card for family in FAMILIES.values() for name, card in family.cards().items()}
"""The card of each by name, known without building it; an architecture without a generated card is missing."""
