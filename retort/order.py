"""The order for one attempt at a job: one line of JSON on a warm engine's standard input. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from retort.kinds import KindName
from retort.spec import Spec

Seconds = Annotated[float, Field(ge=0)]
Bytes = Annotated[int, Field(ge=0)]


class CacheDirectory(Spec):
    """Directory of the teacher cache, which the jobs of one project share."""

    path: Path
    max_bytes: Bytes
    """Size up to which it may grow."""


class Paths(Spec):
    """Directories that a run reads and writes, and how it names and times what it leaves in them."""

    directory: Path
    """Directory of this attempt alone; artifacts are left in it."""
    checkpoints: Path
    """Directory of checkpoints, shared by all attempts at the job."""
    weights: Path
    """Directory of networks that the spec names: `<job>/<network>.safetensors` and `.json`."""
    data_roots: tuple[Path, ...] = ()
    """Directories below which the spec may name data."""
    run: str = "1"
    """Name of the attempt, part of its checkpoints' file names."""
    checkpoint_seconds: Seconds = 60.0
    """Seconds between two checkpoints."""
    teacher_cache: CacheDirectory | None = None
    """Cached outputs of teachers, for later jobs of the same project; null caches none."""


class FileRights(Spec):
    """Paths by what may be done with them and with all below; nothing else may be opened."""

    list: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    use: tuple[str, ...] = ()
    """Devices, which may be read, written and controlled."""


class Confinement(Spec):
    """Rights that an engine keeps once it has fetched what is published; `retort.confine.enter` takes all others."""

    files: FileRights | None
    """Files that may be used; null leaves them all."""
    network: bool
    """Whether sockets may still be opened."""
    limits: dict[str, int]
    """Resource limits by the names of setrlimit(2)."""


class Order(Spec):
    """One attempt at a job, as its worker hands it to the engine."""

    kind: KindName
    """Kind of the job, a key of `retort.kinds.KINDS`."""
    spec: dict[str, Any]
    """The job's spec as stored; the engine validates it as its kind demands."""
    paths: Paths
    finish: bool = False
    """Whether training ends at once and the best students so far are tested and exported."""
    confine: Confinement | None = None
    """Confinement of the engine; null leaves it all rights of its process."""
