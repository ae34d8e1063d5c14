"""Which devices a step may use, for both versions of control groups.

Invariants: the rules are one table, written as lines for version 1 and as a BPF program for version 2, and mean the
same: any node may be made, only those of a container may be opened. Facts: cgroup-v1/devices.rst, cgroup-v2.rst (device
controller), linux/bpf.h; the rules are those of runtime-spec, config-linux.md#default-devices.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Sequence

# character devices that may be opened: null zero full random urandom tty console ptmx, and terminals
ALLOWED: tuple[tuple[int, int | None], ...] = (
    (1, 3),
    (1, 5),
    (1, 7),
    (1, 8),
    (1, 9),
    (5, 0),
    (5, 1),
    (5, 2),
    (136, None),
)

# eBPF: load a word, move, shift, and, jump if not equal, exit
_LOAD_WORD, _MOVE, _MOVE_NUMBER, _SHIFT_RIGHT, _AND = 0x61, 0xBF, 0xB7, 0x77, 0x57
_IF_NOT_EQUAL, _EXIT = 0x55, 0x95
# struct bpf_cgroup_dev_ctx: access << 16 | kind, major, minor
_MAKE_ONLY, _CHARACTER = 1, 2
_RESULT, _CONTEXT, _KIND, _ACCESS, _MAJOR, _MINOR = range(6)

# a number that no driver has (Documentation/admin-guide/devices.txt: local and experimental use)
_NOBODYS = os.makedev(240, 0xF_FFFF)
_PLACES = ("/dev", "/tmp", "/var/tmp", "/")  # noqa: S108  (the node is gone at once, and leads to nothing)

Instruction = tuple[int, int, int, int, int]


def are_confined() -> bool:
    """Whether a group of control groups that this process is in, a container's, decides which devices are opened.

    Tried with a node that leads to no device: whether that may be opened is asked before whether there is one. False
    also where no node can be made to try it.
    """
    for place in _PLACES:
        path = f"{place}/.pybuild-{os.getpid()}"
        try:
            os.mknod(path, stat.S_IFBLK, _NOBODYS)
        except OSError:
            continue
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            # EACCES: mounted with nodev, which says nothing of other places
            if error.errno in {errno.EPERM, errno.ENXIO}:
                return error.errno == errno.EPERM
        finally:
            os.unlink(path)
    return False


def rules_v1(allowed: Sequence[tuple[int, int | None]] = ALLOWED) -> tuple[tuple[str, str], ...]:
    """What is written into which file of a version 1 group, in this order."""
    opened = (f"c {major}:{'*' if minor is None else minor} rwm" for major, minor in allowed)
    lines = ("c *:* m", "b *:* m", *opened)
    return (("devices.deny", "a"), *(("devices.allow", line) for line in lines))


def program_v2(allowed: Sequence[tuple[int, int | None]] = ALLOWED) -> bytes:
    """The program that a version 2 group carries: its result is 1 where an access is allowed."""
    allow: list[Instruction] = [(_MOVE_NUMBER, _RESULT, 0, 0, 1), (_EXIT, 0, 0, 0, 0)]
    program: list[Instruction] = [
        (_LOAD_WORD, _KIND, _CONTEXT, 0, 0),
        (_MOVE, _ACCESS, _KIND, 0, 0),
        (_SHIFT_RIGHT, _ACCESS, 0, 0, 16),
        (_AND, _KIND, 0, 0, 0xFFFF),
        (_LOAD_WORD, _MAJOR, _CONTEXT, 4, 0),
        (_LOAD_WORD, _MINOR, _CONTEXT, 8, 0),
        (_IF_NOT_EQUAL, _ACCESS, 0, len(allow), _MAKE_ONLY),
        *allow,
    ]
    rules: list[Instruction] = []
    for major, minor in allowed:
        test: list[Instruction] = [] if minor is None else [(_IF_NOT_EQUAL, _MINOR, 0, len(allow), minor)]
        rules += [(_IF_NOT_EQUAL, _MAJOR, 0, len(test) + len(allow), major), *test, *allow]
    program += [(_IF_NOT_EQUAL, _KIND, 0, len(rules), _CHARACTER), *rules]
    program += [(_MOVE_NUMBER, _RESULT, 0, 0, 0), (_EXIT, 0, 0, 0, 0)]
    return b"".join(
        struct.pack("=BBhi", code, destination | source << 4, offset, number)
        for code, destination, source, offset, number in program
    )
