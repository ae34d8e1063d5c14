"""A tree of manifests in which blobs became others: what a push makes of an image whose layers it compresses.

Attestations of an image name its manifest's digest: in their index entry, and as the subject of the statements that are
their layers. When the manifest changes they follow: a digest in lower-case hex is replaced by the new one, which has
the same length, and everything above is digested anew.

Invariants: what nothing changed in stays byte by byte; configurations of images, and with them image ids, never change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from layers.descriptor import Descriptor
from layers.digest import Digest, sha256
from layers.manifest import Index, Manifest
from layers.tree import Node

_LARGEST_STATEMENT_BYTES = 64 << 20

Read = Callable[[Descriptor], bytes]
Put = Callable[[bytes, str], Descriptor]
"""Content and media type to its descriptor: the content is stored."""


def rewrite(tree: Node, sent: Mapping[Digest, Descriptor], read: Read, put: Put) -> Node:
    """The tree with the blobs of ``sent`` in the place of those that have these digests.

    ``read`` and ``put`` are used for statements about images that changed.
    """
    changed: dict[str, str] = {}
    done: dict[Digest, Node] = {}
    for node in tree.walk():
        if not node.children and not node.is_attestation and isinstance(node.found, Manifest):
            made = _with_layers(node.found, sent)
            done[node.descriptor.digest] = _moved(node, made)
            if made.digest != node.found.digest:
                changed[node.found.digest.hex] = made.digest.hex
    if not changed:
        return tree
    return _follow(tree, done, changed, read, put)


def _with_layers(manifest: Manifest, sent: Mapping[Digest, Descriptor]) -> Manifest:
    """The manifest with the layers as they were sent; itself, byte by byte, when nothing changed."""
    layers = tuple(sent.get(layer.digest, layer) for layer in manifest.layers)
    if all(new.digest == old.digest for new, old in zip(layers, manifest.layers, strict=True)):
        return manifest
    return _with_parts(manifest, manifest.config, layers)


def _with_parts(manifest: Manifest, config: Descriptor, layers: tuple[Descriptor, ...]) -> Manifest:
    return Manifest.create(
        config,
        layers,
        manifest.annotations,
        media_type=manifest.media_type,
        artifact_type=manifest.artifact_type,
        subject=manifest.subject,
    )


def _moved(node: Node, found: Manifest | Index, children: tuple[Node, ...] = ()) -> Node:
    """The node with other content, its descriptor with its annotations."""
    descriptor = node.descriptor._replace(digest=found.digest, size=len(found.raw))
    return Node(descriptor, found, children)


def _follow(node: Node, done: Mapping[Digest, Node], changed: dict[str, str], read: Read, put: Put) -> Node:
    if isinstance(node.found, Manifest):
        known = done.get(node.descriptor.digest)
        moved = known or _moved(node, _with_statements(node.found, changed, read, put))
        annotations = {key: _replaced(value, changed) for key, value in node.descriptor.annotations.items()}
        return moved._replace(descriptor=moved.descriptor._replace(annotations=annotations))
    children = tuple(_follow(child, done, changed, read, put) for child in node.children)
    others = {child.descriptor.digest: new.descriptor for child, new in zip(node.children, children, strict=True)}
    entries = tuple(others.get(entry.digest, entry) for entry in node.found.manifests)
    index = Index.create(entries, node.found.annotations, media_type=node.found.media_type)
    return _moved(node, index, children)


def _with_statements(manifest: Manifest, changed: Mapping[str, str], read: Read, put: Put) -> Manifest:
    """An attestation that speaks of the manifests as they are now."""
    layers: list[Descriptor] = []
    blobs: dict[str, str] = {}
    for layer in manifest.layers:
        new = _replaced_blob(layer, changed, read, put)
        blobs[layer.digest.hex] = new.digest.hex
        layers.append(new)
    config = _replaced_blob(manifest.config, {**changed, **blobs}, read, put)
    return _with_parts(manifest, config, tuple(layers))


def _replaced_blob(blob: Descriptor, changed: Mapping[str, str], read: Read, put: Put) -> Descriptor:
    if blob.size > _LARGEST_STATEMENT_BYTES:
        return blob
    raw = read(blob)
    text = raw
    for old, new in changed.items():
        text = text.replace(old.encode(), new.encode())
    if text == raw:
        return blob
    stored = put(text, blob.media_type)
    return blob._replace(digest=sha256(text), size=stored.size)


def _replaced(text: str, changed: Mapping[str, str]) -> str:
    for old, new in changed.items():
        text = text.replace(old, new)
    return text
