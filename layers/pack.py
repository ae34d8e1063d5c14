"""A branch becomes the tar of a layer (image-spec, layer.md): that of ``unionfs.tar.stream``, hashed while it streams.

A large one is hashed in a thread of its own, so that reading, writing and hashing take half the time on two processors.

Entries come in the order of ``unionfs.delta`` (parents first, whiteouts before their siblings, names in byte order).
Times after ``epoch`` become ``epoch``. Invariants: those of the stream; what cannot be read is a ``PackError``.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Protocol

from layers.aside import HashAside
from layers.digest import Digest, from_hex
from layers.errors import PackError
from unionfs.delta import iter_changes
from unionfs.errors import UnionError
from unionfs.namedtuple import NamedTuple
from unionfs.tar.stream import Packable, RootAttributes, TarError, TarStream

__all__ = ["PackResult", "RootAttributes", "Sink", "write_changes", "write_layer"]

_SECOND_NS = 1_000_000_000


class Sink(Protocol):
    """Where the tar goes."""

    def write(self, data: bytes, /) -> object:
        """Takes all of the data."""
        ...


class PackResult(NamedTuple):
    """A layer's tar: the digest of its bytes, how many they are, how many entries, what was left out and why."""

    diff_id: Digest
    size: int
    entries: int
    notes: tuple[str, ...]


def write_layer(
    branch_root: Path,
    out: Sink | None,
    *,
    epoch: int | None = None,
    root_before: RootAttributes | None = None,
) -> PackResult:
    """The branch is in ``out`` as the tar of a layer; without ``out`` it is only hashed.

    ``epoch``: times after this (seconds) become it. ``root_before``: the root's attributes below this layer; None
    leaves the root out.

    Raises:
        PackError: the branch cannot be read, or changed meanwhile.
        Exception: whatever ``out.write`` raises.
    """
    try:
        changes = iter_changes(branch_root)
        try:
            return _pack(changes, out, epoch, root_before)
        finally:
            # the walk holds a descriptor
            if isinstance(changes, Generator):
                changes.close()
    except TarError as error:
        raise PackError(str(error)) from error
    except UnionError as error:
        raise PackError(f"layer: {error}") from error


def write_changes(changes: Iterable[Packable], out: Sink | None, *, epoch: int | None = None) -> PackResult:
    """As ``write_layer``, of changes that somebody else selects; the root is left out."""
    try:
        return _pack(changes, out, epoch, None)
    except TarError as error:
        raise PackError(str(error)) from error


class _Hashed:
    """Counts and hashes what goes to a sink, if there is one."""

    def __init__(self, out: Sink | None) -> None:
        self._out = out
        self.hash = HashAside()
        self.size = 0

    def write(self, data: bytes) -> None:
        self.size += len(data)
        self.hash.update(data)
        if self._out is not None:
            self._out.write(data)


def _pack(
    changes: Iterable[Packable], out: Sink | None, epoch: int | None, root_before: RootAttributes | None
) -> PackResult:
    hashed = _Hashed(out)
    latest_ns = None if epoch is None else epoch * _SECOND_NS
    stream = TarStream(hashed.write, latest_ns=latest_ns, root_before=root_before)
    try:
        for change in changes:
            stream.add(change)
        stream.finish()
        return PackResult(from_hex(hashed.hash.hexdigest()), hashed.size, stream.entries, tuple(stream.notes))
    finally:
        hashed.hash.close()
