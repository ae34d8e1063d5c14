"""A user namespace for a builder that may not mount: which ids it has there, and how it gets in.

Invariants: what is mapped is decided by `plan_mapping`, a pure function; the process itself becomes user 0 of the
namespace. Root, who may set ids, keeps all that exist; a plain user has itself and its range of subordinate ids;
without that, only one id exists there and groups can't be set (user_namespaces(7)).
A process of several threads can't enter: this is called in the sandbox server, before it does anything else.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from typing import NoReturn

from builder.sandbox import _sys, caps, controlfiles
from unionfs.namedtuple import NamedTuple
from unionfs.privileges import effective_capabilities

_MAPS = ("uid_map", "gid_map")
_HELPERS = ("newuidmap", "newgidmap")
_SETS_IDS = caps.mask_of(("SETUID", "SETGID", "SETFCAP"))
_PROBLEM = 1


class Range(NamedTuple):
    """``size`` ids from ``inside`` on are those from ``outside`` on."""

    inside: int
    outside: int
    size: int


class Writer(enum.Enum):
    """Who says which ids a namespace has: the process itself, for its own alone; its parent; newuidmap, newgidmap."""

    ITSELF = "itself"
    PARENT = "parent"
    HELPERS = "helpers"


class Mapping(NamedTuple):
    """The ids of the namespace, and who has to write them."""

    uids: tuple[Range, ...]
    gids: tuple[Range, ...]
    writer: Writer


def plan_mapping(uid: int, gid: int, names: Sequence[str], subuid: str, subgid: str) -> Mapping:
    """The mapping for the user ``uid``, called ``names``, by the texts of /etc/subuid and /etc/subgid. subuid(5)."""
    uids, gids = _ranges(names, subuid), _ranges(names, subgid)
    if not uids or not gids:
        return Mapping((Range(0, uid, 1),), (Range(0, gid, 1),), Writer.ITSELF)
    return Mapping(_after_own(uid, uids), _after_own(gid, gids), Writer.HELPERS)


def plan_same(uid_map: str, gid_map: str) -> Mapping:
    """The mapping in which every id of the present namespace, whose maps these are, stays what it is."""
    uids, gids = (
        tuple(
            Range(int(inside), int(inside), int(size)) for inside, _outside, size in map(str.split, text.splitlines())
        )
        for text in (uid_map, gid_map)
    )
    return Mapping(uids, gids, Writer.PARENT)


def _ranges(names: Sequence[str], text: str) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for line in text.splitlines():
        name, _, numbers = line.strip().partition(":")
        start, _, count = numbers.partition(":")
        if name in names and start.isdigit() and count.isdigit() and int(count):
            found.append((int(start), int(count)))
    return found


def _after_own(own: int, ranges: Sequence[tuple[int, int]]) -> tuple[Range, ...]:
    mapped = [Range(0, own, 1)]
    for start, count in ranges:
        mapped.append(Range(mapped[-1].inside + mapped[-1].size, start, count))
    return tuple(mapped)


def enter() -> None:
    """This process is user 0 of a new user and mount namespace.

    Raises:
        OSError: user namespaces are not to be had here.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0 and effective_capabilities() & _SETS_IDS == _SETS_IDS:
        mapping = plan_same(_read("/proc/self/uid_map"), _read("/proc/self/gid_map"))
    else:
        mapping = plan_mapping(uid, gid, _names(uid), _read("/etc/subuid"), _read("/etc/subgid"))
    if mapping.writer is Writer.ITSELF:
        _sys.unshare(_sys.CLONE_NEWUSER | _sys.CLONE_NEWNS)
    elif _enter_mapped(mapping):
        return
    # who was to write may have failed after the namespace was made: then nothing is mapped yet
    _write_own(Range(0, uid, 1), Range(0, gid, 1))


def can_set_groups() -> bool:
    """Whether setgroups(2) is allowed in this user namespace."""
    return _read("/proc/self/setgroups").strip() != "deny"


def _enter_mapped(mapping: Mapping) -> bool:
    """Whether all is mapped, from outside; the process is in its namespaces in any case."""
    parent = os.getpid()
    entered, entering = os.pipe()
    child = os.fork()  # noqa: TID251  (the server has one thread, and has to be mapped from outside)
    if child == 0:
        os.close(entering)
        _map_from_outside(parent, mapping, entered)
    os.close(entered)
    try:
        _sys.unshare(_sys.CLONE_NEWUSER | _sys.CLONE_NEWNS)
    finally:
        os.close(entering)
        _pid, status = os.waitpid(child, 0)
    return status == 0


def _map_from_outside(pid: int, mapping: Mapping, entered: int) -> NoReturn:
    status = _PROBLEM
    try:
        os.read(entered, 1)
        status = 0
        for name, helper, ranges in zip(_MAPS, _HELPERS, (mapping.uids, mapping.gids), strict=True):
            if mapping.writer is Writer.PARENT:
                _write_map(f"/proc/{pid}/{name}", ranges)
                continue
            argv = [helper, str(pid), *(str(number) for one in ranges for number in one)]
            ended = os.waitpid(os.posix_spawnp(helper, argv, os.environ), 0)[1]
            status = status or (0 if ended == 0 else _PROBLEM)
    except OSError:
        status = _PROBLEM
    finally:
        os._exit(status)


def _write_own(uid: Range, gid: Range) -> None:
    with open("/proc/self/setgroups", "w", encoding="ascii") as file:
        file.write("deny")
    for name, own in zip(_MAPS, (uid, gid), strict=True):
        _write_map(f"/proc/self/{name}", (own,))


def _write_map(path: str, ranges: Sequence[Range]) -> None:
    """The kernel takes a map in one piece, once."""
    with open(path, "w", encoding="ascii") as file:
        file.write("".join(f"{one.inside} {one.outside} {one.size}\n" for one in ranges))


def _names(uid: int) -> tuple[str, ...]:
    import pwd

    try:
        return (str(uid), pwd.getpwuid(uid).pw_name)
    except KeyError:
        return (str(uid),)


def _read(path: str) -> str:
    return controlfiles.read_bytes(path).decode("utf-8", "replace")
