"""Everything that the environment decides, typed and named once: RETORT_* variables.

What shall not stand in the environment, a password in a database's URL most of all, may stand in a file instead:
RETORT_SECRETS_DIR names a folder of files that are called like the variables, in small letters.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from retort.ingest import MOST_FILES

SECRETS_DIR = "RETORT_SECRETS_DIR"


class Settings(BaseSettings):
    """Read from RETORT_* variables; the defaults are the embedded service's."""

    model_config = SettingsConfigDict(env_prefix="RETORT_", use_attribute_docstrings=True, frozen=True)

    data_dir: Path = Field(default_factory=lambda: Path.home() / ".retort")
    """Where the embedded service keeps its database, broker, storage and first key."""
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
    """How long a request's head may take to come, and its body beyond what it takes at 10 kB a second."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Names by which the API may be asked, joined by commas (`*.example.org`, `*`); empty is any, but on a loopback
    address only this machine's own."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins whose pages may use the API from a browser, joined by commas; empty is none."""
    max_queued: int = Field(default=10_000, ge=1)
    """How many jobs of a project wait at once, where the project has no limit of its own."""
    max_stored_bytes: int = Field(default=100 * 2**30, ge=1)
    """How much a project stores in the database, where it has no limit of its own."""
    max_upload_bytes: int = Field(default=20 * 2**30, ge=1)
    """How large one upload is, where its project has no limit of its own."""
    max_dataset_files: int = Field(default=MOST_FILES, ge=1)
    """How many entries an archive or a folder may have that becomes a data set."""
    upload_seconds: float = Field(default=86_400.0, gt=0)
    """How long an unfinished upload is kept after its last part."""
    unused_upload_seconds: float = Field(default=7 * 86_400.0, gt=0)
    """How long a complete upload is kept after something was last made of it."""
    jobs_retention_days: float | None = Field(default=None, gt=0)
    """How long jobs are kept once they have ended, with all that they made, where their project has no term of its own;
    without one, for ever."""
    datasets_retention_days: float | None = Field(default=None, gt=0)
    """The same of data sets, since they were taken in or a job last used them."""
    models_retention_days: float | None = Field(default=None, gt=0)
    """The same of models, since they were brought or a job last used them."""
    requests_per_second: float = Field(default=1000.0, gt=0)
    """How often a project may ask each process of the API, where it has no limit of its own."""
    audit_days: float = Field(default=90.0, gt=0)
    """How long the audit log remembers."""
    lease_seconds: float = Field(default=30.0, gt=0)
    """How long a worker owns a job after its last renewal."""
    look_seconds: float = Field(default=5.0, gt=0)
    """How often a worker looks for jobs without having heard a bell."""
    max_attempts: int = Field(default=5, ge=1)
    """How often a job is started before it fails for good."""
    grace_seconds: float = Field(default=20.0, gt=0)
    """How long an engine may take to write its checkpoint when it is asked to stop."""
    checkpoint_seconds: float = Field(default=60.0, gt=0)
    """How often an engine writes a checkpoint."""
    teacher_outputs_bytes: int = Field(default=20 * 2**30, ge=0)
    """How much a project's kept outputs of teachers may take on a worker's storage, in bytes; 0 keeps none."""
    inputs_bytes: int = Field(default=20 * 2**30, ge=0)
    """How much of users' data sets and uploads is kept on a worker's storage for later jobs, in bytes."""
    disk_reserve_bytes: int = Field(default=2**30, ge=0)
    """Room on the disk of a worker's storage that is left alone: no job is begun that would need it."""
    sweep_grace_seconds: float = Field(default=3600.0, ge=0)
    """How old a blob that nothing refers to must be before it is collected."""
    engine_confined: bool = True
    """Whether engines are kept to what they need, as far as a worker's machine has the means."""
    engine_user: str = "nobody"
    """Who engines run as where their worker is root; empty, or `root`, changes nothing."""
    engine_environment: Annotated[tuple[str, ...], NoDecode] = ()
    """Names of further variables that engines get of their worker's environment, joined by commas."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """How the log is written: JSON, text, or text on a terminal and JSON elsewhere."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """What is logged: events of that weight and above."""
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Port at which a worker tells its metrics; without one it tells none. The API has `/metrics`."""
    metrics_host: str = "127.0.0.1"
    """Address at which a worker tells its metrics; the default is this machine alone."""

    @field_validator("allowed_hosts", "cors_origins", "engine_environment", mode="before")
    @classmethod
    def _are_joined_by_commas(cls, names: object) -> object:
        return tuple(filter(None, (name.strip() for name in names.split(",")))) if isinstance(names, str) else names

    @field_validator("data_roots", mode="before")
    @classmethod
    def _are_a_list(cls, roots: object) -> object:
        if not isinstance(roots, str):
            return roots
        return json.loads(roots) if roots.startswith("[") else tuple(filter(None, roots.split(os.pathsep)))

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
    """The process's settings, read once; a test that changes the environment clears the cache."""
    folder = os.environ.get(SECRETS_DIR)
    if folder is not None and not Path(folder).is_dir():
        raise SettingsError(f"{SECRETS_DIR} is {folder!r}, which is no folder")
    return Settings(_secrets_dir=folder)
