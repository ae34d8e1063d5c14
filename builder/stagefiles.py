"""The files of another step as COPY --from takes them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from builder import paths
from builder.dockerfile.suggest import nearest
from builder.rootentry import RootEntry
from builder.rootfs import RootFs
from cache.hosttree import Visit
from unionfs.types import ROOT_INO, Attr

_EMPTY_ROOT = Attr(ROOT_INO, 1, stat.S_IFDIR | 0o755, 2, 0, 0, 0, 0, 0, 4096, 0, 0, 0)


class StageFiles:
    """The root of another step (``builder.selection.SourceTree``); None is an empty one. ``title`` is for messages."""

    def __init__(self, root: RootFs | None, title: str = "the files it is copied from") -> None:
        self._root = root
        self._title = title

    @property
    def title(self) -> str:
        """What the tree is called in messages."""
        return self._title

    def resolve(self, path: bytes) -> bytes:
        """The place ``path`` leads to, links followed inside the root. Raises OSError(ELOOP)."""
        return paths.clean(path) if self._root is None else self._root.resolve(path)

    def lstat(self, path: bytes) -> RootEntry | None:
        """The entry at the place ``path``, a link itself; None when there is none."""
        attr = _found(self._root, path)
        return None if attr is None else RootEntry(self._root, b"", path, attr)

    def names(self, path: bytes) -> list[bytes]:
        """Sorted names in the directory at the place ``path``; none when it is no directory."""
        return self._root.names(path) if self._root is not None and self._is_directory(path) else []

    def walk(self, path: bytes, prefix: bytes, visit: Visit | None) -> Iterator[RootEntry]:
        """Every entry below the directory at the place ``path``: see ``cache.hosttree.walk``."""
        if self._root is None or not self._is_directory(path):
            return iter(())
        return self._root.walk(path, prefix, visit)

    def absence_hints(self, path: bytes) -> tuple[str, ...]:
        """Another name that was probably meant."""
        directory, _, name = path.rpartition(b"/")
        try:
            known = [os.fsdecode(one) for one in self.names(self.resolve(directory))]
        except OSError:
            return ()
        found = nearest(os.fsdecode(name), known)
        return () if found is None else (f"did you mean {paths.shown(paths.join(directory, os.fsencode(found)))!r}?",)

    def _is_directory(self, path: bytes) -> bool:
        found = _found(self._root, path)
        return found is not None and stat.S_ISDIR(found.mode)


def _found(root: RootFs | None, path: bytes) -> Attr | None:
    """Attributes of what lies at ``path``; an empty root is a directory too."""
    if root is not None:
        return root.lstat(path)
    return None if path else _EMPTY_ROOT
