"""Branches, the immutable stack of them, and a branch as the union holds it open.

Position 0 is the top. Invariants: a ``BranchStack`` never changes, a change of branches is a new stack with the next
generation; an ``OpenBranch`` reaches everything through the descriptor of its root, so a mount over the branch (even
the union's own) does not matter; a path inside a branch equals the path inside the union.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import OrderedDict
from collections.abc import Generator

from unionfs.errors import BranchMissingError, BranchSyntaxError, BranchTwiceError, reason
from unionfs.namedtuple import NamedTuple
from unionfs.removal import remove_tree
from unionfs.types import Access

TEMPORARY_NAME = b".wh..unionfs"
"""Directory at the root of a branch that holds what is not yet in its place; never shown."""

JOURNAL_PREFIX = b"raise-"
"""How the names of the temporary things begin that outlive a union that was killed (``journal``)."""

_REACH_BYTES = 3000
_ANCHORS = 64


class Branch(NamedTuple):
    """One directory of a union and what may be done to it."""

    path: bytes
    access: Access = Access.RW


class BranchStack(NamedTuple):
    """The branches of a union, top first; ``generation`` grows with every change."""

    branches: tuple[Branch, ...]
    generation: int = 0


def parse_dirs(text: str) -> tuple[Branch, ...]:
    r"""Branches of the value of ``dirs=``: ``PATH[=rw|ro|nfsro]:…``, top first; the default access is rw.

    ``\:``, ``\,``, ``\=`` and ``\\`` stand for the second character. Relative paths are
    taken from the working directory.

    Raises:
        BranchSyntaxError: an empty path or an access that is none of the three words.
    """
    return tuple(_parse_branch(part) for part in _split(text))


def _split(text: str) -> list[list[str]]:
    """Parts between the colons, each a list of characters in which an escaped one still has its backslash."""
    parts: list[list[str]] = [[]]
    characters = iter(text)
    for character in characters:
        if character == "\\":
            parts[-1].append(character + next(characters, "\\"))
        elif character == ":":
            parts.append([])
        else:
            parts[-1].append(character)
    return parts


def _parse_branch(part: list[str]) -> Branch:
    access = Access.RW
    if "=" in part:
        at = len(part) - 1 - part[::-1].index("=")
        word = "".join(part[at + 1 :])
        try:
            access = Access(word)
        except ValueError:
            raise BranchSyntaxError(
                f"branch {''.join(part)!r}: expected =rw, =ro or =nfsro, got {'=' + word!r}"
            ) from None
        part = part[:at]
    path = "".join(character[-1] for character in part)
    if not path:
        raise BranchSyntaxError("dirs: expected a path for every branch, got an empty one")
    return Branch(os.fsencode(os.path.abspath(path)), access)


class OpenBranch:
    """A branch whose root directory is open; ``close`` gives everything back.

    ``writable`` is what the access says and the filesystem allows. ``position`` is the place in the stack. ``journals``
    names what a killed union left to be taken back (``takeback.recover``).
    """

    __slots__ = (
        "_anchors",
        "_counter",
        "_temporary_fd",
        "branch",
        "fd",
        "identity",
        "journals",
        "position",
        "writable",
    )

    def __init__(self, branch: Branch, position: int, *, read_only: bool = False) -> None:
        try:
            self.fd = os.open(branch.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise BranchMissingError(branch.path, f"expected a directory: {reason(error)}") from error
        status = os.fstat(self.fd)
        self.identity = (status.st_dev, status.st_ino)
        self.writable = False
        self._anchors: OrderedDict[bytes, int] = OrderedDict()
        self._temporary_fd = -1
        self._counter = 0
        self.journals: tuple[bytes, ...] = ()
        self.assume(branch, position, read_only=read_only)

    def assume(self, branch: Branch, position: int, *, read_only: bool = False) -> None:
        """The branch has this access and position now; ``read_only``: the whole union is."""
        was_writable = self.writable
        self.branch = branch
        self.position = position
        self.writable = not read_only and branch.access is Access.RW and not os.fstatvfs(self.fd).f_flag & os.ST_RDONLY
        if self.writable and not was_writable:
            self._sweep()

    def at(self, path: bytes) -> tuple[int, bytes]:
        """Directory descriptor and path relative to it that lead to ``path``; the root is ``b""``.

        Valid until the next few calls: use it at once, don't close it. Reaches paths of any length, which the kernel
        takes only in pieces (PATH_MAX).
        """
        if not path:
            return self.fd, b"."
        if len(path) <= _REACH_BYTES:
            return self.fd, path
        directory, _, name = path.rpartition(b"/")
        return self._anchor(directory), name

    def proc_path(self, path: bytes) -> bytes:
        """A path for the calls that know no directory descriptor (xattrs, scandir); as short-lived as ``at``."""
        fd, rest = self.at(path)
        return b"/proc/self/fd/%d/%s" % (fd, rest)

    @contextlib.contextmanager
    def times_kept(self, path: bytes) -> Generator[None, None, None]:
        """Access and modification time of the directory ``path`` are the same after as before."""
        fd, rest = self.at(path)
        times = os.stat(rest, dir_fd=fd, follow_symlinks=False)
        yield
        fd, rest = self.at(path)
        os.utime(rest, ns=(times.st_atime_ns, times.st_mtime_ns), dir_fd=fd)

    def moved(self) -> None:
        """Remembered places of long paths are forgotten: a directory has a new name."""
        while self._anchors:
            os.close(self._anchors.popitem()[1])

    def temporary(self) -> tuple[int, bytes]:
        """Descriptor of the directory of temporary things, and a name in it that is free."""
        if self._temporary_fd < 0:
            with contextlib.suppress(FileExistsError):
                os.mkdir(TEMPORARY_NAME, 0o700, dir_fd=self.fd)
            self._hold(
                os.open(TEMPORARY_NAME, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
            )
        self._counter += 1
        return self._temporary_fd, b"%d-%d" % (os.getpid(), self._counter)

    def journal_fd(self) -> int:
        """Descriptor of the directory of temporary things, which is there."""
        return self._temporary_fd

    def discard(self, name: bytes) -> None:
        """``name`` in the directory of temporary things, with all in it, is gone."""
        remove_tree(name, dir_fd=self._temporary_fd)

    def close(self) -> None:
        """All descriptors are closed; the directory of temporary things is gone when nothing is in it. Idempotent."""
        self.moved()
        if self._temporary_fd >= 0:
            os.close(self._temporary_fd)
            self._temporary_fd = -1
            with contextlib.suppress(OSError):
                os.rmdir(TEMPORARY_NAME, dir_fd=self.fd)
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _anchor(self, path: bytes) -> int:
        anchors = self._anchors
        fd = anchors.get(path)
        if fd is not None:
            anchors.move_to_end(path)
            return fd
        fd, rest = self.fd, path
        opened = -1
        while rest:
            cut = len(rest) if len(rest) <= _REACH_BYTES else rest.rindex(b"/", 0, _REACH_BYTES)
            deeper = os.open(rest[:cut], os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            if opened >= 0:
                os.close(opened)
            fd = opened = deeper
            rest = rest[cut + 1 :]
        anchors[path] = opened
        if len(anchors) > _ANCHORS:
            os.close(anchors.popitem(last=False)[1])
        return opened

    def _hold(self, fd: int) -> None:
        """The lock on the directory says that a union uses it: no other sweeps it meanwhile."""
        self._temporary_fd = fd
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def _sweep(self) -> None:
        """What a union that was killed left in the directory of temporary things is gone."""
        try:
            fd = os.open(TEMPORARY_NAME, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError:
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            journals: list[bytes] = []
            for name in map(os.fsencode, os.listdir(fd)):
                if name.startswith(JOURNAL_PREFIX):
                    journals.append(name)
                else:
                    remove_tree(name, dir_fd=fd)
        except OSError:
            # another union uses the branch (BlockingIOError), or it cannot be written after all: nothing is swept
            os.close(fd)
            return
        self.journals = tuple(sorted(journals))
        self._hold(fd)


def open_branches(branches: tuple[Branch, ...], *, read_only: bool = False) -> tuple[OpenBranch, ...]:
    """Every branch, open, top first, none of them writable when ``read_only``; the caller closes each.

    Raises:
        BranchMissingError: a branch is no directory.
        BranchTwiceError: a branch is there twice or lies inside another.
    """
    opened: list[OpenBranch] = []
    try:
        if not branches:
            raise BranchSyntaxError("dirs: expected at least one branch")
        for position, branch in enumerate(branches):
            opened.append(OpenBranch(branch, position, read_only=read_only))
        check_distinct(tuple(opened))
    except BaseException:
        for branch_open in opened:
            branch_open.close()
        raise
    return tuple(opened)


def check_distinct(opened: tuple[OpenBranch, ...]) -> None:
    """No branch is another one, and none lies inside another.

    Raises:
        BranchTwiceError: one does.
    """
    known: dict[tuple[int, int], OpenBranch] = {}
    for one in opened:
        if one.identity in known:
            raise BranchTwiceError(
                one.branch.path, f"is already there as {os.fsdecode(known[one.identity].branch.path)!r}"
            )
        known[one.identity] = one
    # what the kernel calls the open directories: a path may lead through a mount that this very process serves
    by_path: dict[bytes, OpenBranch] = {os.readlink(b"/proc/self/fd/%d" % one.fd): one for one in opened}
    clear = {b"/"}
    for path, one in by_path.items():
        parent: bytes = os.path.dirname(path)
        # branches mostly lie side by side: what lies above them is looked at once
        while parent not in clear:
            if parent in by_path:
                raise BranchTwiceError(
                    one.branch.path, f"lies inside branch {os.fsdecode(by_path[parent].branch.path)!r}"
                )
            clear.add(parent)
            parent = os.path.dirname(parent)
