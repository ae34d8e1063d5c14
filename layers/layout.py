"""The directory of a store: an image layout with unpacked layers and an index of the cache beside it.

::

    <root>/version       "1": what this program may meet; written last, so that a store is whole or not there
           oci-layout    image-spec, image-layout.md#oci-layout-file
           index.json    the images: one descriptor a name; changed under the lock alone
           blobs/sha256  layers.blobs
           layers/       layers.snapshotter, mode 0700: unpacked files may be setuid
           tmp/          what is being written; names carry their owner (layers.ownership)
           lock          flock: index.json is being changed, or the store is being made
           in-use        flock, shared: somebody may hold content that no image refers to yet; exclusive: a collection

Invariants: everything under the root is private to its owner. Opening a store that is there writes nothing.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from layers import gojson, media
from layers.descriptor import Descriptor
from layers.errors import FormatError, StoreError
from layers.ownership import temporary_name, this_process
from layers.storage import make_durable, replace_file, store_error

VERSION = 1
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
"""Content of ``oci-layout``."""
_OWN_NAMES = frozenset({"blobs", "layers", "tmp", "lock", "in-use", "oci-layout", "index.json", "version"})


def open_layout(root: str | os.PathLike[str]) -> None:
    """The directory is a store of this version; it is made when it is absent or empty.

    Raises:
        StoreError: it is a store of a newer version, holds something else, or cannot be made.
    """
    version = _read_version(root)
    if version is None:
        _create(root)
    elif version > VERSION:
        raise StoreError(f'store: "{root}" has version {version}, this program knows versions up to {VERSION}')


def _read_version(root: str | os.PathLike[str]) -> int | None:
    try:
        with open(f"{root}/version", "rb", buffering=0) as file:
            text = file.read(20)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise store_error(f"{root}/version", error) from error
    try:
        return int(text)
    except ValueError as error:
        raise StoreError(f'store: "{root}/version" is damaged: {text!r} is no number') from error


def _create(root: str | os.PathLike[str]) -> None:
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
        with locked(root):
            if _read_version(root) is not None:
                return
            foreign = sorted(set(os.listdir(root)) - _OWN_NAMES)
            if foreign and not os.path.exists(f"{root}/oci-layout"):
                raise StoreError(f'store: "{root}" is no store and not empty: it holds "{foreign[0]}"')
            for name in ("blobs", "blobs/sha256", "layers", "tmp"):
                os.makedirs(f"{root}/{name}", mode=0o700, exist_ok=True)
            os.close(os.open(f"{root}/in-use", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            if not os.path.exists(f"{root}/index.json"):
                write_index(root, ())
            replace_file(f"{root}/oci-layout", LAYOUT, _temporary(root))
            replace_file(f"{root}/version", b"%d\n" % VERSION, _temporary(root))
            make_durable(os.path.dirname(os.path.abspath(root)))
    except OSError as error:
        raise store_error(root, error) from error


def _temporary(root: str | os.PathLike[str]) -> str:
    return os.path.join(root, "tmp", temporary_name(this_process()))


@contextmanager
def locked(root: str | os.PathLike[str]) -> Generator[None, None, None]:
    """Nobody else changes the index inside this block."""
    path = f"{root}/lock"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise store_error(path, error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def read_index(root: str | os.PathLike[str]) -> tuple[Descriptor, ...]:
    """The descriptors of the images.

    Raises:
        StoreError: the index is missing or damaged.
    """
    path = f"{root}/index.json"
    try:
        with open(path, "rb", buffering=0) as file:
            raw = file.readall()
    except OSError as error:
        raise store_error(path, error) from error
    try:
        entries = gojson.as_list(gojson.loads_object(raw, "index").get("manifests"), "index: manifests")
        return tuple(Descriptor.from_json(entry, "index: manifest") for entry in entries)
    except FormatError as error:
        raise StoreError(f'store: "{path}" is damaged: {error}') from error


def write_index(root: str | os.PathLike[str], entries: Sequence[Descriptor]) -> None:
    """The index holds exactly these descriptors; to be called under the lock."""
    index: gojson.JsonObject = {"schemaVersion": 2, "mediaType": media.OCI_INDEX}
    index["manifests"] = [entry.to_json() for entry in entries]
    replace_file(f"{root}/index.json", gojson.dumps(index), _temporary(root))
