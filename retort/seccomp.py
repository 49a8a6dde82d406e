"""System calls that an engine may not make, as programs for the kernel's seccomp. The standard library alone, no torch.

Numbers of calls are part of the kernel's interface and never change: man-pages syscalls(2), seccomp(2), bpf(4).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

# By processor: AUDIT_ARCH, and the column of the numbers below; None is a call that the processor does not have.
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
Numbers = tuple[int | None, int | None]

LEAVING: dict[str, Numbers] = {"setsid": (112, 157), "setpgid": (109, 154)}
"""Leave the group that is killed with the engine."""
LOOKING: dict[str, Numbers] = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "tkill": (200, 130), "perf_event_open": (298, 241),
    "inotify_init": (253, None), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
}  # fmt: skip
"""Look into other processes, act on them, or watch files that others use."""
METADATA: dict[str, Numbers] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "truncate": (76, 45), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
}  # fmt: skip
"""Change files by their names, also such as may not be opened: Landlock does not know these calls, or not in all
versions."""
OUTLIVING: dict[str, Numbers] = {
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "shmget": (29, 194), "shmat": (30, 196),
    "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "mq_open": (240, 180),
    "mq_unlink": (241, 181),
}  # fmt: skip
"""Make or use what is no file and outlives the process: keys, and the memory and queues of System V and POSIX."""
AROUND: dict[str, Numbers] = {
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "bpf": (321, 280),
    "userfaultfd": (323, 282),
}  # fmt: skip
"""Get around this filter, or help to attack the kernel."""
MACHINE: dict[str, Numbers] = {
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89),
    "syslog": (103, 116), "reboot": (169, 142), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "iopl": (172, None),
    "ioperm": (173, None), "vhangup": (153, 58), "sethostname": (170, 161), "setdomainname": (171, 162),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
}  # fmt: skip
"""Change the machine, its mounts or its clock."""
NEVER = {**LEAVING, **LOOKING, **METADATA, **OUTLIVING, **AROUND, **MACHINE}
"""Calls that no computation needs."""
NETWORK: dict[str, Numbers] = {
    "socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "bind": (49, 200), "listen": (50, 201),
    "accept4": (288, 242), "sendmsg": (46, 211), "sendmmsg": (307, 269),
}  # fmt: skip
"""Open a connection to another process, or may name an address in memory that no filter can read."""
NEWER = 463
"""The first number of calls that are not known here; from 424 on all processors have the same."""


@dataclass(frozen=True)
class Argument:
    """A test of one argument of a call."""

    index: int
    values: tuple[int, ...]
    refused: bool = False
    """Whether these values are refused; else all others are."""
    mask: int = 0xFFFFFFFF
    """The bits that count, of the lower half."""
    pointer: bool = False
    """Whether the upper half must be 0 as well."""


CLONE: Numbers = (56, 220)
CLONE3: Numbers = (435, 435)
APART = 0x7E028000
"""Flags of clone for new namespaces, and for a child of the parent."""
F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY = 8, 10, 15, 1024, 1026
FIOSETOWN, SIOCSPGRP = 0x8901, 0x8902
OF_FILES = (ord("f") << 8, ord("X") << 8, 0x94 << 8)
"""Kinds of ioctl that change flags of files, also of such as are open for reading: immutable, sealed by fs-verity, a
subvolume of btrfs that can no longer be written."""
PR_SCHED_CORE = 62
SOCK_DGRAM = 2


def _with_arguments(pid: int) -> list[tuple[Numbers, list[Argument]]]:
    """Calls that only some arguments make harmful, with tests that must all hold. `pid` is this process."""
    itself = [Argument(0, (0,))]
    return [
        ((302, 261), itself),  # prlimit64
        ((203, 122), itself),  # sched_setaffinity
        ((142, 118), itself),  # sched_setparam
        ((144, 119), itself),  # sched_setscheduler
        ((314, 274), itself),  # sched_setattr
        ((256, 238), itself),  # migrate_pages
        ((279, 239), itself),  # move_pages
        ((141, 140), [Argument(0, (0,)), Argument(1, (0,))]),  # setpriority: PRIO_PROCESS
        ((251, 30), [Argument(0, (1,)), Argument(1, (0,))]),  # ioprio_set: IOPRIO_WHO_PROCESS
        ((62, 129), [Argument(0, (0, pid))]),  # kill: its own group
        ((234, 131), [Argument(0, (pid,))]),  # tgkill
        ((72, 25), [Argument(1, (F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY), refused=True)]),  # fcntl
        ((16, 29), [Argument(1, (FIOSETOWN, SIOCSPGRP), refused=True), Argument(1, OF_FILES, True, 0xFF00)]),  # ioctl
        ((157, 167), [Argument(0, (PR_SCHED_CORE,), refused=True)]),  # prctl
        (CLONE, [Argument(0, (0,), mask=APART)]),
    ]


_DATAGRAMS: list[tuple[Numbers, list[Argument]]] = [
    ((44, 206), [Argument(4, (0,), pointer=True)]),  # sendto: without an address
    ((53, 199), [Argument(1, (SOCK_DGRAM,), refused=True, mask=0xF)]),  # socketpair
]
"""Calls by which a socket without a connection reaches another."""

SECCOMP_SET_MODE_FILTER, SECCOMP_ALL_THREADS = 1, 1
ALLOW, REFUSE, END_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, AND, JUMP_IF, JUMP_IF_AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
"""Offsets in the kernel's description of a call."""
Line = tuple[int, int, int, int]
"""Operation, lines to skip if true, lines to skip if false, operand."""
REFUSED: Line = (RETURN, 0, 0, REFUSE | errno.EPERM)
ABSENT: Line = (RETURN, 0, 0, REFUSE | errno.ENOSYS)
ALLOWED: Line = (RETURN, 0, 0, ALLOW)

_libc = ctypes.CDLL(None, use_errno=True)


def forbid_calls() -> None:
    """Refuse calls that no computation needs, in all threads, for good. Raises OSError where it cannot."""
    architecture, column = _machine()
    lines = list(_refusals(NEVER, column))
    # The arguments of clone3 lie in memory, which no filter can read; libraries fall back on clone.
    lines += _when(CLONE3[column], [ABSENT])
    for numbers, tests in _with_arguments(os.getpid()):
        lines += _when(numbers[column], list(_tested(tests)))
    # Programs take a newer call that is absent for an older kernel.
    lines += [(JUMP_IF_AT_LEAST, 0, 1, NEWER), ABSENT]
    _install(architecture, lines)


def forbid_the_network() -> None:
    """Let no thread open or connect a socket of any kind, or send to an address. Raises OSError where it cannot."""
    architecture, column = _machine()
    lines = list(_refusals(NETWORK, column))
    for numbers, tests in _DATAGRAMS:
        lines += _when(numbers[column], list(_tested(tests)))
    _install(architecture, lines)


def _machine() -> tuple[int, int]:
    known = MACHINES.get(platform.machine())
    if known is None or sys.maxsize < 2**32:
        raise OSError(errno.ENOSYS, f"the calls of a {platform.machine()} are not known")
    return known


def _refusals(calls: Mapping[str, Numbers], column: int) -> Iterator[Line]:
    for numbers in calls.values():
        yield from _when(numbers[column], [REFUSED])


def _when(number: int | None, lines: list[Line]) -> list[Line]:
    """Lines for one call alone, which all end in an answer."""
    return [] if number is None else [(JUMP_IF, 0, len(lines), number), *lines]


def _tested(tests: Iterable[Argument]) -> Iterator[Line]:
    for test in tests:
        yield LOAD, 0, 0, ARGUMENTS + 8 * test.index
        yield AND, 0, 0, test.mask
        if test.refused:
            for value in test.values:
                yield from _when(value, [REFUSED])
        else:
            for left, value in zip(range(len(test.values), 0, -1), test.values, strict=True):
                yield JUMP_IF, left, 0, value
            yield REFUSED
        if test.pointer:
            yield LOAD, 0, 0, ARGUMENTS + 8 * test.index + 4
            yield JUMP_IF, 1, 0, 0
            yield REFUSED
    yield ALLOWED


def _install(architecture: int, lines: list[Line]) -> None:
    """Have the kernel ask that program before every call of this process, in all threads."""
    program: list[Line] = [
        *[(LOAD, 0, 0, ARCHITECTURE), (JUMP_IF, 1, 0, architecture), (RETURN, 0, 0, END_PROCESS)],
        # Calls of x86-64 with pointers of 32 bits have numbers of their own.
        *[(LOAD, 0, 0, NUMBER), (JUMP_IF_AT_LEAST, 0, 1, 0x40000000), ABSENT],
        *lines,
        ALLOWED,
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    number = {"x86_64": 317, "aarch64": 277}[platform.machine()]
    failed = _libc.syscall(number, SECCOMP_SET_MODE_FILTER, SECCOMP_ALL_THREADS, header)
    if failed < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if failed:
        raise OSError(errno.EBUSY, f"thread {failed} has a filter of its own")
