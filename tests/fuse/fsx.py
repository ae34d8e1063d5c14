"""One file, every way to read, write and resize it, checked against a bytearray after each step.

``python tests/fuse/fsx.py FILE --operations 100000 --seed 1`` runs it on any file system.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path

from unionfs import _sys

MAX_BYTES = 1 << 18
ZERO_RANGE = 0x10
_PAGE = mmap.PAGESIZE


class Exerciser:
    """Drives the file at ``path``, which exists with the content ``model``."""

    def __init__(self, path: Path, model: bytearray, seed: int, *, allocates: bool = True) -> None:
        """``allocates``: the file system has fallocate(2) and SEEK_HOLE."""
        self._path = path
        self.model = model
        self._random = random.Random(seed)
        self._reader = os.open(path, os.O_RDONLY)
        self._writer = -1
        self.log: list[str] = []
        self._steps: list[Callable[[], None]] = [
            self._read, self._read, self._write, self._write, self._write_vector, self._append, self._truncate,
            self._map_read, self._map_write, self._copy_range, self._reopen, self._drop_cache, self._sync,
            self._look, self._write_elsewhere,
        ]  # fmt: skip
        if allocates:
            self._steps += [self._punch, self._zero, self._allocate, self._seek]

    def close(self) -> None:
        """The descriptors are closed and the whole content was right."""
        try:
            assert self._path.read_bytes() == self.model, "content differs at the end"
        finally:
            os.close(self._reader)
            if self._writer >= 0:
                os.close(self._writer)

    def step(self) -> None:
        """One random operation, and what it says is right."""
        operation = self._random.choice(self._steps)
        self.log.append(operation.__name__)
        operation()

    @property
    def _fd(self) -> int:
        if self._writer < 0:
            self._writer = os.open(self._path, os.O_RDWR)
        return self._writer

    def _note(self, *numbers: int) -> None:
        self.log[-1] += f" {numbers}"

    def _range(self, limit: int = MAX_BYTES) -> tuple[int, int]:
        offset = self._random.randrange(limit)
        if self._random.random() < 0.3:
            offset = offset // _PAGE * _PAGE
        size = min(self._random.choice((1, 10, 100, _PAGE, 5000, 1 << 16)), limit - offset)
        self._note(offset, size, len(self.model))
        return offset, size

    def _place(self, offset: int, data: bytes) -> None:
        if len(self.model) < offset:
            self.model.extend(bytes(offset - len(self.model)))
        self.model[offset : offset + len(data)] = data

    def _check(self, what: str, got: bytes, offset: int, size: int) -> None:
        wanted = self.model[offset : offset + size]
        if got != wanted:
            at = next((at for at, (one, two) in enumerate(zip(got, wanted, strict=False)) if one != two), -1)
            raise AssertionError(f"{what} at {offset}: {len(got)} bytes, {len(wanted)} expected, differ at {at}")

    def _read(self) -> None:
        offset, size = self._range()
        fd = self._random.choice((self._reader, self._fd))
        self._check("read", os.pread(fd, size, offset), offset, size)

    def _write(self) -> None:
        offset, size = self._range()
        data = self._random.randbytes(size)
        assert os.pwrite(self._fd, data, offset) == size
        self._place(offset, data)

    def _write_elsewhere(self) -> None:
        """Through a descriptor of its own that is closed again."""
        offset, size = self._range()
        data = self._random.randbytes(size)
        fd = os.open(self._path, os.O_WRONLY)
        try:
            assert os.pwrite(fd, data, offset) == size
        finally:
            os.close(fd)
        self._place(offset, data)

    def _write_vector(self) -> None:
        offset, size = self._range()
        parts = [self._random.randbytes(size), self._random.randbytes(3)]
        assert os.pwritev(self._fd, parts, offset) == size + 3
        self._place(offset, b"".join(parts))

    def _append(self) -> None:
        if len(self.model) > MAX_BYTES:
            return
        data = self._random.randbytes(self._random.randrange(1, 3000))
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            assert os.write(fd, data) == len(data)
        finally:
            os.close(fd)
        self.model += data

    def _truncate(self) -> None:
        size = self._random.randrange(MAX_BYTES)
        self._note(len(self.model), size)
        if self._random.random() < 0.5:
            os.truncate(self._path, size)
        else:
            os.ftruncate(self._fd, size)
        del self.model[size:]
        self._place(size, b"")

    def _mapped(self, fd: int, protection: int) -> mmap.mmap | None:
        return mmap.mmap(fd, len(self.model), mmap.MAP_SHARED, protection) if self.model else None

    def _map_read(self) -> None:
        mapped = self._mapped(self._random.choice((self._reader, self._fd)), mmap.PROT_READ)
        if mapped is not None:
            with mapped:
                offset, size = self._range(len(self.model))
                self._check("mapped", mapped[offset : offset + size], offset, size)

    def _map_write(self) -> None:
        mapped = self._mapped(self._fd, mmap.PROT_READ | mmap.PROT_WRITE)
        if mapped is not None:
            with mapped:
                offset, size = self._range(len(self.model))
                data = self._random.randbytes(size)
                mapped[offset : offset + size] = data
                self._place(offset, data)
                if self._random.random() < 0.5:
                    mapped.flush()

    def _copy_range(self) -> None:
        source, size = self._range()
        target = self._random.randrange(MAX_BYTES)
        size = min(size, abs(source - target), max(len(self.model) - source, 0))
        self._note(target, size)
        if not size:
            return
        done = os.copy_file_range(self._fd, self._fd, size, source, target)
        assert 0 < done <= size
        self._place(target, bytes(self.model[source : source + done]))

    def _punch(self) -> None:
        offset, size = self._range()
        _sys.fallocate(self._fd, _sys.FALLOC_FL_PUNCH_HOLE | _sys.FALLOC_FL_KEEP_SIZE, offset, size)
        end = min(offset + size, len(self.model))
        if end > offset:
            self.model[offset:end] = bytes(end - offset)

    def _zero(self) -> None:
        offset, size = self._range()
        _sys.fallocate(self._fd, ZERO_RANGE, offset, size)
        self._place(offset, bytes(size))

    def _allocate(self) -> None:
        offset, size = self._range()
        _sys.fallocate(self._fd, 0, offset, size)
        if len(self.model) < offset + size:
            self._place(offset + size, b"")

    def _seek(self) -> None:
        if not self.model:
            return
        offset = self._random.randrange(len(self.model))
        hole = os.lseek(self._fd, offset, os.SEEK_HOLE)
        assert offset <= hole <= len(self.model)
        if hole < len(self.model):
            end = min(hole + _PAGE, len(self.model)) // _PAGE * _PAGE
            assert not any(self.model[hole:end]), f"hole at {hole} has data"

    def _look(self) -> None:
        for size in (os.fstat(self._reader).st_size, os.fstat(self._fd).st_size, self._path.stat().st_size):
            assert size == len(self.model), f"size {size}, expected {len(self.model)}"

    def _reopen(self) -> None:
        if self._random.random() < 0.5:
            os.close(self._reader)
            self._reader = os.open(self._path, os.O_RDONLY)
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def _sync(self) -> None:
        self._random.choice((os.fsync, os.fdatasync))(self._fd)

    def _drop_cache(self) -> None:
        os.posix_fadvise(self._reader, 0, 0, os.POSIX_FADV_DONTNEED)


def exercise(path: Path, content: bytes, operations: int, seed: int, *, allocates: bool = True) -> None:
    """``operations`` random operations on the file went as on memory.

    Raises:
        AssertionError: one did not; the last operations are named.
    """
    exerciser = Exerciser(path, bytearray(content), seed, allocates=allocates)
    try:
        for _ in range(operations):
            exerciser.step()
    except (AssertionError, OSError) as error:
        recent = "; ".join(exerciser.log[-12:])
        raise AssertionError(f"operation {len(exerciser.log)}, seed {seed}: {error}; before: {recent}") from error
    finally:
        exerciser.close()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    exercise(arguments.file, arguments.file.read_bytes(), arguments.operations, arguments.seed)


if __name__ == "__main__":
    main()
