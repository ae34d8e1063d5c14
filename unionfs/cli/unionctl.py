"""``unionctl``: looks at a mounted union and changes its branches.

Returns 0, 1 with one line on stderr when the daemon refuses or cannot be reached, 2 when the words make no sense.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

from unionfs import control
from unionfs.branch import Branch
from unionfs.changes import Add, Change, Remove, SetAccess, encode_change
from unionfs.errors import UnionError
from unionfs.mountinfo import MountEntry, read_mounts
from unionfs.mountspec import decode_branches
from unionfs.types import Access

_USAGE = """\
usage: unionctl UNION --list
       unionctl PATH --query
       unionctl UNION --add [--before BRANCH | --after BRANCH] [--mode rw|ro|nfsro] DIRECTORY
       unionctl UNION --remove BRANCH
       unionctl UNION --mode BRANCH rw|ro|nfsro
       unionctl UNION refresh | stats

UNION is the mount point or any path in it, BRANCH a path or a position counted from 0 at the top. The action may
stand before UNION.
"""
_MODES = tuple(access.value for access in Access)


class UsageError(Exception):
    """The words on the command line are no call of the command."""


class _Words(NamedTuple):
    """The command line, sorted by kind."""

    action: str
    union: str
    operands: tuple[str, ...]
    before: str | None
    after: str | None
    mode: str


class _Union(NamedTuple):
    """The union a path lies in, and the path within it."""

    mount: MountEntry
    path: bytes


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or "-h" in given or "--help" in given:
        print(_USAGE, end="", file=sys.stdout if given else sys.stderr)
        return 0 if given else 2
    try:
        words = _sort(given)
        _ACTIONS[words.action].run(words, _find_union(words.union))
    except UsageError as error:
        print(f"unionctl: {error}\nhint: unionctl --help", file=sys.stderr)
        return 2
    except (UnionError, OSError) as error:
        print(f"unionctl: {error}", file=sys.stderr)
        return 1
    return 0


def _sort(arguments: list[str]) -> _Words:
    actions: list[str] = []
    positional: list[str] = []
    values: dict[str, str] = {}
    adding = "--add" in arguments
    rest = iter(arguments)
    for word in rest:
        if word in {"--before", "--after"} or (word == "--mode" and adding):
            value = next(rest, None)
            if value is None:
                raise UsageError(f"option {word!r} needs a value")
            values[word] = value
        elif word in _ACTIONS:
            actions.append(word)
        elif word.startswith("--"):
            raise UsageError(f"option {word!r} is unknown")
        else:
            positional.append(word)
    return _checked(actions, positional, values)


def _checked(actions: list[str], positional: list[str], values: dict[str, str]) -> _Words:
    if len(actions) != 1:
        raise UsageError(f"expected one action, got {' '.join(actions) or 'none'}")
    action = actions[0]
    wanted = 1 + _ACTIONS[action].operands
    if len(positional) != wanted:
        raise UsageError(f"{action}: expected {wanted} words beside it, got {len(positional)}")
    if action != "--add" and values:
        raise UsageError(f"option {next(iter(values))!r} belongs to --add")
    if len(values.keys() & {"--before", "--after"}) > 1:
        raise UsageError("expected --before or --after, got both")
    mode = values.get("--mode", "rw")
    if mode not in _MODES:
        raise UsageError(f"option '--mode': expected rw, ro or nfsro, got {mode!r}")
    union, *operands = positional
    return _Words(action, union, tuple(operands), values.get("--before"), values.get("--after"), mode)


def _find_union(text: str) -> _Union:
    path = os.path.realpath(os.fsencode(text))
    number = os.stat(path).st_dev
    device = (os.major(number), os.minor(number))
    for mount in reversed(read_mounts()):
        point = mount.mount_point
        if mount.device == device and (path == point or path.startswith(point.rstrip(b"/") + b"/")):
            return _Union(mount, path[len(point) :].strip(b"/"))
    raise UnionError(f"{text!r}: no mount that can be seen from here holds it")


def _list(_words: _Words, union: _Union) -> None:
    answer = control.ask(union.mount, {"do": "list"})
    for branch in decode_branches(answer["branches"]):
        print(f"\t{_shown(branch)}")


def _query(words: _Words, union: _Union) -> None:
    answer = control.ask(union.mount, {"do": "query", "path": os.fsdecode(union.path)})
    for branch in decode_branches(answer["branches"]):
        print(f"{words.union}\t{_shown(branch)}")


def _add(words: _Words, union: _Union) -> None:
    branch = Branch(os.fsencode(os.path.abspath(words.operands[0])), Access(words.mode))
    _change(union, Add(branch, _optional(words.before), _optional(words.after)))


def _remove(words: _Words, union: _Union) -> None:
    _change(union, Remove(_branch(words.operands[0])))


def _mode(words: _Words, union: _Union) -> None:
    modes = [word for word in words.operands if word in _MODES]
    names = [word for word in words.operands if word not in _MODES]
    if len(modes) != 1:
        raise UsageError(f"--mode: expected a branch and one of rw, ro, nfsro, got {' '.join(words.operands)!r}")
    _change(union, SetAccess(_branch(names[0]), Access(modes[0])))


def _refresh(_words: _Words, union: _Union) -> None:
    control.ask(union.mount, {"do": "refresh"})


def _stats(_words: _Words, union: _Union) -> None:
    print(json.dumps(control.ask(union.mount, {"do": "stats"}), indent=2))


def _change(union: _Union, change: Change) -> None:
    control.ask(union.mount, {"do": "change", "changes": [encode_change(change)]})


def _branch(text: str) -> bytes | int:
    return int(text) if text.isdecimal() else os.fsencode(os.path.abspath(text))


def _optional(text: str | None) -> bytes | int | None:
    return None if text is None else _branch(text)


def _shown(branch: Branch) -> str:
    mode = {Access.RW: "rw-", Access.RO: "r--", Access.NFSRO: "rn-"}[branch.access]
    return f"{os.fsdecode(branch.path)} ({mode})"


class _Action(NamedTuple):
    """What an action does, and how many words it needs beside the union."""

    run: Callable[[_Words, _Union], None]
    operands: int


_ACTIONS = {
    "--list": _Action(_list, 0),
    "--query": _Action(_query, 0),
    "--add": _Action(_add, 1),
    "--remove": _Action(_remove, 1),
    "--mode": _Action(_mode, 2),
    "refresh": _Action(_refresh, 0),
    "stats": _Action(_stats, 0),
}


if __name__ == "__main__":
    sys.exit(main())
