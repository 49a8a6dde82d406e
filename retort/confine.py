"""Rights that a process gives up for good, by means of the Linux kernel: files, system calls, privileges. No torch.

Its `main` is the launcher of an engine: it gives up the rights that its first argument names, a JSON object of the
fields of `worker.sandbox.Launch`, and becomes the program that the others name. With `--try` before them it tries each
step, prints those that failed with the reasons, and ends. It imports the standard library and `retort.seccomp` alone.

Landlock and prctl are called by their numbers, which are part of the kernel's interface and never change: man-pages
landlock(7), capabilities(7).
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import stat
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from retort import seccomp

PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 24, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
PR_SET_DUMPABLE = 4
RULING = sum(1 << capability for capability in (0, 1, 3, 5, 6, 7))
"""CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_KILL, CAP_SETGID, CAP_SETUID."""

# Landlock: rights to a file, and to all below a folder.
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_DIR, MAKE_REG, MAKE_FIFO, MAKE_SYM, REFER, TRUNCATE, IOCTL_DEV = (1 << bit for bit in (7, 8, 10, 12, 13, 14, 15))
ALL_OF_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""File rights that each version of Landlock can forbid; later ones know no more of them."""
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
"""Rights to a file itself; all others are to folders."""
SIGNALS_SINCE = 6
"""First version of Landlock that keeps signals and abstract sockets inside."""
LIST = READ_DIR
READ = EXECUTE | READ_FILE | READ_DIR
WRITE = WRITE_FILE | READ_FILE | READ_DIR | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SYM | REFER | TRUNCATE
USE = WRITE_FILE | READ_FILE | READ_DIR | IOCTL_DEV
"""Rights to devices."""
RIGHTS = {"list": LIST, "read": READ, "write": WRITE, "use": USE}
"""Rights by the keys of `files`, which are the fields of `retort.order.FileRights`."""

SOL_SOCKET, SO_DOMAIN, SHUT_RDWR = 1, 39, 2
TO_OTHER_MACHINES = (2, 10)
"""AF_INET and AF_INET6."""

_libc = ctypes.CDLL(None, use_errno=True)


def limit(limits: Mapping[str, int]) -> None:
    """Set resource limits, by name, for good; never above what the process was given."""
    for name, wanted in limits.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(number, (most, most))


def be_the_first_to_go() -> None:
    """Have the kernel end this process before others when memory runs out."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def become(uid: int, gid: int, groups: Iterable[int]) -> None:
    """Become another user, for good."""
    os.setgroups(list(groups))
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def give_up_capabilities() -> None:
    """Give up all capabilities, also as root."""
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    for capability in range(last + 1):
        # A process that may not drop one has none, and never gets any.
        with suppress(PermissionError):
            _prctl(PR_CAPBSET_DROP, capability)
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    head, none = struct.pack("Ii", 0x20080522, 0), bytes(24)
    _check(_libc.capset(head, none))


def gain_nothing() -> None:
    """Let no program that it starts have more rights than it has."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def hide() -> None:
    """Let no process of the same user look into this one: its memory and its environment are root's from now on."""
    _prctl(PR_SET_DUMPABLE, 0)


def may_rule_others() -> bool:
    """Whether this process may make one of another user, give it files, read what it made, and end it."""
    with open("/proc/self/status") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return effective & RULING == RULING


def landlock_version() -> int:
    """The kernel's version of Landlock; 0 where it has none."""
    return max(0, int(_libc.syscall(444, None, ctypes.c_size_t(0), 1)))


def keep_to(files: Mapping[str, Iterable[str]], *, alone: bool) -> None:
    """Use no files but these; `files` has paths by the keys of RIGHTS. Holds for this thread and all that it starts.

    A path that is not there grants nothing. With `alone` signals and abstract sockets reach no process outside, where
    the kernel has that. Raises OSError where it has no Landlock.
    """
    version = landlock_version()
    if not version:
        raise OSError(errno.ENOSYS, "the kernel has no Landlock, or it is switched off")
    all_rights = ALL_OF_VERSION[min(version, max(ALL_OF_VERSION))]
    scoped = 3 if alone and version >= SIGNALS_SINCE else 0
    attributes = struct.pack("QQQ", all_rights, 0, scoped)[
        : 8 if version < 4 else 16 if version < SIGNALS_SINCE else 24
    ]
    ruleset = _check(_libc.syscall(444, attributes, ctypes.c_size_t(len(attributes)), 0))
    try:
        for key, paths in files.items():
            for path in paths:
                _grant(ruleset, path, RIGHTS[key] & all_rights)
        _check(_libc.syscall(446, ruleset, 0))
    finally:
        os.close(ruleset)


def _grant(ruleset: int, path: str, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= OF_FILES
        if rights:
            _check(_libc.syscall(445, ruleset, 1, struct.pack("=Qi", rights, opened), 0))
    finally:
        os.close(opened)


def close_the_network() -> None:
    """Let no thread open or connect a socket of any kind any more, and end connections to other machines."""
    seccomp.forbid_the_network()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the folder's own is gone
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode) and _domain(int(name)) in TO_OTHER_MACHINES:
                _libc.shutdown(int(name), SHUT_RDWR)


def _domain(descriptor: int) -> int:
    domain, size = ctypes.c_int(), ctypes.c_uint(ctypes.sizeof(ctypes.c_int))
    _check(_libc.getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, ctypes.byref(domain), ctypes.byref(size)))
    return domain.value


def _prctl(option: int, value: int) -> None:
    words = [ctypes.c_ulong(each) for each in (value, 0, 0, 0)]
    _check(_libc.prctl(option, *words))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def enter(*, files: Mapping[str, Iterable[str]] | None, network: bool, limits: Mapping[str, int]) -> None:
    """Confine an engine to its job, once it has fetched what is published; see `retort.order.Confinement`."""
    limit(limits)
    if not network:
        close_the_network()
    if files is not None:
        keep_to(files, alone=False)


def steps(launch: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[], None]]]:
    """The steps before an engine starts, in this order."""
    if launch.get("limits"):
        yield "limits", lambda: limit(launch["limits"])
    if launch.get("memory"):
        yield "memory", be_the_first_to_go
    if launch.get("user"):
        yield "user", lambda: become(**launch["user"])
    if launch.get("privileges"):
        yield "privileges", _give_up_privileges
    if launch.get("files"):
        yield "files", lambda: keep_to(launch["files"], alone=True)
    if launch.get("calls"):
        yield "calls", seccomp.forbid_calls
    if launch.get("network"):
        yield "network", close_the_network


def _give_up_privileges() -> None:
    give_up_capabilities()
    gain_nothing()


def main() -> None:
    """Start an engine, or try the steps before it."""
    trying = sys.argv[1] == "--try"
    start, *command = sys.argv[2:] if trying else sys.argv[1:]
    launch = json.loads(start)
    os.umask(0o077)
    failed: dict[str, str] = {}
    for name, step in steps(launch):
        try:
            step()
        except (OSError, ValueError) as error:
            if not trying:
                raise
            failed[name] = getattr(error, "strerror", None) or str(error)
    if trying:
        print(json.dumps(failed))
    else:
        os.execvp(command[0], command)
