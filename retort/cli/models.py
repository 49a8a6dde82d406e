"""The commands for user models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retort.cli.errors import USAGE, CommandError, report_errors
from retort.cli.recipe_file import read_recipe
from retort.cli.screen import Json, ago, print_json, print_line, print_table, size
from retort.cli.upload import upload_file
from retort.cli.watch import follow, watch_to_the_end

if TYPE_CHECKING:
    from retort.client import ModelInfo

FORMS = {".safetensors": "safetensors", ".onnx": "onnx"}
ModelId = Annotated[str, typer.Argument(metavar="MODEL", help="The model's id.")]

app = typer.Typer(help="List, add, check and delete user models.", invoke_without_command=True)


@app.callback()
@report_errors
def list_models(context: typer.Context, as_json: Json = False) -> None:
    """List, add, check and delete user models."""
    from retort.client import Retort

    if context.invoked_subcommand is not None:
        return
    with Retort() as client:
        found = [*client.models.list()]
    if as_json:
        print_json(found)
        return
    columns = ("model", "name", "state", "architecture", "classes", "size", "created")
    print_table(columns, map(_row, found))


@app.command()
@report_errors
def show(model: ModelId, as_json: Json = False) -> None:
    """Show one model, with the findings of its check."""
    from retort.client import Retort

    with Retort() as client:
        found = client.models.get(model)
    if as_json:
        print_json(found)
        return
    rows = [(name, _text(value)) for name, value in found.model_dump(mode="json", exclude={"report"}).items()]
    rows += [(name, _text(value)) for name, value in (found.report or {}).items()]
    print_table(("field", "value"), rows)


@app.command()
@report_errors
def add(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A .safetensors or .onnx file.")] = None,
    of_job: Annotated[
        str | None, typer.Option("--from", metavar="JOB", help="Take a network of that job instead of a file.")
    ] = None,
    network: Annotated[str, typer.Option(help="Network of that job: a student's name, or teacher.")] = "student",
    architecture: Annotated[str | None, typer.Option(help="Architecture of the catalogue, for safetensors.")] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes, where their names are not given.")] = None,
    class_names: Annotated[
        Path | None, typer.Option(help="A file with the name of each class, a line each, in the order of the outputs.")
    ] = None,
    expects: Annotated[
        str | None, typer.Option(help="Format of its input images as JSON: size, channel_order, range, mean, std.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name for people; the file's without one.")] = None,
    as_json: Json = False,
) -> None:
    """Add a network, from a file or of a job, and wait until it is checked; print its id.

    The rest is read from a student.json of Retort beside the file."""
    from retort.client import Retort

    if (file is None) == (of_job is None):
        given_both = f"both the file {file} and --from {of_job} are given"
        raise CommandError(
            f"{given_both if file is not None else 'nothing is given'}; wanted a FILE, or --from and a job", USAGE
        )
    form = FORMS.get(file.suffix) if file is not None else None
    if file is not None and form is None:
        raise CommandError(f"{file} is not a .safetensors or .onnx file", USAGE)
    given = _read_description(file) if file is not None and form == "safetensors" else {}
    if expects is not None:
        given["expects"] = given.get("expects", {}) | _object(expects)
    if class_names is not None:
        given["class_names"] = _lines(class_names)
    given |= {k: v for k, v in {"architecture": architecture, "classes": classes}.items() if v is not None}
    with Retort() as client:
        if file is not None:
            given |= {"upload": upload_file(client, file, "model").id, "form": form}
        else:
            given |= {"job": of_job, "network": network}
        made = client.models.create(name or (network if file is None else file.stem), **given)
        if made.job_id is not None:
            follow(client, made.job_id, quiet=True)
        found = client.models.get(made.id)
    if found.state == "refused":
        raise CommandError(f"{found.id} was refused: {found.error}")
    if as_json:
        print_json(found)
    else:
        print_line(found.id)


@app.command()
@report_errors
def check(
    model: ModelId,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Name of a data set, or a file with its fields.")],
    images: Annotated[int | None, typer.Option(min=1, help="Number of images that it is evaluated on.")] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model on a data set, and test whether its order of classes or its input format is wrong."""
    from retort.client import Retort

    fields = read_recipe(dataset) if Path(dataset).is_file() else {"name": dataset}
    if dataset.startswith("dataset_"):
        fields = {"name": "stored", "dataset": dataset}
    with Retort() as client:
        job = client.models.check(model, fields, images=images)
        watch_to_the_end(client, job.id, as_json=as_json)


@app.command()
@report_errors
def delete(model: ModelId) -> None:
    """Delete a model; refused while a job that has not ended uses it."""
    from retort.client import Retort

    with Retort() as client:
        client.models.delete(model)
    print_line(f"{model} is deleted.")


def _row(model: ModelInfo) -> tuple[str, ...]:
    count = "" if model.classes is None else str(model.classes)
    return (model.id, model.name, model.state, model.architecture, count, size(model.size), ago(model.created_at))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _read_description(file: Path) -> dict[str, Any]:
    """The fields that a student.json of Retort beside the weights gives."""
    from retort.user_model import from_description

    description = file.with_suffix(".json")
    if not description.is_file():
        return {}
    found = _object(description.read_text(encoding="utf-8"))
    return from_description(found) if "retort" in found else {}


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise CommandError(f"{text[:60]!r} is not JSON: {error}", USAGE) from None
    if not isinstance(found, dict):
        raise CommandError(f"{text[:60]!r} is not a JSON object", USAGE)
    return found


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}", USAGE) from None
