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


@pytest.mark.parametrize(
    ("name", "url", "escaped"),
    [
        ("database_url", "postgresql+psycopg://retort:pass@word@host/db", "@ as %40"),
        ("database_url", "postgresql+psycopg://retort:@@host/db", "@ as %40"),
        ("database_url", "postgresql+psycopg://retort:pass@word/@host/db", "@ as %40"),
        ("broker_url", "redis://:pass/word@host:6379/0", "/ as %2F"),
        ("broker_url", "redis://:12/34@host:6379/0", "/ as %2F"),
        ("broker_url", "redis://:pass#word?@host:6379/0", "# as %23 and ? as %3F"),
        ("broker_url", "redis://:pass[word]@host:6379/0", "[ as %5B and ] as %5D"),
        ("broker_url", "sentinel://:good@a:26379;sentinel://:b/d@b:26379", "/ as %2F"),
    ],
)
def test_a_password_that_would_be_taken_for_a_host_is_refused(
    environment: Environment, name: str, url: str, escaped: str
) -> None:
    environment(**{name: url})
    with pytest.raises(SettingsError) as refused:
        get_settings()
    wanted = f"its user, password or an option must have {escaped}"
    assert str(refused.value) == f"RETORT_{name.upper()} in the environment cannot be used: {wanted}"


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("database_url", "postgresql+psycopg://retort:p%40ss/w#rd?[:]@host/db"),
        ("database_url", "postgresql+psycopg://retort@host/db?application_name=a%40b"),
        ("database_url", "sqlite:////data/me@home/c@d.db"),
        ("broker_url", "redis://:p@ss:word;&%2F@host:6379/0"),
        ("broker_url", "redis://host:6379/0"),
        ("broker_url", "sentinel://:good@a:26379;sentinel://:good@b:26379"),
        ("broker_url", "amqp://me:word@a//;amqp://me:word@b//"),
    ],
)
def test_a_password_that_is_read_as_it_is_meant_is_taken(environment: Environment, name: str, url: str) -> None:
    environment(**{name: url})
    assert getattr(get_settings(), name).get_secret_value() == url


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
