"""What ends a run is told by its exit code and in one sentence."""

import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from retort.dataset import DatasetError
from retort.datasets import DATASETS
from retort.datasets._fetch import Download
from retort.download import Unreachable
from retort.engine import checkpoint
from retort.engine.__main__ import carry_out
from retort.engine.artifacts import Packer
from retort.engine.causes import cause_of
from retort.engine.checkpoint import Checkpoints
from retort.engine.event_log import EventLog
from retort.engine.interrupt import (
    DISK_FULL,
    FAULT,
    FINISHED,
    IMPOSSIBLE,
    MACHINE_FAILED,
    MEMORY_RAN_OUT,
    OUT_OF_MEMORY,
    UNREACHABLE,
    Impossible,
    Interrupt,
    MemoryExhausted,
)
from retort.engine.trainer import Trainer
from retort.kinds import DISTILL
from retort.order import Order, Paths
from tests.conftest import free_port
from tests.retort.engine.runs import recipe_of


def from_(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (FULL, DISK_FULL, r"the disk is full: [\d,]+ bytes are free in .*, without what did not fit"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DISK_FULL, "the disk is full"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), DISK_FULL, "the disk is full"),
        (from_(DatasetError("x cannot be had"), from_(RuntimeError(), FULL)), DISK_FULL, "the disk is full"),
        (MemoryExhausted("40 images do not fit"), OUT_OF_MEMORY, "^40 images do not fit$"),
        (torch.OutOfMemoryError("CUDA out of memory. GPU 0"), MEMORY_RAN_OUT, "^memory ran out: CUDA out of memory; a"),
        (MemoryError(), MEMORY_RAN_OUT, "^memory ran out; a smaller batch_size takes less$"),
        (from_(DatasetError("too large"), MemoryError("7 GiB")), MEMORY_RAN_OUT, "^memory ran out: 7 GiB; a"),
        (Unreachable("timed out"), UNREACHABLE, "^timed out$"),
        (Impossible("5 classes"), IMPOSSIBLE, "^5 classes$"),
        (DatasetError("no images"), IMPOSSIBLE, "^no images$"),
        (RuntimeError("CUDA error: an illegal memory access\nCompile with"), MACHINE_FAILED, "CUDA error: an illegal"),
        (from_(KeyError("x"), OSError(errno.EIO, "Input/output error")), MACHINE_FAILED, "Input/output error$"),
    ],
)
def test_each_cause_has_its_code_and_one_sentence(tmp_path, error, code, said):
    found = cause_of(error, (tmp_path / "not there yet",))
    assert found is not None
    assert found[0] == code
    assert re.search(said, found[1])
    assert "\n" not in found[1]


@pytest.mark.parametrize("error", [RuntimeError("shape '[3]' is invalid"), OSError(errno.EACCES, "no"), KeyError("x")])
def test_what_nobody_foresaw_is_a_crash(tmp_path, error):
    assert cause_of(error, (tmp_path,)) is None


def attempt(recipe: dict, directory: Path, interrupt: Interrupt | None = None) -> tuple[int, str | None]:
    """Exit code and last sentence of a run in this process."""
    directory.mkdir(exist_ok=True)
    paths = Paths(directory=directory, checkpoints=directory / "checkpoints", weights=directory, checkpoint_seconds=1e9)
    with (directory / "log").open("wb") as out:
        order = Order(kind=DISTILL, spec=recipe, paths=paths)
        code = carry_out(order, EventLog(out.fileno()), interrupt or Interrupt())
    return code, json.loads((directory / "log").read_text().splitlines()[-1]).get("text")


def test_what_nobody_foresaw_is_told_without_its_trace(tmp_path, monkeypatch, capfd):
    error = RecursionError("maximum recursion depth exceeded, /srv/secret")
    monkeypatch.setattr(DATASETS["digits"], "load", lambda *_: (_ for _ in ()).throw(error))
    code, said = attempt(recipe_of(), tmp_path / "a")
    assert (code, said) == (FAULT, "the engine failed through a fault of its own (RecursionError)")
    assert "Traceback" in capfd.readouterr().err


def test_a_reason_that_holds_what_cannot_be_stored_is_shown_escaped(tmp_path, monkeypatch):
    error = DatasetError("the file 'a\0b\ud800' is no image")
    monkeypatch.setattr(DATASETS["digits"], "load", lambda *_: (_ for _ in ()).throw(error))
    assert attempt(recipe_of(), tmp_path / "a") == (IMPOSSIBLE, r"the file 'a\0b\ud800' is no image")


def runs_out_before(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let memory run out in a student's step of that number."""
    compute = Trainer.compute_step

    def limited(self, epoch, loaded):
        if self.train_states[0].name == "student" and self.step == step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        compute(self, epoch, loaded)

    monkeypatch.setattr(Trainer, "compute_step", limited)


def test_memory_that_runs_out_in_the_first_batch_is_the_recipes_fault_and_later_it_is_not(tmp_path, monkeypatch):
    recipe = recipe_of({"name": "kd"})
    with monkeypatch.context() as patch:
        runs_out_before(0, patch)
        code, said = attempt(recipe, tmp_path / "first")
        assert (code, said) == (
            OUT_OF_MEMORY,
            "the device's memory ran out: 32 examples of a batch do not fit at once, not even 2 do",
        )
    with monkeypatch.context() as patch:
        runs_out_before(3, patch)
        code, said = attempt(recipe, tmp_path / "later")
    assert code == MEMORY_RAN_OUT
    assert said == "memory ran out: CUDA out of memory; a smaller batch_size takes less"


def test_a_batch_that_fitted_before_the_checkpoint_is_not_the_recipes_fault_after_it(tmp_path, monkeypatch):
    recipe, interrupt = recipe_of({"name": "kd"}), Interrupt()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_write_progress", lambda self: self.step == 2 and interrupt.set())
        patch.setattr(EventLog, "progress_is_due", lambda self: True)
        attempt(recipe, tmp_path / "a", interrupt)
    runs_out_before(2, monkeypatch)
    assert attempt(recipe, tmp_path / "a")[0] == MEMORY_RAN_OUT
    monkeypatch.undo()
    assert attempt(recipe, tmp_path / "a")[0] == FINISHED


def test_a_data_set_that_the_network_does_not_bring_is_unreachable(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    download = Download((f"http://127.0.0.1:{free_port()}/cifar.tar.gz",), "0" * 32, "cifar", ("*",))
    monkeypatch.setattr(DATASETS["cifar10"], "downloads", (download,))
    code, said = attempt(recipe_of() | {"dataset": {"name": "cifar10"}}, tmp_path / "a")
    assert code == UNREACHABLE
    assert said.startswith("cifar.tar.gz cannot be had from http://127.0.0.1")
    assert "refused" in said


def test_a_full_disk_leaves_the_checkpoint_before_and_no_draft(tmp_path, monkeypatch):
    kept = Checkpoints(tmp_path, "r", "d", "1", seconds=1000)
    before = kept.write({"step": 1})

    def no_room(tensors, file, metadata):
        Path(file).write_bytes(b"half of it")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", no_room)
    with pytest.raises(SafetensorError):
        kept.write({"step": 2})
    assert [file.name for file in tmp_path.iterdir()] == [before]
    assert kept.newest(torch.device("cpu")) == {"step": 1}


def test_a_full_disk_leaves_no_artifact(tmp_path):
    def pack() -> None:
        with Packer(tmp_path) as packer:
            packer.write_json("first.json", None, {"a": 1})
            (packer.directory / "second.json").symlink_to("/dev/full")
            packer.write_json("second.json", None, {"a": 1})

    with pytest.raises(OSError, match="No space left"):
        pack()
    assert not list(tmp_path.iterdir())


def may_mount() -> bool:
    """Whether this process may have a small file system of its own."""
    if shutil.which("unshare") is None:
        return False
    mounting = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(mounting, capture_output=True).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="this system lets nobody mount a small file system of their own")
def test_a_disk_that_fills_up_ends_the_run_with_its_name_and_room(tmp_path):
    """There is room for one checkpoint of the teacher and not for a second one."""
    small = tmp_path / "small"
    small.mkdir()
    recipe = recipe_of(epochs=1)
    recipe["teacher"]["architecture"] = "resnet8x4"  # whose checkpoints are large
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    engine = f"{sys.executable} -m retort.engine {tmp_path}/recipe.json {small} --checkpoint-seconds 0"
    script = f"mount -t tmpfs -o size=20m tmpfs {small} && {engine}; code=$?; echo; echo $code; find {small} -type f"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True)
    said, left = done.stdout.split("\n\n")
    code, *files = left.split()
    assert int(code) == DISK_FULL, done.stderr
    text = json.loads(said.splitlines()[-1])["text"]
    assert text.startswith("the disk is full: ")
    assert f" bytes are free in {small}" in text
    assert files
    assert all(Path(file).parent.name == "checkpoints" and file.endswith(".safetensors") for file in files)
