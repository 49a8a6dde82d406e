"""What schemas say of fields."""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import Field, create_model

from retort.spec import Described, Spec

Item = TypeVar("Item")


class Whole(Spec):
    """A whole."""

    class Inner(Spec):
        """A part."""

        size: int
        """Of the part."""

    size: int = 1
    """Of the whole,
    in parts."""
    weight: float = 1.0
    "is told"
    told: int = Field(default=1, description="by itself")
    """Not said."""
    silent: int = 2
    inner: Inner | None = None
    """What is in it."""


class Heavier(Whole):
    """One more."""

    weight: float = 2.0
    more: int = 1
    """More."""


class Box(Described, Generic[Item]):
    """Holds something."""

    item: Item
    """What it holds."""


def said(model: type[Described]) -> dict[str, str | None]:
    fields = model.model_json_schema()["properties"]
    return {name: field.get("description") for name, field in fields.items()}


def test_the_text_under_a_field_is_its_description() -> None:
    words = {"size": "Of the whole,\nin parts.", "told": "by itself", "silent": None, "inner": "What is in it."}
    assert said(Whole) == {**words, "weight": "is told"}
    assert said(Whole.Inner) == {"size": "Of the part."}
    assert said(Box[int]) == {"item": "What it holds."}


def test_a_field_that_is_declared_anew_has_no_text_of_old() -> None:
    assert said(Heavier)["weight"] is None
    assert (said(Heavier)["size"], said(Heavier)["more"]) == ("Of the whole,\nin parts.", "More.")


def test_a_class_within_a_function_has_texts_and_one_without_source_has_none() -> None:
    class Local(Whole):
        here: int = 1
        """Here."""

    assert said(Local)["here"] == "Here."
    assert said(create_model("Made", __base__=Described, size=(int, 1))) == {"size": None}
