"""Unpacked layers: one directory a layer, named by the id of the stack it tops, each a branch as it lies.

::

    layers/<chain id>/fs            the branch; never changed once it is there
                      layer.json    diff ID, the stack below, how the directory came to be
    layers/active/<owner>/fs        a layer being made; the name carries its owner (layers.ownership)

A layer appears by one rename, so it is whole or not there; of two that are committed under one id the first stays.

What is durable: blobs are, directories are not synced. A directory that was made before the last boot of the machine
may therefore lack content; it is compared with its diff ID once, before it is used again, and is gone when it differs
(one that an archive filled: it is unpacked once more). Who makes and fills branches: ``layers.packing`` from what a
step wrote, ``layers.ensure`` from archives.

Invariants: ``layers/`` is private (0700), since what lies in it may be setuid; a stack lists only layers that were
there when it was made.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from layers.digest import ChainId, Digest, chain_id, from_hex
from layers.errors import FormatError, LayersError, StoreError
from layers.layerrecord import PACKED, UNPACKED, LayerRecord, boot_id
from layers.ownership import is_abandoned, temporary_name
from layers.storage import replace_file, store_error
from unionfs.namedtuple import NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from layers.pack import RootAttributes
    from layers.store import Store

_ACTIVE = "active"
_ATTEMPTS = 10


class Active(NamedTuple):
    """A fresh rw branch at ``path``, on top of the stack ``parent``. ``key`` is the caller's name for it."""

    key: str
    path: Path
    parent: ChainId | None


class Layer(NamedTuple):
    """An unpacked layer; ``path`` is its branch directory, ``chain`` the stack, bottom first, itself the last.

    ``blob`` is the digest under which it travels: of a layer that was packed here the diff ID.
    """

    chain_id: ChainId
    diff_id: Digest
    path: Path
    chain: tuple[ChainId, ...]
    blob: Digest


class Snapshotter:
    """The unpacked layers of ``store``."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._root = f"{store.directory}/layers"
        self._boot = ""
        self._sound: set[ChainId] = set()
        self._records: dict[ChainId, LayerRecord] = {}
        self._directories: dict[ChainId, Path] = {}

    # -- making layers ------------------------------------------------------------------------------------------------
    def prepare(self, key: str, parent: ChainId | None) -> Active:
        """A fresh, empty rw branch whose root has the attributes of the root below it.

        Raises:
            StoreError: the parent is not there, or the disk takes no more.
        """
        return self._prepare(key, parent, None if parent is None else self.directories(parent)[0])

    def prepare_on(self, key: str, below: Path) -> Active:
        """As `prepare`, on the branch ``below`` that is not yet a layer: the parent is still to be told.

        What the root of ``below`` gets after this is for `resemble`.

        Raises:
            StoreError: the disk takes no more.
        """
        return self._prepare(key, None, below)

    def _prepare(self, key: str, parent: ChainId | None, before: Path | str | None) -> Active:
        place = self._active_place()
        path = place / "fs"
        try:
            place.mkdir(mode=0o700, parents=True)
            path.mkdir(mode=0o755)
            if before is None:
                path.chmod(0o755)
        except OSError as error:
            raise store_error(path, error) from error
        active = Active(key, path, parent)
        if before is not None:
            self.resemble(active, before)
        return active

    def resemble(self, active: Active, below: Path | str) -> None:
        """The root of the branch has the attributes of the directory ``below``.

        Raises:
            StoreError: one of them can't be read or written.
        """
        try:
            status, own = os.stat(below), os.stat(active.path)
            if (status.st_uid, status.st_gid) != (own.st_uid, own.st_gid):
                os.chown(active.path, status.st_uid, status.st_gid)
            os.chmod(active.path, status.st_mode & 0o7777)
            os.utime(active.path, ns=(status.st_mtime_ns, status.st_mtime_ns))
        except OSError as error:
            raise store_error(active.path, error) from error

    def commit(
        self,
        active: Active,
        diff_id: Digest,
        parent: ChainId | None,
        *,
        size: int = 0,
        epoch: int | None = None,
        blob: Digest | None = None,
        in_use: bool = False,
    ) -> Layer:
        """The branch is the layer of that diff ID on top of ``parent``; its path is no longer valid.

        When the layer is there already, that one is returned, and the branch is dropped, or with ``in_use`` left to be
        removed when nobody stands on it any more. ``epoch`` is the one the branch was packed with. ``blob`` is the
        archive that filled the branch; None when it was packed here.
        """
        new = chain_id(parent, diff_id)
        chain = (*(() if parent is None else self._record(parent).chain), new)
        origin = PACKED if blob is None else UNPACKED
        record = LayerRecord(diff_id, chain, origin, self._boot_id(), size, epoch, blob)
        place, target = active.path.parent, self.path(new).parent
        try:
            with open(place / "layer.json", "xb", buffering=0) as file:
                file.write(record.to_bytes())
            self._move(place, target, new, keep=in_use)
        except OSError as error:
            raise store_error(target, error) from error
        self._sound.add(new)
        self._records[new] = record
        return Layer(new, diff_id, self.path(new), chain, blob or diff_id)

    def remove(self, active: Active) -> None:
        """The branch is gone. Idempotent; nothing happens after a commit that took it."""
        self._remove_tree(active.path.parent)

    # -- using layers -------------------------------------------------------------------------------------------------
    def has(self, chain: ChainId) -> bool:
        """Whether the layer and all those below it are there and sound.

        What was made before the last boot is compared with its diff ID, once.
        """
        if chain in self._sound:
            return True
        record = self._read(chain)
        if record is None or not all(self._is_sound(each, record if each == chain else None) for each in record.chain):
            return False
        self._sound.update(record.chain)
        self._records[chain] = record
        return True

    def view(self, chain: ChainId) -> tuple[Path, ...]:
        """The branch directories of the stack, top first, to be used as read-only branches.

        Raises:
            StoreError: the layer is not there.
        """
        return tuple(map(self._directory, reversed(self._record(chain).chain)))

    def directories(self, chain: ChainId) -> tuple[str, ...]:
        """As `view`, as text: for the start of a build, which loads no pathlib."""
        return tuple(f"{self._root}/{each.hex}/fs" for each in reversed(self._record(chain).chain))

    def path(self, chain: ChainId) -> Path:
        """The branch directory of the layer, whether it is there or not."""
        # pathlib is not loaded where nobody asks
        from pathlib import Path

        return Path(self._root, chain.hex, "fs")

    def _directory(self, chain: ChainId) -> Path:
        """As `path`, made once: stacks of one build have most of their layers in common."""
        if chain not in self._directories:
            self._directories[chain] = self.path(chain)
        return self._directories[chain]

    def layer(self, chain: ChainId) -> Layer | None:
        """The layer as it lies, None when it is not there."""
        record = self._read(chain)
        if record is None:
            return None
        return Layer(chain, record.diff_id, self.path(chain), record.chain, record.blob or record.diff_id)

    def differs(self, chain: ChainId) -> bool:
        """Whether the directory is known not to hold what its diff ID says; it is packed once more to tell.

        Of a layer that an archive filled nothing is known: False.
        """
        from layers.pack import write_layer

        record = self._record(chain)
        if record.origin != PACKED:
            return False
        try:
            root_before = self.root_attributes(record.chain[-2] if len(record.chain) > 1 else None)
            packed = write_layer(self.path(chain), None, epoch=record.epoch, root_before=root_before)
        except (LayersError, OSError):
            return True
        return packed.diff_id != record.diff_id

    def root_attributes(self, chain: ChainId | None) -> RootAttributes:
        """Mode and owner of the root of a stack; of an empty one those a root has when nothing says otherwise."""
        from layers.pack import RootAttributes

        return RootAttributes() if chain is None else RootAttributes.of(os.stat(self.directories(chain)[0]))

    def chains(self) -> Iterator[ChainId]:
        """The ids of all layers that are there, sorted."""
        try:
            names = sorted(os.listdir(self._root))
        except OSError as error:
            raise store_error(self._root, error) from error
        for name in names:
            try:
                yield ChainId(from_hex(name))
            except FormatError:
                continue

    def drop(self, chain: ChainId) -> None:
        """The layer is gone; at no instant is a part of it there. Layers above it become unusable."""
        self._sound.discard(chain)
        self._records.pop(chain, None)
        grave = self._active_place()
        try:
            grave.parent.mkdir(mode=0o700, exist_ok=True)
            self.path(chain).parent.rename(grave)
        except FileNotFoundError:
            return
        except OSError as error:
            raise store_error(grave, error) from error
        self._remove_tree(grave)

    def sweep(self) -> int:
        """Branches whose owners are gone are removed, whatever is in them; how many."""
        import time
        from pathlib import Path

        swept = 0
        try:
            with os.scandir(f"{self._root}/{_ACTIVE}") as found:
                for entry in found:
                    age_seconds = (time.time_ns() - entry.stat(follow_symlinks=False).st_mtime_ns) / 1e9
                    if is_abandoned(entry.name, age_seconds):
                        self._remove_tree(Path(entry.path))
                        swept += 1
        except FileNotFoundError:
            return swept
        except OSError as error:
            raise store_error(self._root, error) from error
        return swept

    # -- the rest -----------------------------------------------------------------------------------------------------
    def _move(self, place: Path, target: Path, new: ChainId, *, keep: bool) -> None:
        """The place becomes the target, unless a sound layer is there; then it is removed, unless it is to be kept."""
        for _ in range(_ATTEMPTS):
            try:
                place.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
            else:
                return
            if self._is_sound(new):
                if not keep:
                    self._remove_tree(place)
                return
            self.drop(new)
        raise StoreError(f'store: "{target}" is being replaced by somebody else')

    def _is_sound(self, chain: ChainId, record: LayerRecord | None = None) -> bool:
        """Whether the directory holds what its diff ID says; one that is known to be whole since the boot does.

        ``record`` is that of the layer, None when it has not been read.
        """
        if chain in self._sound:
            return True
        record = record or self._read(chain)
        if record is None or not os.path.isdir(f"{self._root}/{chain.hex}/fs"):
            return False
        if record.boot == self._boot_id():
            return True
        if record.origin == PACKED and not self.differs(chain):
            temporary = os.path.join(self.store.directory, "tmp", temporary_name(self.store.claim()))
            replace_file(
                f"{self._root}/{chain.hex}/layer.json", record._replace(boot=self._boot_id()).to_bytes(), temporary
            )
            return True
        self.drop(chain)
        return False

    def _read(self, chain: ChainId) -> LayerRecord | None:
        try:
            with open(f"{self._root}/{chain.hex}/layer.json", "rb", buffering=0) as file:
                return LayerRecord.from_bytes(file.read())
        except (OSError, FormatError):
            return None

    def _record(self, chain: ChainId) -> LayerRecord:
        record = self._records.get(chain) or self._read(chain)
        if record is None:
            raise StoreError(f'store: layer {chain} is not unpacked in "{self._root}"')
        return record

    def _active_place(self) -> Path:
        """A free name for a layer being made, or on its way out."""
        from pathlib import Path

        return Path(self._root, _ACTIVE, temporary_name(self.store.claim()))

    def _boot_id(self) -> str:
        if not self._boot:
            self._boot = boot_id()
        return self._boot

    @staticmethod
    def _remove_tree(path: Path) -> None:
        from unionfs.removal import remove_tree

        try:
            remove_tree(path)
        except OSError as error:
            raise store_error(error.filename or path, error) from error
