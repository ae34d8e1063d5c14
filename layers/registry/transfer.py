"""Images between a store and a registry: look, fetch, send. The front of this package.

Calls block; threads of their own carry the blobs (`layers.registry.workers`), and nothing of them is left when a call
returns. Setting ``cancel`` from another thread, or Ctrl-C in the calling one, ends a call within a fraction of a second
(an attempt to connect: within ``Patience.connect_seconds``).

Invariants: a blob is in the store only under the digest of its bytes; a name is given only when everything it needs is
there, here or in the registry. Importing this module is cheap; oras and requests come with the first call.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

from layers.descriptor import Descriptor
from layers.digest import Digest
from layers.platform import Platform
from layers.reference import Reference
from layers.registry.progress import Callback, TransferProgress
from layers.registry.settings import DEFAULTS, RegistrySettings
from layers.store import Store, StoredImage
from unionfs.namedtuple import NamedTuple

__all__ = ["Elsewhere", "ResolvedImage", "TransferProgress", "pull", "push", "resolve"]


class Elsewhere(Protocol):
    """What has layers that a store lacks; called by several threads."""

    def repositories(self, digest: Digest) -> tuple[Reference, ...]:
        """Names in repositories that have the layer."""
        ...

    def fetch(self, blobs: Sequence[Descriptor], cancel: threading.Event) -> None:
        """Those of ``blobs`` that can be had are in the store. Exceptions are passed on to the caller of `push`."""
        ...


class ResolvedImage(NamedTuple):
    """What a name in a registry means for one platform, without its layers.

    ``raw`` are the bytes of the manifest that ``manifest`` describes, ``config`` those of the configuration; ``parent``
    describes the multi-platform index that led there, if any; ``host`` is who answered.
    """

    manifest: Descriptor
    raw: bytes
    config: bytes
    parent: Descriptor | None
    host: str


def resolve(
    reference: Reference | str,
    *,
    platform: Platform | None = None,
    settings: RegistrySettings = DEFAULTS,
    cancel: threading.Event | None = None,
) -> ResolvedImage:
    """The image that the name means now, verified, nothing stored.

    ``platform``: None takes this machine's from an index, and any image that is the only one.

    Raises:
        RegistryError: see `layers.registry.errors`.
    """
    from layers.registry import pulling

    return pulling.resolve(_parse(reference), platform, settings, cancel)


def pull(
    store: Store,
    reference: Reference | str,
    *,
    platform: Platform | None = None,
    all_platforms: bool = False,
    unpack: bool = False,
    settings: RegistrySettings = DEFAULTS,
    progress: Callback | None = None,
    cancel: threading.Event | None = None,
) -> Descriptor:
    """The image is in the store, whole and verified, under the name; the descriptor of its manifest.

    With ``all_platforms`` it is the whole index, with whatever it lists; else the image for ``platform``, or for this
    machine. Only what is missing travels. When it fails, blobs that came whole stay for the next try; the name is
    untouched. With ``unpack`` the layers of the one image are unpacked as they come, the caller being root
    (`layers.snapshotter`).

    Raises:
        RegistryError: see `layers.registry.errors`.
        StoreError: the disk is full and the like.
        ArchiveError, ContentMismatchError: a layer cannot be unpacked, or is not what the configuration promises.
    """
    from layers.registry import pulling

    if all_platforms:
        return pulling.pull_all(store, _parse(reference), settings, progress, cancel)
    return pulling.pull(store, _parse(reference), platform, settings, progress, cancel, unpack=unpack)


def push(
    store: Store,
    source: Reference | str | StoredImage,
    target: Reference | str,
    *,
    tags: Sequence[str] = (),
    platform: Platform | None = None,
    settings: RegistrySettings = DEFAULTS,
    compression: str = "gzip",
    elsewhere: Elsewhere | None = None,
    progress: Callback | None = None,
    cancel: threading.Event | None = None,
) -> Digest:
    """The registry holds the image under ``target`` and under ``tags`` of the same repository; its manifest's digest.

    A name that stands for an index is pushed as a whole, attestations included, unless ``platform`` chooses one image.
    Layers that are uncompressed in the store are compressed as `layers.registry.compress` says (``compression``:
    ``gzip``, ``gzip:zlib``, ``gzip:isal``, ``zstd``, ``none``) and remembered, so that a second push compresses
    nothing; compressed ones travel as they are. The configuration, and with it the image id, is the same everywhere.
    Of layers that the store lacks ``elsewhere`` is asked: for repositories of the registry that may give them to
    another, then for the layers themselves.

    Raises:
        RegistryError: see `layers.registry.errors`.
        ImageNotFoundError: the store has no such image.
        BlobNotFoundError: the store lacks part of it.
        ValueError: ``compression`` is none of the above.
    """
    from layers.registry import pushing

    return pushing.push(
        store, source, _parse(target), tuple(tags), settings, compression, elsewhere, progress, cancel, platform
    )


def _parse(reference: Reference | str) -> Reference:
    return Reference.parse(reference) if isinstance(reference, str) else reference
