"""The build context: a directory of this machine, as far as its ``.dockerignore`` lets COPY see it.

On the cached-build path. Invariants: nothing outside the directory is read, whatever links it holds; what is excluded
isn't there; all files count as root's; listings are sorted and memory is bounded by the largest directory.
Source of the rules: "Dockerfile reference, .dockerignore"; ``<Dockerfile>.dockerignore`` wins over ``.dockerignore``,
and that over ``.containerignore``, which podman and buildah know.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from builder import paths
from builder.dockerfile.ignore import Matcher, parse_ignore_file
from builder.dockerfile.suggest import nearest
from builder.errors import ContextError
from cache.hosttree import HostEntry, Visit, host_entry, walk

_OWNER = (0, 0)
IGNORE_FILE = ".dockerignore"
_OTHER_IGNORE_FILE = ".containerignore"
_MOST_IGNORE_BYTES = 16 << 20


class BuildContext:
    """The directory ``root`` (``builder.selection.SourceTree``).

    ``ignore`` is the content of the ignore file and ``ignore_name`` its name for messages. Raises ContextError for a
    malformed pattern.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        ignore: bytes = b"",
        ignore_name: str = IGNORE_FILE,
        title: str = "the build context",
    ) -> None:
        self._title = title
        self.root = os.path.realpath(os.fsencode(root))
        self.ignore_name = ignore_name
        self._ignore = ignore
        self._matcher = Matcher(parse_ignore_file(ignore))

    @property
    def matcher(self) -> Matcher:
        """The rules of the ignore file."""
        return self._matcher

    @property
    def title(self) -> str:
        """What the tree is called in messages."""
        return self._title

    def resolve(self, path: bytes) -> bytes:
        """The place ``path`` leads to, links followed inside the context. Raises OSError(ELOOP)."""
        return paths.follow(path, self._link_target)

    def lstat(self, path: bytes) -> HostEntry | None:
        """The entry at the place ``path``, a link itself; None when there is none or it is excluded."""
        try:
            entry = host_entry(b"", self._host_path(path), _OWNER)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return entry if self._shows(path, directory=stat.S_ISDIR(entry.mode)) else None

    def names(self, path: bytes) -> list[bytes]:
        """Sorted names in the directory at the place ``path`` that aren't excluded; none when it is no directory."""
        host_path = self._host_path(path)
        if not stat.S_ISDIR(_mode(host_path)):
            return []
        entries = walk(host_path, visit=lambda _path, _directory: (True, False))
        return [
            entry.path
            for entry in entries
            if self._shows(paths.join(path, entry.path), directory=stat.S_ISDIR(entry.mode))
        ]

    def walk(self, path: bytes, prefix: bytes, visit: Visit | None) -> Iterator[HostEntry]:
        """Every entry below the directory at the place ``path``: see ``cache.hosttree.walk``."""
        host_path = self._host_path(path)
        if not stat.S_ISDIR(_mode(host_path)):
            return iter(())
        return walk(host_path, prefix, owner=_OWNER, visit=self._filter(path, prefix, visit))

    def absence_hints(self, path: bytes) -> tuple[str, ...]:
        """Why there may be nothing at ``path``: a line of the ignore file, or another name that was meant."""
        try:
            there = os.path.lexists(self._host_path(self.resolve(path)))
        except OSError:
            there = False
        if there:
            return tuple(self._excluding_line(path))
        directory, _, name = path.rpartition(b"/")
        try:
            known = [os.fsdecode(one) for one in self.names(self.resolve(directory))]
        except OSError:
            known = []
        found = nearest(os.fsdecode(name), known)
        if found is None:
            return ()
        return (f"did you mean {os.fsdecode(paths.join(directory, os.fsencode(found)))!r}?",)

    def _excluding_line(self, path: bytes) -> Iterator[str]:
        """The hint that names the last line of the ignore file that excludes ``path``."""
        found: tuple[int, str] | None = None
        for number, line in enumerate(self._ignore.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
            for pattern in parse_ignore_file(line):
                if not pattern.startswith("!") and Matcher((pattern,)).excluded(path):
                    found = (number, pattern)
        if found is not None:
            yield f"it is excluded by {self.ignore_name} line {found[0]}: {found[1]}"

    def _filter(self, path: bytes, prefix: bytes, visit: Visit | None) -> Visit | None:
        """``visit`` after the ignore rules, which see the whole path in the context."""
        matcher = self._matcher
        if not matcher.patterns:
            return visit
        start = path + b"/" if path else b""
        cut = len(prefix)

        def filtered(entry_path: bytes, directory: bool) -> tuple[bool, bool]:
            place = start + entry_path[cut:]
            if not matcher.excluded(place):
                return (True, directory) if visit is None else visit(entry_path, directory)
            if not (directory and matcher.could_reinclude(place)):
                return False, False
            # it comes when something in it does; what ``visit`` wants to see of it is up to its content
            return False, True if visit is None else visit(entry_path, directory)[1]

        return filtered

    def _shows(self, path: bytes, *, directory: bool) -> bool:
        """Whether the entry at ``path`` is there for COPY: not excluded, or something in it isn't."""
        matcher = self._matcher
        if not matcher.patterns or not matcher.excluded(path):
            return True
        if not directory or not matcher.could_reinclude(path):
            return False
        return next(self.walk(path, b"", None), None) is not None

    def _link_target(self, path: bytes) -> bytes | None:
        try:
            return os.readlink(self._host_path(path))
        except OSError as error:
            if error.errno in {errno.EINVAL, errno.ENOENT, errno.ENOTDIR}:
                return None
            raise

    def _host_path(self, path: bytes) -> bytes:
        return os.path.join(self.root, path) if path else self.root


def open_context(
    root: str | os.PathLike[str],
    dockerfile: str | os.PathLike[str] | None = None,
    title: str = "the build context",
    *,
    confined: bool = False,
) -> BuildContext:
    """The context in the directory ``root`` with the ignore file that counts for ``dockerfile`` (None: standard input).

    ``title`` is what messages call it. ``confined``: an ignore file that is a link is looked for inside ``root``.

    Raises ContextError: ``root`` is no directory, the ignore file can't be read or is malformed.
    """
    directory = os.fspath(root)
    if not os.path.isdir(directory):
        raise ContextError(f"context {directory!r} is not a directory")
    candidates = [os.path.join(directory, name) for name in (IGNORE_FILE, _OTHER_IGNORE_FILE)]
    if dockerfile is not None:
        candidates.insert(0, os.fspath(dockerfile) + IGNORE_FILE)
    for path in candidates:
        place = paths.host_path_inside(directory, os.path.relpath(path, directory)) if confined else path
        try:
            with open(place, "rb") as file:
                content = file.read(_MOST_IGNORE_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ContextError(f"ignore file {path!r} can't be read: {error.strerror}") from error
        name = os.path.basename(path)
        try:
            return BuildContext(directory, content, name, title)
        except ContextError as error:
            raise ContextError(f"ignore file {path!r}: {error.message}") from error
    return BuildContext(directory, title=title)


def _mode(path: bytes) -> int:
    """``st_mode`` at the host path, 0 when nothing is there."""
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
