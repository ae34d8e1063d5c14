"""The actions of ``unionctl`` about snapshots.

What takes long is done here, not by the daemon: two states are read from their branches, and what was dropped is
removed.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Generator
from datetime import UTC, datetime

from unionfs.caller import FoundUnion
from unionfs.cli.running import UsageError
from unionfs.cli.words import Action, Words
from unionfs.difference import Mark, State, compare, describe, encode, write_tar
from unionfs.mountspec import decode_branches
from unionfs.removal import remove_tree
from unionfs.wire import Message

_SECOND_NS = 1_000_000_000


def _snapshot(words: Words, union: FoundUnion) -> None:
    union.ask({"do": "snapshot", "name": words.operands[0]})


def _snapshots(words: Words, union: FoundUnion) -> None:
    """One line each, the oldest first: a star where the union is built upon it, name, time, what it is built upon."""
    answer = union.ask({"do": "snapshots"})
    if "--json" in words.flags:
        print(json.dumps(answer, indent=2))
        return
    for one in answer["snapshots"]:
        taken = datetime.fromtimestamp(one["frozen_ns"] // _SECOND_NS, UTC)
        print(f"{'*' if one['current'] else ' '} {one['name']}\t{taken:%Y-%m-%dT%H:%M:%SZ}\t{one['below'] or '-'}")


def _rollback(words: Words, union: FoundUnion) -> None:
    answer = union.ask({"do": "rollback", "name": words.operands[0]})
    print(f"what came after is kept as {answer['kept']}")


def _drop(words: Words, union: FoundUnion) -> None:
    for directory in union.ask({"do": "drop", "name": words.operands[0]})["left"]:
        # may be gone: somebody else drops one too
        remove_tree(directory)


def _diff(words: Words, union: FoundUnion) -> None:
    if "--tar" in words.flags and sys.stdout.isatty():
        raise UsageError("diff --tar: expected a file or a pipe on stdout, got a terminal")
    answer = union.ask({"do": "states", "names": list(words.operands)})
    with _states(answer) as (old, new):
        if "--tar" in words.flags:
            for note in write_tar(compare(old, new), sys.stdout.buffer.write):
                print(f"unionctl: {note}", file=sys.stderr)
            sys.stdout.buffer.flush()
            return
        found = (one for one in compare(old, new) if one.mark is not Mark.ENTERED)
        if "--json" in words.flags:
            print(json.dumps([encode(one) for one in found], indent=2))
            return
        for one in found:
            print(describe(one))


@contextlib.contextmanager
def _states(answer: Message) -> Generator[tuple[State, State]]:
    with contextlib.ExitStack() as stack:
        old, new = (
            stack.enter_context(contextlib.closing(State(decode_branches(branches)))) for branches in answer["states"]
        )
        yield old, new


ACTIONS = {
    "snapshot": Action(_snapshot, 1, 1),
    "snapshots": Action(_snapshots, 0, 0),
    "rollback": Action(_rollback, 1, 1),
    "drop": Action(_drop, 1, 1),
    "diff": Action(_diff, 0, 2),
}
