"""Confinement of engines on this machine: decided once, tried once, and logged when a worker starts.

`retort.confine` has the means. Before an engine starts, all rights that do not depend on its job are taken from it; its
order names those that its job leaves it, and it gives up the rest once what is published was fetched.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import pwd
import re
import shutil
import site
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from pathlib import Path

import retort
from retort import confine
from retort.limits import memory
from retort.order import Confinement, FileRights
from retort.spec import Spec
from service.settings import SECRETS_DIR, Settings
from worker.machine import first_gpu

PASSED_ON = re.compile(
    r"^(PATH|LANG|LANGUAGE|LC_\w+|TZ|LD_(LIBRARY_PATH|PRELOAD)|MALLOC_\w+|GLIBC_TUNABLES|PYTHON\w+|VIRTUAL_ENV"
    r"|(CUDA|CUBLAS|CUDNN|NVIDIA|NCCL|HIP|HSA|ROCR|ROCM|MIOPEN|OMP|GOMP|KMP|MKL|OPENBLAS|ONEDNN|DNNL|BLIS|VECLIB"
    r"|NUMEXPR|TORCH\w*|PYTORCH|ATEN)_\w+|HF_(HOME|ENDPOINT|HUB_\w+)|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE"
    r"|(?i:https?_proxy|no_proxy|all_proxy))$"
)
"""Names of variables that an engine gets from the worker's environment; it gets no others."""
SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|CREDENTIAL|API_?KEY|ACCESS_KEY", re.IGNORECASE)
BINDING = re.compile(r"^(OMP_(PROC_BIND|PLACES)|GOMP_CPU_AFFINITY|KMP_AFFINITY)$")
"""Variables that bind threads to cores one by one, by a call that is refused; libgomp ends the process for that."""
WITH_PASSWORD = re.compile(r"^\w+://[^/@]*@")
"""An address, of a proxy say, that holds a password."""

SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/nix/store", "/gnu/store", "/proc", "/sys"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld.so.preload", "/etc/alternatives"),
    *("/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/localtime", "/etc/timezone", "/etc/mime.types"),
    *("/etc/hosts", "/etc/host.conf", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services"),
    *("/etc/protocols", "/etc/passwd", "/etc/group", "/etc/os-release", "/etc/nvidia", "/etc/OpenCL"),
    *("/etc/locale.conf", "/run/systemd/resolve", "/run/nvidia-persistenced"),
    *("/dev/random", "/dev/urandom", "/dev/zero", "/dev/full"),
)  # fmt: skip
"""Paths that programs read on any system; not those that may hold secrets, as the rest of /etc, /home, /tmp, /var."""
DEVICES = re.compile(r"^(nvidia.*|kfd|dri|dxg|null)$")
SHARED_MEMORY = "/dev/shm"

FILES = 4096
"""Files that may be open at once."""
TASKS, TASKS_A_CORE = 4096, 32
"""Processes and threads of an engine, beside those that its user has already: engines in other containers, which
cannot be seen from here, may have the same user."""
TRY_SECONDS = 120.0
TRIAL = """
import ssl, sys, tempfile
from retort.confine import enter
from retort.order import Confinement
enter(**Confinement.model_validate_json(sys.argv[1]).model_dump())
tempfile.TemporaryFile().write(b"x")
"""
"""A program that does what any engine must be able to do."""
TRIAL_ON_GPU = f"{TRIAL}\nimport torch\ntorch.zeros(1, device='cuda').sum().item()"
"""The same where there is a GPU, to see whether it can be used."""
TRIALS = (("user",), ("files",), ("limits",), ("network",), ("calls",), ("memory",), ("privileges",))
"""Promises left out, in this order, when no engine starts with all that the system offers."""
SCRATCH = "scratch"
YOUNG_SECONDS = 60.0
"""Seconds for which a new folder is not swept."""

log = logging.getLogger(__name__)


class UserIds(Spec):
    """Ids of another user."""

    uid: int
    gid: int
    groups: tuple[int, ...]


class Launch(Spec):
    """Rights taken from an engine before it starts, as the JSON that `retort.confine` reads."""

    limits: dict[str, int] | None
    """Resource limits by the names of setrlimit(2)."""
    memory: bool
    """Whether the kernel ends it before others when memory runs out."""
    user: UserIds | None
    """User that it becomes."""
    privileges: bool
    """Whether it gives up capabilities, and gains none."""
    files: FileRights | None
    """Files that it may use; null leaves them all."""
    calls: bool
    """Whether system calls that no computation needs are refused."""
    network: bool = False
    """Whether sockets are refused from the start."""


@dataclass(frozen=True)
class Sandbox:
    """Confinement as this machine allows it."""

    settings: Settings
    user: pwd.struct_passwd | None
    """User of the engines; None is this worker's own user."""
    missing: Mapping[str, str]
    """Reasons by names in PROMISES that do not hold."""
    also: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Further files, by the fields of FileRights."""

    def cell(self) -> Cell:
        """A home for one engine."""
        if self.user is not None:
            storage = self.settings.storage
            _let_pass(storage, *(storage / name for name in (SCRATCH, "jobs", "teacher_outputs", "cache")))
        return Cell(self, _scratch(self.settings.storage, self.user))

    def without(self, missing: Mapping[str, str]) -> Sandbox:
        """The same without those promises, for those reasons."""
        return Sandbox(self.settings, None if "user" in missing else self.user, missing, self.also)

    @property
    def is_root(self) -> bool:
        """Whether its engines have the user id 0."""
        return self.user is None and os.geteuid() == 0

    def holds(self, name: str) -> bool:
        return name not in self.missing

    def launch(self, scratch: Path | None) -> Launch:
        """Rights taken from an engine before it starts."""
        user = self.user
        return Launch(
            limits=self._limits() if self.holds("limits") else None,
            memory=self.holds("memory"),
            user=UserIds(uid=user.pw_uid, gid=user.pw_gid, groups=tuple(_device_groups())) if user else None,
            privileges=self.holds("privileges"),
            files=self._files(scratch) if self.holds("files") else None,
            calls=self.holds("calls"),
        )

    def confinement(self, scratch: Path, writes: Sequence[Path]) -> Confinement:
        """Rights that an engine keeps once it has a job."""
        files = None
        if self.holds("files"):
            files = FileRights(
                list=(str(_root()),),
                read=(*self._readable(), *map(str, self.caches().values())),
                write=(*map(str, (scratch, *writes)), *self.also.get("write", ())),
                use=tuple(_devices()),
            )
        room = shutil.disk_usage(scratch).free
        limits = {"RLIMIT_FSIZE": room} if self.holds("limits") else {}
        return Confinement(files=files, network=not self.holds("network"), limits=limits)

    def caches(self) -> dict[str, Path]:
        """Folders of published files, which all jobs share, by the variables that name them."""
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        if self.user is not None:
            home = self.settings.storage / "cache"
        named = {"TORCH_HOME": home / "torch", "HF_HOME": home / "huggingface"}
        if self.user is not None:
            return named
        return {name: Path(os.environ.get(name) or folder) for name, folder in named.items()}

    def environment(self, scratch: Path) -> dict[str, str]:
        """The environment of an engine, with folders of its own."""
        kept = allowed_environment(os.environ, self.settings.engine_environment)
        root = str(_root())
        if not any(root == folder for folder in _packages()):
            kept["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        own = {"HOME": scratch, "TMPDIR": scratch, "PWD": scratch, **self.caches()}
        return kept | {name: str(value) for name, value in own.items()}

    def _limits(self) -> dict[str, int]:
        tasks = _tasks_of(self.user.pw_uid if self.user else os.getuid())
        return {
            "RLIMIT_CORE": 0,
            "RLIMIT_NOFILE": FILES,
            "RLIMIT_NPROC": tasks + TASKS + TASKS_A_CORE * (os.cpu_count() or 1),
            "RLIMIT_FSIZE": shutil.disk_usage(self.settings.storage).total,
            # Addresses that a GPU's driver reserves would count as used.
            **({} if first_gpu() else {"RLIMIT_DATA": memory()}),
        }

    def _readable(self) -> list[str]:
        """Programs, libraries and data roots, without folders that hold anything of the service."""
        settings = self.settings
        ours = (settings.data_dir, settings.storage, _sqlite_file(settings), _secrets_folder())
        private = [Path(os.path.realpath(each)) for each in ours if each is not None]
        readable = [*_programs(), *settings.data_roots]
        kept = [str(path) for folder in readable for path in parts_outside(folder, private)]
        return [*kept, *self.also.get("read", ())]

    def _files(self, scratch: Path | None) -> FileRights:
        storage = self.settings.storage
        work = [storage / "jobs", storage / "teacher_outputs", *self.caches().values()]
        for folder in work:
            folder.mkdir(parents=True, exist_ok=True)
        return FileRights(
            list=(str(_root()),),
            read=tuple(self._readable()),
            write=(*map(str, filter(None, (*work, scratch))), SHARED_MEMORY, *self.also.get("write", ())),
            use=tuple(_devices()),
        )


class Cell:
    """The sandbox of one engine, with a folder that is its home and is removed with it."""

    def __init__(self, sandbox: Sandbox, scratch: Path) -> None:
        self._sandbox = sandbox
        self.scratch = scratch
        self._lock = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def command(self, command: Sequence[str]) -> list[str]:
        """The command line that starts a command confined. Raises FileNotFoundError when there is no such program."""
        if shutil.which(command[0]) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command[0])
        return [*LAUNCHER, self._sandbox.launch(self.scratch).model_dump_json(), *command]

    def environment(self) -> dict[str, str]:
        return self._sandbox.environment(self.scratch)

    def admit(self, writes: Sequence[Path]) -> Confinement:
        """Let the engine into its job's folders, which no other user can enter; returns its order's confinement.

        The engine's user owns `writes` from now on, with all that earlier attempts left in them. The first was made
        for this attempt, and has files of the worker to read.
        """
        user = self._sandbox.user
        for folder in writes:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
            if user is not None:
                _let_pass(folder.parent)
                _give(folder, user, lends=folder == writes[0])
        return self._sandbox.confinement(self.scratch, writes)

    def clear(self) -> None:
        """Remove it."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        os.close(self._lock)


START_LAUNCHER = "import sys; sys.path.append(sys.argv.pop(1)); from retort.confine import main; main()"
LAUNCHER = (sys.executable, "-I", "-S", "-c", START_LAUNCHER, str(Path(retort.__file__).parent.parent))
"""Starts a command with fewer rights; without the packages of the interpreter, which take longer to be found."""

PROMISES = {
    "user": "another user",
    "privileges": "no privileges, and none to gain",
    "limits": "limits on processes, open files, memory and sizes of files",
    "memory": "first to go when memory runs out",
    "processes": "no fork bomb",
    "files": "its job's files alone",
    "signals": "no signals to other processes",
    "calls": "no way out of its process group, no look into other processes",
    "network": "no network once what is published was fetched",
}
"""Promises about an engine, as they are logged."""
AS_ROOT = (
    "run the worker as an ordinary user, or keep its interpreter and storage where RETORT_ENGINE_USER may enter; see "
    "docs/security.md"
)
"""Advice where engines are root."""
WALLS = ("files", "calls", "network")
"""Promises that any system of today can hold; a missing one is a warning."""


def prepare(settings: Settings, also: Mapping[str, tuple[str, ...]] | None = None) -> Sandbox:
    """Find out what this machine allows, by trying it."""
    if not settings.engine_confined:
        return Sandbox(settings, None, dict.fromkeys(PROMISES, "RETORT_ENGINE_CONFINED is off"), also or {})
    user, missing = _other_user(settings)
    wanted = Sandbox(settings, user, missing, also or {})
    if user not in _tried:
        _tried[user] = _try(wanted)
    failed = {**missing, **_tried[user]}
    if "limits" in failed:
        failed["processes"] = failed["limits"]
    elif os.geteuid() == 0 and "user" in failed:
        failed["processes"] = "no limit binds root"
    version = confine.landlock_version()
    if "files" in failed:
        failed["signals"] = failed["files"]
    elif version < confine.SIGNALS_SINCE:
        failed["signals"] = f"the kernel's Landlock has version {version}; {confine.SIGNALS_SINCE} was wanted"
    return wanted.without(failed)


_tried: dict[pwd.struct_passwd | None, dict[str, str]] = {}
"""Promises that cannot be held and why, by the engines' user; tried once, as that takes a moment."""


def log_sandbox(sandbox: Sandbox) -> None:
    """Log the promises that hold and those that do not."""
    log.info("an engine here has: %s", "; ".join(words for name, words in PROMISES.items() if sandbox.holds(name)))
    for name, why in sandbox.missing.items():
        level = logging.WARNING if name in WALLS else logging.INFO
        log.log(level, "an engine here does without: %s (%s)", PROMISES[name], why)
    if sandbox.is_root:
        log.warning("engines, which read users' files, run as root here; %s", AS_ROOT)


def allowed_environment(environment: Mapping[str, str], further: Iterable[str] = ()) -> dict[str, str]:
    """The part of an environment that an engine needs and that holds no secret: hostile files are read in it. Threads
    are bound to cores by the worker's own affinity, which the engine inherits."""
    named = set(further)
    return {
        name: value
        for name, value in environment.items()
        if name in named
        or (
            PASSED_ON.match(name)
            and not SECRET.search(name)
            and not BINDING.match(name)
            and not WITH_PASSWORD.match(value)
        )
    }


def parts_outside(folder: Path, private: Sequence[Path]) -> Iterator[Path]:
    """The folder itself, or the largest parts of it that hold nothing private."""
    folder = Path(os.path.realpath(folder))
    if any(folder.is_relative_to(each) for each in private):
        return
    if not any(each.is_relative_to(folder) for each in private):
        yield folder
        return
    with suppress(OSError):
        for inner in folder.iterdir():
            yield from parts_outside(inner, private)


def sweep_scratch(storage: Path) -> None:
    """Remove homes of engines whose worker was killed."""
    for folder in (storage / SCRATCH).glob("*"):
        with suppress(OSError):
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if time.time() - os.fstat(opened).st_ctime > YOUNG_SECONDS:
                    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(opened)


def _scratch(storage: Path, user: pwd.struct_passwd | None) -> Path:
    place = storage / SCRATCH
    place.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=place))
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    return folder


def _let_pass(*folders: Path) -> None:
    """Let other users pass through the worker's folders to their own, without listing them."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(folder.stat().st_mode & 0o7777 | 0o011)


def _other_user(settings: Settings) -> tuple[pwd.struct_passwd | None, dict[str, str]]:
    """The user of engines, or the reason why it is the worker's own."""
    if os.geteuid() != 0:
        return None, {"user": f"this worker is not root: its engines have its own user id, {os.geteuid()}"}
    if settings.engine_user in ("", "root"):
        return None, {"user": f"RETORT_ENGINE_USER is {settings.engine_user!r}"}
    if not confine.may_rule_others():
        return None, {"user": "this worker is root without the capabilities to give files and processes to others"}
    try:
        return pwd.getpwnam(settings.engine_user), {}
    except KeyError:
        return None, {"user": f"this machine has no user {settings.engine_user}, which RETORT_ENGINE_USER names"}


def _try(wanted: Sandbox) -> dict[str, str]:
    """Reasons by promises that cannot be held: each step is tried, then a program is started under all that can be."""
    failed = _try_steps(wanted)
    trial = TRIAL_ON_GPU if first_gpu() else TRIAL
    reason = _try_program(wanted, failed, trial)
    if reason is not None and first_gpu() and _try_program(wanted, dict.fromkeys(PROMISES, ""), trial) is not None:
        trial = TRIAL  # that GPU cannot be used at all, which the engine will report
        reason = _try_program(wanted, failed, trial)
    # One thing is left out, then two, until it starts.
    for left_out in (*TRIALS, *combinations(("user", "files", "limits", "network", "calls"), 2)):
        if reason is None:
            return failed
        if not failed.keys() & set(left_out):
            without = failed | dict.fromkeys(left_out, f"no engine starts with it: {reason}")
            if _try_program(wanted, without, trial) is None:
                return without
    return dict.fromkeys(PROMISES, f"no engine starts with it: {reason}") if reason else failed


def _try_steps(wanted: Sandbox) -> dict[str, str]:
    cell = wanted.cell()
    try:
        launch = wanted.launch(cell.scratch).model_copy(update={"network": True})
        result = _run(cell, [*LAUNCHER, "--try", launch.model_dump_json()])
    finally:
        cell.clear()
    failed: dict[str, str] = json.loads(result.stdout) if result.returncode == 0 else {}
    return failed if result.returncode == 0 else dict.fromkeys(PROMISES, _last_line(result))


def _try_program(wanted: Sandbox, failed: Mapping[str, str], trial: str) -> str | None:
    """The reason why no program starts in that sandbox; None when one does."""
    sandbox = wanted.without(failed)
    cell = sandbox.cell()
    try:
        if sandbox.user is not None:
            for folder in sandbox.caches().values():
                folder.mkdir(parents=True, exist_ok=True)
                _give(folder, sandbox.user)
        confinement = sandbox.confinement(cell.scratch, ()).model_dump_json()
        result = _run(cell, cell.command([sys.executable, "-c", trial, confinement]))
    except subprocess.TimeoutExpired:
        return f"it did not come to an end within {TRY_SECONDS:g} s"
    finally:
        cell.clear()
    return None if result.returncode == 0 else _last_line(result)


def _run(cell: Cell, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=cell.environment(), cwd=cell.scratch, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=TRY_SECONDS, start_new_session=True, check=False,
    )  # fmt: skip


def _last_line(result: subprocess.CompletedProcess[str]) -> str:
    return (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]


def _give(folder: Path, user: pwd.struct_passwd, *, lends: bool = False) -> None:
    """Make that user the owner of a folder and all that is in it, but for files that have other names elsewhere.

    A folder that `lends` those lets the user read them; in others they could be links to files of others.
    """
    os.chown(folder, user.pw_uid, user.pw_gid, follow_symlinks=False)
    for place, folders, files in os.walk(folder):
        for name in folders:
            os.chown(os.path.join(place, name), user.pw_uid, user.pw_gid, follow_symlinks=False)
        for name in files:
            path = os.path.join(place, name)
            if os.lstat(path).st_nlink == 1:
                os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
            elif lends:
                os.chmod(path, 0o644)


def _programs() -> Iterator[Path]:
    """Folders of programs and libraries that an engine needs."""
    yield from map(Path, SYSTEM)
    yield from map(Path, {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix})
    yield Path(os.path.realpath(sys.executable)).parent
    yield from map(Path, _packages())
    yield Path(retort.__file__).parent
    for name in (
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "CUDA_HOME",
        "CUDA_PATH",
        "LD_PRELOAD",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    ):
        yield from map(Path, filter(os.path.isabs, os.environ.get(name, "").split(os.pathsep)))


def _packages() -> list[str]:
    return [*site.getsitepackages(), site.getusersitepackages()]


def _root() -> Path:
    """The folder of this project's packages."""
    return Path(retort.__file__).parent.parent


def _sqlite_file(settings: Settings) -> Path | None:
    kind, _, path = settings.database.partition(":///")
    return Path(path) if kind.startswith("sqlite") and path else None


def _secrets_folder() -> Path | None:
    folder = os.environ.get(SECRETS_DIR)
    return Path(folder) if folder else None


@cache
def _devices() -> list[str]:
    return [f"/dev/{name}" for name in sorted(os.listdir("/dev")) if DEVICES.match(name)]


@cache
def _device_groups() -> list[int]:
    """Groups whose members alone may use a GPU here: render and video, say."""
    groups = set()
    for name in _devices():
        for place in (Path(name), *Path(name).glob("*")):
            found = place.stat()
            if stat.S_ISCHR(found.st_mode) and found.st_mode & 0o066 != 0o066 and found.st_mode & 0o060 == 0o060:
                groups.add(found.st_gid)
    return sorted(groups - {0})


def _tasks_of(uid: int) -> int:
    """Processes and threads of a user."""
    count = 0
    for process in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError, KeyError, ValueError):
            status = dict(line.split(":", 1) for line in Path("/proc", process, "status").read_text().splitlines())
            if int(status["Uid"].split()[0]) == uid:
                count += int(status["Threads"])
    return count
