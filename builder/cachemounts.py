"""Caches of ``RUN --mount=type=cache``: where they lie, and how they travel as layers (``mode=max,mounts=true``).

    cache-mounts/<SHA-256 of the id>/0        the directory
                                     0.lock   flock(2), shared or exclusive as ``sharing`` says; its time: the last use
                                     0.new    what becomes the directory; made by the holder of the exclusive lock
                                     1, …     spare ones, made while another step has a private one; they don't travel
                                     id       the id, for people; not there where it came from elsewhere without one

Invariants: a directory appears whole, and only under the exclusive lock; what holds something is never replaced; an
archive is made under the shared lock, so that a locked or private cache is at rest, while a shared one is packed as its
steps leave it; what came from elsewhere is on disk before it has its name.  What cannot be packed or unpacked is a
warning.
"""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import BuildError, Interrupted
from builder.graph import CacheMount, Run, Step
from layers.digest import Digest
from layers.errors import LayersError
from unionfs.namedtuple import NamedTuple

if TYPE_CHECKING:
    from builder.exchange import RemoteCache
    from builder.session import Session
    from cache.remote import RemoteMount
    from layers.blobs import BlobWriter
    from layers.descriptor import Descriptor

CACHE_MOUNTS = "cache-mounts"
"""Directory of the caches, in the root directory."""
_ID = "id"
_WAIT_SECONDS = 0.1
_SHOWN_DIGITS = 12


class PackedMount(NamedTuple):
    """A cache whose content is a blob of the store, uncompressed; the rest are the attributes of its directory."""

    id: str
    blob: Descriptor
    mode: int
    uid: int
    gid: int


def identity(mount_id: str) -> str:
    """The name of the cache with that id, as directory and elsewhere."""
    import hashlib

    return hashlib.sha256(mount_id.encode("utf-8", "surrogateescape")).hexdigest()


def directory_of(root: str, name: str, number: int = 0) -> Path:
    """Where the cache of that ``identity`` lies."""
    return Path(root) / CACHE_MOUNTS / name / str(number)


def write_id(root: str, mount_id: str) -> None:
    """The id of the cache, whose parent directory is there, can be read by `read_id`."""
    name = identity(mount_id)
    if read_id(root, name) != mount_id:
        place = directory_of(root, name).with_name(_ID)
        place.write_text(mount_id, encoding="utf-8", errors="surrogateescape")


def read_id(root: str, name: str) -> str:
    """The id of the cache of that `identity`; empty where it is not known."""
    try:
        text = directory_of(root, name).with_name(_ID).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    # one that was cut short by a kill is none
    return text if identity(text) == name else ""


def try_lock(fd: int, kind: int) -> bool:
    """Whether the lock is held now, as ``LOCK_SH`` or ``LOCK_EX``."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_filled(place: Path) -> bool:
    """Whether the directory is there and holds something."""
    try:
        with os.scandir(place) as entries:
            return next(entries, None) is not None
    except FileNotFoundError:
        return False


def used_by(steps: Iterable[Step]) -> dict[str, str]:
    """The ids of the caches that ``steps`` mount, by `identity`."""
    operations = [step.operation for step in steps]
    mounts = [mount for operation in operations if isinstance(operation, Run) for mount in operation.mounts]
    return {identity(mount.id): mount.id for mount in mounts if isinstance(mount, CacheMount)}


def kept_in(root: str) -> dict[str, str]:
    """The caches of the root directory, by `identity`, each with a text for people."""
    parent = os.path.join(root, CACHE_MOUNTS)
    names = sorted(os.listdir(parent)) if os.path.isdir(parent) else ()
    return {name: read_id(root, name) or name[:_SHOWN_DIGITS] for name in names}


def pack_all(
    session: Session, wanted: Mapping[str, str], warn: Callable[[str], None], cancel: threading.Event
) -> list[PackedMount]:
    """Those of ``wanted`` that hold something are in the store as archives; of what can't be packed ``warn`` is told.

    ``wanted`` are ids by `identity`. Raises Interrupted.
    """
    found: list[PackedMount] = []
    for name in sorted(wanted):
        try:
            packed = _pack(session, name, cancel)
        except (LayersError, OSError) as error:
            warn(f"cache mount {wanted[name]!r} is not exported: {error}")
            continue
        if packed is not None:
            found.append(packed)
    return found


def _pack(session: Session, name: str, cancel: threading.Event) -> PackedMount | None:
    place = directory_of(session.root, name)
    try:
        lock = os.open(f"{place}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        while not try_lock(lock, fcntl.LOCK_SH):
            if cancel.wait(_WAIT_SECONDS):
                raise Interrupted
        if not is_filled(place):
            return None
        blob, status = _archive(session, place, cancel), place.stat()
        return PackedMount(name, blob, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
    finally:
        os.close(lock)


class _Stoppable:
    """Hands an archive on until nobody wants it any more."""

    def __init__(self, writer: BlobWriter, cancel: threading.Event) -> None:
        self._writer = writer
        self._cancel = cancel

    def write(self, data: bytes, /) -> object:
        """See ``layers.pack.Sink``. Raises Interrupted."""
        if self._cancel.is_set():
            raise Interrupted
        return self._writer.write(data)


def _archive(session: Session, place: Path, cancel: threading.Event) -> Descriptor:
    from layers import media
    from layers.descriptor import Descriptor
    from layers.pack import write_layer

    with session.store.blobs.writer(hashing=False) as writer:
        packed = write_layer(place, _Stoppable(writer, cancel))
        if not session.store.blobs.refresh(packed.diff_id, packed.size):
            writer.commit(packed.diff_id)
    return Descriptor(media.OCI_LAYER, packed.diff_id, packed.size)


def take(session: Session, cache: RemoteCache, mount: RemoteMount, place: Path, cancel: threading.Event) -> None:
    """``place``, absent or empty before and locked by the caller, holds what ``mount`` of ``cache`` does.

    Raises:
        LayersError, OSError: it cannot be had, or is not what its diff ID says; ``place`` is as it was.
    """
    from layers.store import Store
    from layers.unpack import apply_layer
    from unionfs.privileges import mapped_ids

    blob = cache.layers[mount.layer]
    active = session.snapshotter.prepare("mount", None)
    try:
        fresh = active.path / "cache"
        with Store(active.path / "archive") as passing:
            cache.place.fetch(passing, (blob,), cancel)
            with passing.blobs.open(blob.digest) as stream:
                apply_layer(stream, fresh, expected=Digest(mount.diff_id))
        if mapped_ids() > 1:
            os.chown(fresh, mount.uid, mount.gid)
        fresh.chmod(mount.mode)
        _make_durable(fresh)
        # an empty directory gives way, rename(2)
        fresh.rename(place)
    finally:
        session.snapshotter.remove(active)


def _make_durable(directory: Path) -> None:
    """The tree is on disk."""
    from unionfs._sys import sync_file_system

    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_file_system(fd)
    finally:
        os.close(fd)


def take_all(cache: RemoteCache, session: Session, warn: Callable[[str], None], cancel: threading.Event) -> int:
    """The caches that came with ``cache`` are here, but those that hold something already or are in use; how many."""
    taken = 0
    for name, mount in sorted(cache.mounts.items()):
        place = directory_of(session.root, name)
        try:
            taken += _take_idle(session, cache, mount, place, cancel)
        except (LayersError, OSError, BuildError) as error:
            warn(f"cache mount {name[:_SHOWN_DIGITS]!r} is not taken: {error}")
    return taken


def _take_idle(session: Session, cache: RemoteCache, mount: RemoteMount, place: Path, cancel: threading.Event) -> bool:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(f"{place}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not try_lock(lock, fcntl.LOCK_EX) or is_filled(place):
            return False
        take(session, cache, mount, place, cancel)
        os.utime(lock)
        return True
    finally:
        os.close(lock)
