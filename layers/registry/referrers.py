"""What refers to a manifest by its ``subject``: signatures, SBOMs, whatever is attached later.

A registry that knows the referrers API answers by itself. For others there is a tag named after the digest,
``sha256-<hex>``, with an index that those who push a referrer keep (distribution-spec, "Referrers tag schema").

Invariants: what a registry lists is read as an index within the limits of manifests; an index under the tag loses no
entry by what is added here, unless another one writes it at the same moment: the specification has no lock for it.
"""

from __future__ import annotations

import threading

from layers import media
from layers.descriptor import Descriptor
from layers.digest import Digest
from layers.errors import FormatError
from layers.manifest import Index, Manifest, parse
from layers.registry.client import RegistryClient
from layers.registry.errors import ManifestUnknownError, ProtocolError

_adding = threading.Lock()


def find(client: RegistryClient, digest: Digest) -> tuple[Descriptor, ...]:
    """The manifests that refer to this one.

    Raises:
        ProtocolError: what the registry lists is no index.
    """
    listed = client.listed_referrers(digest)
    if listed is None:
        return _read_tag(client, digest)
    return _entries(listed, client.session.subject)


def add_by_tag(client: RegistryClient, subject: Digest, referrer: Descriptor) -> None:
    """The index under the tag of ``subject`` has the referrer."""
    with _adding:
        entries = _read_tag(client, subject)
        if all(entry.digest != referrer.digest for entry in entries):
            index = Index.create((*entries, referrer))
            client.put_manifest(index.raw, media.OCI_INDEX, tag_of(subject))


def describe(found: Manifest | Index) -> Descriptor:
    """What a list of referrers says of a manifest: its type and its annotations as well."""
    kind = found.artifact_type
    if not kind and isinstance(found, Manifest):
        kind = found.config.media_type
    return found.descriptor()._replace(artifact_type=kind, annotations=found.annotations)


def tag_of(digest: Digest) -> str:
    """The tag under which referrers are listed where the registry does not list them."""
    return str(digest).replace(":", "-")


def _read_tag(client: RegistryClient, digest: Digest) -> tuple[Descriptor, ...]:
    try:
        fetched = client.manifest(tag_of(digest))
    except ManifestUnknownError:
        return ()
    return _entries(fetched.raw, client.session.subject)


def _entries(raw: bytes, subject: str) -> tuple[Descriptor, ...]:
    try:
        found = parse(raw)
    except FormatError as error:
        raise ProtocolError(subject, f"referrers: {error}") from error
    if not isinstance(found, Index):
        raise ProtocolError(subject, "referrers: expected an index, got the manifest of one image")
    return found.manifests
