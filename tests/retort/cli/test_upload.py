from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

Run = Callable[..., Result]


def test_upload_prints_the_id_and_nothing_else(retort: Run, tmp_path: Path) -> None:
    file = tmp_path / "flowers.tar"
    file.write_bytes(b"flowers" * 100_000)
    first = retort("upload", str(file), "--kind", "dataset")
    assert first.exit_code == 0, first.stderr
    (upload_id,) = first.stdout.split()
    again = retort("upload", str(file), "--kind", "dataset", "--json")
    shown = json.loads(again.stdout)
    assert (shown["id"], shown["state"], shown["size"]) == (upload_id, "complete", 700_000)
    named = retort("upload", str(file), "--kind", "model", "--name", "net.onnx", "--json")
    assert json.loads(named.stdout)["name"] == "net.onnx"


def test_uploads_are_listed_and_deleted(retort: Run, tmp_path: Path) -> None:
    ids = {}
    for kind in ("dataset", "model"):
        (tmp_path / kind).write_bytes(kind.encode() * 1000)
        ids[kind] = retort("upload", str(tmp_path / kind), "--kind", kind).stdout.strip()
    assert [one["id"] for one in json.loads(retort("uploads", "--json").stdout)] == [ids["model"], ids["dataset"]]
    listed = retort("uploads", "--kind", "dataset", "--limit", "5").stdout
    assert f"{ids['dataset']} " in listed
    assert re.search("6 d 23 h|7 d 0 h", listed)
    assert ids["model"] not in listed
    made = json.loads(retort("datasets", "create", "f", ids["dataset"], "--json").stdout)
    used = retort("uploads", "delete", ids["dataset"])
    sentence = f"upload {ids['dataset']} is used by jobs that have not ended ({made['job_id']}), so cancel them first"
    assert (used.exit_code, used.stderr) == (1, f"retort: {sentence}\n")
    assert retort("uploads", "delete", ids["model"]).stdout == f"{ids['model']} is deleted.\n"
    assert json.loads(retort("uploads", "--kind", "model", "--json").stdout) == []
    assert "there is no upload" in retort("uploads", "delete", ids["model"]).stderr
    assert "state is 'half'" in retort("uploads", "--state", "half").stderr


def test_a_file_that_cannot_be_uploaded_is_refused_in_a_sentence(retort: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for words, code, sentence in (
        ((str(tmp_path), "--kind", "dataset"), 2, f"{tmp_path} is a folder; wanted a file, such as an archive of"),
        ((str(tmp_path / "none"), "--kind", "dataset"), 2, "cannot be read: No such file or directory"),
        ((str(tmp_path / "empty"), "--kind", "dataset"), 1, "size is 0; wanted at least 1"),
        ((str(tmp_path / "empty"), "--kind", "picture"), 2, "picture"),
        ((str(tmp_path / "empty"),), 2, "--kind"),
    ):
        result = retort("upload", *words)
        assert result.exit_code == code, result.stderr
        assert sentence in result.stderr
        assert result.stdout == ""
