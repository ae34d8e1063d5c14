"""What ``unionctl`` may ask of a mounted union, by the name of the action (``control`` shows the messages).

Invariant: nothing here takes long or touches a path of the mount; what does, reading two states to compare them or
removing a dropped snapshot, is left to the caller, who gets the directories.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from unionfs.branch import Branch
from unionfs.changes import Add, decode_change, plan_branches
from unionfs.errors import BranchBusyError, SnapshotError
from unionfs.explain import explain
from unionfs.mountspec import encode_branches
from unionfs.outside import check_outside
from unionfs.snapshots import Line, roll_back, take_snapshot
from unionfs.union import Union
from unionfs.wire import Message


class Actions:
    """Answers for one union."""

    def __init__(
        self, union: Union, statistics: Callable[[], Message], line: Line, *, shows_nodes: bool = False
    ) -> None:
        """``statistics``: those of the transport; ``line``: the snapshots of the branch that was on top at first.

        ``shows_nodes``: the transport shows node numbers as those of files.
        """
        self.device: tuple[int, int] | None = None
        """Number of the mount's file system, major and minor, once it is known."""
        self._union = union
        self._shows_nodes = shows_nodes
        self._statistics = statistics
        self._line = line
        self._actions: dict[str, Callable[[Message], Message]] = {
            "list": self._list,
            "query": self._query,
            "change": self._change,
            "refresh": self._refresh,
            "stats": self._stats,
            "explain": self._explain,
            "snapshot": self._snapshot,
            "snapshots": self._snapshots,
            "rollback": self._rollback,
            "drop": self._drop,
            "states": self._states,
        }

    def answer(self, message: Message) -> Message:
        """What was asked for, or why not and which files are in the way.

        Raises:
            UnionError, OSError: it is refused. KeyError, TypeError, ValueError: the message is none.
        """
        action = self._actions.get(message["do"])
        if action is None:
            return {"error": f"action {message['do']!r} is unknown to this daemon"}
        try:
            return action(message)
        except BranchBusyError as error:
            return {"error": str(error), "inos": error.nodes if self._shows_nodes else error.inos}

    def _list(self, _message: Message) -> Message:
        stack = self._union.stack
        return {"branches": encode_branches(stack.branches), "generation": stack.generation}

    def _query(self, message: Message) -> Message:
        return {"branches": encode_branches(self._union.instances(os.fsencode(message["path"])))}

    def _change(self, message: Message) -> Message:
        changes = [decode_change(one) for one in message["changes"]]
        for change in changes:
            if isinstance(change, Add) and self.device is not None:
                check_outside(change.branch.path, self.device)
        self._union.change_branches(plan_branches(self._union.stack.branches, changes))
        return self._list(message)

    def _refresh(self, _message: Message) -> Message:
        self._union.refresh()
        return {}

    def _stats(self, _message: Message) -> Message:
        return {**self._statistics(), **self._union.counts()}

    def _explain(self, message: Message) -> Message:
        explanation = explain(self._union.branches, os.fsencode(message["path"]))
        branches = encode_branches([saying.branch for saying in explanation.sayings])
        says = [saying.says for saying in explanation.sayings]
        return {
            "shown": explanation.shown,
            "change": explanation.change,
            "branches": [{**branch, "says": words} for branch, words in zip(branches, says, strict=True)],
        }

    # -- snapshots ----------------------------------------------------------------------------------------------
    def _writable_line(self) -> Line:
        """The snapshots of the branch that is on top now."""
        top = self._union.stack.branches[0].path
        if top != self._line.top:
            raise SnapshotError(
                f"branch {os.fsdecode(top)!r}: expected {os.fsdecode(self._line.top)!r} on top, which has the snapshots"
            )
        return self._line

    def _snapshot(self, message: Message) -> Message:
        take_snapshot(self._union, self._writable_line(), message["name"])
        return self._list(message)

    def _snapshots(self, _message: Message) -> Message:
        return {
            "directory": os.fsdecode(self._line.directory),
            "snapshots": [{**one._asdict(), "path": os.fsdecode(one.path)} for one in self._line.snapshots()],
        }

    def _rollback(self, message: Message) -> Message:
        return {"kept": roll_back(self._union, self._writable_line(), message["name"])}

    def _drop(self, message: Message) -> Message:
        return {"left": [os.fsdecode(path) for path in self._writable_line().drop(message["name"])]}

    def _states(self, message: Message) -> Message:
        """The branches of each state asked for: a snapshot by its name, None for what is shown now."""
        names = message["names"]
        if not names:
            head = self._line.head()
            if head is None or head.below is None:
                raise SnapshotError("union: there is no snapshot to compare with")
            names = [head.below]
        return {"states": [encode_branches(self._state(name)) for name in [*names, None][:2]]}

    def _state(self, name: str | None) -> tuple[Branch, ...]:
        branches = self._union.stack.branches
        if name is None:
            return branches
        known = {one.path for one in self._line.snapshots()} | {self._line.top}
        return self._line.chain(name) + tuple(branch for branch in branches if branch.path not in known)
