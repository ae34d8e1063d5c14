"""What registries hold besides images: a manifest with any configuration, and single blobs of it.

Invariants: bytes are compared with their digests before they are given out or stored; calls block and end with
``cancel`` (`layers.registry.transfer`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from layers.descriptor import Descriptor
from layers.digest import sha256
from layers.errors import FormatError
from layers.manifest import Index, Manifest, parse
from layers.platform import Platform
from layers.reference import Reference
from layers.registry.client import RegistryClient
from layers.registry.errors import ContentError, ProtocolError
from layers.registry.settings import RegistrySettings, api_host
from layers.registry.workers import Transfer
from layers.store import Store

_LARGEST_CONFIG_BYTES = 64 << 20


def read_manifest(
    reference: Reference, platform: Platform, settings: RegistrySettings, cancel: threading.Event
) -> tuple[Manifest, bytes]:
    """The manifest under the name, of an index the one for ``platform``, and the bytes of its configuration."""
    with Transfer(reference.canonical, reference.repository, settings, cancel) as transfer:
        return transfer.call(lambda: _read(transfer.client(api_host(reference.registry)), reference, platform))


def fetch_blobs(
    store: Store,
    reference: Reference,
    blobs: Sequence[Descriptor],
    settings: RegistrySettings,
    cancel: threading.Event,
) -> None:
    """The blobs of the repository are in the store, several fetched at a time."""
    missing = [blob for blob in blobs if not store.blobs.refresh(blob.digest, blob.size)]
    if not missing:
        return
    with Transfer(reference.canonical, reference.repository, settings, cancel) as transfer:

        def fetch(blob: Descriptor) -> None:
            client = transfer.client(api_host(reference.registry))
            store.blobs.put(client.read_blob(blob), expected=blob)

        transfer.map(fetch, missing)


def _read(client: RegistryClient, reference: Reference, platform: Platform) -> tuple[Manifest, bytes]:
    subject = reference.canonical
    fetched = client.manifest(reference.digest or reference.tag or "latest")
    try:
        found = parse(fetched.raw, fetched.media_type)
        if isinstance(found, Index):
            chosen = found.select(platform)
            if chosen is None:
                raise ProtocolError(subject, f"there is nothing for {platform}")
            found = parse(client.manifest(chosen.digest).raw, chosen.media_type)
    except FormatError as error:
        raise ProtocolError(subject, str(error)) from error
    if isinstance(found, Index):
        raise ProtocolError(subject, "the index refers to another index")
    if found.config.size > _LARGEST_CONFIG_BYTES:
        raise ProtocolError(subject, f"configuration has {found.config.size} bytes")
    raw = b"".join(client.read_blob(found.config))
    if sha256(raw) != found.config.digest:
        raise ContentError(subject, f"configuration has the digest {sha256(raw)}, expected {found.config.digest}")
    return found, raw
