"""A user namespace for a builder that is not root: which ids it has there, and how it gets in.

Invariants: what is mapped is decided by `plan_mapping`, a pure function; the process itself becomes user 0 of the
namespace; without a range of subordinate ids, only that one id exists there and groups can't be set
(user_namespaces(7)).
A process of several threads can't enter: this is called in the sandbox server, before it does anything else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from builder.sandbox import _sys

_HELPERS = ("newuidmap", "newgidmap")
_PROBLEM = 1


class Range(NamedTuple):
    """``size`` ids from ``inside`` on are those from ``outside`` on."""

    inside: int
    outside: int
    size: int


class Mapping(NamedTuple):
    """The ids of the namespace; ``by_helpers`` where newuidmap(1) and newgidmap(1) have to write them."""

    uids: tuple[Range, ...]
    gids: tuple[Range, ...]
    by_helpers: bool


def plan_mapping(uid: int, gid: int, names: Sequence[str], subuid: str, subgid: str) -> Mapping:
    """The mapping for the user ``uid``, called ``names``, by the texts of /etc/subuid and /etc/subgid. subuid(5)."""
    uids, gids = _ranges(names, subuid), _ranges(names, subgid)
    if not uids or not gids:
        return Mapping((Range(0, uid, 1),), (Range(0, gid, 1),), by_helpers=False)
    return Mapping(_after_own(uid, uids), _after_own(gid, gids), by_helpers=True)


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


def enter() -> bool:
    """This process is user 0 of a new user and mount namespace; whether it has more ids than that one there.

    Raises:
        OSError: user namespaces are not to be had here.
    """
    uid, gid = os.geteuid(), os.getegid()
    mapping = plan_mapping(uid, gid, _names(uid), _read("/etc/subuid"), _read("/etc/subgid"))
    if mapping.by_helpers and _enter_by_helpers(mapping):
        return True
    if not mapping.by_helpers:
        _sys.unshare(_sys.CLONE_NEWUSER | _sys.CLONE_NEWNS)
    # the helpers may have failed after the namespace was made: then nothing is mapped yet
    _write_own(Range(0, uid, 1), Range(0, gid, 1))
    return False


def can_set_groups() -> bool:
    """Whether setgroups(2) is allowed in this user namespace."""
    return _read("/proc/self/setgroups").strip() != "deny"


def _enter_by_helpers(mapping: Mapping) -> bool:
    """Whether the helpers have mapped all; the process is in its namespaces in any case."""
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
        for helper, ranges in zip(_HELPERS, (mapping.uids, mapping.gids), strict=True):
            argv = [helper, str(pid), *(str(number) for one in ranges for number in one)]
            ended = os.waitpid(os.posix_spawnp(helper, argv, os.environ), 0)[1]
            status = status or (0 if ended == 0 else _PROBLEM)
    except OSError:
        status = _PROBLEM
    finally:
        os._exit(status)


def _write_own(uid: Range, gid: Range) -> None:
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", " ".join(map(str, uid))),
        ("gid_map", " ".join(map(str, gid))),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _names(uid: int) -> tuple[str, ...]:
    import pwd

    try:
        return (str(uid), pwd.getpwuid(uid).pw_name)
    except KeyError:
        return (str(uid),)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
