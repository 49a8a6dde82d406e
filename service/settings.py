"""Everything that the environment decides, typed and named once: RETORT_* variables.

A secret, such as the password in a database's URL, may stand in a file instead of the environment: RETORT_SECRETS_DIR
names a folder of files that are called like the variables, in small letters.
"""

from __future__ import annotations

import json
import os
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from retort.ingest import MOST_FILES

SECRETS_DIR = "RETORT_SECRETS_DIR"
RENAMED = {
    "RETORT_KEEP_DATASETS_DAYS": "RETORT_DATASETS_RETENTION_DAYS",
    "RETORT_KEEP_JOBS_DAYS": "RETORT_JOBS_RETENTION_DAYS",
    "RETORT_KEEP_MODELS_DAYS": "RETORT_MODELS_RETENTION_DAYS",
    "RETORT_TEACHER_OUTPUTS_BYTES": "RETORT_TEACHER_CACHE_BYTES",
}
"""Names of earlier versions, and those of today: an old one is refused, so that none is ignored in silence."""

MISREAD = {"database_url": "@", "broker_url": "/?#[]"}
"""Signs in a password by which SQLAlchemy and Celery take a part of it for the host, and show it in their errors."""


class Settings(BaseSettings):
    """Read from RETORT_* variables; the defaults are the embedded service's."""

    model_config = SettingsConfigDict(env_prefix="RETORT_", use_attribute_docstrings=True, frozen=True)

    data_dir: Path = Field(default_factory=lambda: Path.home() / ".retort")
    """Folder of the embedded service's database, broker, storage and first key."""
    database_url: SecretStr = SecretStr("")
    """SQLAlchemy URL of the database; empty is a SQLite file in the data directory."""
    broker_url: SecretStr = SecretStr("")
    """Celery URL of the broker; empty is its filesystem transport in the data directory."""
    storage_url: str = ""
    """file:// URL of the directory for checkpoints and work; empty is one in the data directory."""
    data_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    """Folders under which a recipe may name local images: joined like those of PATH, or a JSON list."""
    max_body_bytes: int = Field(default=10_000_000, ge=1000)
    """Largest JSON body that is read, in bytes."""
    patience_seconds: float = Field(default=20.0, gt=0)
    """Seconds within which a request's head must arrive, and its body beyond the time that 10 kB a second take."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Host names that the API answers to, joined by commas (`*.example.org`, `*`); empty is any, but on a loopback
    address only this machine's own."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins whose pages may use the API from a browser, joined by commas; empty is none."""
    max_queued: int = Field(default=10_000, ge=1)
    """Queued jobs of a project, where the project has no limit of its own."""
    max_stored_bytes: int = Field(default=100 * 2**30, ge=1)
    """Bytes of a project in the database, where it has no limit of its own."""
    max_upload_bytes: int = Field(default=20 * 2**30, ge=1)
    """Bytes of one upload, where its project has no limit of its own."""
    max_dataset_files: int = Field(default=MOST_FILES, ge=1)
    """Entries of an archive or a folder that becomes a data set."""
    upload_seconds: float = Field(default=86_400.0, gt=0)
    """Seconds for which an unfinished upload is kept after its last part."""
    unused_upload_seconds: float = Field(default=7 * 86_400.0, gt=0)
    """Seconds for which a complete upload is kept after something was last made of it."""
    jobs_retention_days: float | None = Field(default=None, gt=0)
    """Days for which jobs are kept once they have ended, with all that they made, where their project has no retention
    of its own; without a value, for ever."""
    datasets_retention_days: float | None = Field(default=None, gt=0)
    """The same of data sets, since they were made or a job last used them."""
    models_retention_days: float | None = Field(default=None, gt=0)
    """The same of models, since they were made or a job last used them."""
    requests_per_second: float = Field(default=1000.0, gt=0)
    """Requests a second of a project to each process of the API, where it has no limit of its own."""
    audit_days: float = Field(default=90.0, gt=0)
    """Days for which entries of the audit log are kept."""
    lease_seconds: float = Field(default=30.0, gt=0)
    """Seconds for which a worker owns a job after its last renewal."""
    look_seconds: float = Field(default=5.0, gt=0)
    """Seconds after which a worker looks for jobs without a wake-up."""
    max_attempts: int = Field(default=5, ge=1)
    """Attempts of a job before it fails for good."""
    grace_seconds: float = Field(default=20.0, gt=0)
    """Seconds in which an engine must write its checkpoint when it is asked to stop."""
    checkpoint_seconds: float = Field(default=60.0, gt=0)
    """Seconds between two checkpoints of an engine."""
    teacher_cache_bytes: int = Field(default=20 * 2**30, ge=0)
    """Largest size of a project's teacher cache on a worker's storage, in bytes; 0 caches nothing."""
    inputs_bytes: int = Field(default=20 * 2**30, ge=0)
    """Bytes of users' data sets and uploads that a worker's storage keeps for later jobs."""
    disk_reserve_bytes: int = Field(default=2**30, ge=0)
    """Bytes on the disk of a worker's storage that stay free: no job is begun that would need them."""
    sweep_grace_seconds: float = Field(default=3600.0, ge=0)
    """Age in seconds from which a blob that nothing refers to is deleted."""
    engine_confined: bool = True
    """Whether engines are confined to what they need, as far as a worker's machine has the means."""
    engine_user: str = "nobody"
    """User of the engines where their worker is root; empty, or `root`, changes nothing."""
    engine_environment: Annotated[tuple[str, ...], NoDecode] = ()
    """Names of further variables that engines inherit from their worker's environment, joined by commas."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """Format of the log: JSON, text, or (`auto`) text on a terminal and JSON elsewhere."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The lowest level that is logged."""
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Port at which a worker serves its metrics; without one it serves none. The API has `/metrics`."""
    metrics_host: Annotated[tuple[str, ...], NoDecode] = ("127.0.0.1",)
    """Addresses at which a worker serves its metrics, joined by commas; of a name, those that are this machine's. The
    default is this machine alone."""

    @field_validator("allowed_hosts", "cors_origins", "engine_environment", "metrics_host", mode="before")
    @classmethod
    def _are_joined_by_commas(cls, names: object) -> object:
        return tuple(filter(None, (name.strip() for name in names.split(",")))) if isinstance(names, str) else names

    @field_validator("data_roots", mode="before")
    @classmethod
    def _are_a_list(cls, roots: object) -> object:
        if not isinstance(roots, str):
            return roots
        return json.loads(roots) if roots.startswith("[") else tuple(filter(None, roots.split(os.pathsep)))

    @field_validator("database_url", "broker_url")
    @classmethod
    def _says_where_its_password_ends(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        for address in re.split(r";(?=\w+://)", url.get_secret_value()):
            before_host = address.partition("://")[2].rpartition("@")[0]
            found = sorted(set(before_host) & set(MISREAD[str(info.field_name)]))
            if found and not before_host.startswith("/"):
                escaped = " and ".join(f"{sign} as {quote(sign, safe='')}" for sign in found)
                raise ValueError(f"its user, password or an option must have {escaped}")
        return url

    @field_validator("storage_url")
    @classmethod
    def _is_a_directory(cls, url: str) -> str:
        if url and urlsplit(url).scheme != "file":
            raise ValueError(f"RETORT_STORAGE_URL is {url!r}; only file:// URLs are served")
        return url

    @property
    def database(self) -> str:
        return self.database_url.get_secret_value() or f"sqlite:///{self.data_dir / 'retort.db'}"

    @property
    def broker(self) -> str:
        return self.broker_url.get_secret_value() or "filesystem://"

    @property
    def storage(self) -> Path:
        return Path(urlsplit(self.storage_url).path) if self.storage_url else self.data_dir / "storage"


@lru_cache
def get_settings() -> Settings:
    """The process's settings, read once; a test that changes the environment clears the cache.

    Raises SettingsError, whose text is one sentence, where a variable or a file of secrets is wrong.
    """
    folder = os.environ.get(SECRETS_DIR)
    if folder is not None and not Path(folder).is_dir():
        raise SettingsError(f"{SECRETS_DIR} is {folder!r}; wanted a folder")
    _refuse_renamed(folder)
    try:
        return Settings(_secrets_dir=folder)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = "_".join(("RETORT", *map(str, first["loc"]))).upper()
        reason = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{name} in the environment cannot be used: {reason}") from None


def get_settings_or_exit() -> Settings:
    """The process's settings; where they are wrong, the process ends with that sentence and the exit code 2."""
    try:
        return get_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def _refuse_renamed(folder: str | None) -> None:
    """Raise SettingsError where a name of an earlier version is set."""
    found = [*os.environ, *(file.name for file in Path(folder).iterdir())] if folder else [*os.environ]
    for name in found:
        if new := RENAMED.get(name.upper()):
            raise SettingsError(f"{name} is set, but is called {new} now; rename it")
