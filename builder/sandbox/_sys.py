"""The system calls a sandbox needs and Python 3.11 lacks; those a union needs too come from ``unionfs._sys``.

Invariants: every function is one system call, prepared at import so that a forked child does no more than make it; a
failure is an ``OSError`` with the errno and nothing else. The library is entered with the interpreter lock held
(``PyDLL``), which is right where no other thread has anything to do, and saves the release.
"""

from __future__ import annotations

import ctypes  # noqa: TID251  (this module is where the sandbox's system calls live)
import errno as errno_names
import os
import signal
import struct
from collections.abc import Sequence

from unionfs._sys import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    fsconfig,
    fsconfig_create,
    fsmount,
    fsopen,
)

__all__ = ["MOUNT_ATTR_NODEV", "MOUNT_ATTR_NOEXEC", "MOUNT_ATTR_NOSUID", "MOUNT_ATTR_RDONLY"]

CLONE_NEWNS = 0x0002_0000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000
_CLONE_INTO_CGROUP = 0x2_0000_0000

MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

_PR_SET_NAME = 15
_SECCOMP_SET_MODE_FILTER = 1
_KEYCTL_JOIN_SESSION_KEYRING = 1
_BPF_PROG_LOAD = 5
_BPF_PROG_ATTACH = 8
_BPF_PROG_TYPE_CGROUP_DEVICE = 15
_BPF_CGROUP_DEVICE = 6
_BPF_F_ALLOW_MULTI = 2
_LINUX_CAPABILITY_VERSION_3 = 0x2008_0522

# from 424 on the numbers are the same everywhere (asm-generic/unistd.h)
_OPEN_TREE = 428
_MOVE_MOUNT = 429
_CLONE3 = 435
_OPENAT2 = 437
_MOUNT_SETATTR = 442
_NUMBERS = {
    "x86_64": {
        "clone": 56,
        "setgroups": 116,
        "setresuid": 117,
        "setresgid": 119,
        "capset": 126,
        "pivot_root": 155,
        "keyctl": 250,
        "seccomp": 317,
        "bpf": 321,
    },
    "aarch64": {
        "pivot_root": 41,
        "capset": 91,
        "setresuid": 147,
        "setresgid": 149,
        "setgroups": 159,
        "keyctl": 219,
        "clone": 220,
        "seccomp": 277,
        "bpf": 280,
    },
}

MACHINE = os.uname().machine
_OWN = _NUMBERS.get(MACHINE, {})

_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_long = ctypes.c_long


def _call(number: int, *arguments: int | bytes | None) -> int:
    made = [_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result: int = _syscall(_long(number), *made)
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return result


def _own(name: str) -> int:
    try:
        return _OWN[name]
    except KeyError:
        raise OSError(38, f"{name}: no system call number known for {MACHINE}") from None


def clone(flags: int) -> int:
    """A copy of this process runs in the new namespaces of ``flags``; 0 in the child, its id in the parent.

    clone(2). Only for a process of one thread. The interpreter's own hooks around a fork have run in both.
    """
    return _forked(_own("clone"), _long(flags | signal.SIGCHLD), None, None, None, None)


def clone_into(flags: int, group_fd: int) -> int:
    """As `clone`; the child is a member of the control group of version 2 that ``group_fd`` is the directory of.

    clone3(2), CLONE_INTO_CGROUP, since Linux 5.7. A filter of system calls often refuses it, since it can't see flags.
    """
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, its size
    arguments = struct.pack("=11Q", flags | _CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, group_fd)
    return _forked(_CLONE3, arguments, _long(len(arguments)))


def _forked(number: int, *arguments: ctypes.c_long | bytes | None) -> int:
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = _syscall(_long(number), *arguments)
    errno = ctypes.get_errno()
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(errno, os.strerror(errno))
    return int(pid)


def unshare(flags: int) -> None:
    """This process is in new namespaces.

    unshare(2).
    """
    if _libc.unshare(flags):
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def setns(fd: int, kind: int) -> None:
    """This thread is in the namespace ``fd``, which is of ``kind`` (CLONE_NEWNET, …).

    setns(2), which Python has from 3.12 on.
    """
    if _libc.setns(fd, kind):
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def mount_propagation(path: bytes, flags: int) -> None:
    """The mount at ``path`` propagates as ``flags`` (MS_PRIVATE, MS_SLAVE, MS_REC) say.

    mount(2).
    """
    if _libc.mount(None, path, None, ctypes.c_ulong(flags), None):
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def umount(path: bytes, flags: int) -> None:
    """The mount at ``path`` is gone.

    umount2(2).
    """
    if _libc.umount2(path, flags):
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    """``new_root`` is the root of this mount namespace, the old one lies at ``put_old``.

    pivot_root(2).
    """
    _call(_own("pivot_root"), new_root, put_old)


def may_pivot() -> bool:
    """Whether pivot_root(2) is allowed to a process that may mount; a filter of an outer container may refuse it."""
    try:
        pivot_root(b"", b"")
    except OSError as error:
        return error.errno not in {errno_names.EPERM, errno_names.ENOSYS}
    return True


def open_tree(path: bytes, *, recursive: bool, dir_fd: int = AT_FDCWD) -> int:
    """A detached copy of the mount at ``path``; the caller closes it.

    open_tree(2).
    """
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    return _call(_OPEN_TREE, dir_fd, path, flags | (0 if path else AT_EMPTY_PATH))


def move_mount(mount_fd: int, target_fd: int) -> None:
    """The mount ``mount_fd`` is attached on what ``target_fd`` refers to.

    move_mount(2).
    """
    _call(_MOVE_MOUNT, mount_fd, b"", target_fd, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)


def attach(mount_fd: int, path: str) -> None:
    """The mount ``mount_fd`` is attached on ``path``; it stays open."""
    target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        move_mount(mount_fd, target)
    finally:
        os.close(target)


def attach_closing(mount_fd: int, path: str) -> None:
    """As `attach`; then ``mount_fd`` is closed."""
    attach(mount_fd, path)
    os.close(mount_fd)


def new_mount(kind: str, options: tuple[tuple[str, str | None], ...], attributes: int) -> int:
    """A detached mount of a new ``kind`` filesystem; the caller closes it.

    fsopen(2), fsconfig(2), fsmount(2).
    """
    context = fsopen(kind)
    try:
        # else tables of mounts call it "none"
        for name, value in (("source", kind), *options):
            fsconfig(context, name, value)
        fsconfig_create(context)
        return fsmount(context, attributes)
    finally:
        os.close(context)


def mount_setattr(mount_fd: int, attributes: int, *, recursive: bool, cleared: int = 0) -> None:
    """``attributes`` are set on the mount (and on all below it), those ``cleared`` are not any more.

    mount_setattr(2).
    """
    value = struct.pack("QQQQ", attributes, cleared, 0, 0)
    _call(_MOUNT_SETATTR, mount_fd, b"", AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0), value, len(value))


def openat2(dir_fd: int, path: bytes, flags: int, resolve: int) -> int:
    """``path`` opened under ``dir_fd`` with the confinement ``resolve``; the caller closes it.

    openat2(2).
    """
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return _call(_OPENAT2, dir_fd, path, how, len(how))


def prctl(option: int, argument: int) -> None:
    """The attribute ``option`` of this process is ``argument``.

    prctl(2).
    """
    if _libc.prctl(option, _long(argument), _long(0), _long(0), _long(0)):
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def setgroups(groups: Sequence[int]) -> None:
    """The supplementary groups of this thread are ``groups``; those of other threads stay as they are.

    setgroups(2), which the C library, and so Python, does to all threads (nptl(7)).
    """
    _call(_own("setgroups"), len(groups), struct.pack(f"{len(groups)}I", *groups))


def setresgid(gid: int) -> None:
    """All group ids of this thread are ``gid``; those of other threads stay as they are.

    setresgid(2).
    """
    _call(_own("setresgid"), gid, gid, gid)


def setresuid(uid: int) -> None:
    """All user ids of this thread are ``uid``; those of other threads stay as they are.

    setresuid(2).
    """
    _call(_own("setresuid"), uid, uid, uid)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """The capability sets of this thread are the three masks.

    capset(2).
    """
    header = struct.pack("Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    low, high = 0xFFFF_FFFF, 32
    sets = (effective, permitted, inheritable)
    data = struct.pack("6I", *(mask & low for mask in sets), *(mask >> high for mask in sets))
    _call(_own("capset"), header, data)


def join_new_session_keyring() -> None:
    """This thread has a session keyring that nobody else holds.

    keyctl_join_session_keyring(3).
    """
    _call(_own("keyctl"), _KEYCTL_JOIN_SESSION_KEYRING, None, 0, 0, 0)


class SeccompFilter:
    """A filter program the kernel can be given without further work; immutable."""

    __slots__ = ("_header", "_program", "instructions")

    def __init__(self, instructions: bytes) -> None:
        self.instructions = instructions
        self._program = ctypes.create_string_buffer(instructions, len(instructions))
        self._header = struct.pack("HxxxxxxQ", len(instructions) // 8, ctypes.addressof(self._program))

    def install(self) -> None:
        """The filter holds for this thread and all it starts.

        seccomp(2); needs CAP_SYS_ADMIN or no_new_privs.
        """
        _call(_own("seccomp"), _SECCOMP_SET_MODE_FILTER, 0, self._header)


def load_device_program(program: bytes) -> int:
    """A descriptor of the program, for `attach_device_program`; the caller closes it.

    bpf(2), BPF_PROG_LOAD.
    """
    instructions = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    pointers = ctypes.addressof(instructions), ctypes.addressof(licence)
    attributes = struct.pack("IIQQIIQ8x", _BPF_PROG_TYPE_CGROUP_DEVICE, len(program) // 8, *pointers, 0, 0, 0)
    return _call(_own("bpf"), _BPF_PROG_LOAD, attributes, len(attributes))


def attach_device_program(group_fd: int, program_fd: int) -> None:
    """The program decides about devices in the cgroup (version 2) that ``group_fd`` is open on.

    bpf(2), BPF_PROG_ATTACH.
    """
    attributes = struct.pack("IIII", group_fd, program_fd, _BPF_CGROUP_DEVICE, _BPF_F_ALLOW_MULTI)
    _call(_own("bpf"), _BPF_PROG_ATTACH, attributes, len(attributes))


def set_title(title: bytes) -> None:
    """The command line of this process, as others see it, is ``title``, cut where it has no room.

    proc(5), cmdline.
    """
    with open("/proc/self/stat", "rb") as file:
        start, end = map(int, file.read().rpartition(b")")[2].split()[45:47])
    room = end - start
    ctypes.memset(start, 0, room)
    ctypes.memmove(start, title[: room - 1], min(len(title), room - 1))
    prctl_name = ctypes.create_string_buffer(title[:15])
    _libc.prctl(_PR_SET_NAME, prctl_name, _long(0), _long(0), _long(0))
