"""What an image is copied from and to, as two interfaces, and those of them that are directories.

Invariants: content is compared with its digest on the way, whichever side it comes from; a name is given when all that
it needs is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Protocol

from layers.archive import named_entry
from layers.blobs import BlobStore
from layers.descriptor import Descriptor
from layers.digest import Digest
from layers.errors import BlobNotFoundError, ContentMismatchError, ImageNotFoundError
from layers.manifest import Index, parse
from layers.platform import Platform
from layers.registry.progress import Reporter
from layers.registry.uploads import Content
from layers.tree import Node, read_tree

_BLOCK_BYTES = 1 << 18


class Origin(Protocol):
    """Where an image comes from."""

    def tree(self, platform: Platform | None) -> Node:
        """The image with everything below it; of an index the one image for ``platform``, when there is one asked."""
        ...

    def below(self, descriptor: Descriptor) -> Node:
        """What a manifest that lies beside the image refers to."""
        ...

    def open(self, blob: Descriptor, offset: int) -> Content:
        """The bytes of a blob from an offset on; the caller closes it."""
        ...

    def repositories(self, registry: str, blob: Digest) -> tuple[str, ...]:
        """Repositories of ``registry`` that may hold the blob."""
        ...

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """What refers to this manifest."""
        ...


class Target(Protocol):
    """Where it goes."""

    def take(self, blob: Descriptor, origin: Origin, reporter: Reporter) -> None:
        """The blob is there. Called by several threads."""
        ...

    def keep(self, tree: Node) -> None:
        """The manifests of the tree are there, whose blobs are, without a name."""
        ...

    def finish(self, tree: Node) -> None:
        """The manifests of the tree are there, and the name refers to its top."""
        ...


class BlobsOrigin:
    """An image of a store or a layout: blobs in a directory, and what the name refers to."""

    def __init__(
        self,
        blobs: BlobStore,
        top: Descriptor,
        shown: str,
        beside: Callable[[], tuple[Descriptor, ...]],
        sources: Callable[[str], dict[Digest, tuple[str, ...]]] | None = None,
    ) -> None:
        self._blobs = blobs
        self._top = top
        self._shown = shown
        self._beside = beside
        self._sources = sources
        self._known: dict[str, dict[Digest, tuple[str, ...]]] = {}

    def tree(self, platform: Platform | None) -> Node:
        """See `Origin`."""
        return read_image(named_entry(self._top, None), self._read, platform, self._shown)

    def below(self, descriptor: Descriptor) -> Node:
        """See `Origin`."""
        return read_tree(descriptor, self._read)

    def _read(self, descriptor: Descriptor) -> bytes:
        try:
            return self._blobs.read(descriptor.digest)
        except BlobNotFoundError as error:
            which = f" for {descriptor.platform}" if descriptor.platform is not None else f" {descriptor.digest}"
            raise BlobNotFoundError(f"{self._shown}: its manifest{which} is not there") from error

    def open(self, blob: Descriptor, offset: int) -> Content:
        """See `Origin`."""
        try:
            file = open(self._blobs.path(blob.digest), "rb", buffering=0)  # noqa: SIM115 - who reads it closes it
        except FileNotFoundError as error:
            raise BlobNotFoundError(f"{self._shown}: blob {blob.digest} is not there") from error
        file.seek(offset)
        return file

    def repositories(self, registry: str, blob: Digest) -> tuple[str, ...]:
        """See `Origin`."""
        if self._sources is None:
            return ()
        if registry not in self._known:
            self._known[registry] = self._sources(registry)
        return self._known[registry].get(blob, ())

    def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        """See `Origin`: those of the same layout."""
        found: list[Descriptor] = []
        for entry in self._beside():
            with suppress(BlobNotFoundError):
                subject = read_tree(entry, self._read).found.subject
                if subject is not None and subject.digest == digest:
                    found.append(entry)
        return tuple(found)


class BlobsTarget:
    """A directory of blobs, of a store or a layout; ``name`` gives the name, ``list_`` notes what has none."""

    def __init__(
        self, blobs: BlobStore, name: Callable[[Descriptor], None], list_: Callable[[Descriptor], None]
    ) -> None:
        self._blobs = blobs
        self._name = name
        self._list = list_

    def take(self, blob: Descriptor, origin: Origin, reporter: Reporter) -> None:
        """See `Target`."""
        if self._blobs.refresh(blob.digest, blob.size):
            reporter.state(blob, "exists")
            return
        report = reporter.state(blob, "transferring")
        with closing(origin.open(blob, 0)) as content:
            self._blobs.put(_told(content, report), expected=blob)
        reporter.state(blob, "done")

    def keep(self, tree: Node) -> None:
        """See `Target`."""
        self._put(tree)
        self._list(tree.descriptor)

    def finish(self, tree: Node) -> None:
        """See `Target`."""
        self._put(tree)
        self._name(tree.descriptor)

    def _put(self, tree: Node) -> None:
        for node in tree.walk():
            self._blobs.put(node.found.raw, expected=node.descriptor)


def _told(content: Content, report: Callable[[int], None]) -> Iterator[bytes]:
    while block := content.read(_BLOCK_BYTES):
        report(len(block))
        yield block


def read_image(top: Descriptor, read: Callable[[Descriptor], bytes], platform: Platform | None, shown: str) -> Node:
    """The tree below ``top``, or of the one image for ``platform``: of others nothing need be there.

    Raises:
        ImageNotFoundError: the index has no image for ``platform``.
    """
    found = parse(read(top), top.media_type)
    if platform is None or not isinstance(found, Index):
        return read_tree(top, read)
    chosen = found.select(platform)
    if chosen is None:
        raise ImageNotFoundError(f"{shown}: there is no image for {platform}")
    return read_tree(chosen, read)


class Checked:
    """Content whose last block is given out only when all of them are what the digest says.

    Raises ContentMismatchError instead, so that whoever waits for the whole of it never gets it. What begins in the
    middle is not compared: the other side does that.
    """

    def __init__(self, content: Content, blob: Descriptor, offset: int) -> None:
        self._content = content
        self._blob = blob
        self._read = 0
        self._hash = None if offset else hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        """See `Content`."""
        data = self._content.read(size)
        self._read += len(data)
        if self._hash is not None:
            self._hash.update(data)
            self._compare(at_end=not data and size > 0)
        return data

    def _compare(self, *, at_end: bool) -> None:
        blob = self._blob
        if self._read > blob.size or (at_end and self._read < blob.size):
            raise ContentMismatchError(f"blob {blob.digest} has {self._read} bytes, expected {blob.size}")
        if self._read == blob.size and self._hash is not None and self._hash.hexdigest() != blob.digest.hex:
            found = self._hash.hexdigest()
            raise ContentMismatchError(f"blob has the digest sha256:{found}, expected {blob.digest}")

    def close(self) -> None:
        """See `Content`."""
        self._content.close()
