"""An image layout as any program may have made it: a directory that images are read from and written to.

::

    <directory>/oci-layout    image-spec, image-layout.md#oci-layout-file
                index.json    replaced as a whole, under a lock on the directory itself
                blobs/sha256  layers.blobs; what is being written lies beside them under names that carry their owner

Invariants: nothing but these is left in it; a name refers to what is there as a whole; what another program keeps in
the index stays. A directory that is a store is refused: its images have owners who expect them under the store's lock.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress

from layers import gojson, media
from layers.blobs import BlobStore
from layers.descriptor import REF_NAME, Descriptor
from layers.errors import ImageNotFoundError, StoreError
from layers.layout import LAYOUT, read_index
from layers.ownership import is_abandoned, temporary_name, this_process
from layers.storage import replace_file, store_error


class LayoutDirectory:
    """The layout in ``path``; made when ``create`` says so and it is absent or empty.

    Raises:
        StoreError: it is no layout, or cannot be made.
    """

    def __init__(self, path: str, *, create: bool = False) -> None:
        self.path = os.path.abspath(path)
        self._blobs = os.path.join(self.path, "blobs")
        if create:
            self._create()
        elif not os.path.isfile(os.path.join(self.path, "oci-layout")):
            raise StoreError(f'layout "{path}": it is no image layout: it has no file "oci-layout"')
        self.blobs = BlobStore(os.path.join(self._blobs, "sha256"), self._blobs, this_process)

    def entries(self) -> tuple[Descriptor, ...]:
        """What the index lists."""
        return read_index(self.path)

    def find(self, wanted: str) -> Descriptor:
        """The entry with this name: as it is written there, or as its last part; of nothing the only one there is.

        Raises:
            ImageNotFoundError: there is none, or more than one could be meant.
        """
        entries = self.entries()
        if wanted.startswith("@"):
            fitting = [entry for entry in entries if entry.digest == wanted[1:]]
        elif wanted:
            exact = [entry for entry in entries if entry.annotations.get(REF_NAME) == wanted]
            fitting = exact or [entry for entry in entries if _last_part(entry) == wanted]
        else:
            fitting = list(entries)
        if len({entry.digest for entry in fitting}) == 1:
            return fitting[0]
        there = ", ".join(sorted({entry.annotations.get(REF_NAME) or f"@{entry.digest}" for entry in entries}))
        which = f'no image "{wanted}"' if wanted and not fitting else f"{len(fitting)} images to choose from"
        raise ImageNotFoundError(f'layout "{self.path}": it has {which}, there are {there or "none"}')

    def name(self, name: str, manifest: Descriptor) -> None:
        """``name`` refers to this manifest, and to nothing else; without a name the index lists it."""
        named = manifest._replace(annotations={**manifest.annotations, REF_NAME: name}) if name else manifest
        with self._locked():
            entries = self.entries()
            kept = [entry for entry in entries if entry != named and (not name or _name(entry) != name)]
            self._write_index([*kept, named])

    def _create(self) -> None:
        if os.path.exists(os.path.join(self.path, "version")):
            raise StoreError(f'layout "{self.path}": it is a store, whose images have names of their own')
        try:
            os.makedirs(self.path, exist_ok=True)
            with self._locked():
                if not os.path.exists(os.path.join(self.path, "oci-layout")):
                    foreign = sorted(set(os.listdir(self.path)) - {"blobs", "index.json"})
                    if foreign:
                        raise StoreError(f'layout "{self.path}": it is no image layout and holds "{foreign[0]}"')
                    os.makedirs(os.path.join(self._blobs, "sha256"), exist_ok=True)
                    if not os.path.exists(os.path.join(self.path, "index.json")):
                        self._write_index([])
                    replace_file(os.path.join(self.path, "oci-layout"), LAYOUT, self._temporary())
                os.makedirs(os.path.join(self._blobs, "sha256"), exist_ok=True)
                self._sweep()
        except OSError as error:
            raise store_error(self.path, error) from error

    def _sweep(self) -> None:
        """What killed processes were writing is gone."""
        for name in os.listdir(self._blobs):
            if is_abandoned(name, 0):
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(self._blobs, name))

    def _write_index(self, entries: list[Descriptor]) -> None:
        index: gojson.JsonObject = {"schemaVersion": 2, "mediaType": media.OCI_INDEX}
        with suppress(FileNotFoundError), open(os.path.join(self.path, "index.json"), "rb") as file:
            index |= gojson.loads_object(file.read(), f'layout "{self.path}": index.json')
        index["manifests"] = [entry.to_json() for entry in entries]
        replace_file(os.path.join(self.path, "index.json"), gojson.dumps(index), self._temporary())

    def _temporary(self) -> str:
        return os.path.join(self._blobs, temporary_name(this_process()))

    @contextmanager
    def _locked(self) -> Generator[None]:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def _name(entry: Descriptor) -> str | None:
    return entry.annotations.get(REF_NAME)


def _last_part(entry: Descriptor) -> str:
    """``1`` of ``registry.lan/team/app:1``."""
    return (_name(entry) or "").rpartition("/")[2].rpartition(":")[2]
