"""Pydantic's errors as sentences, and as pointers into what was really sent."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from retort.spec import Spec
from service.errors import BEYOND, MOST_ERRORS, FieldError
from service.fields import field_errors, path_text, pointer_of


class Weights(Spec):
    job: str
    network: str = "student"


class Red(Spec):
    name: Literal["red"] = "red"
    shade: float = Field(default=0, ge=0, lt=1)


class Blue(Spec):
    name: Literal["blue"] = "blue"
    weights: Literal["published"] | Weights | None = None


Colour = Annotated[Red | Blue, Field(discriminator="name")]


class Part(Spec):
    name: str = "part"
    label: str = Field(default="", max_length=5)
    colours: tuple[Colour, ...] = Field(default=(), max_length=2)
    some_colours: tuple[Colour, ...] = Field(default=(Red(),), min_length=1)


class Whole(Spec):
    parts: tuple[Part, ...] = ()
    main: Part = Part()
    colour: Colour = Red()
    weight: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    count: int = 1
    flag: bool = False
    start: int = 0
    end: int = 1

    @model_validator(mode="after")
    def _rises(self) -> Whole:
        if self.end <= self.start:
            raise PydanticCustomError("order", "end is {end}; wanted more", {"end": self.end, "field": "end"})
        return self


def errors_of(body: Any) -> list[FieldError]:
    with pytest.raises(ValidationError) as caught:
        Whole.model_validate(body)
    return field_errors(caught.value, Whole)


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        ({"count": "x"}, "/count", "count is 'x'; wanted a whole number"),
        ({"count": 1.5}, "/count", "count is 1.5; wanted a whole number"),
        ({"flag": "perhaps"}, "/flag", "flag is 'perhaps'; wanted true or false"),
        ({"count": None}, "/count", "count is null; wanted a whole number"),
        ({"count": True, "end": 0}, "/end", "end is 0; wanted more"),
        ({"parts": {}}, "/parts", "parts is an object; wanted a list"),
        ({"parts": [3]}, "/parts/0", "parts[0] is 3; wanted an object"),
        ({"parts": [{"label": "longer"}]}, "/parts/0/label", "parts[0].label is 'longer'; wanted at most 5 characters"),
        ({"countt": 1}, "/countt", "the body has no field 'countt'; did you mean 'count'?"),
        ({"a/b~c": 1}, "/a~1b~0c", "the body has no field 'a/b~c'"),
        ({"main": {"labell": 1}}, "/main/labell", "main has no field 'labell'; did you mean 'label'?"),
        ({"colour": {"name": "red", "shade": 1}}, "/colour/shade", "colour.shade is 1; wanted less than 1"),
        (
            {"colour": {"name": "blu"}},
            "/colour/name",
            "colour.name is 'blu', which does not exist; did you mean 'blue'?",
        ),
        (
            {"colour": {"name": "green"}},
            "/colour/name",
            "colour.name is 'green', which does not exist; wanted one of red, blue",
        ),
        ({"colour": {}}, "/colour/name", "colour.name is missing; wanted one of red, blue"),
        ({"colour": "red"}, "/colour", "colour is 'red'; wanted an object"),
        ({"weight": -1}, "/weight", "weight is -1; wanted 'auto' or at least 0"),
        ({"weight": []}, "/weight", "weight is a list of 0; wanted 'auto' or a number"),
        (
            {"colour": {"name": "blue", "weights": "mine"}},
            "/colour/weights",
            "colour.weights is 'mine'; wanted 'published' or an object",
        ),
        ({"colour": {"name": "blue", "weights": {}}}, "/colour/weights/job", "colour.weights.job is missing"),
        (
            {"main": {"some_colours": [{"name": "rad"}]}},
            "/main/some_colours/0/name",
            "main.some_colours[0].name is 'rad', which does not exist; did you mean 'red'?",
        ),
        (
            {"main": {"some_colours": []}},
            "/main/some_colours",
            "main.some_colours is a list of 0; wanted at least 1 entries",
        ),
        (
            {"main": {"colours": [{"name": "red"}] * 3}},
            "/main/colours",
            "main.colours is a list of 3; wanted at most 2 entries",
        ),
    ],
)
def test_one_wrong_field(body: Any, pointer: str, detail: str) -> None:
    assert [(error.pointer, error.detail) for error in errors_of(body)] == [(pointer, detail)]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        # Fields that are named like a union's member, members that are named like a field.
        ({"colour": {"name": "red", "red": 1}}, "/colour/red"),
        ({"colour": {"name": "red", "red": 0, "shade": 2}}, "/colour/shade"),
        ({"parts": [{"name": "label", "label": 3}]}, "/parts/0/label"),
        ({"colour": {"name": "blue", "weights": {"job": 1, "Weights": 2}}}, "/colour/weights/Weights"),
        ({"parts": [{}, {"colours": [{"name": "red"}, {"name": "red", "shade": -1}]}]}, "/parts/1/colours/1/shade"),
    ],
)
def test_pointers_lead_into_what_was_sent(body: Any, pointer: str) -> None:
    found = [error.pointer for error in errors_of(body)]
    assert pointer in found
    for each in found:
        assert resolve(body, str(each)) is not None


def resolve(value: Any, pointer: str) -> Any:
    for step in pointer.split("/")[1:]:
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


def test_found_and_wanted_stand_apart() -> None:
    (error,) = errors_of({"colour": {"name": "red", "shade": -1}})
    assert (error.found, error.wanted) == (-1, "at least 0")
    (error,) = errors_of({"count": "x" * 10_000})
    assert error.found is None
    assert len(error.detail) < 150


def test_every_wrong_field_has_one_error() -> None:
    body = {"weight": -1, "count": "x", "main": {"label": 3}}
    assert {error.pointer for error in errors_of(body)} == {"/weight", "/count", "/main/label"}
    assert len(errors_of(body)) == 3


def test_as_many_sentences_are_worked_out_as_an_answer_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr("service.fields.nearest", lambda name, known: looked.append(name) or "")
    errors = errors_of({f"x{i}": i for i in range(5000)})
    assert [error.pointer for error in errors[:MOST_ERRORS]] == [f"/x{i}" for i in range(MOST_ERRORS)]
    assert errors[MOST_ERRORS:] == [BEYOND] * (5000 - MOST_ERRORS)
    assert len(looked) == MOST_ERRORS
    assert errors[0].detail == "the body has no field 'x0'"


def test_paths() -> None:
    assert pointer_of(("a", 0, "b/c")) == "/a/0/b~1c"
    assert path_text(("a", 0, "b")) == "a[0].b"
    assert path_text(()) == "the body"
