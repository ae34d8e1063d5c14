"""COPY and ADD: files of the build context or of another step are put into a fresh branch.

    destination      source               result
    ends in ``/``    file                 ``destination/NAME``
    is a directory   file                 ``destination/NAME``
    anything else    file                 ``destination``
    any              directory            its content in ``destination``, which is made if need be
    any              archive (ADD)        its content in ``destination``, which is made if need be
    any              repository (ADD)     its content in ``destination``, which is made if need be

Invariants: only the branch is written; a directory that is there keeps its metadata when it is the destination and
gets the source's below it, its time apart: the destination has that of the last directory whose content it got, so
that a layer is the same whenever it is made; a file replaces a file or link, never a directory, and a directory
replaces nothing; links are copied as links; names of one file stay names of one file; owners are root's or the
source's unless ``--chown`` says otherwise.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, TypeAlias

from builder import paths
from builder.draft import Draft
from builder.errors import BuildError
from builder.filecopy import copy_content
from builder.graph import Copy, InlineFile
from builder.modes import Mode, parse_mode
from builder.refusals import explained
from builder.remote.content import FILE_MODE, NOTHING, Content, FetchedFile
from builder.rootfs import RootFs, open_root
from builder.selection import Selected, SourceEntry, SourceTree, entries_below, kept_directories, select
from builder.steps.copykeys import unreadable
from builder.steps.directory import resolve_owner
from builder.trail import Attributes
from builder.upper import UnreadableError, Upper
from cache.contenthash import carried_xattr
from layers.errors import ArchiveError

# also with --chmod: BuildKit since 0.21 gives what it makes on the way the octal mode, and users are shut out of
# directories of --chmod=644 (moby/buildkit #5943)
_DIRECTORY_MODE = 0o755
_INLINE_MODE = 0o644
_SECOND_NS = 1_000_000_000


def apply(
    operation: Copy,
    tree: SourceTree,
    branches: Sequence[Path],
    upper: Path,
    *,
    remote: Content = NOTHING,
    check: Callable[[], None] = lambda: None,
) -> None:
    """What ``operation`` selects in ``tree`` is in the directory ``upper``, the fresh branch above ``branches``.

    ``branches`` are top first. ``remote`` is what was fetched of its remote sources. Blocks its thread; ``check`` is
    called for every file and ends the work by raising. Raises ContextError (sources), BuildError (target).
    """
    if (len(remote.files), len(remote.trees)) != (len(operation.http), len(operation.git)):
        raise ValueError("a remote source of ADD was not fetched")
    with (
        _refusals(operation, tree),
        open_root(branches) as root,
        Upper(upper, None if operation.link else root) as layer,
    ):
        copier = _create_copier(operation, tree, layer, root, check)
        copier.copy_all()
        for file in remote.files:
            copier.put_fetched(file, layer)
        for fetched in remote.trees:
            _create_copier(operation, fetched, layer, root, check).copy_tree()


def is_draftable(operation: Copy) -> bool:
    """Whether what ``operation`` adds can be told without a branch: archives and what is remote need one."""
    return not (operation.unpack or operation.is_remote)


@contextmanager
def draft(
    operation: Copy, tree: SourceTree, branches: Sequence[Path], *, check: Callable[[], None] = lambda: None
) -> Generator[Draft]:
    """What `apply` would put into a fresh branch, to be packed inside the block.

    Raises: as `apply`; TooManyEntriesError.
    """
    with _refusals(operation, tree), open_root(branches) as root:
        layer = Draft(None if operation.link else root, lambda error: unreadable(tree, error))
        _create_copier(operation, tree, layer, root, check).copy_all()
        yield layer


Target: TypeAlias = Upper | Draft
"""Where files are put: a fresh branch, or the draft of a layer that is packed without one."""


def _create_copier(
    operation: Copy, tree: SourceTree, layer: Target, root: RootFs | None, check: Callable[[], None]
) -> _Copier:
    """The operation ready to put files into ``layer`` above ``root``."""
    owner = resolve_owner(operation.chown, root) if operation.chown else None
    linked = operation.link or root is None
    place = paths.clean(operation.destination) if linked or root is None else root.resolve(operation.destination)
    return _Copier(operation, tree, layer, place, owner, check)


def _refusals(operation: Copy, tree: SourceTree) -> AbstractContextManager[None]:
    """What the system refuses inside the block is a BuildError that says what was to be done."""
    destination = operation.destination
    whole = f"cannot copy from {tree.title} to {destination!r}"
    return explained(f"cannot copy to {destination!r}", f"--chown={operation.chown}", whole)


class _Copier:
    """One operation at work: where it copies to and how."""

    def __init__(
        self,
        operation: Copy,
        tree: SourceTree,
        layer: Target,
        place: bytes,
        owner: tuple[int, int] | None,
        check: Callable[[], None],
    ) -> None:
        self._operation = operation
        self._tree = tree
        self._layer = layer
        self._place = place
        self._owner = owner
        self._check = check
        self._mode: Mode | None = parse_mode(operation.chmod) if operation.chmod else None
        self._made = Attributes(_DIRECTORY_MODE, *(owner or (0, 0)))
        self._names: dict[tuple[int, int], bytes] = {}
        self._dated: tuple[int, int] | None = None

    def copy_all(self) -> None:
        """All that the operation selects in its tree, and its here-documents, are in their place."""
        for selected in select(self._tree, self._operation):
            self.copy(selected)
        for inline in self._operation.inline:
            self.write(inline)
        if self._dated is not None and self._place:
            self._layer.date_directory(self._place, self._dated)

    def copy(self, selected: Selected) -> None:
        """``selected`` is in its place."""
        self._names.clear()
        if selected.kept:
            self._copy_kept(selected)
        elif selected.is_directory:
            self._make_destination(self._place)
            self._copy_below(selected)
            self._dated = (selected.entry.atime_ns, selected.entry.mtime_ns)
        elif not (self._operation.unpack and self._unpack(selected)):
            self._put(selected.entry, self._file_place(selected.name))

    def write(self, inline: InlineFile) -> None:
        """The here-document is a file in its place."""
        attributes = self._made._replace(mode=_INLINE_MODE)
        if self._mode is not None:
            attributes = attributes._replace(mode=self._mode.apply(_INLINE_MODE, directory=False))
        content = inline.content.encode("utf-8", "surrogateescape")
        self._layer.put_content(self._file_place(os.fsencode(inline.name)), content, attributes)

    def put_fetched(self, file: FetchedFile, layer: Upper) -> None:
        """The downloaded file is in its place, or what is in it where it is an archive that is to be unpacked."""
        with open(os.dup(file.descriptor), "rb", buffering=0) as source:
            source.seek(0)
            if self._operation.unpack_remote and self._extract(source):
                return
            source.seek(0)
            mode = FILE_MODE if self._mode is None else self._mode.apply(FILE_MODE, directory=False)
            time_ns = file.mtime * _SECOND_NS
            target = layer.put_file(self._file_place(os.fsencode(file.name)))
            try:
                copy_content(source.fileno(), target, os.fstat(source.fileno()), self._check)
                layer.finish_file(target, self._made._replace(mode=mode, times_ns=(time_ns, time_ns)))
            finally:
                os.close(target)

    def copy_tree(self) -> None:
        """All that the tree holds is below the destination."""
        root = self._tree.lstat(b"")
        if root is not None:
            self.copy(Selected(b"", b"", root))

    def _copy_kept(self, selected: Selected) -> None:
        """``selected`` lies under the path it has in the source, whose directories come along."""
        self._make_destination(self._place)
        for path, entry in kept_directories(self._tree, selected):
            place = paths.join(self._place, path)
            if self._layer.mode_at(place) is None:
                self._layer.put_directory(place, self._attributes(entry))
        place = paths.join(self._place, selected.kept)
        self._put(selected.entry, place)
        if selected.is_directory:
            self._copy_below(selected)

    def _copy_below(self, selected: Selected) -> None:
        start = self._place + b"/" if self._place else b""
        for entry in entries_below(self._tree, selected, self._operation):
            self._put(entry, start + entry.path)

    def _make_destination(self, place: bytes) -> None:
        """A directory lies at ``place``; one that is there is left alone."""
        mode = self._layer.mode_at(place)
        if mode is None or not stat.S_ISDIR(mode):
            self._layer.directory(place, self._made)

    def _file_place(self, name: bytes) -> bytes:
        """Where a file called ``name`` goes; the directory above is there."""
        place = self._place
        mode = self._layer.mode_at(place)
        if self._operation.destination.endswith("/") or (mode is not None and stat.S_ISDIR(mode)):
            place = paths.join(place, name)
        self._make_destination(place.rpartition(b"/")[0])
        return place

    def _put(self, entry: SourceEntry, place: bytes) -> None:
        """``entry`` itself, without what is in it, lies at ``place``."""
        self._check()
        kind = stat.S_IFMT(entry.mode)
        if kind == stat.S_IFREG:
            self._put_file(entry, place)
        elif kind == stat.S_IFDIR:
            self._layer.put_directory(place, self._attributes(entry))
        elif kind == stat.S_IFLNK:
            self._layer.put_symlink(place, entry.readlink(), self._attributes(entry))
        elif kind == stat.S_IFSOCK:
            # a socket without its process is an empty file, as in other builders
            self._layer.put_content(place, b"", self._attributes(entry))
        else:
            self._layer.put_node(place, kind, entry.rdev, self._attributes(entry))

    def _put_file(self, entry: SourceEntry, place: bytes) -> None:
        if entry.nlink > 1:
            first = self._names.setdefault(entry.file_id, place)
            if first != place:
                self._layer.put_link(place, first)
                return
        try:
            self._layer.copy_file(place, entry, lambda descriptor: self._attributes(entry, descriptor), self._check)
        except UnreadableError as error:
            if isinstance(error.__cause__, OSError):
                raise unreadable(self._tree, error.__cause__) from error.__cause__
            raise

    def _attributes(self, entry: SourceEntry, descriptor: int | None = None) -> Attributes:
        """Metadata the copy of ``entry`` gets; ``descriptor`` is the open file, which is quicker to ask."""
        mode = stat.S_IMODE(entry.mode)
        if self._mode is not None and not stat.S_ISLNK(entry.mode):
            mode = self._mode.apply(mode, directory=stat.S_ISDIR(entry.mode))
        owner = self._owner or (entry.uid, entry.gid)
        xattrs = entry.xattrs() if descriptor is None else _xattrs(descriptor)
        return Attributes(mode, *owner, (entry.atime_ns, entry.mtime_ns), xattrs)

    def _unpack(self, selected: Selected) -> bool:
        """The archive ``selected`` is unpacked; False when it is none."""
        if not stat.S_ISREG(selected.entry.mode):
            return False
        with open(selected.entry.open(), "rb", buffering=0) as archive:
            return self._extract(archive)

    def _extract(self, archive: IO[bytes]) -> bool:
        """The content of ``archive``, at its beginning, is below the destination; False when it is no archive."""
        from builder.steps.extract import Extraction, is_archive

        # an operation that unpacks has a branch
        if not isinstance(self._layer, Upper) or not is_archive(archive):
            return False
        archive.seek(0)
        self._make_destination(self._place)
        try:
            Extraction(self._layer, self._place, self._owner, self._check).extract(archive)
        except ArchiveError as error:
            raise BuildError(f"cannot unpack to {self._operation.destination!r}: {error}") from error
        return True


def _xattrs(descriptor: int) -> tuple[tuple[bytes, bytes], ...]:
    """Extended attributes of an open file that a copy carries."""
    try:
        names = os.listxattr(descriptor)
    except OSError:
        # the file system has none
        return ()
    return tuple((os.fsencode(name), os.getxattr(descriptor, name)) for name in names if carried_xattr(name))
