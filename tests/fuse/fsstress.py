"""Several processes that change names and files as chance has it, each doing the same to a plain directory beside.

An Actor works in a directory of its own on both sides, so that what the two sides answer must be equal after every
operation, whatever the other actors do meanwhile. ``seed_tree`` makes what both sides begin with.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from harness.trees import differences, read_tree
from unionfs import _sys
from unionfs.removal import remove_tree

NAMES = ("a", "b", "c", "d", "e", "longer name", "x" * 255)
_AT_FDCWD = -100
_OPEN_FILES = 6
_DEPTH = 3
_DEEPEST = 6
_SAME = {errno.EEXIST: errno.ENOTEMPTY}
_FLAGS = (0, 0, 0, 0, _sys.RENAME_NOREPLACE, _sys.RENAME_EXCHANGE)


class _Pair(NamedTuple):
    """One file, open on both sides."""

    union_fd: int
    plain_fd: int


def seed_tree(root: Path, seed: int) -> None:
    """A tree that the actor of this seed finds; the same for the same seed."""
    chance = random.Random(seed)
    directories = [root]
    for _ in range(40):
        place = chance.choice(directories) / chance.choice(NAMES)
        if place.exists() or place.is_symlink() or len(place.relative_to(root).parts) > _DEPTH:
            continue
        kind = chance.random()
        if kind < 0.35:
            place.mkdir()
            directories.append(place)
        elif kind < 0.9:
            place.write_bytes(chance.randbytes(chance.choice((0, 10, 5000, 70_000))))
        else:
            place.symlink_to(chance.choice(NAMES))


class Actor:
    """One sequence of operations in ``union`` and in ``plain``, two directories with the same content."""

    def __init__(
        self, union: Path, plain: Path, seed: int, *, allocates: bool = True, only_writers: bool = False
    ) -> None:
        """``only_writers``: none keeps a file open for reading alone, which shows old content after a copy-up."""
        self._open_flags = (os.O_RDWR,) if only_writers else (os.O_RDONLY, os.O_RDWR)
        self.sides = (str(union), str(plain))
        self._random = random.Random(seed)
        self._open: list[_Pair] = []
        self.log: list[str] = []
        self.operations: list[Callable[[], None]] = [
            self._create, self._create, self._write, self._write, self._append, self._truncate, self._mkdir,
            self._mkdir, self._rmdir, self._unlink, self._unlink, self._rename, self._rename, self._rename, self._link,
            self._symlink, self._mknod, self._chmod, self._chown, self._set_xattr, self._remove_xattr, self._read,
            self._list, self._look, self._open_file, self._use_open, self._use_open, self._close_file, self._sync,
        ]  # fmt: skip
        if allocates:
            self.operations += [self._unnamed]

    def run(self, operations: int) -> None:
        """The operations are done and every answer was the same.

        Raises:
            AssertionError: one was not; the last ones are named.
        """
        for _ in range(operations):
            operation = self._random.choice(self.operations)
            self.log.append(operation.__name__.strip("_"))
            try:
                operation()
            except AssertionError as error:
                raise AssertionError(
                    f"{error}; {len(self.log)} operations, last: {'; '.join(self.log[-12:])}"
                ) from error

    def close(self) -> None:
        """Nothing is open any more; no file has two names, which a union does not keep over a remount.

        What lies too deep goes, so that an actor that goes on here reaches everything by its path.
        """
        while self._open:
            self._close_file()
        for directory, names, _ in os.walk(self.sides[1]):
            path = os.path.relpath(directory, self.sides[1])
            if path.count("/") == _DEEPEST:
                for name in names:
                    self._both(lambda side, name=name, path=path: remove_tree(f"{side}/{path}/{name}"))
                names.clear()
        seen: set[int] = set()
        doubled: list[str] = []
        for directory, names, files in os.walk(self.sides[1]):
            # a link that leads to a directory is among the names of directories
            for name in sorted([*names, *files]):
                path = os.path.join(directory, name)
                number = os.lstat(path).st_ino
                if number in seen:
                    doubled.append(os.path.relpath(path, self.sides[1]))
                seen.add(number)
        for path in doubled:
            self._both(lambda side, path=path: os.unlink(f"{side}/{path}"))

    def _both(self, action: Callable[[str], object]) -> object:
        """What ``action`` answers on the plain side; the union answers the same."""
        answers = [answer_of(action, side) for side in self.sides]
        assert answers[0] == answers[1], f"{self.log[-1]}: the union says {answers[0]}, a plain directory {answers[1]}"
        return answers[1]

    def _path(self) -> str:
        """A path that may or may not be there; mostly one that is."""
        path = ""
        if self._random.random() < 0.7:
            with contextlib.suppress(OSError):
                for _ in range(self._random.randrange(1, _DEPTH + 2)):
                    names = sorted(os.listdir(f"{self.sides[1]}/{path}"))
                    path = f"{path}/{self._random.choice(names)}" if names else path
        if not path:
            path = "/".join(self._random.choice(NAMES) for _ in range(self._random.randrange(1, _DEPTH)))
        path = path.strip("/")
        self.log[-1] += f" {path.replace('x' * 255, 'x255')!r}"
        return path

    def _new_path(self) -> str:
        """A path whose directory mostly is there."""
        parent = os.path.dirname(self._path())
        path = os.path.join(parent, self._random.choice(NAMES))
        self.log[-1] += f" → {path.replace('x' * 255, 'x255')!r}"
        return path

    def _data(self) -> bytes:
        return self._random.randbytes(self._random.choice((1, 100, 4096, 5000, 66_000)))

    # -- names --------------------------------------------------------------------------------------------------
    def _create(self) -> None:
        path, data, mode = self._new_path(), self._data(), self._random.choice((0o600, 0o644, 0o755))
        flags = os.O_WRONLY | os.O_CREAT | self._random.choice((0, os.O_EXCL, os.O_TRUNC))
        self._both(lambda side: _written(f"{side}/{path}", flags, data, 0, mode))

    def _mkdir(self) -> None:
        path, mode = self._new_path(), self._random.choice((0o700, 0o755, 0o2775))
        self._both(lambda side: os.mkdir(f"{side}/{path}", mode))

    def _rmdir(self) -> None:
        path = self._path()
        self._both(lambda side: os.rmdir(f"{side}/{path}"))

    def _unlink(self) -> None:
        path = self._path()
        self._both(lambda side: os.unlink(f"{side}/{path}"))

    def _rename(self) -> None:
        old, new, flags = self._path(), self._path(), self._random.choice(_FLAGS)
        if self._random.random() < 0.6:
            new = self._new_path()
        self.log[-1] += f" {flags}"
        self._both(lambda side: _sys.renameat2(_AT_FDCWD, _path(side, old), _AT_FDCWD, _path(side, new), flags))

    def _link(self) -> None:
        old, new = self._path(), self._new_path()
        self._both(lambda side: os.link(f"{side}/{old}", f"{side}/{new}", follow_symlinks=False))

    def _symlink(self) -> None:
        target, path = self._random.choice(NAMES), self._new_path()
        self._both(lambda side: os.symlink(target, f"{side}/{path}"))

    def _mknod(self) -> None:
        path, kind = self._new_path(), self._random.choice((stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG, stat.S_IFCHR))
        device = os.makedev(1, 3) if kind == stat.S_IFCHR else 0
        self._both(lambda side: os.mknod(f"{side}/{path}", kind | 0o640, device))

    # -- files --------------------------------------------------------------------------------------------------
    def _write(self) -> None:
        path, data, offset = self._path(), self._data(), self._random.randrange(100_000)
        self._both(lambda side: _written(f"{side}/{path}", os.O_WRONLY, data, offset, 0))

    def _append(self) -> None:
        path, data = self._path(), self._data()
        self._both(lambda side: _written(f"{side}/{path}", os.O_WRONLY | os.O_APPEND, data, 0, 0))

    def _truncate(self) -> None:
        path, size = self._path(), self._random.randrange(80_000)
        self._both(lambda side: _truncated(f"{side}/{path}", size))

    def _read(self) -> None:
        path = self._path()
        self._both(lambda side: _content(f"{side}/{path}"))

    def _list(self) -> None:
        path = self._path()
        self._both(lambda side: sorted(os.listdir(f"{side}/{path}")))

    def _look(self) -> None:
        path = self._path()
        self._both(lambda side: _status(os.lstat(f"{side}/{path}")))

    # -- attributes ---------------------------------------------------------------------------------------------
    def _chmod(self) -> None:
        path, mode = self._path(), self._random.choice((0o600, 0o755, 0o4711, 0o2750, 0o1777))
        self._both(lambda side: _changed_mode(f"{side}/{path}", mode))

    def _chown(self) -> None:
        path, owner = self._path(), self._random.randrange(5)
        self._both(lambda side: os.chown(f"{side}/{path}", owner, 5 - owner, follow_symlinks=False))

    def _set_xattr(self) -> None:
        path, name, value = self._path(), self._random.choice(("user.one", "trusted.two")), self._data()[:50]
        self._both(lambda side: os.setxattr(f"{side}/{path}", name, value, follow_symlinks=False))

    def _remove_xattr(self) -> None:
        path, name = self._path(), self._random.choice(("user.one", "trusted.two"))
        self._both(lambda side: os.removexattr(f"{side}/{path}", name, follow_symlinks=False))

    # -- open files ---------------------------------------------------------------------------------------------
    def _open_file(self) -> None:
        path, flags = self._path(), self._random.choice(self._open_flags)
        self._keep(lambda side: _regular(f"{side}/{path}", flags))

    def _unnamed(self) -> None:
        path = os.path.dirname(self._path())
        self._keep(lambda side: os.open(f"{side}/{path}", os.O_RDWR | os.O_TMPFILE, 0o644))

    def _keep(self, opener: Callable[[str], int]) -> None:
        answers = [answer_of(opener, side) for side in self.sides]
        if all(isinstance(answer, int) for answer in answers):
            self._open.append(_Pair(*(int(str(answer)) for answer in answers)))
            if len(self._open) > _OPEN_FILES:
                self._close_file()
        else:
            assert answers[0] == answers[1], f"{self.log[-1]}: the union says {answers[0]}, a directory {answers[1]}"

    def _close_file(self) -> None:
        if self._open:
            for fd in self._open.pop(self._random.randrange(len(self._open))):
                os.close(fd)

    def _use_open(self) -> None:
        if not self._open:
            return
        pair = self._random.choice(self._open)
        data, offset = self._data(), self._random.randrange(100_000)
        use = self._random.choice(
            (
                lambda fd: os.pread(fd, len(data), offset),
                lambda fd: os.pwrite(fd, data, offset),
                lambda fd: os.ftruncate(fd, offset),
                lambda fd: os.fchmod(fd, 0o600 | len(data) & 0o77),
                lambda fd: _status(os.fstat(fd)),
            )
        )
        answers = [answer_of(use, fd) for fd in pair]
        assert answers[0] == answers[1], f"{self.log[-1]}: the union says {answers[0]}, a directory {answers[1]}"

    def _sync(self) -> None:
        for pair in self._open[:1]:
            for fd in pair:
                os.fsync(fd)


_RACED = frozenset({
    errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EINVAL, errno.EPERM, errno.EXDEV,
    errno.ELOOP,
})  # fmt: skip
"""What may become of an operation on names that others change at the same time."""


def race(directory: Path, seed: int, operations: int) -> None:
    """Operations on the few names of one directory that other processes use too; none fails in a way of its own."""
    chance = random.Random(seed)

    def place() -> str:
        return "/".join([str(directory), *(chance.choice(NAMES[:3]) for _ in range(chance.randrange(1, 4)))])

    steps: tuple[Callable[[], object], ...] = (
        lambda: _written(place(), os.O_WRONLY | os.O_CREAT, b"raced", 0, 0o644),
        lambda: _content(place()),
        lambda: os.mkdir(place()),
        lambda: os.rmdir(place()),
        lambda: os.unlink(place()),
        lambda: _sys.renameat2(_AT_FDCWD, os.fsencode(place()), _AT_FDCWD, os.fsencode(place()), chance.choice(_FLAGS)),
        lambda: os.link(place(), place(), follow_symlinks=False),
        lambda: os.listdir(place()),
        lambda: os.chmod(place(), 0o700),
    )
    for number in range(operations):
        try:
            chance.choice(steps)()
        except OSError as error:
            if error.errno not in _RACED:
                raise AssertionError(f"operation {number} of a race: {error}") from error


def assert_same_tree(union: Path, plain: Path) -> None:
    """Both directories hold the same: types, modes, owners, content, attributes, links."""
    found = differences(read_tree(union), read_tree(plain))
    assert not found, "\n".join(found[:10])


def _path(side: str, path: str) -> bytes:
    return os.fsencode(f"{side}/{path}")


def answer_of(action: Callable[[Any], object], side: str | int) -> object:
    try:
        return action(side)
    except OSError as error:
        number = error.errno or 0
        return f"error {errno.errorcode[_SAME.get(number, number)]}"


def _status(status: os.stat_result) -> tuple[int, ...]:
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return status.st_mode, status.st_nlink, status.st_uid, status.st_gid, status.st_rdev, size


@contextlib.contextmanager
def _opened(path: str, flags: int, mode: int) -> Iterator[int]:
    # a FIFO without a reader must not make us wait
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def _written(path: str, flags: int, data: bytes, offset: int, mode: int) -> int:
    with _opened(path, flags, mode) as fd:
        return os.pwrite(fd, data, offset)


def _truncated(path: str, size: int) -> None:
    if not stat.S_ISLNK(os.lstat(path).st_mode):
        os.truncate(path, size)


def _changed_mode(path: str, mode: int) -> None:
    if not stat.S_ISLNK(os.lstat(path).st_mode):
        os.chmod(path, mode)


def _content(path: str) -> bytes:
    if stat.S_ISLNK(os.lstat(path).st_mode):
        return os.fsencode(os.readlink(path))
    with _opened(path, os.O_RDONLY, 0) as fd:
        return os.pread(fd, 1 << 20, 0)


def _regular(path: str, flags: int) -> int:
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(errno.ENOENT, "not a regular file")
    return os.open(path, flags)


def main() -> None:
    """The command: one actor, or with one directory one racer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("union", type=Path)
    parser.add_argument("plain", type=Path, nargs="?")
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without-allocation", action="store_true")
    parser.add_argument("--only-writers", action="store_true")
    arguments = parser.parse_args()
    if arguments.plain is None:
        race(arguments.union, arguments.seed, arguments.operations)
        return
    actor = Actor(
        arguments.union,
        arguments.plain,
        arguments.seed,
        allocates=not arguments.without_allocation,
        only_writers=arguments.only_writers,
    )
    actor.run(arguments.operations)
    actor.close()


if __name__ == "__main__":
    main()
