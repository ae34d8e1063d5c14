"""The store: images by name, content by digest, several processes at once.

Invariants: a name refers to a manifest that was in the store when the name was given; the index is changed under a
lock and replaced as a whole. A store object that has written notes itself as a user (a shared lock on ``in-use``) until
it is closed or collected, so that nothing it holds is taken for garbage meanwhile (layers.gc).
"""

from __future__ import annotations

import fcntl
import os
from _thread import allocate_lock  # threading itself takes as long to load as five modules of ours
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from layers import media
from layers.blobs import BlobStore
from layers.config import ImageConfig
from layers.descriptor import REF_NAME, Descriptor
from layers.digest import Digest
from layers.errors import (
    BlobNotFoundError,
    DamagedBlobError,
    FormatError,
    ImageNotFoundError,
    LayersError,
    NotAnImageError,
    StoreError,
)
from layers.layout import locked, open_layout, read_index, write_index
from layers.manifest import Index, Manifest, parse
from layers.ownership import Owner, is_abandoned, this_process
from layers.platform import Platform, host
from layers.reference import Reference
from layers.storage import store_error
from unionfs.namedtuple import NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

_SHORTEST_PREFIX = 4
_HEX = frozenset("0123456789abcdef")


class StoredImage(NamedTuple):
    """An image of the store. ``descriptor`` is that of ``manifest``; ``names`` are the names asked for or all."""

    names: tuple[str, ...]
    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig

    @property
    def id(self) -> Digest:
        """The digest of the configuration: what people call the image id."""
        return self.manifest.config.digest


class Store:
    """One directory of images (layers.layout); made when it is not there.

    Raises:
        StoreError: the directory is no store, of a newer version, or cannot be made.
    """

    def __init__(self, root: Path | str) -> None:
        self.directory = os.path.abspath(root)
        self._use = -1
        self._use_lock = allocate_lock()
        self._owner: Owner | None = None
        open_layout(self.directory)
        temporary = os.path.join(self.directory, "tmp")
        self.blobs = BlobStore(os.path.join(self.directory, "blobs", "sha256"), temporary, self.claim, mark=True)

    @property
    def root(self) -> Path:
        """``directory`` as a path."""
        # pathlib is not loaded where nobody asks
        from pathlib import Path

        return Path(self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """The store is no longer noted as in use by this object. Idempotent; the object may be used again."""
        if self._use >= 0:
            os.close(self._use)
            self._use = -1

    def claim(self) -> Owner:
        """This process, noted as a user of the store: what it writes from now on is no garbage."""
        self.use_descriptor()
        pid = os.getpid()
        if self._owner is None or self._owner.pid != pid:
            self._owner = this_process()
        return self._owner

    def use_descriptor(self) -> int:
        """The descriptor of ``in-use`` with at least a shared lock; the store closes it."""
        # steps that run side by side come here from their threads
        with self._use_lock:
            if self._use < 0:
                path = f"{self.directory}/in-use"
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
                except OSError as error:
                    raise store_error(path, error) from error
                fcntl.flock(fd, fcntl.LOCK_SH)
                self._use = fd
            return self._use

    # -- names ----------------------------------------------------------------------------------------------------
    def entries(self) -> tuple[Descriptor, ...]:
        """The descriptors of the index as they are: manifests or indexes, named or not."""
        return read_index(self.directory)

    def tag(self, reference: Reference | str, manifest: Descriptor) -> None:
        """The name refers to this manifest (or index), and to nothing else.

        Raises:
            BlobNotFoundError: the manifest is not in the store.
        """
        name = Reference.parse(reference).name if isinstance(reference, str) else reference.name
        if manifest.digest not in self.blobs:
            raise BlobNotFoundError(
                f'image "{name}": manifest {manifest.digest} is not in the store "{self.directory}"'
            )
        with locked(self.directory):
            self._tag(name, manifest)

    def _tag(self, name: str, manifest: Descriptor) -> None:
        """As `tag`; under the lock."""
        named = manifest._replace(annotations={**manifest.annotations, REF_NAME: name})
        entries = read_index(self.directory)
        kept = [entry for entry in entries if not _gives_way(entry, name, manifest)]
        if len(kept) != len(entries) - 1 or named not in entries:
            write_index(self.directory, [*kept, named])

    def keep(self, manifest: Descriptor) -> None:
        """The index lists this manifest (or index), without a name unless it has one already.

        Raises:
            BlobNotFoundError: the manifest is not in the store.
        """
        if manifest.digest not in self.blobs:
            raise BlobNotFoundError(f'image: manifest {manifest.digest} is not in the store "{self.directory}"')
        with locked(self.directory):
            entries = read_index(self.directory)
            if all(entry.digest != manifest.digest for entry in entries):
                write_index(self.directory, [*entries, manifest])

    def untag(self, reference: Reference | str) -> Descriptor | None:
        """The name refers to nothing. What it referred to, or None; blobs stay until a collection."""
        name = Reference.parse(reference).name if isinstance(reference, str) else reference.name
        with locked(self.directory):
            entries = read_index(self.directory)
            kept = [entry for entry in entries if entry.annotations.get(REF_NAME) != name]
            if len(kept) != len(entries):
                write_index(self.directory, kept)
        return next((entry for entry in entries if entry.annotations.get(REF_NAME) == name), None)

    def forget(self, manifest: Digest) -> None:
        """No name refers to the manifest (or index) of this digest."""
        with locked(self.directory):
            entries = read_index(self.directory)
            kept = [entry for entry in entries if entry.digest != manifest]
            if len(kept) != len(entries):
                write_index(self.directory, kept)

    # -- images ---------------------------------------------------------------------------------------------------
    def resolve(self, wanted: Reference | str, platform: Platform | None = None) -> StoredImage | None:
        """The image of that name, id, digest or beginning of an id (at least 4 digits); None when there is none.

        A name goes before an id. ``platform`` chooses from a multi-platform image; None: this machine's, else the first
        that is here.

        Raises:
            StoreError: the beginning of an id fits several images; content is missing.
            ContentMismatchError: a manifest or configuration is damaged.
        """
        entries = self.entries()
        found = _find_name(entries, wanted)
        if found is None and isinstance(wanted, str):
            return self._find_id(entries, wanted, platform)
        return None if found is None else self._load(found, platform)

    def image(self, wanted: Reference | str, platform: Platform | None = None) -> StoredImage:
        """As ``resolve``, but it is an error when there is none. Raises ImageNotFoundError."""
        found = self.resolve(wanted, platform)
        if found is None:
            there = platform is not None and self.resolve(wanted) is not None
            problem = f"has no manifest for {platform}" if there else f'is not in the store "{self.directory}"'
            raise ImageNotFoundError(f'image "{wanted}" {problem}')
        return found

    def find(self, wanted: Reference | str) -> Descriptor | None:
        """The manifest or index of that name, whatever platforms it has; None when there is no such name."""
        return _find_name(self.entries(), wanted)

    def target(self, wanted: Reference | str) -> Descriptor:
        """What the name, id or digest refers to: the manifest of one image, or the index of a multi-platform one.

        Raises ImageNotFoundError.
        """
        found = self.find(wanted)
        if found is not None:
            return found
        entries = self.entries()
        image = self.image(wanted)
        for entry in entries:
            if entry.digest == image.descriptor.digest or wanted in {entry.digest, entry.digest.hex}:
                return entry
        return next((entry for entry in entries if self._leads_to(entry, image.descriptor.digest)), image.descriptor)

    def tag_platform(self, reference: Reference, manifest: Descriptor, platform: Platform) -> None:
        """The name refers to this manifest for ``platform``, and to what it did for other platforms.

        Raises:
            BlobNotFoundError: the manifest is not in the store.
        """
        with locked(self.directory):
            # two platforms may arrive at the same time
            entry = _find_name(read_index(self.directory), reference)
            others = [] if entry is None else [one for one in self._platforms(entry) if one.platform != platform]
            if others:
                index = Index.create([*others, manifest._replace(platform=platform, annotations={})])
                manifest = self.blobs.put(index.raw, media_type=index.media_type)
            self._tag(reference.name, manifest)

    def images(self, unreadable: Callable[[str, LayersError], None] | None = None) -> Iterator[StoredImage]:
        """All images, each once with all its names; a multi-platform image as the one for this machine.

        What is no image, such as an artifact, is left out. ``unreadable`` gets the name or digest of an image whose
        manifest or configuration is damaged or gone, and why; without it the error is raised.
        """
        names: dict[Digest, list[str]] = {}
        first: dict[Digest, Descriptor] = {}
        for entry in self.entries():
            first.setdefault(entry.digest, entry)
            own = names.setdefault(entry.digest, [])
            if REF_NAME in entry.annotations:
                own.append(entry.annotations[REF_NAME])
        for digest, entry in first.items():
            try:
                image = self._load_if_image(entry, None)
            except (DamagedBlobError, BlobNotFoundError) as error:
                if unreadable is None:
                    raise
                unreadable(next(iter(sorted(names[digest])), digest), error)
                continue
            if image is not None:
                yield image._replace(names=tuple(sorted(names[digest])))

    def load(self, descriptor: Descriptor, platform: Platform | None = None) -> StoredImage:
        """The image that a descriptor refers to, be it listed or not; of an index the one for ``platform``.

        Raises ImageNotFoundError: the index has none.
        """
        found = self._load(descriptor, platform)
        if found is None:
            raise ImageNotFoundError(f'image "{descriptor.digest}" has no manifest for {platform or host()}')
        return found

    def read_manifest(self, descriptor: Descriptor) -> Manifest | Index:
        """The manifest or index that the descriptor refers to, verified."""
        return parse(self.blobs.read(descriptor.digest), descriptor.media_type)

    def sweep(self) -> int:
        """Temporary files whose owners are gone are removed; how many."""
        swept = 0
        directory = os.path.join(self.directory, "tmp")
        now_ns = _now_ns(directory)
        try:
            with os.scandir(directory) as found:
                for entry in found:
                    age_seconds = (now_ns - entry.stat(follow_symlinks=False).st_mtime_ns) / 1e9
                    if is_abandoned(entry.name, age_seconds):
                        os.unlink(entry.path)
                        swept += 1
        except FileNotFoundError:
            return swept
        except OSError as error:
            raise store_error(directory, error) from error
        return swept

    def _find_id(self, entries: tuple[Descriptor, ...], text: str, platform: Platform | None) -> StoredImage | None:
        prefix = text.removeprefix("sha256:")
        if len(prefix) < _SHORTEST_PREFIX or not _HEX.issuperset(prefix):
            return None
        fitting: dict[Digest, StoredImage] = {}
        for entry in entries:
            image = self._load_if_image(entry, platform)
            if image is not None and any(
                digest.hex.startswith(prefix) for digest in (image.id, image.descriptor.digest, entry.digest)
            ):
                fitting.setdefault(image.id, image)
        if len(fitting) > 1:
            raise StoreError(f'image "{text}" is ambiguous: it begins the ids of {len(fitting)} images')
        return next(iter(fitting.values()), None)

    def _load(self, entry: Descriptor, platform: Platform | None) -> StoredImage | None:
        """The image of an entry for that platform, None when there is none. Raises NotAnImageError."""
        name = entry.annotations.get(REF_NAME)
        descriptor, manifest = entry, self.read_manifest(entry)
        if isinstance(manifest, Index):
            selected = self._select(manifest, platform)
            if selected is None:
                return None
            descriptor, manifest = selected, self.read_manifest(selected)
        if isinstance(manifest, Index):
            raise FormatError(f'image "{name or entry.digest}": an index inside an index is not supported')
        if manifest.config.media_type not in media.CONFIGS:
            kind = manifest.artifact_type or manifest.config.media_type
            raise NotAnImageError(f'image "{name or entry.digest}" is an artifact of type {kind}')
        config = ImageConfig.from_bytes(self.blobs.read(manifest.config.digest))
        return StoredImage((name,) if name else (), descriptor, manifest, config)

    def _load_if_image(self, entry: Descriptor, platform: Platform | None) -> StoredImage | None:
        """As `_load`; None also for what is no image."""
        try:
            return self._load(entry, platform)
        except NotAnImageError:
            return None

    def _select(self, index: Index, platform: Platform | None) -> Descriptor | None:
        """Of what is here the manifest for ``platform``; without one this machine's, else the first."""
        here = index._replace(manifests=tuple(entry for entry in index.manifests if self.blobs.lies_here(entry.digest)))
        if platform is not None:
            return here.select(platform)
        return here.select(host()) or next(iter(here.images), None)

    def _platforms(self, entry: Descriptor) -> tuple[Descriptor, ...]:
        """The images of an entry that are here, each with its platform."""
        try:
            found = self.read_manifest(entry)
            image = None if isinstance(found, Index) else self._load_if_image(entry, None)
        except DamagedBlobError:
            # what replaces it need not wait for what it said
            return ()
        if isinstance(found, Index):
            here = (one for one in found.images if self.blobs.lies_here(one.digest) and one.platform is not None)
            return tuple(one._replace(platform=one.platform and one.platform.normalised()) for one in here)
        if image is None:
            return ()
        return (entry._replace(annotations={}, platform=image.config.platform.normalised()),)

    def _leads_to(self, entry: Descriptor, manifest: Digest) -> bool:
        found = self.read_manifest(entry)
        return isinstance(found, Index) and any(one.digest == manifest for one in found.manifests)


def _gives_way(entry: Descriptor, name: str, manifest: Descriptor) -> bool:
    """Whether an entry ends when ``name`` is given to ``manifest``: it has the name, or only keeps the manifest."""
    keeps_only = entry.digest == manifest.digest and not entry.annotations and not entry.extra
    return keeps_only or entry.annotations.get(REF_NAME) == name


def _find_name(entries: tuple[Descriptor, ...], wanted: Reference | str) -> Descriptor | None:
    named = {entry.annotations[REF_NAME]: entry for entry in entries if REF_NAME in entry.annotations}
    if isinstance(wanted, str):
        if wanted in named:
            # other programs write names as they are given, without a tag
            return named[wanted]
        try:
            wanted = Reference.parse(wanted)
        except FormatError:
            return None
    if wanted.digest is None:
        return named.get(wanted.name)
    for name in (wanted.name, wanted._replace(tag=None).name):
        if name in named:
            return named[name]
    # any name of the same repository whose manifest has the digest
    for name, entry in named.items():
        if entry.digest == wanted.digest and _repository(name) == wanted[:2]:
            return entry
    return None


def _repository(name: str) -> tuple[str, str] | None:
    try:
        return Reference.parse(name)[:2]
    except FormatError:
        return None


def _now_ns(directory: str) -> int:
    """The time by the clock of the filesystem's host."""
    import time

    try:
        return max(time.time_ns(), os.stat(directory).st_mtime_ns)
    except OSError:
        return time.time_ns()
