"""The oracle of a union with a past: a stack of branches, and snapshots of the one that is called ``top``. Values only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from harness.merged import Directory, Entry, Merged, walk


class Mounting(NamedTuple):
    """How the union is mounted."""

    delete: str = "whiteout"
    form: str = "aufs"
    create: str = "parent"
    stable: bool = True


class Held(NamedTuple):
    """A branch of the stack, or a snapshot in it."""

    key: str
    access: str
    snapshot: bool = False


class Kept(NamedTuple):
    """A snapshot: what it is built upon, and what it holds."""

    below: str | None
    content: Directory


class Past:
    """``stack`` and ``model.branches`` go together, top first."""

    def __init__(self) -> None:
        self.stack: list[Held] = []
        self.model = Merged([], ())
        self.snapshots: dict[str, Kept] = {}
        self.below: str | None = None
        """The snapshot that the top is built upon."""

    def set_rules(self, mounting: Mounting) -> None:
        """The model knows which branches are writable, and the options."""
        writable = [position for position, held in enumerate(self.stack) if held.access == "rw"]
        self.model = Merged(self.model.branches, writable, mounting.delete, mounting.form, mounting.create)

    @property
    def may_snapshot(self) -> bool:
        """Whether the branch with the snapshots is on top and can be written."""
        return self.stack[0] == Held("top", "rw")

    def built_upon(self, name: str) -> bool:
        """Whether anything is."""
        return self.below == name or any(kept.below == name for kept in self.snapshots.values())

    def chain(self, name: str | None) -> list[str]:
        """The snapshot and those it is built upon."""
        found: list[str] = []
        while name is not None:
            found.append(name)
            name = self.snapshots[name].below
        return found

    def put_aside(self, aside: str, below: str) -> None:
        """The top is the snapshot ``aside`` now; an empty one is built upon ``below``."""
        top = self.model.branches[0]
        self.snapshots[aside] = Kept(self.below, top)
        others = self._others()
        new = [(self.stack[0], Directory({}, mode=top.mode))]
        new += [(Held(name, "ro", snapshot=True), self.snapshots[name].content) for name in self.chain(below)]
        self.stack = [held for held, _ in new + others]
        self.model.branches = [content for _, content in new + others]
        self.below = below

    def leave_out_above_top(self) -> None:
        """The branches above ``top`` are no longer in the stack."""
        at = [held.key for held in self.stack].index("top")
        self.stack, self.model.branches = self.stack[at:], self.model.branches[at:]

    def part(self) -> None:
        """A file and its copy in another branch are no longer one object."""
        self.model.branches = [_parted(branch) for branch in self.model.branches]
        for position, held in enumerate(self.stack):
            if held.snapshot:
                kept = self.snapshots[held.key]
                self.snapshots[held.key] = kept._replace(content=self.model.branches[position])
        for name, kept in self.snapshots.items():
            if not any(held.snapshot and held.key == name for held in self.stack):
                self.snapshots[name] = kept._replace(content=_parted(kept.content))

    def _others(self) -> list[tuple[Held, Directory]]:
        """The branches below the top that are no snapshots."""
        pairs = zip(self.stack, self.model.branches, strict=True)
        return [pair for pair in pairs if not pair[0].snapshot and pair[0].key != "top"]

    def shown_at(self, name: str | None) -> dict[bytes, Entry]:
        """What showed when the snapshot was taken, over the branches of today; None: what shows now."""
        if name is None:
            return self.model.shown()
        snapshots = [self.snapshots[one].content for one in self.chain(name)]
        return Merged([*snapshots, *(content for _, content in self._others())], ()).shown()

    def difference(self, old: str | None, new: str | None) -> dict[bytes, str]:
        """A, M or D for each name; a directory that is gone comes alone, one that is new with all in it."""
        before, after = dict(walk(self.shown_at(old))), dict(walk(self.shown_at(new)))
        return dict(_differences(before, after))

    def same_in(self, old: str | None, new: str | None) -> set[bytes]:
        """Names of which nothing differs but perhaps the times."""
        before, after = dict(walk(self.shown_at(old))), dict(walk(self.shown_at(new)))
        return {path for path, entry in after.items() if before.get(path) == entry}


def settled(expected: Directory, held: Directory) -> Directory:
    """``expected``, with what is left open as the branch holds it."""
    entries = {
        name: settled(entry, there)
        if isinstance(entry, Directory) and isinstance(there := held.entries.get(name), Directory)
        else entry
        for name, entry in expected.entries.items()
    }
    return expected._replace(entries=entries, opaque=held.opaque if expected.opaque is None else expected.opaque)


def free_places(stack: list[Held]) -> list[int]:
    """Where a branch may join: not between the top and the snapshots it is built upon."""
    return [at for at in range(len(stack) + 1) if at == len(stack) or not stack[at].snapshot]


def _differences(before: dict[bytes, Entry], after: dict[bytes, Entry]) -> Iterator[tuple[bytes, str]]:
    for path in before.keys() - after.keys():
        above = path.rpartition(b"/")[0]
        if not above or isinstance(after.get(above), Directory):
            yield path, "D"
    for path, entry in after.items():
        was = before.get(path)
        if was is None:
            yield path, "A"
        elif isinstance(entry, Directory) and isinstance(was, Directory):
            if entry.mode != was.mode:
                yield path, "M"
        elif entry != was:
            yield path, "M"


def _parted(directory: Directory) -> Directory:
    entries = {
        name: _parted(entry) if isinstance(entry, Directory) else entry._make(entry)
        for name, entry in directory.entries.items()
    }
    return directory._replace(entries=entries)
