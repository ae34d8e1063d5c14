"""The words on ``unionctl``'s command line, sorted by kind, and the union they speak of."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from unionfs import control
from unionfs.busy import find_users
from unionfs.control import ControlBusyError, ControlError
from unionfs.errors import UnionError
from unionfs.mountinfo import MountEntry, read_mounts
from unionfs.types import Access
from unionfs.wire import Message

MODES = tuple(access.value for access in Access)
_VALUES = {"--before": "--add", "--after": "--add"}
_FLAGS = {"--json": ("diff", "snapshots", "explain"), "--tar": ("diff",)}


class UsageError(Exception):
    """The words on the command line are no call of the command."""


class Words(NamedTuple):
    """The command line, sorted by kind."""

    action: str
    union: str
    operands: tuple[str, ...]
    before: str | None
    after: str | None
    mode: str
    flags: frozenset[str]


class FoundUnion(NamedTuple):
    """The union a path lies in, and the path within it."""

    mount: MountEntry
    path: bytes

    def ask(self, message: Message) -> Message:
        """The daemon's answer.

        Raises:
            ControlError: it cannot be reached, or refuses; the processes are named when it is because of open files.
        """
        try:
            return control.ask(self.mount, message)
        except ControlBusyError as error:
            users = [f"{user.name} ({user.pid})" for user in find_users(self.mount.device, frozenset(error.inos))]
            raise ControlError(f"{error}: {', '.join(users)}" if users else str(error)) from error


class Action(NamedTuple):
    """What an action does and how many words it takes beside the union; ``hidden``: nothing need show there."""

    run: Callable[[Words, FoundUnion], None]
    least: int
    most: int
    hidden: bool = False


def sort(arguments: list[str], actions: Mapping[str, Action]) -> Words:
    """The words by kind.

    Raises:
        UsageError: they are no call.
    """
    found: list[str] = []
    positional: list[str] = []
    values: dict[str, str] = {}
    flags: set[str] = set()
    adding = "--add" in arguments
    rest = iter(arguments)
    for word in rest:
        if word in _VALUES or (word == "--mode" and adding):
            value = next(rest, None)
            if value is None:
                raise UsageError(f"option {word!r} needs a value")
            values[word] = value
        elif word in _FLAGS:
            flags.add(word)
        elif word in actions:
            found.append(word)
        elif word.startswith("--"):
            raise UsageError(f"option {word!r} is unknown")
        else:
            positional.append(word)
    if len(found) != 1:
        raise UsageError(f"expected one action, got {' '.join(found) or 'none'}")
    return _checked(found[0], actions[found[0]], positional, values, flags)


def _checked(action: str, known: Action, positional: list[str], values: dict[str, str], flags: set[str]) -> Words:
    least, most = 1 + known.least, 1 + known.most
    if not least <= len(positional) <= most:
        wanted = f"{least}" if least == most else f"{least} to {most}"
        raise UsageError(f"{action}: expected {wanted} words beside it, got {len(positional)}")
    if action != "--add" and values:
        raise UsageError(f"option {next(iter(values))!r} belongs to --add")
    for flag in flags:
        if action not in _FLAGS[flag]:
            raise UsageError(f"option {flag!r} belongs to {' and '.join(_FLAGS[flag])}")
    if len(values.keys() & {"--before", "--after"}) > 1:
        raise UsageError("expected --before or --after, got both")
    if len(flags) > 1:
        raise UsageError("expected --json or --tar, got both")
    mode = values.get("--mode", "rw")
    if mode not in MODES:
        raise UsageError(f"option '--mode': expected rw, ro or nfsro, got {mode!r}")
    union, *operands = positional
    return Words(action, union, tuple(operands), values.get("--before"), values.get("--after"), mode, frozenset(flags))


def find_union(text: str, *, hidden: bool = False) -> FoundUnion:
    """The union that holds the path; with ``hidden`` nothing need show there, and a link is not followed.

    Raises:
        UnionError, OSError: there is none.
    """
    path = os.path.realpath(os.fsencode(text))
    there = path
    if hidden:
        above, name = os.path.split(os.path.abspath(os.fsencode(text)))
        there = path = os.path.join(os.path.realpath(above), name)
        while not os.path.lexists(there):
            there = os.path.dirname(there)
    number = os.stat(there, follow_symlinks=not hidden).st_dev
    device = (os.major(number), os.minor(number))
    for mount in reversed(read_mounts()):
        point = mount.mount_point
        if mount.device == device and (path == point or path.startswith(point.rstrip(b"/") + b"/")):
            return FoundUnion(mount, path[len(point) :].strip(b"/"))
    raise UnionError(f"{text!r}: no mount that can be seen from here holds it")
