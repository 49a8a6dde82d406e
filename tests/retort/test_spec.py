"""What schemas say of fields."""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar

import pytest
from pydantic import AfterValidator, Field, ValidationError, create_model

from retort.spec import AtMost, Described, Spec

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


def test_a_list_that_is_too_long_is_refused_before_its_entries_are_looked_at() -> None:
    looked: list[int] = []
    entry = Annotated[int, AfterValidator(lambda value: looked.append(value) or value)]
    model = create_model("Bounded", __base__=Spec, entries=(Annotated[tuple[entry, ...], AtMost(3)], ()))
    with pytest.raises(ValidationError) as caught:
        model.model_validate({"entries": ["wrong"] * 4})
    (error,) = caught.value.errors()
    assert (error["type"], error["loc"], error["ctx"]["max_length"]) == ("too_long", ("entries",), 3)
    with pytest.raises(ValidationError):
        model.model_validate({"entries": [1] * 4})
    assert looked == []
    assert model.model_validate({"entries": [1, 2, 3]}).model_dump() == {"entries": (1, 2, 3)}
    assert model.model_json_schema()["properties"]["entries"]["maxItems"] == 3
