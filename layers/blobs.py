"""Content under its digest: ``blobs/sha256/<hex>`` of an image layout (image-spec, image-layout.md).

Invariants: a name in ``blobs/`` always holds the whole content that the name says: it is written under a temporary
name, hashed on the way, synced, then renamed, and the directory is synced. Readers verify once more. Putting content
that is there already changes nothing but its time, which protects it from a collection that runs meanwhile.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self

from layers.descriptor import Descriptor
from layers.digest import Digest, from_hex, sha256
from layers.errors import BlobNotFoundError, ContentMismatchError, DamagedBlobError, FormatError
from layers.ownership import Owner, temporary_name
from layers.storage import make_durable, store_error
from layers.verifying import VerifyingReader, is_set_aside, known_damage, new_hash, read_verified

if TYPE_CHECKING:
    from pathlib import Path

CHUNK_BYTES = 1 << 20
_WRITTEN_AT_ONCE = 8 << 20
_SMALL_BYTES = 256 << 10
_ANY = "application/octet-stream"


class BlobSource(Protocol):
    """Where verified content can be read from."""

    def open(self, digest: Digest) -> BinaryIO:
        """A reader of the content that fails at the end when it is not what the digest says; the caller closes it."""
        ...

    def size(self, digest: Digest) -> int | None:
        """Bytes of the content, None when it is not there."""
        ...


class BlobWriter:
    """Content on its way into the store; what is not committed is gone when the block ends."""

    def __init__(self, directory: str, temporary: str, *, hashing: bool) -> None:
        self._directory = directory
        self._path = temporary
        self._hash = new_hash() if hashing else None
        self._file: io.FileIO | None = None
        self._begun = 0
        self.size = 0
        try:
            self._file = io.FileIO(temporary, "xb")
        except OSError as error:
            raise store_error(temporary, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def discard(self) -> None:
        """What was not committed is gone. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None
            with suppress(FileNotFoundError):
                os.unlink(self._path)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """All of the data is in the temporary file."""
        if self._hash is not None:
            self._hash.update(data)
        view = memoryview(data)
        self.size += len(view)
        file = self._open_file()
        try:
            while view:
                view = view[file.write(view) or 0 :]
        except OSError as error:
            raise store_error(self._path, error) from error
        if self.size - self._begun >= _WRITTEN_AT_ONCE:
            self._begin_writing(file)
        return len(data)

    @property
    def path(self) -> str:
        """The file that is written, until the content is committed."""
        return self._path

    def _begin_writing(self, file: io.FileIO) -> None:
        """What is in memory is on its way to the disk: `commit` will not have to wait for all of it."""
        # not loaded for what is small
        from unionfs import _sys

        # what cannot be begun, fsync(2) does as well
        with suppress(OSError):
            _sys.start_writing(file.fileno(), self._begun, self.size - self._begun)
        self._begun = self.size

    def digest(self) -> Digest:
        """The digest of what was written so far; only of a writer that hashes."""
        if self._hash is None:
            raise ValueError("this writer was told that its caller hashes")
        return from_hex(self._hash.hexdigest())

    def commit(self, digest: Digest | None = None, *, expected: Descriptor | None = None) -> Digest:
        """The content is in the store, durable, under its digest.

        ``digest`` is given by a caller that hashed by itself; ``expected`` is compared with what came.

        Raises:
            ContentMismatchError: size or digest differ from ``expected``; nothing is stored.
            StoreError: the disk is full and the like.
        """
        found = digest or self.digest()
        if expected is not None:
            _compare(expected, found, self.size)
        file = self._open_file()
        target = f"{self._directory}/{found.hex}"
        try:
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
            file.close()
            os.replace(self._path, target)
            self._file = None
            make_durable(self._directory)
        except OSError as error:
            raise store_error(target, error) from error
        return found

    def _open_file(self) -> io.FileIO:
        if self._file is None:
            raise ValueError("the blob was committed or given up already")
        return self._file


class BlobStore:
    """The blobs of one store. ``owner`` is asked before anything is written.

    ``mark``: what is found damaged is set aside (`layers.verifying`), and is then not there for who asks.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        temporary: str | os.PathLike[str],
        owner: Callable[[], Owner],
        *,
        mark: bool = False,
    ) -> None:
        self._directory = os.fspath(directory)
        self._temporary = os.fspath(temporary)
        self._owner = owner
        self._mark = mark

    def path(self, digest: Digest) -> Path:
        """Where the content of that digest lies, or would lie."""
        # pathlib is not loaded where nobody asks
        from pathlib import Path

        return Path(self._directory, digest.hex)

    def size(self, digest: Digest) -> int | None:
        """Bytes of the content, None when it is not there."""
        try:
            status = os.stat(f"{self._directory}/{digest.hex}")
            return None if self._mark and is_set_aside(status) else status.st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise store_error(self.path(digest), error) from error

    def lies_here(self, digest: Digest) -> bool:
        """Whether there is a file of that digest, be it found damaged: what was brought here once."""
        return os.path.lexists(f"{self._directory}/{digest.hex}")

    def __contains__(self, digest: Digest) -> bool:
        return self.size(digest) is not None

    def __iter__(self) -> Iterator[Digest]:
        """The digests of all blobs, sorted."""
        try:
            names = sorted(os.listdir(self._directory))
        except FileNotFoundError:
            return
        except OSError as error:
            raise store_error(self._directory, error) from error
        for name in names:
            try:
                yield from_hex(name)
            except FormatError:
                continue

    def writer(self, *, hashing: bool = True) -> BlobWriter:
        """A writer, to be used as a context manager. ``hashing=False``: the caller passes the digest to ``commit``."""
        return BlobWriter(self._directory, f"{self._temporary}/{temporary_name(self._owner())}", hashing=hashing)

    def put(
        self,
        content: bytes | BinaryIO | Iterable[bytes],
        *,
        expected: Descriptor | None = None,
        media_type: str = _ANY,
    ) -> Descriptor:
        """The content is stored, durable; ``expected`` when given, else a descriptor with ``media_type``.

        What is there already is not written again; the rest of a stream is then not read.

        Raises:
            ContentMismatchError: the content is not what ``expected`` says; nothing is stored.
            StoreError: the disk is full and the like.
        """
        if isinstance(content, bytes):
            found = sha256(content)
            if expected is not None:
                _compare(expected, found, len(content))
            if not self.refresh(found, len(content)):
                with self.writer(hashing=False) as writer:
                    writer.write(content)
                    writer.commit(found)
            return expected or Descriptor(media_type, found, len(content))
        if expected is not None and self.refresh(expected.digest, expected.size):
            return expected
        with self.writer() as writer:
            for chunk in _chunks(content):
                writer.write(chunk)
                if expected is not None and writer.size > expected.size:
                    _compare(expected, expected.digest, writer.size)
            found = writer.commit(expected=expected)
            return expected or Descriptor(media_type, found, writer.size)

    def open(self, digest: Digest) -> BinaryIO:
        """A reader that compares the digest at the end of the content; the caller closes it.

        Raises:
            BlobNotFoundError: there is no such blob.
            DamagedBlobError: from the read that finds the end, when the blob is damaged; at once when that was known.
        """
        return io.BufferedReader(VerifyingReader(self._open(digest), digest, mark=self._mark), CHUNK_BYTES)

    def read(self, digest: Digest, limit_bytes: int = 64 << 20) -> bytes:
        """The whole content, verified. For manifests and configurations, not for layers. Raises as `open`."""
        with self._open(digest) as raw:
            try:
                if os.fstat(raw.fileno()).st_size <= limit_bytes:
                    return read_verified(raw, digest, mark=self._mark)
            except OSError as error:
                raise store_error(self.path(digest), error) from error
        raise ContentMismatchError(f'blob "{self.path(digest)}" has more than {limit_bytes} bytes')

    def require(self, descriptor: Descriptor) -> None:
        """Nothing, when the blob is there in full length. Raises BlobNotFoundError, DamagedBlobError."""
        size = self.size(descriptor.digest)
        if size == descriptor.size:
            return
        self._open(descriptor.digest).close()
        path = self.path(descriptor.digest)
        raise DamagedBlobError(f'blob "{path}" is damaged: it has {size} bytes, expected {descriptor.size}')

    def verify(self, digest: Digest) -> None:
        """Nothing, when the content is what the digest says. Raises as `open`."""
        with self.open(digest) as content:
            while content.read(CHUNK_BYTES):
                pass

    def _open(self, digest: Digest) -> io.FileIO:
        """The file of a blob that is not known to be damaged."""
        path = f"{self._directory}/{digest.hex}"
        try:
            if self._mark and is_set_aside(os.stat(path)):
                raise known_damage(path)
            return io.FileIO(path, "rb")
        except FileNotFoundError as error:
            raise BlobNotFoundError(f'blob {digest} is not in the store "{self._directory}"') from error
        except OSError as error:
            raise store_error(path, error) from error

    def remove(self, digest: Digest) -> None:
        """No blob of that digest is there."""
        try:
            self.path(digest).unlink(missing_ok=True)
        except OSError as error:
            raise store_error(self.path(digest), error) from error

    def refresh(self, digest: Digest, size_bytes: int) -> bool:
        """Whether the blob is there in full length; if so, it counts as new for a collection.

        A small one is read: a damaged manifest or configuration is not there for who brings it again.
        """
        path = f"{self._directory}/{digest.hex}"
        try:
            if self.size(digest) != size_bytes:
                return False
            if size_bytes <= _SMALL_BYTES:
                self.read(digest)
            os.utime(path)
        except (BlobNotFoundError, DamagedBlobError):
            return False
        except FileNotFoundError:
            return False
        except OSError as error:
            raise store_error(path, error) from error
        return True


def _compare(expected: Descriptor, digest: Digest, size_bytes: int) -> None:
    if size_bytes != expected.size:
        raise ContentMismatchError(f"blob {expected.digest} has {size_bytes} bytes, expected {expected.size}")
    if digest != expected.digest:
        raise ContentMismatchError(f"blob has the digest {digest}, expected {expected.digest}")


def _chunks(content: BinaryIO | Iterable[bytes]) -> Iterator[bytes]:
    read = getattr(content, "read", None)
    if read is None:
        yield from content
        return
    while chunk := read(CHUNK_BYTES):
        yield chunk
