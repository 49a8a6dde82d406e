"""What the environment decides."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

from service.settings import RENAMED, Settings, get_settings

Environment = Callable[..., None]


def test_the_defaults_lie_in_the_data_directory(environment: Environment, tmp_path: Path) -> None:
    settings = get_settings()
    data = tmp_path / "data"
    assert settings.database == f"sqlite:///{data / 'retort.db'}"
    assert settings.storage == data / "storage"
    assert settings.broker == "filesystem://"
    assert settings.data_roots == ()


def test_folders_are_joined_like_those_of_path_or_a_json_list(environment: Environment) -> None:
    environment(data_roots='["/photos"]')
    assert get_settings().data_roots == (Path("/photos"),)
    environment(data_roots="/photos:/more photos")
    assert get_settings().data_roots == (Path("/photos"), Path("/more photos"))
    environment(data_roots="")
    assert get_settings().data_roots == ()


def test_storage_is_a_directory(environment: Environment) -> None:
    environment(storage_url="file:///srv/retort")
    assert get_settings().storage == Path("/srv/retort")
    with pytest.raises(ValidationError, match="only file:// URLs are served"):
        Settings(storage_url="s3://bucket")


def test_secrets_do_not_show(environment: Environment) -> None:
    environment(database_url="postgresql+psycopg://retort:hunter2@host/db")
    assert "hunter2" not in repr(get_settings())
    assert "hunter2" in get_settings().database


@pytest.mark.parametrize("old", [*RENAMED, *map(str.lower, RENAMED)])
def test_a_name_of_an_earlier_version_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old: str) -> None:
    message = f"{old} is set, but is called {RENAMED[old.upper()]} now; rename it"
    monkeypatch.setenv(old, "1")
    get_settings.cache_clear()
    with pytest.raises(SettingsError, match=message):
        get_settings()
    monkeypatch.delenv(old)
    (tmp_path / old).write_text("1")
    monkeypatch.setenv("RETORT_SECRETS_DIR", str(tmp_path))
    with pytest.raises(SettingsError, match=message):
        get_settings()


def test_todays_names_are_settings() -> None:
    assert {name.removeprefix("RETORT_").lower() for name in RENAMED.values()} <= set(Settings.model_fields)


@pytest.mark.parametrize("program", ["service.app", "service.migrations", "worker.app"])
def test_wrong_settings_end_a_program_with_one_sentence(program: str, tmp_path: Path) -> None:
    def run(**variables: str) -> tuple[int, str]:
        environment = {**os.environ, "RETORT_DATA_DIR": str(tmp_path), **variables}
        command = [sys.executable, "-m", program]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        return result.returncode, result.stderr

    renamed = "RETORT_KEEP_JOBS_DAYS is set, but is called RETORT_JOBS_RETENTION_DAYS now; rename it\n"
    assert run(RETORT_KEEP_JOBS_DAYS="9") == (2, renamed)
    wrong = "RETORT_LEASE_SECONDS in the environment cannot be used: Input should be greater than 0\n"
    assert run(RETORT_LEASE_SECONDS="-1") == (2, wrong)
