"""The commands for methods and architectures, which a recipe names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from retort.cli.errors import report_errors
from retort.cli.screen import Json, print_field, print_json, print_table

if TYPE_CHECKING:
    from retort.client import ArchitectureInfo, MethodInfo


@report_errors
def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show one with all its fields.")] = None,
    as_json: Json = False,
) -> None:
    """List the distillation methods, or show one with its fields."""
    from retort.client import Retort

    with Retort() as client:
        found = [client.methods.get(name)] if name else client.methods.list()
    if as_json:
        print_json(found[0] if name else found)
    elif name:
        _show_method(found[0])
    else:
        print_table(("method", "summary", "needs", "refuses", "checked against"), map(_method_row, found))


@report_errors
def architectures(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show one.")] = None,
    family: Annotated[str | None, typer.Option(help="Only that family.")] = None,
    as_json: Json = False,
) -> None:
    """List the networks that a recipe may name."""
    from retort.client import Retort

    with Retort() as client:
        found = [client.architectures.get(name)] if name else client.architectures.list()
    found = [one for one in found if family is None or one.family == family]
    if as_json:
        print_json(found[0] if name and found else found)
        return
    columns = ("architecture", "family", "parameters of the body", "multiply-adds", "at pixels")
    print_table(columns, map(_architecture_row, found), right=columns[2:])


def _architecture_row(one: ArchitectureInfo) -> tuple[str, ...]:
    if one.card is None:
        return one.name, one.family, "not measured", "", ""
    card = one.card
    return one.name, one.family, f"{card.body_parameters:,}", f"{card.multiply_adds:,}", str(card.image_size)


def _method_row(method: MethodInfo) -> tuple[str, ...]:
    checked = "nothing was published"
    if method.reconstruction:
        checked = "nothing: a reconstruction"
    elif method.conformance:
        checked = f"{len(method.conformance)} published values, to {method.worst_difference:.0e}"
    return method.name, method.summary, "; ".join(method.needs), method.refuses, checked


def _show_method(method: MethodInfo) -> None:
    for label, value in (
        ("method", method.name), ("does", method.summary), ("formula", method.formula), ("source", method.source),
        ("teacher", "needed" if method.needs_teacher else "not needed"), ("needs", "; ".join(method.needs)),
        ("refuses", method.refuses), ("checked", _checked(method)),
        ("note", "the formula is our best reading of the paper" if method.reconstruction else ""),
    ):  # fmt: skip
        if value:
            print_field(label, value, 8)
    fields = method.parameters.get("properties", {})
    rows = ((name, _default(field), field.get("description", "")) for name, field in fields.items() if name != "name")
    print_table(("field", "default", "meaning"), rows)


def _checked(method: MethodInfo) -> str:
    if not method.conformance:
        return ""
    cases = ", ".join(case.case for case in method.conformance)
    return f"worst difference {method.worst_difference:.0e} from published values: {cases}"


def _default(field: dict[str, Any]) -> str:
    return str(field["default"]) if "default" in field else "required"
