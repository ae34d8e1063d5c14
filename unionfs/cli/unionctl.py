"""``unionctl``: looks at a mounted union, changes its branches, takes snapshots of it.

Returns 0, 1 with one line on stderr when the daemon refuses or cannot be reached, 2 when the words make no sense.
"""

from __future__ import annotations

import json
import os
import sys

from unionfs.branch import Branch
from unionfs.changes import Add, Change, Remove, SetAccess, encode_change
from unionfs.cli import history
from unionfs.cli.words import MODES, Action, FoundUnion, UsageError, Words, find_union, sort
from unionfs.errors import UnionError
from unionfs.mountspec import decode_branches
from unionfs.types import Access

_USAGE = """\
usage: unionctl UNION --list
       unionctl PATH --query
       unionctl UNION --add [--before BRANCH | --after BRANCH] [--mode rw|ro|nfsro] DIRECTORY
       unionctl UNION --remove BRANCH
       unionctl UNION --mode BRANCH rw|ro|nfsro
       unionctl UNION refresh | stats
       unionctl PATH explain [--json]
       unionctl UNION snapshot NAME | rollback NAME | drop NAME
       unionctl UNION snapshots [--json]
       unionctl UNION diff [--json | --tar] [A] [B]

UNION is the mount point or any path in it, BRANCH a path or a position counted from 0 at the top, A and B are
snapshots: without B the union as it is now, without A its last snapshot. The action may stand before UNION.
"""


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or "-h" in given or "--help" in given:
        print(_USAGE, end="", file=sys.stdout if given else sys.stderr)
        return 0 if given else 2
    try:
        words = sort(given, _ACTIONS)
        action = _ACTIONS[words.action]
        action.run(words, find_union(words.union, hidden=action.hidden))
    except UsageError as error:
        print(f"unionctl: {error}\nhint: unionctl --help", file=sys.stderr)
        return 2
    except (UnionError, OSError) as error:
        print(f"unionctl: {error}", file=sys.stderr)
        return 1
    return 0


def _list(_words: Words, union: FoundUnion) -> None:
    answer = union.ask({"do": "list"})
    for branch in decode_branches(answer["branches"]):
        print(f"\t{_shown(branch)}")


def _query(words: Words, union: FoundUnion) -> None:
    answer = union.ask({"do": "query", "path": os.fsdecode(union.path)})
    for branch in decode_branches(answer["branches"]):
        print(f"{words.union}\t{_shown(branch)}")


def _explain(words: Words, union: FoundUnion) -> None:
    answer = union.ask({"do": "explain", "path": os.fsdecode(union.path)})
    if "--json" in words.flags:
        print(json.dumps(answer, indent=2))
        return
    print(f"{words.union}\t{answer['change']}")
    for branch, item in zip(decode_branches(answer["branches"]), answer["branches"], strict=True):
        print(f"\t{_shown(branch)}\t{item['says']}")


def _add(words: Words, union: FoundUnion) -> None:
    branch = Branch(os.fsencode(os.path.abspath(words.operands[0])), Access(words.mode))
    _change(union, Add(branch, _optional(words.before), _optional(words.after)))


def _remove(words: Words, union: FoundUnion) -> None:
    _change(union, Remove(_branch(words.operands[0])))


def _mode(words: Words, union: FoundUnion) -> None:
    modes = [word for word in words.operands if word in MODES]
    names = [word for word in words.operands if word not in MODES]
    if len(modes) != 1:
        raise UsageError(f"--mode: expected a branch and one of rw, ro, nfsro, got {' '.join(words.operands)!r}")
    _change(union, SetAccess(_branch(names[0]), Access(modes[0])))


def _refresh(_words: Words, union: FoundUnion) -> None:
    union.ask({"do": "refresh"})


def _stats(_words: Words, union: FoundUnion) -> None:
    print(json.dumps(union.ask({"do": "stats"}), indent=2))


def _change(union: FoundUnion, change: Change) -> None:
    union.ask({"do": "change", "changes": [encode_change(change)]})


def _branch(text: str) -> bytes | int:
    return int(text) if text.isdecimal() else os.fsencode(os.path.abspath(text))


def _optional(text: str | None) -> bytes | int | None:
    return None if text is None else _branch(text)


def _shown(branch: Branch) -> str:
    mode = {Access.RW: "rw-", Access.RO: "r--", Access.NFSRO: "rn-"}[branch.access]
    return f"{os.fsdecode(branch.path)} ({mode})"


_ACTIONS = {
    "--list": Action(_list, 0, 0),
    "--query": Action(_query, 0, 0),
    "--add": Action(_add, 1, 1),
    "--remove": Action(_remove, 1, 1),
    "--mode": Action(_mode, 2, 2),
    "refresh": Action(_refresh, 0, 0),
    "stats": Action(_stats, 0, 0),
    "explain": Action(_explain, 0, 0, hidden=True),
    **history.ACTIONS,
}


if __name__ == "__main__":
    sys.exit(main())
