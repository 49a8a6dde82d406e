"""The commands for data sets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from retort.cli.errors import USAGE, CommandError, report_errors
from retort.cli.screen import Json, ago, format_facts, print_field, print_json, print_line, print_table, size

if TYPE_CHECKING:
    from retort.client import DatasetInfo, Retort

app = typer.Typer(help="List, show, create and delete data sets.", no_args_is_help=True)

SPLITS = ("train", "validation", "test")
Layout = Literal["auto", "folders", "split_folders", "inner_folders", "file_names", "list"]
DatasetId = Annotated[str, typer.Argument(metavar="DATASET", help="The data set's id.")]


@app.command("list")
@report_errors
def list_(
    builtin: Annotated[
        bool, typer.Option("--builtin", help="List the built-in ones instead of user data sets.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Number of user data sets at most, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List user data sets, or the built-in ones."""
    from retort.client import Retort

    with Retort() as client:
        if builtin:
            entries = client.datasets.builtin()
            if as_json:
                print_json(entries)
            else:
                print_table(("data set", "summary"), ((entry.name, entry.summary) for entry in entries))
            return
        found = [*islice(client.datasets.list(page=min(limit, 200)), limit)]
    if as_json:
        print_json(found)
        return
    print_table(("data set", "name", "state", "classes", "examples", "size", "created"), map(_row, found))


@app.command()
@report_errors
def show(dataset: DatasetId, as_json: Json = False) -> None:
    """Show one data set: its splits and classes, and the findings about its images."""
    from retort.client import Retort

    with Retort() as client:
        found = client.datasets.get(dataset)
    if as_json:
        print_json(found)
    else:
        _print(found)


@app.command()
@report_errors
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name for people.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder or an archive on this machine, or the id of an upload.",
        ),
    ],
    on_workers: Annotated[
        bool, typer.Option("--on-workers", help="SOURCE is a folder of the workers' machines.")
    ] = False,
    validation_share: Annotated[
        float, typer.Option(help="Share of the training images for a missing validation split.")
    ] = 0.1,
    test_share: Annotated[float, typer.Option(help="Share of the training images for a missing test split.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of the choice of those images.")] = 0,
    broken: Annotated[int, typer.Option(min=0, help="Number of broken images that are allowed.")] = 0,
    missing: Annotated[
        int, typer.Option(min=0, help="Number of files that lists may name and that are not there.")
    ] = 0,
    image_size: Annotated[int, typer.Option(help="Side of the square that recipes bring images to, in pixels.")] = 224,
    background: Annotated[
        tuple[int, int, int],
        typer.Option(metavar="RED GREEN BLUE", help="Colour on which transparent pixels are laid, 0 to 255 each."),
    ] = (255, 255, 255),
    layout: Annotated[
        Layout, typer.Option(help="The source of classes and splits; auto fails where it is unclear.")
    ] = "auto",
    lists: Annotated[
        list[str] | None,
        typer.Option("--list", metavar="FILE", help="A file that is a list of the images, if not all."),
    ] = None,
    path_column: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of the files, in lists.")] = None,
    label_column: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of the classes.")] = None,
    split_column: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of the splits.")] = None,
    encoding: Annotated[
        str | None, typer.Option(help="Code page of names and lists that are not UTF-8: cp1252, gbk, ...")
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", metavar="NAME", help="A class; images of others are left out.")
    ] = None,
    split_names: Annotated[
        list[str] | None,
        typer.Option("--split-name", metavar="SPLIT=NAME", help="A name of a split, such as test=fold5."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow its job to the end.")] = False,
    as_json: Json = False,
) -> None:
    """Make a user data set of images; print its id. An archive is uploaded first, a folder packed and uploaded."""
    from retort.client import Retort

    with Retort() as client:
        upload, folder = (None, source) if on_workers else (_upload(client, source), None)
        found = client.datasets.create(
            name,
            upload=upload,
            folder=folder,
            splits={
                "validation_share": validation_share,
                "test_share": test_share,
                "seed": seed,
                "names": _by_split(split_names or ()),
            },
            limits={"broken": broken, "missing": missing},
            image_size=image_size,
            background=background,
            layout=layout,
            lists=lists or (),
            columns={"path": path_column, "label": label_column, "split": split_column},
            encoding=encoding,
            classes=classes or (),
        )
        if not watch:
            print_json(found) if as_json else print_line(found.id)
            return
        from retort.cli.watch import watch_to_the_end

        assert found.job_id is not None, "a new data set has a job"
        if not as_json:
            print_line(found.id)
        watch_to_the_end(client, found.job_id, as_json=as_json)
        if not as_json:
            _print(client.datasets.get(found.id))


@app.command()
@report_errors
def delete(dataset: DatasetId) -> None:
    """Delete a data set; refused while a job that has not ended uses it."""
    from retort.client import Retort

    with Retort() as client:
        client.datasets.delete(dataset)
    print_line(f"{dataset} is deleted.")


def _by_split(names: Sequence[str]) -> dict[str, list[str]]:
    """Names of splits, given as split=name, by the split."""
    found: dict[str, list[str]] = {}
    for text in names:
        split, sign, name = text.partition("=")
        if split not in SPLITS or not sign or not name:
            raise CommandError(f"--split-name is {text!r}; wanted {', '.join(SPLITS)}, and a name after =", USAGE)
        found.setdefault(split, []).append(name)
    return found


def _upload(client: Retort, source: str) -> str:
    """The id of the upload that `source` names; a file or folder of this machine is uploaded first."""
    if source.startswith("upload_"):
        return source
    if Path(source).is_file():
        from retort.cli.upload import upload_file

        return upload_file(client, Path(source), "dataset").id
    if Path(source).is_dir():
        from retort.cli.upload import upload_folder

        return upload_folder(client, Path(source)).id
    raise CommandError(
        f"there is no file or folder {source!r} here; for a folder of the workers' machines add --on-workers", USAGE
    )


def _row(one: DatasetInfo) -> tuple[str, ...]:
    facts = one.facts
    examples = f"{facts.train + facts.validation + facts.test:,}" if facts else ""
    classes = str(facts.classes) if facts and facts.classes is not None else ""
    return one.id, one.name, one.state, classes, examples, size(one.size) if one.size else "", ago(one.created_at)


def _print(one: DatasetInfo) -> None:
    from retort.cli.report import known_form

    with known_form(f"the report of {one.id}"):
        _print_facts_and_classes(one)


def _print_facts_and_classes(one: DatasetInfo) -> None:
    for label, value in _lines(one):
        print_field(label, value, 9)
    if one.report:
        rows = ((each["name"], *(str(each[split]) for split in SPLITS)) for each in one.report["classes"])
        print_table(("class", *SPLITS), rows, right=SPLITS)


def _lines(one: DatasetInfo) -> list[tuple[str, str]]:
    source = " ".join(f"{kind} {value}" for kind, value in one.source.items() if value is not None)
    lines = [("data set", one.id), ("name", one.name), ("state", one.state), ("error", one.error or "")]
    lines += [("source", source), ("created", ago(one.created_at)), ("job", one.job_id or "")]
    if one.facts:
        lines += [("data", format_facts(one.facts))]
        lines += [("digest", one.digest or ""), ("size", size(one.size or 0))]
    if one.report:
        lines += [("layout", one.report["layout"])]
        lines += [("warning", text) for text in one.report["warnings"]]
        if "thumbnails" in one.report and one.job_id:
            from retort.ingest import THUMBNAILS

            lines += [("images", f"retort download {one.job_id} {THUMBNAILS}")]
    return [(label, value) for label, value in lines if value]
