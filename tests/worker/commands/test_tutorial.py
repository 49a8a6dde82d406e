"""The tutorial, word for word, against a service with a real worker: a small archive instead of the user's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from retort.cli.report import find_report, print_report
from retort.client import Retort
from tests.up import Up

TUTORIAL = Path(__file__).parents[3] / "docs" / "tutorial.md"
COLOURS = {"daisy": (250, 250, 240), "rose": (200, 30, 60), "sunflower": (250, 200, 20)}
IMAGES = 40
HANG_SECONDS = 1800
pytestmark = pytest.mark.slow


def photograph(name: str, number: int) -> bytes:
    """A flower on grass, as JPEG: no two are alike."""
    draw = np.random.default_rng([number, *name.encode()])
    image = Image.fromarray(draw.integers(20, 90, (72, 80, 3), np.uint8))
    x, y, radius = *draw.integers(15, 50, 2).tolist(), int(draw.integers(8, 18))
    ImageDraw.Draw(image).ellipse((x, y, x + radius, y + radius), fill=COLOURS[name])
    file = BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


def write_archive(file: Path) -> None:
    """An archive as users' machines make it, with a stray file."""
    with tarfile.open(file, "w") as archive:
        members = {"flowers/.DS_Store": b"\0\0\0\1Bud1"}
        members |= {f"flowers/{name}/{i}.jpg": photograph(name, i) for name in COLOURS for i in range(IMAGES)}
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, BytesIO(content))


def report_text(client: Retort, kind: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The report of the newest job of that kind, as the command line prints it."""
    (job, *_) = client.jobs.list(kind=kind)
    report = find_report(client, job.id)
    assert report is not None
    print_report(kind, report)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "brief", [{"EPOCHS": "1", "ACCURACY": "0.1"}, pytest.param({"ACCURACY": "0.1"}, marks=pytest.mark.long)]
)
def test_the_tutorial_runs_as_it_stands(
    brief: dict[str, str], shared_up: Up, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Retort(shared_up.url, shared_up.key) as client:
        before = {thing.id for thing in (*client.jobs.list(), *client.models.list())}
    write_archive(tmp_path / "flowers.tar")
    service = {"RETORT_URL": shared_up.url, "RETORT_DATA_DIR": str(shared_up.folder), "PYTHON": sys.executable}
    session = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(re.findall(r"```sh\n(.*?)```", TUTORIAL.read_text(), re.DOTALL))],
        cwd=tmp_path, env={**os.environ, **service, **brief}, capture_output=True, text=True, timeout=HANG_SECONDS,
        check=False,
    )  # fmt: skip
    assert session.returncode == 0, session.stderr
    assert "left out, as no images of any class: flowers/.DS_Store" in session.stdout
    names = "|".join(COLOURS)
    guesses = re.findall(rf"^flowers/(?:{names})/\d+\.jpg (?:{names})$", session.stdout, re.MULTILINE)
    assert len(guesses) == len(COLOURS)
    with Retort(shared_up.url, shared_up.key) as client:
        (small,) = [job for job in client.jobs.list(name="small") if job.id not in before]
        (model,) = [model for model in client.models.list() if model.id not in before]
        estimate, check = (report_text(client, kind, capsys) for kind in ("estimate", "check"))
        client.models.delete(model.id)  # others find the service as they expect it
    assert re.search(r"^The job would take .* \(.* to .*\)\.$", estimate, re.MULTILINE)
    assert re.search(r"^ accuracy +[0-9.]+% of 12 images", check, re.MULTILINE)
    assert (small.state, model.state) == ("succeeded", "ready")
    assert small.latest["small"]["validation.images"] == 12
    assert not list(tmp_path.glob("part.*"))
