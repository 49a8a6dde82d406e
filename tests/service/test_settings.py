"""What the environment decides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import Settings, get_settings

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
