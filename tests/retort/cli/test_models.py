"""Models from the command line."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from retort.cli.main import app
from retort.client import Retort
from service.blobs.repository import write_blob
from service.claims.service import NewArtifact, Trouble, fail, succeed
from service.db import transaction
from service.kinds import EFFECTS
from tests.conftest import wait_until
from tests.retort.client.conftest import Service
from tests.service.datasets.taking import take
from tests.up import Up

Run = Callable[..., Result]
EXPECTS = {"size": 8, "channel_order": "rgb", "range": [0.0, 1.0], "mean": [0.3] * 3, "std": [0.4] * 3}
REPORT = {"parameters": 7, "sentences": []}
DESCRIPTION = ("--architecture", "resnet8", "--classes", "10", "--expects", json.dumps(EXPECTS))
TINY = {
    "dataset": {"name": "digits", "label_share": 0.1},
    "student": {"architecture": "resnet8"},
    "training": {"epochs": 1, "threads": 1},
    "exports": [{"name": "safetensors"}, {"name": "onnx"}],
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A safetensors file; no network is built of it."""
    import numpy as np

    file = tmp_path / "teacher.safetensors"
    save_file({"weight": np.zeros(3, np.float32)}, file)
    return file


@contextmanager
def model_is_checked() -> Iterator[None]:
    """The model that the block adds is checked, as by a worker."""

    def work() -> None:
        with Retort() as client:
            wait_until(lambda: [*client.models.list()], "a model is added")
            (model,) = client.models.list()
        taken = take(model.job_id)
        known = {"classes": 10, "class_names": None, "expects": EXPECTS, "card": None}
        report = io.BytesIO(json.dumps({"model": known, **REPORT}).encode())
        files = [NewArtifact("report.json", None, "application/json", write_blob(report))]
        try:
            with transaction() as session:
                succeed(session, taken, files, EFFECTS)
        except BaseException as error:
            with transaction() as session:  # whoever follows the job would wait for ever
                fail(session, taken, Trouble("service", "broken_test", str(error)))
            raise

    worker = threading.Thread(target=work)
    worker.start()
    yield
    worker.join()


def test_a_model_is_added_shown_used_and_deleted(retort: Run, service: Service, weights: Path) -> None:
    assert retort("models").stdout == "Nothing there.\n"
    with model_is_checked():
        added = retort("models", "add", str(weights), *DESCRIPTION)
    assert added.exit_code == 0, added.stderr
    (model_id,) = added.stdout.split()
    shown = retort("models").stdout
    for word in (model_id, "teacher", "ready", "resnet8"):
        assert word in shown
    shown = json.loads(retort("models", "show", model_id, "--json").stdout)
    assert (shown["state"], shown["expects"], shown["report"]) == ("ready", EXPECTS, REPORT)
    assert "parameters" in retort("models", "show", model_id).stdout
    job_id = service.create(teacher={"model": model_id})
    used = retort("models", "delete", model_id)
    assert (used.exit_code, used.stdout) == (1, "")
    assert used.stderr == (
        f"retort: model {model_id} is used by jobs that have not ended ({job_id}), so cancel them first\n"
    )
    retort("cancel", job_id)
    assert retort("models", "delete", model_id).stdout == f"{model_id} is deleted.\n"
    assert json.loads(retort("models", "--json").stdout) == []


def test_a_wrong_file_or_job_is_refused_in_a_sentence(
    retort: Run, service: Service, weights: Path, tmp_path: Path
) -> None:
    job_id, other = service.create(), tmp_path / "teacher.pth"
    other.write_bytes(b"pickled")
    for words, code, sentence in (
        ((), 2, "nothing is given; wanted a FILE, or --from and a job"),
        ((str(weights), "--from", job_id), 2, f"both the file {weights} and --from {job_id} are given"),
        ((str(other),), 2, f"{other} is not a .safetensors or .onnx file"),
        ((str(tmp_path / "none.onnx"),), 2, "cannot be read: No such file or directory"),
        ((str(weights),), 1, "/architecture: architecture is missing, and the file does not say it"),
        ((str(weights), "--expects", "{bad"), 2, "'{bad' is not JSON"),
        ((str(weights), "--class-names", str(tmp_path / "none")), 2, "none cannot be read: No such file"),
        (("--from", job_id), 1, f"job {job_id} is queued; wanted one that succeeded"),
    ):
        refused = retort("models", "add", *words)
        assert (refused.exit_code, refused.stdout) == (code, ""), refused.stderr
        assert sentence in refused.stderr


@pytest.mark.long
def test_the_commands_with_a_real_worker(shared_up: Up, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETORT_URL", shared_up.url)
    monkeypatch.setenv("RETORT_KEY", shared_up.key)

    def retort(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == code, result.output
        return result.stdout if code == 0 else result.stderr

    (tmp_path / "recipe.json").write_text(json.dumps(TINY))
    job_id = retort("submit", str(tmp_path / "recipe.json"), "--watch").split()[0]
    retort("download", job_id, "--to", str(tmp_path / "student"))
    added = [
        retort("models", "add", str(tmp_path / "student" / "student.safetensors")).strip(),
        retort("models", "add", str(tmp_path / "student" / "student.onnx"), "--name", "net").strip(),
        retort("models", "add", "--from", job_id, "--network", "student").strip(),
    ]
    assert [one["id"] for one in json.loads(retort("models", "--json"))] == added[::-1]
    os.rename(tmp_path / "student" / "student.safetensors", tmp_path / "alone.safetensors")
    wrong = [word.replace("resnet8", "resnet20") for word in DESCRIPTION]
    assert "the weights do not fit resnet20" in retort(
        "models", "add", str(tmp_path / "alone.safetensors"), *wrong, code=1
    )
    shown = retort("models", "check", added[0], "digits", "--images", "50")
    assert "of 50 images" in shown
    for model_id in added:
        assert json.loads(retort("models", "show", model_id, "--json"))["report"]["parameters"] > 70_000
        assert "is deleted" in retort("models", "delete", model_id)
