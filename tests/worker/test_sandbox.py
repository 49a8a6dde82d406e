"""Limits of engines, tried by programs in an engine's sandbox.

A test of what this machine's kernel lacks is skipped, with the reason that a worker logs at its start.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retort.confine import may_rule_others
from service.settings import get_settings
from tests.conftest import wait_until
from tests.worker.plays import alive
from worker import sandbox as sandboxes
from worker.engine_process import EngineProcess
from worker.sandbox import Sandbox, allowed_environment, log_sandbox, parts_outside, prepare, sweep_scratch

Environment = Callable[..., None]

PREAMBLE = """
import ctypes, json, os, socket, subprocess, sys, tempfile, time
from retort import confine

order = json.loads(sys.stdin.readline())

def enter(confinement):
    confine.enter(**confinement)

def tried(name, action):
    try:
        action()
    except BaseException as error:
        print(json.dumps([name, getattr(error, "errno", None) or type(error).__name__]), flush=True)
    else:
        print(json.dumps([name, "done"]), flush=True)
"""


@pytest.fixture
def sandbox(environment: Environment) -> Sandbox:
    environment()
    return prepare(get_settings())


def require(sandbox: Sandbox, *names: str) -> None:
    for name in names:
        if not sandbox.holds(name):
            pytest.skip(f"no {sandboxes.PROMISES[name]}: {sandbox.missing[name]}")


def said_by(sandbox: Sandbox, program: str, *, writes: tuple[Path, ...] = (), **order: Any) -> dict[str, Any]:
    """The results of all that the program tried."""
    child = EngineProcess([sys.executable, "-c", PREAMBLE + program], sandbox.cell())
    try:
        assert child.cell is not None
        child.send(json.dumps({"confine": child.cell.admit(writes).model_dump(), **order}))
        said = []
        while not child.finished():
            if line := child.read(0.05):
                said.append(json.loads(line))
    finally:
        end = child.end()
    assert end.code == 0, end.stderr_tail
    return dict(said)


def test_it_reads_and_writes_the_files_of_its_own_job_alone(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    require(sandbox, "files")
    monkeypatch.setenv("RETORT_DATABASE_URL", "postgresql://me:hidden@database")
    data, storage = sandbox.settings.data_dir, sandbox.settings.storage
    mine, other = storage / "jobs" / "job_mine" / "attempt-1", storage / "jobs" / "job_other" / "attempt-1"
    kept = storage / "teacher_outputs" / "project_other"
    for folder in (other, kept, storage / "inputs", storage / "scratch"):
        folder.mkdir(parents=True, exist_ok=True)
    forbidden = {
        "database": data / "retort.db",
        "key": data / "key",
        "another job": other / "student.safetensors",
        "another project's outputs": kept / "outputs",
        "inputs of all": storage / "inputs" / ("0" * 64),
    }
    for file in forbidden.values():
        file.write_text("hidden")
    forbidden |= {
        "shadow": Path("/etc/shadow"),
        "the worker's environment": Path(f"/proc/{os.getpid()}/environ"),
        "the worker's memory": Path(f"/proc/{os.getpid()}/mem"),
    }
    said = said_by(
        sandbox,
        """
enter(order["confine"])
for name, path in order["forbidden"].items():
    tried(name, lambda: open(path, "rb").read(1))
    tried(name + ", written", lambda: open(path, "r+b").write(b"x"))
tried("list", lambda: os.listdir(order["other"]))
tried("temporary", lambda: tempfile.TemporaryFile().write(b"x"))
tried("elsewhere", lambda: open("/var/tmp/left", "w"))
tried("shared memory", lambda: open("/dev/shm/left", "w"))
tried("cache", lambda: open(os.environ["TORCH_HOME"] + "/left", "w"))
tried("own", lambda: open(order["mine"] + "/note", "w").write("x"))
tried("link", lambda: os.symlink(order["forbidden"]["key"], order["mine"] + "/link"))
tried("through the link", lambda: open(order["mine"] + "/link").read())
tried("hard link", lambda: os.link(order["forbidden"]["key"], order["mine"] + "/hard"))
key = order["forbidden"]["key"]
tried("mode", lambda: os.chmod(key, 0o644))
tried("owner", lambda: os.chown(key, os.getuid(), os.getgid()))
tried("times", lambda: os.utime(key))
tried("attribute", lambda: os.setxattr(key, "user.x", b"x"))
tried("length", lambda: os.truncate(key, 0))
tried("mode of its own", lambda: os.chmod(order["mine"] + "/note", 0o644))
tried("mode of a program", lambda: os.fchmod(os.open(sys.executable, os.O_RDONLY), 0o4755))
tried("program", lambda: subprocess.run(["/bin/true"], check=True))
""",
        writes=(mine,),
        forbidden={name: str(path) for name, path in forbidden.items()},
        other=str(other),
        mine=str(mine),
    )
    free = {name for name, came in said.items() if came == "done"}
    assert free == {"temporary", "own", "link", "program"}


def test_before_its_job_is_known_it_fetches_what_is_published_and_then_has_no_network(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    require(sandbox, "network")
    local = str(tmp_path / "socket")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(local)
        said = said_by(
            sandbox,
            """
connect = lambda: socket.create_connection(("127.0.0.1", order["port"]), timeout=2)
tried("before", connect)
kept, open_still = socket.socket(), connect()
datagrams, bare = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
enter(order["confine"])
tried("a connection from before", lambda: open_still.send(b"x"))
tried("a datagram", lambda: datagrams.sendto(b"x", ("127.0.0.1", order["port"])))
tried("a datagram in a message", lambda: datagrams.sendmsg([b"x"], [], 0, ("127.0.0.1", order["port"])))
tried("a local datagram", lambda: bare.sendto(b"x", order["local"]))
tried("connecting by sending", lambda: kept.sendto(b"x", 0x20000000, ("127.0.0.1", order["port"])))
tried("a pair of datagrams", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
tried("a pair, otherwise", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
tried("after", connect)
tried("kept", lambda: kept.connect(("127.0.0.1", order["port"])))
tried("names", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
tried("local", lambda: socket.socket(socket.AF_UNIX))
tried("raw", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
tried("by a child", lambda: subprocess.run([sys.executable, "-c", "import socket; socket.socket()"], check=True))
pair = []
tried("pair", lambda: pair.extend(socket.socketpair()))
tried("a word to its pair", lambda: pair[0].send(b"x"))
""",
            port=server.getsockname()[1],
            local=local,
        )
    assert {name for name, came in said.items() if came == "done"} == {"before", "pair", "a word to its pair"}


def test_it_cannot_leave_its_group_nor_reach_other_processes(sandbox: Sandbox) -> None:
    require(sandbox, "calls", "privileges", "signals")
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as bystander:
        said = said_by(
            sandbox,
            """
libc = ctypes.CDLL(None, use_errno=True)

def call(name, *words):
    if getattr(libc, name)(*words) < 0:
        raise OSError(ctypes.get_errno(), name)

tried("setsid", os.setsid)
tried("setpgid", lambda: os.setpgid(0, 0))
tried("namespace", lambda: call("unshare", 0x10000000))
tried("mount", lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None))
tried("trace", lambda: call("ptrace", 16, order["bystander"], 0, 0))
tried("end another", lambda: os.kill(order["bystander"], 9))
tried("end the worker", lambda: os.kill(os.getppid(), 0))
tried("be root", lambda: os.setuid(0) or os.listdir("/root"))
tried("be another", lambda: os.setuid(1))
tried("core", lambda: __import__("resource").setrlimit(4, (1, 1)))
child = os.fork()
if not child:
    if os.fork():
        os._exit(0)
    print(json.dumps(["orphan", os.getpid()]), flush=True)
    time.sleep(60)
os.waitpid(child, 0)
time.sleep(0.2)
""",
            bystander=bystander.pid,
        )
        bystander.kill()
    orphan = said.pop("orphan")
    wait_until(lambda: not alive(orphan), "what it left behind ends with it")
    assert "done" not in said.values(), said


def test_every_call_that_no_computation_needs_is_refused(sandbox: Sandbox) -> None:
    require(sandbox, "calls", "network")
    said = said_by(
        sandbox,
        """
from retort import seccomp

enter(order["confine"])
libc = ctypes.CDLL(None, use_errno=True)
_, column = seccomp._machine()

def call(number):
    if libc.syscall(number, *[ctypes.c_long(0)] * 6) < 0:
        raise OSError(ctypes.get_errno(), "")

for name, numbers in {**seccomp.NEVER, **seccomp.NETWORK}.items():
    if numbers[column] is not None:
        tried(name, lambda: call(numbers[column]))
tried("one that is not known", lambda: call(seccomp.NEWER))
tried("clone3", lambda: call(435))
""",
    )
    assert {said.pop("one that is not known"), said.pop("clone3")} == {errno.ENOSYS}
    assert {name: came for name, came in said.items() if came != errno.EPERM} == {}
    assert len(said) > 90


def test_calls_reach_itself_and_no_other_process(sandbox: Sandbox) -> None:
    require(sandbox, "calls")
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as bystander:
        said = said_by(
            sandbox,
            """
import fcntl, resource, signal, termios, threading
from retort import seccomp

_, column = seccomp._machine()
enter(order["confine"])
libc = ctypes.CDLL(None, use_errno=True)
cores, reading = os.sched_getaffinity(0), os.open(sys.executable, os.O_RDONLY)
pipe = os.pipe()

def call(name, *words):
    if getattr(libc, name)(*words) < 0:
        raise OSError(ctypes.get_errno(), name)

def reach(whose, process):
    tried(whose + " limit", lambda: resource.prlimit(process, resource.RLIMIT_CORE, (0, 0)))
    tried(whose + " cores", lambda: os.sched_setaffinity(process, cores))
    tried(whose + " scheduler", lambda: os.sched_setscheduler(process, os.SCHED_BATCH, os.sched_param(0)))
    tried(whose + " parameters", lambda: os.sched_setparam(process, os.sched_param(0)))
    tried(whose + " priority", lambda: os.setpriority(os.PRIO_PROCESS, process, 5))
    tried(whose + " end", lambda: os.kill(process, 0))

reach("its", 0)
tried("its thread", lambda: signal.pthread_kill(threading.get_ident(), 0))
tried("its flags", lambda: fcntl.fcntl(pipe[0], fcntl.F_GETFL))
tried("its bytes", lambda: fcntl.ioctl(pipe[0], termios.FIONREAD, bytes(4)))
reach("another's", order["bystander"])
tried("another's pages", lambda: call("syscall", (256, 238)[column], order["bystander"], 0, 0, 0))
tried("another's thread", lambda: call("tgkill", order["bystander"], order["bystander"], 0))
tried("the user's priority", lambda: os.setpriority(os.PRIO_USER, 0, 5))
tried("the group's priority", lambda: os.setpriority(os.PRIO_PGRP, 0, 5))
tried("all processes", lambda: os.kill(-1, 0))
tried("another's group", lambda: os.kill(-order["bystander"], 0))
tried("a signal of a pipe", lambda: fcntl.fcntl(pipe[0], fcntl.F_SETOWN, order["bystander"]))
tried("which signal", lambda: fcntl.fcntl(pipe[0], 10, 9))
tried("a lease", lambda: fcntl.fcntl(reading, fcntl.F_SETLEASE, fcntl.F_RDLCK))
tried("a file that is sealed", lambda: fcntl.ioctl(reading, 0x40086602, bytes(8)))
tried("a file's project", lambda: fcntl.ioctl(reading, 0x401C5820, bytes(32)))
tried("flags of a subvolume", lambda: fcntl.ioctl(reading, 0x4008941A, bytes(8)))
tried("cookies of cores", lambda: call("prctl", 62, 1, order["bystander"], 0, 0))
tried("a child of its parent", lambda: call("syscall", (56, 220)[column], 0x8011, 0, 0, 0, 0))
""",
            bystander=bystander.pid,
        )
        assert bystander.poll() is None
        bystander.kill()
    assert {came for name, came in said.items() if name.startswith("its ")} == {"done"}
    assert {name: came for name, came in said.items() if not name.startswith("its ") and came != errno.EPERM} == {}


@pytest.mark.parametrize(
    ("limit", "program", "came"),
    [
        ("disk", "open('endless', 'wb').write(bytes(8 << 20))", 27),
        ("memory", "bytearray(1 << 30)", "MemoryError"),
        ("files", "[open('/dev/null') for _ in range(5000)]", 24),
    ],
)
def test_what_has_no_end_is_stopped(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, limit: str, program: str, came: str | int
) -> None:
    require(sandbox, "limits")
    small = shutil.disk_usage("/")._replace(free=4 << 20)
    monkeypatch.setattr(sandboxes.shutil, "disk_usage", lambda _: small)
    monkeypatch.setattr(sandboxes, "memory", lambda: 1 << 29)
    monkeypatch.setattr(sandboxes, "first_gpu", lambda: None)
    said = said_by(sandbox, f"enter(order['confine'])\ntried('endless', lambda: {program})")
    assert said["endless"] == came


def test_another_user_has_no_rights_and_no_fork_bomb(environment: Environment) -> None:
    python = shutil.which("python3", path="/usr/bin:/bin")
    if os.geteuid() != 0 or not may_rule_others() or python is None:
        pytest.skip("only root makes processes of another user, and only a program for all can be one's")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        environment(storage_url=Path(folder, "storage").as_uri())
        mask = os.umask(0o077)  # as `retort up` has it
        try:
            cell = Sandbox(get_settings(), pwd.getpwnam("nobody"), {}).cell()
            job = Path(folder, "storage", "jobs", "job_mine")
            job.mkdir()
            inputs = Path(folder, "storage", "inputs")
            inputs.mkdir()
            (inputs / "input").write_text("of a user")
            os.link(inputs / "input", job / "input")
        finally:
            os.umask(mask)
        program = """
import os, sys, time
sys.stdin.readline()
assert open(sys.argv[1] + "/input").read() == "of a user"
count = 0
try:
    while count < 10_000:
        if not os.fork():
            time.sleep(60)
        count += 1
except OSError:
    pass
open(sys.argv[1] + "/note", "w").write(f"{count} {os.getuid()} {os.getgid()} {os.getgroups()}")
os.kill(0, 9)
"""
        child = EngineProcess([python, "-c", program, str(job)], cell)
        try:
            cell.admit([job])
            child.send("go")
            wait_until(lambda: not child.read(0.01) and child.finished(), "it has tried", 30)
        finally:
            end = child.end()
        nobody = pwd.getpwnam("nobody")
        count, uid, gid, groups = (job / "note").read_text().split(maxsplit=3)
        assert end.code == -9
        assert 1000 < int(count) < 9_999
        assert (int(uid), int(gid), json.loads(groups)) == (nobody.pw_uid, nobody.pw_gid, [])
        made = (job / "note").stat()
        assert (made.st_uid, made.st_mode & 0o777, job.stat().st_mode & 0o777) == (nobody.pw_uid, 0o600, 0o700)


def test_its_environment_holds_what_it_needs_and_nothing_else(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0", "LD_LIBRARY_PATH": "/l", "OMP_NUM_THREADS": "1", "LC_ALL": "C"}
    kept |= {"https_proxy": "http://proxy:8080", "HF_ENDPOINT": "https://mirror", "NCCL_DEBUG": "INFO"}
    secret = ("RETORT_DATABASE_URL", "PGPASSWORD", "REDIS_URL", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "OPENAI_API_KEY")
    secret = (*secret, "TORCH_HUB_TOKEN", "WHATEVER", "HOME")
    binding = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores", "GOMP_CPU_AFFINITY": "0-3"}
    hidden = dict.fromkeys(secret, "hidden") | binding | {"http_proxy": "http://me:hidden@proxy:8080"}
    assert allowed_environment({**kept, **hidden}) == kept
    assert allowed_environment(hidden, ["WHATEVER"]) == {"WHATEVER": "hidden"}
    monkeypatch.setenv("WHATEVER", "hidden")
    said = said_by(sandbox, "print(json.dumps(['home', [dict(os.environ), os.getcwd()]]))")
    seen, folder = said["home"]
    assert "WHATEVER" not in seen
    assert seen["HOME"] == seen["TMPDIR"] == folder
    assert not Path(folder).exists(), "its home is gone with it"


def test_what_is_ours_is_left_out_of_the_folders_around_it(tmp_path: Path) -> None:
    for name in ("open", "data", "shut"):
        (tmp_path / "root" / name).mkdir(parents=True)
    (tmp_path / "root" / "open" / "link").symlink_to(tmp_path / "root" / "shut")
    root, shut = tmp_path / "root", tmp_path / "root" / "shut"
    assert sorted(parts_outside(root, [shut])) == [root / "data", root / "open"]
    assert list(parts_outside(root, [tmp_path / "elsewhere"])) == [root]
    assert list(parts_outside(shut / "inner", [shut])) == []
    (root / "second").symlink_to(shut)
    assert sorted(parts_outside(root, [shut])) == [root / "data", root / "open"]


def test_homes_of_engines_whose_worker_was_killed_are_swept(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandboxes, "YOUNG_SECONDS", -1)
    lives = sandbox.cell()
    left = sandbox.settings.storage / sandboxes.SCRATCH / "left"
    left.mkdir()
    sweep_scratch(sandbox.settings.storage)
    assert (lives.scratch.exists(), left.exists()) == (True, False)
    lives.clear()


def test_engines_that_are_root_are_a_warning_at_every_start(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = "engines, which read users' files, run as root here; run the worker as an ordinary user"
    nobody = pwd.getpwnam("nobody")
    for uid, user, warned in ((0, None, True), (0, nobody, False), (1000, None, False)):
        caplog.clear()
        monkeypatch.setattr(sandboxes.os, "geteuid", lambda uid=uid: uid)
        log_sandbox(Sandbox(sandbox.settings, user, {}))
        assert (told in caplog.text) is warned


def test_where_the_system_has_nothing_an_engine_runs_all_the_same(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    environment(engine_confined=False)
    sandbox = prepare(get_settings())
    assert sandbox.missing.keys() == sandboxes.PROMISES.keys()
    log_sandbox(sandbox)
    assert "its job's files alone (RETORT_ENGINE_CONFINED is off)" in caplog.text
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = "enter(order['confine'])\ntried('open', lambda: socket.create_connection(tuple(order['address'])))"
        assert said_by(sandbox, program, address=server.getsockname()) == {"open": "done"}


def test_what_no_program_starts_with_is_left_out_and_told(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment()
    monkeypatch.setattr(sandboxes, "_tried", {})
    monkeypatch.setattr(sandboxes, "SYSTEM", ())
    monkeypatch.setattr(sandboxes, "_programs", lambda: iter(()))
    sandbox = prepare(get_settings())
    assert "no engine starts with it" in sandbox.missing["files"]
    assert sandbox.holds("limits")
    assert said_by(sandbox, "tried('anything', lambda: None)") == {"anything": "done"}
