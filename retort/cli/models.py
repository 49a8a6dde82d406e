"""Models from the command line: trained networks that you bring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retort.cli.errors import USAGE, CommandError, speaks
from retort.cli.recipe_file import read_recipe
from retort.cli.screen import Json, ago, print_json, print_table, size
from retort.cli.upload import bring
from retort.cli.watch import follow, watch_to_the_end

if TYPE_CHECKING:
    from retort.client import Model

FORMS = {".safetensors": "safetensors", ".onnx": "onnx"}
ModelId = Annotated[str, typer.Argument(metavar="MODEL", help="The model's id.")]

app = typer.Typer(help="List, bring, check and remove trained networks.", invoke_without_command=True)


@app.callback()
@speaks
def list_models(context: typer.Context, as_json: Json = False) -> None:
    """List, bring, check and remove trained networks."""
    from retort.client import Retort

    if context.invoked_subcommand is not None:
        return
    with Retort() as client:
        found = [*client.models.list()]
    if as_json:
        print_json(found)
        return
    columns = ("model", "name", "state", "architecture", "classes", "size", "brought")
    print_table(columns, map(_row, found))


@app.command()
@speaks
def show(model: ModelId, as_json: Json = False) -> None:
    """Show one model, with all that was found when it was taken in."""
    from retort.client import Retort

    with Retort() as client:
        found = client.models.get(model)
    if as_json:
        print_json(found)
        return
    rows = [(name, _spell(value)) for name, value in found.model_dump(mode="json", exclude={"report"}).items()]
    rows += [(name, _spell(value)) for name, value in (found.report or {}).items()]
    print_table(("field", "value"), rows)


@app.command()
@speaks
def add(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A .safetensors or .onnx file.")] = None,
    of_job: Annotated[
        str | None, typer.Option("--from", metavar="JOB", help="Take a network of that job instead of a file.")
    ] = None,
    network: Annotated[str, typer.Option(help="Which network of that job: a student's name, or teacher.")] = "student",
    architecture: Annotated[str | None, typer.Option(help="Of safetensors: a name of the catalogue.")] = None,
    classes: Annotated[int | None, typer.Option(help="How many classes, where their names are not given.")] = None,
    class_names: Annotated[
        Path | None, typer.Option(help="A file with the name of each class, a line each, in the order of the outputs.")
    ] = None,
    expects: Annotated[
        str | None, typer.Option(help="What its images must look like, as JSON: size, channel_order, range, mean, std.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name for people; the file's without one.")] = None,
    as_json: Json = False,
) -> None:
    """Bring a network, from a file or of a job, and wait until it is taken in; print its id.

    A student.json of ours beside the file says the rest."""
    from retort.client import Retort

    if (file is None) == (of_job is None):
        given_both = f"both the file {file} and --from {of_job} are given" if file is not None else "nothing is given"
        raise CommandError(f"{given_both}; wanted a FILE, or --from and a job", USAGE)
    form = FORMS.get(file.suffix) if file is not None else None
    if file is not None and form is None:
        raise CommandError(f"{file} is neither .safetensors nor .onnx", USAGE)
    given = _beside(file) if file is not None and form == "safetensors" else {}
    if expects is not None:
        given["expects"] = given.get("expects", {}) | _object(expects)
    if class_names is not None:
        given["class_names"] = _lines(class_names)
    given |= {k: v for k, v in {"architecture": architecture, "classes": classes}.items() if v is not None}
    with Retort() as client:
        if file is not None:
            given |= {"upload": bring(client, file, "model").id, "form": form}
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
        typer.echo(found.id)


@app.command()
@speaks
def check(
    model: ModelId,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Name of a data set, or a file with its fields.")],
    images: Annotated[int | None, typer.Option(min=1, help="How many images are looked at.")] = None,
    as_json: Json = False,
) -> None:
    """Try a model on a data set: how good it is, and whether its classes or its input seem wrong."""
    from retort.client import Retort

    fields = read_recipe(dataset) if Path(dataset).is_file() else {"name": dataset}
    if dataset.startswith("dataset_"):
        fields = {"name": "stored", "dataset": dataset}
    with Retort() as client:
        job = client.models.check(model, fields, images=images)
        watch_to_the_end(client, job.id, as_json=as_json)


@app.command()
@speaks
def delete(model: ModelId) -> None:
    """Remove a model that no job goes on to use."""
    from retort.client import Retort

    with Retort() as client:
        client.models.delete(model)
    typer.echo(f"{model} is deleted.")


def _row(model: Model) -> tuple[str, ...]:
    count = "" if model.classes is None else str(model.classes)
    return (model.id, model.name, model.state, model.architecture, count, size(model.size), ago(model.created_at))


def _spell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _beside(file: Path) -> dict[str, Any]:
    """What a student.json of ours says that lies beside the weights."""
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
        raise CommandError(f"{text[:60]!r} is no JSON object", USAGE)
    return found


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}", USAGE) from None
