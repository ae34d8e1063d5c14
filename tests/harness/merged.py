"""The union as a calculation: branches are values, an operation makes new ones. Written from the rules, not from the union.

Nothing of ``unionfs`` is used here. A branch is a Directory; what a name is in a branch is an Entry or nothing. The rules
are those of docs/semantics.md ("lookup", "removing", "rename", …), for any path, any number of branches. Every operation
answers an errno and leaves the branches as they were, or answers 0 and what each branch holds then.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

NOREPLACE, EXCHANGE = 1, 2


class File(NamedTuple):
    content: bytes = b""
    mode: int = 0o644


class Link(NamedTuple):
    target: bytes


class Whiteout(NamedTuple):
    """``form``: "aufs" or "overlay"; ``beside``: what lies hidden under its own mark."""

    form: str
    beside: Entry | None = None


class Directory(NamedTuple):
    """``opaque`` None: it shows the same either way, so either will do."""

    entries: dict[bytes, Entry]
    opaque: bool | None = False
    mode: int = 0o755


Entry = File | Link | Whiteout | Directory
Claim = tuple[int, Entry]
Seen = list[tuple[int, Directory]]
"""A merged directory: its instances with their positions, top first."""


class Refused(Exception):  # noqa: N818 - the answer of an operation, as a value that ends it
    """The operation answers an errno."""

    def __init__(self, code: int) -> None:
        super().__init__(errno.errorcode[code])
        self.code = code


class Place(NamedTuple):
    """A name in a merged directory: what the branches say about it, top first, and the lowest position that shows."""

    path: tuple[bytes, ...]
    holders: tuple[int, ...]
    floor: int
    claims: list[Claim]

    @property
    def shown(self) -> Claim | None:
        """The top instance, None when nothing shows."""
        if not self.claims or isinstance(self.claims[0][1], Whiteout):
            return None
        return self.claims[0]

    @property
    def instances(self) -> list[Claim]:
        """What comes into view one after the other when those above are taken away."""
        found: list[Claim] = []
        for claim in self.claims:
            if isinstance(claim[1], Whiteout):
                break
            found.append(claim)
        return found

    @property
    def merged(self) -> Seen:
        """The instances of the directory that shows."""
        return merge(self.claims)[0]


def merge(claims: Sequence[Claim]) -> tuple[Seen, int | None]:
    """The directories that merge, and where something ends it: the lowest position at which entries can be seen."""
    found: Seen = []
    for position, entry in claims:
        if not isinstance(entry, Directory):
            return found, position - 1
        found.append((position, entry))
        if entry.opaque:
            return found, position
    return found, None


def says(seen: Seen, name: bytes) -> list[Claim]:
    """What the instances of a directory say about a name."""
    return [(position, directory.entries[name]) for position, directory in seen if name in directory.entries]


def show(seen: Seen) -> dict[bytes, Entry]:
    """The tree that shows in a merged directory."""
    found: dict[bytes, Entry] = {}
    for name in {name for _, directory in seen for name in directory.entries}:
        claims = says(seen, name)
        top = claims[0][1]
        if isinstance(top, Directory):
            found[name] = Directory(show(merge(claims)[0]), None, top.mode)
        elif not isinstance(top, Whiteout):
            found[name] = top
    return found


def whole(claims: Sequence[Claim], home: int) -> Entry:
    """What shows, on the branch alone; a directory that lies there alone already stays as it is, marks and all."""
    top = claims[0][1]
    if not isinstance(top, Directory):
        return top
    seen = merge(claims)[0]
    if [position for position, _ in seen] == [home]:
        return top
    return Directory({name: whole(says(seen, name), home) for name in show(seen)}, None, top.mode)


def same(expected: Entry | None, got: Entry | None) -> bool:
    """Whether ``got`` is what is expected; an ``opaque`` of None is met by either."""
    if not isinstance(expected, Directory) or not isinstance(got, Directory):
        return expected == got
    if expected.opaque is not None and bool(expected.opaque) != bool(got.opaque):
        return False
    return (
        expected.mode == got.mode
        and expected.entries.keys() == got.entries.keys()
        and all(same(entry, got.entries[name]) for name, entry in expected.entries.items())
    )


def placed(top: Directory, path: tuple[bytes, ...], entry: Entry | None) -> Directory:
    """``top`` with ``entry`` at ``path``, or with nothing there."""
    entries = dict(top.entries)
    if len(path) > 1:
        below = entries[path[0]]
        assert isinstance(below, Directory)
        entries[path[0]] = placed(below, path[1:], entry)
    elif entry is None:
        entries.pop(path[0], None)
    else:
        entries[path[0]] = entry
    return top._replace(entries=entries)


def holds_entries(directory: Directory) -> bool:
    """Whether anything but whiteouts lies in the directory itself."""
    return any(not isinstance(entry, Whiteout) or entry.beside is not None for entry in directory.entries.values())


class Merged:
    """Branches, which of them are writable, and how the union behaves. Operations change ``branches``."""

    def __init__(
        self,
        branches: Sequence[Directory],
        writable: Sequence[int],
        delete: str = "whiteout",
        form: str = "aufs",
        create: str = "parent",
    ) -> None:
        self.branches = list(branches)
        self._writable = tuple(writable)
        self._delete = delete
        self._form = form
        self._create = create

    def shown(self) -> dict[bytes, Entry]:
        """The whole tree."""
        return show(merge(list(enumerate(self.branches)))[0])

    def answer(self, operation: str, *arguments: object) -> int:
        """0, and ``branches`` are those after the operation; or an errno."""
        before = list(self.branches)
        try:
            call: Callable[..., None] = getattr(self, operation)
            call(*arguments)
        except Refused as refused:
            self.branches = before
            return refused.code
        return 0

    # -- looking ------------------------------------------------------------------------------------------------
    def place(self, path: bytes) -> Place:
        """The name, in a directory that shows. Refuses with ENOENT or ENOTDIR."""
        parts = tuple(path.split(b"/"))
        claims: list[Claim] = list(enumerate(self.branches))
        floor = len(claims) - 1
        for part in (*parts[:-1], None):
            seen, end = merge(claims)
            floor = floor if end is None else min(end, floor)
            if part is None:
                break
            claims = says(seen, part)
            if not claims or isinstance(claims[0][1], Whiteout):
                raise Refused(errno.ENOENT)
            if not isinstance(claims[0][1], Directory):
                raise Refused(errno.ENOTDIR)
        return Place(parts, tuple(position for position, _ in seen), floor, says(seen, parts[-1]))

    def visible(self, path: bytes) -> tuple[Place, int, Entry]:
        """The name, which shows, the position and the instance. Refuses with ENOENT."""
        place = self.place(path)
        if place.shown is None:
            raise Refused(errno.ENOENT)
        return place, *place.shown

    def nearest(self, lowest: int) -> int:
        """The nearest writable branch at ``lowest`` or above. Refuses with EROFS."""
        found = [position for position in self._writable if position <= lowest]
        if not found:
            raise Refused(errno.EROFS)
        return max(found)

    # -- changing a branch ----------------------------------------------------------------------------------------
    def put(self, position: int, path: tuple[bytes, ...], entry: Entry | None) -> None:
        """``entry`` is at ``path`` in the branch; directories that lack there are made by copy-up, alone."""
        for length in range(1, len(path)):
            _, _, above = self.visible(b"/".join(path[:length]))
            assert isinstance(above, Directory)
            if self.at(position, path[:length]) is None:
                made = Directory({}, mode=above.mode)
                self.branches[position] = placed(self.branches[position], path[:length], made)
        self.put_alone(position, path, entry)

    def put_alone(self, position: int, path: tuple[bytes, ...], entry: Entry | None) -> None:
        """``entry`` is at ``path`` in the branch, which holds the directory, whatever the others say."""
        self.branches[position] = placed(self.branches[position], path, entry)

    def at(self, position: int, path: tuple[bytes, ...]) -> Entry | None:
        """What lies at ``path`` in the branch."""
        entry: Entry | None = self.branches[position]
        for part in path:
            entry = entry.entries.get(part) if isinstance(entry, Directory) else None
        return entry

    def hide(self, position: int, place: Place) -> None:
        """A whiteout stands in the branch; one that is there stays as it is."""
        self.put(position, place.path, Whiteout(self._form))

    # -- making -------------------------------------------------------------------------------------------------
    def make(self, path: bytes, entry: Entry) -> None:
        """A new entry. A directory made where something is hidden is opaque."""
        place = self.place(path)
        if place.shown is not None:
            raise Refused(errno.EEXIST)
        lowest = min([place.floor, *(position for position, _ in place.claims[:1])])
        if isinstance(entry, Directory):
            entry = entry._replace(opaque=bool(place.claims))
        self.put(self._new_home(place, lowest), place.path, entry)

    def _new_home(self, place: Place, lowest: int) -> int:
        self.nearest(lowest)
        candidates = [position for position in self._writable if position <= lowest]
        if self._create == "top":
            return candidates[0]
        holding = [position for position in candidates if position in place.holders]
        if holding:
            return holding[0]
        for holder in place.holders:
            above = [position for position in candidates if position < holder]
            if above:
                return above[-1]
        return candidates[-1]

    # -- changing what is there -----------------------------------------------------------------------------------
    def chmod(self, path: bytes, mode: int) -> None:
        """The top instance has the mode, copied up where it must be; a directory is copied up alone."""
        place, position, entry = self.visible(path)
        home = position if position in self._writable else self.nearest(position)
        if isinstance(entry, Directory) and home != position:
            entry = Directory({})
        if isinstance(entry, File | Directory):  # a link has no mode, but is copied up
            entry = entry._replace(mode=mode)
        self.put(home, place.path, entry)

    def write(self, path: bytes, data: bytes) -> None:
        """The file holds the data and nothing else; it is made where there is none."""
        if self.place(path).shown is None:
            self.make(path, File(data))
        else:
            self._change_file(path, lambda _: data)

    def append(self, path: bytes, data: bytes) -> None:
        """The data is written at the end."""
        self._change_file(path, lambda content: content + data)

    def truncate(self, path: bytes, size: int) -> None:
        """The file has the size."""
        self._change_file(path, lambda content: content[:size].ljust(size, b"\0"))

    def _change_file(self, path: bytes, change: Callable[[bytes], bytes]) -> None:
        place, position, entry = self.visible(path)
        if isinstance(entry, Directory):
            raise Refused(errno.EISDIR)
        assert isinstance(entry, File)
        home = position if position in self._writable else self.nearest(position)
        self.put(home, place.path, entry._replace(content=change(entry.content)))

    # -- removing -----------------------------------------------------------------------------------------------
    def unlink(self, path: bytes) -> None:
        place, _, entry = self.visible(path)
        if isinstance(entry, Directory):
            raise Refused(errno.EISDIR)
        self._remove(place)

    def rmdir(self, path: bytes) -> None:
        place, _, entry = self.visible(path)
        if not isinstance(entry, Directory):
            raise Refused(errno.ENOTDIR)
        if show(place.merged):
            raise Refused(errno.ENOTEMPTY)
        self._remove(place)

    def _remove(self, place: Place) -> None:
        instances = place.instances
        top = instances[0][0]
        if self._delete == "all":
            self._remove_all(place)
        elif top in self._writable:
            leaves = len(instances) > 1 and self._delete == "whiteout"
            self.put(top, place.path, Whiteout(self._form) if leaves else None)
        elif self._delete == "first":
            raise Refused(errno.EROFS)
        else:
            self.hide(self.nearest(top), place)

    def _remove_all(self, place: Place) -> None:
        """Each instance on a writable branch goes; the others, and directories that hold things, are hidden."""
        instances = place.instances
        kept = [
            position
            for position, entry in instances[1:]
            if position in self._writable and isinstance(entry, Directory) and holds_entries(entry)
        ]
        hiding = [position for position in self._writable if position not in kept]
        for position, _ in reversed(instances):
            if position in self._writable and position not in kept:
                self.put(position, place.path, None)
        for position, _ in instances:
            if position not in self._writable or position in kept:
                above = [one for one in hiding if one <= position]
                if not above:
                    raise Refused(errno.EROFS)
                self.hide(above[-1], place)

    # -- renaming -----------------------------------------------------------------------------------------------
    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        source, position, entry = self.visible(old)
        target = self.place(new)
        if flags == EXCHANGE and target.shown is None:
            raise Refused(errno.ENOENT)
        if flags == NOREPLACE and target.shown is not None:
            raise Refused(errno.EEXIST)
        if old == new:
            return
        if target.path[: len(source.path)] == source.path:
            raise Refused(errno.EINVAL)
        if flags == EXCHANGE:
            self._exchange(source, target)
            return
        if target.shown is not None:
            self._check_target(entry, target)
        lowest = min([target.floor, *(at for at, _ in target.claims[:1])])
        home = position if position in self._writable and position <= lowest else self.nearest(min(position, lowest))
        mover = whole(source.claims, home)
        self.put(home, source.path, None)
        if any(at > home for at, _ in source.instances):
            self.hide(home, source)
        self.put(home, target.path, self._cut_off(mover, target, home))
        if self._delete == "all" and target.shown is not None:
            self._remove_below(target, home)

    @staticmethod
    def _check_target(entry: Entry, target: Place) -> None:
        assert target.shown is not None
        replaced = target.shown[1]
        if isinstance(entry, Directory) and not isinstance(replaced, Directory):
            raise Refused(errno.ENOTDIR)
        if not isinstance(entry, Directory) and isinstance(replaced, Directory):
            raise Refused(errno.EISDIR)
        if isinstance(replaced, Directory) and show(target.merged):
            raise Refused(errno.ENOTEMPTY)

    @staticmethod
    def _cut_off(entry: Entry, place: Place, home: int) -> Entry:
        """A directory hides the directories that would merge with it at its new place."""
        if not isinstance(entry, Directory):
            return entry
        below = [one for at, one in place.claims if at > home]
        return entry._replace(opaque=True if below and isinstance(below[0], Directory) else None)

    def _remove_below(self, target: Place, home: int) -> None:
        for at, entry in target.instances:
            if at > home and at in self._writable and not (isinstance(entry, Directory) and holds_entries(entry)):
                self.put(at, target.path, None)

    def _exchange(self, source: Place, target: Place) -> None:
        if source.path[: len(target.path)] == target.path:
            raise Refused(errno.EINVAL)
        assert source.shown is not None
        assert target.shown is not None
        home = self.nearest(min(source.shown[0], target.shown[0]))
        one, other = whole(source.claims, home), whole(target.claims, home)
        self.put(home, target.path, self._cut_off(one, target, home))
        self.put(home, source.path, self._cut_off(other, source, home))


def walk(entries: dict[bytes, Entry], prefix: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
    """Every path below, with what is there."""
    for name, entry in entries.items():
        yield prefix + name, entry
        if isinstance(entry, Directory):
            yield from walk(entry.entries, prefix + name + b"/")
