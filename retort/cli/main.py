"""The command `retort`. Heavy imports stand inside the commands, so that `retort --help` is quick."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from typing import Annotated

import typer

from retort.cli import audit, catalogue, datasets, download, jobs, keys, models, projects, upload, uploads

app = typer.Typer(
    name="retort",
    help="Distillation as a service: a large trained network in, a small one out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def address(
    url: Annotated[
        str | None, typer.Option(help="The service's address; RETORT_URL, or http://127.0.0.1:8765, without it.")
    ] = None,
) -> None:
    """Distillation as a service: a large trained network in, a small one out."""
    if url:
        os.environ["RETORT_URL"] = url  # read by the client, and by processes that a command starts


app.command()(jobs.validate)
app.command()(jobs.submit)
app.command()(jobs.jobs)
app.command()(jobs.show)
app.command()(jobs.watch)
app.command()(jobs.pause)
app.command()(jobs.resume)
app.command()(jobs.stop)
app.command()(jobs.cancel)
app.command()(download.download)
app.command()(upload.upload)
app.command()(catalogue.methods)
app.command()(catalogue.architectures)
app.command()(projects.usage)
app.command()(audit.audit)
app.add_typer(datasets.app, name="datasets")
app.add_typer(keys.app, name="keys")
app.add_typer(projects.app, name="projects")
app.add_typer(models.app, name="models")
app.add_typer(uploads.app, name="uploads")

# Of the packages above this one, which need not be installed.
for further in entry_points(group="retort.commands"):
    further.load()(app)

if __name__ == "__main__":
    app()
