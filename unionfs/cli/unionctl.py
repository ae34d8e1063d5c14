"""``unionctl``: looks at a mounted union, changes its branches, takes snapshots of it.

Returns 0, 1 with one line on stderr when the daemon refuses or cannot be reached, 2 when the words make no sense.
"""

from __future__ import annotations

import json
import os
import sys

from unionfs.branch import Branch
from unionfs.caller import FoundUnion, find_union
from unionfs.changes import Add, Change, Remove, SetAccess, encode_change
from unionfs.cli import history
from unionfs.cli.running import UsageError, run
from unionfs.cli.words import CHANGES, MODES, Action, Words, sort_several, take_timeout
from unionfs.mountspec import decode_branches
from unionfs.types import Access

_USAGE = """\
usage: unionctl UNION --list
       unionctl PATH --query
       unionctl UNION --add [--before BRANCH | --after BRANCH] [--mode rw|ro|nfsro] DIRECTORY
       unionctl UNION --remove BRANCH
       unionctl UNION --mode BRANCH rw|ro|nfsro
       unionctl UNION CHANGE , CHANGE …
       unionctl UNION refresh | stats
       unionctl PATH explain [--json]
       unionctl UNION snapshot NAME | rollback NAME | drop NAME
       unionctl UNION snapshots [--json]
       unionctl UNION diff [--json | --tar] [A] [B]

UNION is the mount point or any path in it, BRANCH a path or a position counted from 0 at the top, A and B are
snapshots: without B the union as it is now, without A its last snapshot. The action may stand before UNION.
Changes (--add, --remove, --mode) between commas, each a word of its own, happen together or not at all.

  --before BRANCH, --after BRANCH  where the new branch joins; at the top without
  --mode rw|ro|nfsro               what may be done to the new branch; rw without
  --json                           explain, snapshots, diff: as JSON
  --tar                            diff: as the tar of an OCI layer, to stdout
  --timeout SECONDS                how long the daemon has for an answer; 30 without
  -h, --help                       show this
  -V, --version                    show the version
"""


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    return run("unionctl", _USAGE, sys.argv[1:] if arguments is None else arguments, _act)


def _act(arguments: list[str]) -> None:
    given, patience_seconds = take_timeout(arguments)
    several = sort_several(given, _ACTIONS)
    words = several[0]
    action = _ACTIONS[words.action]
    changes = [_change(each) for each in several if each.action in CHANGES]
    union = find_union(words.union, hidden=action.hidden, patience_seconds=patience_seconds)
    if changes:
        union.ask({"do": "change", "changes": [encode_change(change) for change in changes]})
    else:
        action.run(words, union)


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


def _change(words: Words) -> Change:
    if words.action == "--add":
        branch = Branch(os.fsencode(os.path.abspath(words.operands[0])), Access(words.mode))
        return Add(branch, _optional(words.before), _optional(words.after))
    if words.action == "--remove":
        return Remove(_branch(words.operands[0]))
    modes = [word for word in words.operands if word in MODES]
    names = [word for word in words.operands if word not in MODES]
    if len(modes) != 1:
        raise UsageError(f"--mode: expected a branch and one of rw, ro, nfsro, got {' '.join(words.operands)!r}")
    return SetAccess(_branch(names[0]), Access(modes[0]))


def _changed(_words: Words, _union: FoundUnion) -> None:
    """Changes are asked for all at once."""


def _refresh(_words: Words, union: FoundUnion) -> None:
    union.ask({"do": "refresh"})


def _stats(_words: Words, union: FoundUnion) -> None:
    print(json.dumps(union.ask({"do": "stats"}), indent=2))


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
    "--add": Action(_changed, 1, 1),
    "--remove": Action(_changed, 1, 1),
    "--mode": Action(_changed, 2, 2),
    "refresh": Action(_refresh, 0, 0),
    "stats": Action(_stats, 0, 0),
    "explain": Action(_explain, 0, 0, hidden=True),
    **history.ACTIONS,
}


if __name__ == "__main__":
    sys.exit(main())
