"""A manifest and everything below it: images of several platforms, attestations, artifacts; reading through a callback.

Invariants: a tree is finite and small, whatever it is read from: manifests are named by their digests, so that none is
below itself, and their depth, number and bytes are limited. What an index lists that is no manifest counts as a blob,
as BuildKit's caches have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from layers import media
from layers.descriptor import Descriptor
from layers.digest import Digest, sha256
from layers.errors import ContentMismatchError, FormatError
from layers.manifest import Index, Manifest, parse
from unionfs.namedtuple import NamedTuple

MOST_MANIFESTS = 1000
MOST_BYTES = 64 << 20
_DEEPEST = 4


class Node(NamedTuple):
    """One manifest or index. ``descriptor`` is how its parent refers to it; ``children`` are those of an index."""

    descriptor: Descriptor
    found: Manifest | Index
    children: tuple[Node, ...] = ()

    @property
    def is_attestation(self) -> bool:
        """Whether it says something about another image of its index (BuildKit, docs/attestations)."""
        return bool(self.descriptor.annotations.get(media.REFERENCE_TYPE))

    def walk(self) -> Iterator[Node]:
        """All nodes, each once, what is referred to before what refers to it."""
        seen: set[Digest] = set()
        yield from self.walk_unless(seen)

    def walk_unless(self, seen: set[Digest]) -> Iterator[Node]:
        """As `walk`, without those that are in ``seen``, which grows."""
        for child in self.children:
            yield from child.walk_unless(seen)
        if self.descriptor.digest not in seen:
            seen.add(self.descriptor.digest)
            yield self

    def own_blobs(self) -> tuple[Descriptor, ...]:
        """The blobs that this manifest itself names; those with ``urls`` travel by another way and are left out."""
        if isinstance(self.found, Index):
            return tuple(entry for entry in self.found.manifests if not _is_manifest(entry))
        return (*(layer for layer in self.found.layers if not layer.urls), self.found.config)

    def blobs(self) -> tuple[Descriptor, ...]:
        """All blobs of the tree, each once, in the order of the manifests, layers before configurations."""
        found = (blob for node in self.walk() for blob in node.own_blobs())
        return tuple({blob.digest: blob for blob in found}.values())


def read_tree(top: Descriptor, read: Callable[[Descriptor], bytes]) -> Node:
    """The tree below ``top``; ``read`` returns the bytes of a manifest.

    Raises:
        FormatError: a manifest makes no sense, or the tree is beyond the limits.
        ContentMismatchError: the bytes are not those that the digest and the size of a descriptor promise.
    """
    return _Reading(read).node(top, 0)


class _Reading:
    def __init__(self, read: Callable[[Descriptor], bytes]) -> None:
        self._read = read
        self._known: dict[Digest, Node] = {}
        self._bytes = 0

    def node(self, descriptor: Descriptor, depth: int) -> Node:
        known = self._known.get(descriptor.digest)
        if known is not None:
            return known._replace(descriptor=descriptor)
        if depth > _DEEPEST:
            raise FormatError(f"index: indexes are nested more than {_DEEPEST} deep")
        if len(self._known) == MOST_MANIFESTS:
            raise FormatError(f"index: it leads to more than {MOST_MANIFESTS} manifests")
        raw = self._read(descriptor)
        self._bytes += len(raw)
        if self._bytes > MOST_BYTES:
            raise FormatError(f"index: its manifests have more than {MOST_BYTES} bytes")
        _compare(descriptor, raw)
        found = parse(raw, descriptor.media_type)
        entries = found.manifests if isinstance(found, Index) else ()
        children = tuple(self.node(entry, depth + 1) for entry in entries if _is_manifest(entry))
        node = self._known[descriptor.digest] = Node(descriptor, found, children)
        return node


def _is_manifest(entry: Descriptor) -> bool:
    return entry.media_type in media.MANIFESTS | media.INDEXES


def _compare(descriptor: Descriptor, raw: bytes) -> None:
    if len(raw) != descriptor.size:
        raise ContentMismatchError(f"manifest {descriptor.digest} has {len(raw)} bytes, expected {descriptor.size}")
    if sha256(raw) != descriptor.digest:
        raise ContentMismatchError(f"manifest has the digest {sha256(raw)}, expected {descriptor.digest}")
