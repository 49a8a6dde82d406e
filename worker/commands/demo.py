"""`retort demo`: a real distillation through the whole service, and a proof of its result."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retort.cli.errors import CommandError, report_errors
from retort.cli.screen import console, make_table, print_line, size

if TYPE_CHECKING:
    from retort.client import Retort
    from worker.commands.proof import Proof

NEEDED = ("torch", "onnxruntime", "sklearn", "celery", "fastapi")


@report_errors
def demo(
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the downloaded files.")] = Path(".demo"),
) -> None:
    """Teach a teacher on real digits, distil a student, download it, run it, and print a table.

    Starts a service of its own for that, unless RETORT_URL or --url names one.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(f"the demo runs the whole service and needs {', '.join(missing)}: install retort[worker]")
    with service_for_demo() as client:
        folder = distil(client, to)
    from worker.commands.proof import prove, read_report

    proofs = prove(folder, read_recipe(), read_report(folder))
    print_proofs(proofs)
    wrong = [proof.name for proof in proofs if not proof.holds]
    if wrong:
        raise CommandError(f"not the accuracy that the job reported, to the image: {', '.join(wrong)}")
    typer.echo(
        "The files, built again from safetensors and run by onnxruntime, give the reported accuracy to the image.\n"
        f"They are in {folder}."
    )


def distil(client: Retort, to: Path) -> Path:
    """Submit the demo's job, follow it, download all its files; the folder that they are in."""
    from retort.cli.download import fetch
    from retort.cli.jobs import send
    from retort.cli.watch import watch_to_the_end

    job = send(client, read_recipe())
    print_line(f"Submitted {job.id} to {client.url}")
    watch_to_the_end(client, job.id, with_report=False)
    fetch(client, job.id, client.jobs.artifacts(job.id), to)
    return to


def read_recipe() -> dict[str, Any]:
    """The recipe that the demo submits."""
    import yaml

    recipe: dict[str, Any] = yaml.safe_load((files("worker.commands") / "demo.yaml").read_text(encoding="utf-8"))
    return recipe


@contextmanager
def service_for_demo() -> Iterator[Retort]:
    """A client of the service that the environment names, or of one that runs as long as the block."""
    from retort.client import Retort
    from worker.commands.embedded import embedded_service

    if os.environ.get("RETORT_URL"):
        with Retort() as client:
            yield client
        return
    folder = Path(tempfile.mkdtemp(prefix="retort-demo-"))
    print_line("Starting a service with one worker ...")
    try:
        with embedded_service(folder) as (url, key), Retort(url, key) as client:
            yield client
    except BaseException:
        print_line(f"The service's files are in {folder}", err=True)
        raise
    shutil.rmtree(folder)


def print_proofs(proofs: Sequence[Proof]) -> None:
    """Teacher, student and baseline side by side."""
    columns = ("network", "architecture", "test accuracy", "images right", "parameters", "weights", "latency, 1 image")
    teacher = next((proof for proof in proofs if proof.role == "teacher"), None)
    console().print(make_table(columns, (_row(proof, teacher) for proof in proofs), right=columns[2:]))


def _row(proof: Proof, teacher: Proof | None) -> tuple[str, ...]:
    smaller = ""
    if teacher is not None and proof is not teacher:
        smaller = f" ({teacher.parameters / proof.parameters:.1f}x fewer)"
    return (
        proof.role,
        proof.architecture,
        f"{proof.rebuilt / proof.images:.2%}",
        f"{proof.rebuilt} of {proof.images}",
        f"{proof.parameters:,}{smaller}",
        size(proof.weights_bytes),
        f"{proof.latency_seconds * 1000:.2f} ms",
    )
