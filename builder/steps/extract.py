"""ADD of a local archive: its members become files of the fresh branch.

Invariants: no member leaves the destination, whatever its name and the links on its way: a link is followed as if the
destination were the root; a member replaces whatever has its name, except that directories merge; devices and FIFOs are
passed over, as is what an archive says of the destination itself; an archive is known by its content alone.
Source of the rules: ADD in BuildKit (``solver/llbsolver/file/unpack_root.go``).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import IO

from builder import paths
from builder.trail import Attributes
from builder.upper import Upper
from layers.compression import Decompressed
from layers.errors import ArchiveError
from layers.tar import entry as tar
from layers.tar.entry import Entry
from layers.tar.reader import TarReader

_DIRECTORY_MODE = 0o755
_BUFFER_BYTES = 1 << 18
_IMPLIED = Attributes(_DIRECTORY_MODE, 0, 0)
"""Of directories that are on the way to a member without being members."""
_PASSED_OVER = frozenset((tar.CHARACTER_DEVICE, tar.BLOCK_DEVICE, tar.FIFO))


def is_archive(file: IO[bytes]) -> bool:
    """Whether ``file``, at its beginning, is a tar with at least one member, plain or gzip, bzip2, xz or zstd."""
    try:
        return next(TarReader(Decompressed(file)), None) is not None
    except ArchiveError:
        return False


class Extraction:
    """Unpacks into the directory ``destination``, which is there. ``owner`` replaces the members' owners."""

    def __init__(
        self, layer: Upper, destination: bytes, owner: tuple[int, int] | None, check: Callable[[], None]
    ) -> None:
        self._layer = layer
        self._destination = destination
        self._owner = owner
        self._check = check
        self._places: dict[bytes, bytes] = {}

    def extract(self, archive: IO[bytes]) -> None:
        """All members are in their places. Raises ArchiveError, OSError, ReservedNameError."""
        reader = TarReader(_Buffered(Decompressed(archive)))
        for member in reader:
            self._check()
            self._add(member, reader)

    def _add(self, member: Entry, reader: TarReader) -> None:
        if member.type in _PASSED_OVER or not paths.clean(member.name):
            return
        place = self._place(member.name)
        if member.type == tar.DIRECTORY:
            self._add_directory(place, self._attributes(member))
            return
        if member.type == tar.HARD_LINK:
            self._add_link(place, self._place(member.linkname))
            return
        mode = self._layer.mode_at(place)
        if mode is not None and stat.S_ISDIR(mode):
            self._replace(place)
        if member.type == tar.REGULAR:
            self._add_file(place, member, reader)
        else:
            self._layer.put_symlink(place, member.linkname, self._attributes(member))
            self._places.clear()

    def _add_directory(self, place: bytes, attributes: Attributes) -> None:
        mode = self._layer.mode_at(place)
        if mode is not None and not stat.S_ISDIR(mode):
            self._replace(place)
        self._layer.put_directory(place, attributes)

    def _add_file(self, place: bytes, member: Entry, reader: TarReader) -> None:
        descriptor = self._layer.put_file(place)
        try:
            for offset, chunk in reader.chunks():
                self._check()
                written = 0
                while written < len(chunk):
                    written += os.pwrite(descriptor, memoryview(chunk)[written:], offset + written)
            if member.sparse is not None:
                os.ftruncate(descriptor, member.size)
            self._layer.finish_file(descriptor, self._attributes(member))
        finally:
            os.close(descriptor)

    def _add_link(self, place: bytes, existing: bytes) -> None:
        mode = self._layer.mode_at(existing)
        if mode is None or stat.S_ISDIR(mode):
            raise ArchiveError(f"archive: hard link {paths.shown(place)!r} leads to no file: {paths.shown(existing)!r}")
        if place == existing:
            return
        self._layer.bring_up(existing)
        mode = self._layer.mode_at(place)
        if mode is not None and stat.S_ISDIR(mode):
            self._replace(place)
        self._layer.put_link(place, existing)

    def _replace(self, place: bytes) -> None:
        self._layer.replace(place)
        self._places.clear()

    def _place(self, name: bytes) -> bytes:
        """Where the member ``name`` goes: links of its directory followed inside the destination, which is made."""
        path = paths.clean(name)
        if _leaves(name):
            raise ArchiveError(f'archive: entry "{os.fsdecode(name)}" is outside the destination')
        directory, _, last = path.rpartition(b"/")
        known = self._places.get(directory)
        if known is None:
            inside = paths.follow(directory, lambda place: self._layer.link_at(paths.join(self._destination, place)))
            known = paths.join(self._destination, inside)
            self._layer.directory(known, _IMPLIED)
            self._places[directory] = known
        return paths.join(known, last)

    def _attributes(self, member: Entry) -> Attributes:
        owner = self._owner or (member.uid, member.gid)
        times_ns = (member.mtime_ns, member.mtime_ns)
        return Attributes(member.mode, *owner, times_ns, tuple(sorted(member.xattrs.items())))


def _leaves(name: bytes) -> bool:
    """Whether ``name``, taken from the root, has more ``..`` than directories before them."""
    depth = 0
    for part in name.split(b"/"):
        depth += -1 if part == b".." else part not in {b"", b"."}
        if depth < 0:
            return True
    return False


class _Buffered:
    """Headers are small: they come from a buffer."""

    def __init__(self, source: Decompressed) -> None:
        self._source = source
        self._buffer: bytes = b""
        self._position = 0

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, none only at the end."""
        if self._position == len(self._buffer):
            self._buffer = self._source.read(max(size, _BUFFER_BYTES))
            self._position = 0
        data = self._buffer[self._position : self._position + size]
        self._position += len(data)
        return data
