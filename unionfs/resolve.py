"""What a union shows: pure functions from what the branches hold to what is seen.

The rule (docs/semantics.md, "lookup"): going from the top down, a name is what the first branch with a claim on it
says; a whiteout says "nothing"; a file (anything that is no directory) says "this"; a directory merges with the
directories below until a file, a whiteout, or an opaque directory ends it. ``resolve`` is the rule for one name;
``merge_scans`` is the same rule for all names of a directory at once, as an index with one small integer a name.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence

from unionfs.namedtuple import NamedTuple

CODE_SHIFT = 3
CODE_SHADOWS = 4
CODE_KIND = 3


class Kind(enum.IntEnum):
    """What a branch says about a name; FILE is anything but a directory."""

    ABSENT = 0
    FILE = 1
    DIRECTORY = 2
    WHITEOUT = 3


SHOWN = tuple([kind in {Kind.FILE, Kind.DIRECTORY} for kind in Kind])
"""By ``Kind``: whether a name of the kind shows. Sets of members are slow, and every lookup asks."""

_MANY_GAPS = 4096


class Probe(NamedTuple):
    """What one branch, at ``position``, says about a name; ``opaque`` of a directory."""

    position: int
    kind: Kind
    opaque: bool = False


class Resolution(NamedTuple):
    """What the union says about a name.

    ``positions`` are those of the instances that make it up, top first: one for a file, none for a hidden or absent
    name. ``floor`` is the lowest position at which an entry of the directory can be seen. ``shadows``: some lower
    branch has a claim on the name too. A whiteout stands at ``whiteout`` when the name is hidden.
    """

    kind: Kind
    positions: tuple[int, ...] = ()
    floor: int = 0
    shadows: bool = False
    whiteout: int | None = None

    @property
    def visible(self) -> bool:
        """Whether the union shows the name."""
        return self.kind in {Kind.FILE, Kind.DIRECTORY}


def resolve(probes: Sequence[Probe], floor: int) -> Resolution:
    """What is shown of a name whose branches say ``probes``, top first, in a directory with the given floor."""
    claims = [probe for probe in probes if probe.kind is not Kind.ABSENT]
    if not claims:
        return Resolution(Kind.ABSENT, floor=floor)
    top = claims[0]
    shadows = len(claims) > 1
    if top.kind is Kind.WHITEOUT:
        return Resolution(Kind.WHITEOUT, floor=floor, shadows=shadows, whiteout=top.position)
    if top.kind is Kind.FILE:
        return Resolution(Kind.FILE, (top.position,), floor, shadows)
    positions: list[int] = []
    for claim in claims:
        if claim.kind is not Kind.DIRECTORY:
            floor = claim.position - 1
            break
        positions.append(claim.position)
        if claim.opaque:
            floor = claim.position
            break
    return Resolution(Kind.DIRECTORY, tuple(positions), floor, shadows)


def instances(probes: Sequence[Probe]) -> tuple[Probe, ...]:
    """The instances of a name that are in view one after the other if those above were taken away, top first.

    A whiteout ends the view; directories and files under each other all count.
    """
    found: list[Probe] = []
    for probe in probes:
        if probe.kind is Kind.WHITEOUT:
            break
        if probe.kind is not Kind.ABSENT:
            found.append(probe)
    return tuple(found)


class Scan(NamedTuple):
    """What one branch holds in one directory; a name is in ``kinds`` or in ``hidden``, not in both."""

    position: int
    kinds: dict[bytes, Kind]
    hidden: set[bytes]
    opaque: bool = False


class Extent(NamedTuple):
    """Where a merged directory lies: positions, top first, and the lowest one at which entries can be seen."""

    positions: tuple[int, ...]
    floor: int


class Index:
    """What a directory shows, name by name.

    ``codes[name]`` is ``position << 3 | shadows << 2 | kind``; hidden names are there as whiteouts. ``extents`` holds
    directories that lie in several branches or are cut off by a claim below. The place of a name in ``codes`` is its
    cookie in listings: it stays while the index lives, so a name that goes leaves a gap (0).
    """

    __slots__ = ("_gaps", "codes", "directories", "extents")

    def __init__(self, codes: dict[bytes, int], extents: dict[bytes, Extent]) -> None:
        self.codes = codes
        self.extents = extents
        self.directories = sum(1 for code in codes.values() if code & CODE_KIND == Kind.DIRECTORY)
        self._gaps = 0

    def kind(self, name: bytes) -> int:
        """The ``Kind`` of what the union says about ``name``."""
        return self.codes.get(name, 0) & CODE_KIND

    def shown(self) -> list[bytes]:
        """Names the union shows."""
        return [name for name, code in self.codes.items() if SHOWN[code & CODE_KIND]]

    def places(self) -> list[bytes]:
        """All names in their places, hidden ones and gaps too, for a listing that starts."""
        if self._gaps > _MANY_GAPS and self._gaps * 2 > len(self.codes):
            self.codes = {name: code for name, code in self.codes.items() if code}
            self._gaps = 0
        return list(self.codes)

    def remove(self, name: bytes) -> None:
        """No branch says anything about ``name`` any more."""
        self.directories -= self.kind(name) == Kind.DIRECTORY
        self.extents.pop(name, None)
        if self.codes.get(name):
            self.codes[name] = 0
            self._gaps += 1

    def set(self, name: bytes, resolution: Resolution) -> None:
        """The index says what ``resolution`` says about ``name``."""
        if resolution.kind is Kind.ABSENT:
            self.remove(name)
            return
        self.directories -= self.kind(name) == Kind.DIRECTORY
        self.extents.pop(name, None)
        position = resolution.positions[0] if resolution.positions else resolution.whiteout
        self.codes[name] = encode(position or 0, resolution.kind, shadows=resolution.shadows)
        if resolution.kind is Kind.DIRECTORY:
            self.directories += 1
            self.extents[name] = Extent(resolution.positions, resolution.floor)


def encode(position: int, kind: Kind, *, shadows: bool) -> int:
    """The integer an index keeps for a name."""
    return position << CODE_SHIFT | (CODE_SHADOWS if shadows else 0) | kind


def merge_scans(scans: Iterable[Scan], floor: int) -> Index:
    """The index of a directory whose branches hold ``scans``, top first; what is below an opaque one is not given."""
    codes: dict[bytes, int] = {}
    merging: dict[bytes, list[int]] = {}
    extents: dict[bytes, Extent] = {}
    for scan in scans:
        base = scan.position << CODE_SHIFT
        if codes:
            for name, kind in scan.kinds.items():
                if codes.setdefault(name, base | kind) != base | kind:
                    _meet(name, kind, scan.position, codes, merging, extents)
        else:
            codes = {name: base | kind for name, kind in scan.kinds.items()}
        for name in scan.hidden:
            if codes.setdefault(name, base | Kind.WHITEOUT) != base | Kind.WHITEOUT:
                _meet(name, Kind.WHITEOUT, scan.position, codes, merging, extents)
    for name, positions in merging.items():
        extents[name] = Extent(tuple(positions), floor)
    return Index(codes, extents)


def _meet(
    name: bytes,
    kind: Kind,
    position: int,
    codes: dict[bytes, int],
    merging: dict[bytes, list[int]],
    extents: dict[bytes, Extent],
) -> None:
    """A branch below the one that decided about ``name`` has a claim on it too."""
    codes[name] |= CODE_SHADOWS
    if codes[name] & CODE_KIND != Kind.DIRECTORY or name in extents:
        return
    positions = merging.setdefault(name, [codes[name] >> CODE_SHIFT])
    if kind is Kind.DIRECTORY:
        positions.append(position)
    else:
        extents[name] = Extent(tuple(merging.pop(name)), position - 1)
