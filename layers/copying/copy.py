"""An image from one place to another, unchanged: its manifests byte by byte, so that every digest stays.

::

    origin: tree of manifests ─▶ blobs, several at a time ─▶ manifests from below ─▶ the name
                                 there already · mounted · streamed

Invariants: nothing is unpacked, compressed or written anew; the name is given last, so that what breaks off leaves at
most blobs without a name, which the next try finds. Archives are no places for single blobs: they go through the store,
where a collection finds what a copy that broke off has left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING

from layers.archive import write_docker_archive, write_oci_archive
from layers.copying.addresses import Address
from layers.copying.places import BlobsOrigin, BlobsTarget, Origin, Target
from layers.copying.registries import RegistryOrigin, RegistryTarget
from layers.descriptor import Descriptor
from layers.errors import ArchiveError, FormatError, ImageNotFoundError
from layers.layoutdir import LayoutDirectory
from layers.load import load
from layers.pack import Sink
from layers.platform import Platform, host
from layers.reference import Reference
from layers.registry.progress import Callback, Reporter
from layers.registry.pushing import mount_sources
from layers.registry.settings import DEFAULTS, RegistrySettings
from layers.registry.workers import Transfer
from layers.store import Store
from layers.tree import Node
from unionfs.namedtuple import NamedTuple

if TYPE_CHECKING:
    from layers.digest import Digest

_MOST_REFERRERS = 1000

OpenOutput = Callable[[], AbstractContextManager[Sink]]


class Wanted(NamedTuple):
    """What of an image is copied: ``platform`` alone or all of them; ``referrers``: what is attached to it as well."""

    platform: Platform | None = None
    referrers: bool = False


class Sides(NamedTuple):
    """How registries are reached on both sides, and where an archive is written to."""

    source: RegistrySettings = DEFAULTS
    target: RegistrySettings = DEFAULTS
    output: OpenOutput | None = None


_EVERYTHING = Wanted()
_USUAL = Sides()


def copy(
    store: Store,
    source: Address,
    target: Address,
    wanted: Wanted = _EVERYTHING,
    sides: Sides = _USUAL,
    *,
    progress: Callback | None = None,
    cancel: threading.Event | None = None,
) -> Digest:
    """The image of ``source`` is at ``target``, its manifests and blobs byte by byte; the digest of its manifest.

    Archives of docker hold no manifest, so that only configurations, and with them image ids, stay the same there.

    Raises:
        RegistryError: see `layers.registry.errors`.
        LayersError: a place does not have, or does not take, what is due.
    """
    stop = cancel or threading.Event()
    store.claim()
    with ExitStack() as stack:
        origin = _open_origin(store, source, sides.source, stop, stack)
        if target.kind == "docker-archive" and wanted.platform is None:
            wanted = wanted._replace(platform=host())
        place = _open_target(store, target, sides, stop, stack)
        work = _Work(origin, place, progress)
        tree = origin.tree(wanted.platform)
        work.blobs(tree.blobs())
        attached = _attached(origin, tree) if wanted.referrers else ()
        for node in attached:
            work.blobs(node.blobs())
        if target.kind in {"docker-archive", "oci-archive"} and attached:
            raise FormatError(f"{target}: an archive holds one image, without what is attached to it")
        place.finish(tree)
        for node in attached:
            place.keep(node)
    return tree.found.digest


class _Work:
    """Blobs on their way, as many at a time as the registry's side allows."""

    def __init__(self, origin: Origin, target: Target, progress: Callback | None) -> None:
        self._origin = origin
        self._target = target
        self._reporter = Reporter("push" if isinstance(target, RegistryTarget) else "pull", progress)
        sides = (side.transfer for side in (target, origin) if isinstance(side, RegistryTarget | RegistryOrigin))
        transfers = list(sides)
        self._transfer: Transfer | None = transfers[0] if transfers else None
        if len(transfers) > 1:
            transfers[0].accompany(transfers[1])

    def blobs(self, blobs: Iterable[Descriptor]) -> None:
        """All of them are at the target."""
        due = list(blobs)
        if self._transfer is None:
            for blob in due:
                self._take(blob)
        else:
            self._transfer.map(self._take, due)

    def _take(self, blob: Descriptor) -> None:
        self._target.take(blob, self._origin, self._reporter)


def _attached(origin: Origin, tree: Node) -> tuple[Node, ...]:
    """What refers to a manifest of the tree, and what refers to that; each after what it refers to."""
    found: dict[Digest, Node] = {}
    due = [node.found.digest for node in tree.walk()]
    seen = set(due)
    while due:
        for descriptor in origin.referrers(due.pop(0)):
            if descriptor.digest in seen:
                continue
            if len(found) == _MOST_REFERRERS:
                raise FormatError(f"more than {_MOST_REFERRERS} manifests refer to the image")
            seen.add(descriptor.digest)
            found[descriptor.digest] = origin.below(descriptor)
            due.append(descriptor.digest)
    return tuple(found.values())


def _open_origin(
    store: Store, address: Address, settings: RegistrySettings, cancel: threading.Event, stack: ExitStack
) -> Origin:
    if address.kind == "docker":
        return stack.enter_context(RegistryOrigin(Reference.parse(address.name), settings, cancel))
    if address.kind == "oci":
        layout = LayoutDirectory(address.path)
        return BlobsOrigin(layout.blobs, layout.find(address.name), str(address), layout.entries)
    if address.kind == "store":
        found = store.find(address.name) or store.image(address.name).descriptor
        return BlobsOrigin(
            store.blobs, found, str(address), store.entries, lambda registry: mount_sources(store, registry, "")
        )
    return BlobsOrigin(store.blobs, _load(store, address), str(address), tuple)


def _load(store: Store, address: Address) -> Descriptor:
    """The image of an archive, whose content is in the store without a name."""
    try:
        with open(address.path, "rb") as file:
            images = load(store, file, named=False)
    except OSError as error:
        raise ArchiveError(f'archive "{address.path}": {(error.strerror or "").lower()}') from error
    wanted = Reference.parse(address.name).name if address.name else ""
    fitting = [image for image in images if not wanted or wanted in image.names]
    if len(fitting) == 1:
        return fitting[0].descriptor
    there = ", ".join(name for image in images for name in image.names) or "none with a name"
    which = f'no image "{address.name}"' if wanted and not fitting else f"{len(fitting)} images to choose from"
    raise ImageNotFoundError(f'archive "{address.path}": it has {which}, there are {there}')


def _open_target(store: Store, address: Address, sides: Sides, cancel: threading.Event, stack: ExitStack) -> Target:
    if address.kind == "docker":
        return stack.enter_context(RegistryTarget(Reference.parse(address.name), sides.target, cancel))
    if address.kind == "oci":
        layout = LayoutDirectory(address.path, create=True)
        return BlobsTarget(
            layout.blobs, lambda found: layout.name(address.name, found), lambda found: layout.name("", found)
        )
    if address.kind == "store":
        reference = Reference.parse(address.name)
        return BlobsTarget(store.blobs, lambda found: store.tag(reference, found), _refuse)
    name = Reference.parse(address.name).name if address.name else None
    if sides.output is None:
        raise ValueError("an archive needs an output")
    opened = sides.output
    return BlobsTarget(store.blobs, lambda found: _write_archive(store, address, name, found, opened), _refuse)


def _write_archive(
    store: Store, address: Address, name: str | None, found: Descriptor, open_output: OpenOutput
) -> None:
    with open_output() as out:
        if address.kind == "oci-archive":
            write_oci_archive(store, [(found, name)], out)
            return
        image = store.load(found)
        write_docker_archive(store, [(image, (name,) if name else ())], out)


def _refuse(descriptor: Descriptor) -> None:
    raise FormatError(f"{descriptor.artifact_type or descriptor.media_type}: the store keeps images alone")
