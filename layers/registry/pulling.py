"""From a registry into a store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

from layers import gojson, media
from layers.config import ImageConfig
from layers.descriptor import Descriptor
from layers.digest import Digest
from layers.errors import ContentMismatchError, FormatError
from layers.manifest import Index, Manifest, parse
from layers.platform import Platform, host
from layers.reference import Reference
from layers.registry.arrivals import Arrivals, unpack_all
from layers.registry.client import RegistryClient
from layers.registry.errors import (
    ContentError,
    PlatformMismatchError,
    ProtocolError,
    RegistryError,
    TransferCancelledError,
)
from layers.registry.progress import Callback, Reporter
from layers.registry.settings import RegistrySettings, hosts_for_pull
from layers.registry.transfer import ResolvedImage
from layers.registry.uploads import Report
from layers.registry.workers import Transfer
from layers.store import Store
from layers.tree import Node, read_tree

T = TypeVar("T")

_LARGEST_CONFIG_BYTES = 16 << 20
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"


def resolve(
    reference: Reference, platform: Platform | None, settings: RegistrySettings, cancel: threading.Event | None
) -> ResolvedImage:
    """As `layers.registry.transfer.resolve`."""
    with Transfer(reference.canonical, reference.repository, settings, cancel) as transfer:
        return transfer.call(lambda: _resolve(transfer, reference, platform))


def pull(
    store: Store,
    reference: Reference,
    platform: Platform | None,
    settings: RegistrySettings,
    progress: Callback | None,
    cancel: threading.Event | None,
    *,
    unpack: bool = False,
) -> Descriptor:
    """As `layers.registry.transfer.pull`."""
    store.claim()
    reporter = Reporter("pull", progress)
    with Transfer(reference.canonical, reference.repository, settings, cancel) as transfer:
        resolved = transfer.call(lambda: _resolve(transfer, reference, platform))
        manifest = _parse_image(resolved.raw, resolved.manifest.media_type, reference.canonical)
        hosts = tuple(dict.fromkeys((resolved.host, *hosts_for_pull(reference.registry, settings))))
        blobs = tuple({layer.digest: layer for layer in manifest.layers}.values())
        for blob in blobs:
            reporter.state(blob, "waiting")
        if unpack:
            with closing(Arrivals(store, transfer.subject, transfer.stop)) as arrivals:
                layers = _layers_of(manifest, resolved.config)
                with transfer.beside(lambda: unpack_all(store, arrivals, layers)):
                    transfer.map(lambda blob: _pull_blob(transfer, hosts, store, blob, reporter, arrivals), blobs)
        else:
            transfer.map(lambda blob: _pull_blob(transfer, hosts, store, blob, reporter), blobs)
    store.blobs.put(resolved.config, expected=manifest.config)
    store.blobs.put(resolved.raw, expected=resolved.manifest)
    store.tag(reference, resolved.manifest)
    return resolved.manifest


def _layers_of(manifest: Manifest, config: bytes) -> tuple[tuple[Descriptor, Digest], ...]:
    return tuple(zip(manifest.layers, ImageConfig.from_bytes(config).rootfs.diff_ids, strict=True))


def pull_all(
    store: Store,
    reference: Reference,
    settings: RegistrySettings,
    progress: Callback | None,
    cancel: threading.Event | None,
) -> Descriptor:
    """As `layers.registry.transfer.pull` of all platforms."""
    store.claim()
    reporter = Reporter("pull", progress)
    with Transfer(reference.canonical, reference.repository, settings, cancel) as transfer:
        tree, host_name = transfer.call(lambda: fetch_tree(transfer, reference))
        hosts = tuple(dict.fromkeys((host_name, *hosts_for_pull(reference.registry, settings))))
        blobs = tree.blobs()
        for blob in blobs:
            reporter.state(blob, "waiting")
        transfer.map(lambda blob: _pull_blob(transfer, hosts, store, blob, reporter), blobs)
    for node in tree.walk():
        store.blobs.put(node.found.raw, expected=node.descriptor)
    store.tag(reference, tree.descriptor)
    return tree.descriptor


def fetch_tree(transfer: Transfer, reference: Reference, platform: Platform | None = None) -> tuple[Node, str]:
    """The name with everything below it, or with the one image for ``platform``; and the host that had it."""
    return _ask_in_turn(transfer, reference, lambda client: _fetch_tree(client, reference, platform))


def _fetch_tree(client: RegistryClient, reference: Reference, platform: Platform | None) -> tuple[Node, str]:
    subject = reference.canonical
    fetched = client.manifest(reference.digest or reference.tag or "latest")
    found = _parse(fetched.raw, fetched.media_type, subject)
    top = found.descriptor()
    if platform is not None and isinstance(found, Index):
        top = _choose(found, platform, subject)
    at_hand = {fetched.digest: fetched.raw}
    try:
        tree = read_tree(top, lambda wanted: at_hand.get(wanted.digest) or client.manifest(wanted.digest).raw)
    except FormatError as error:
        raise ProtocolError(subject, str(error)) from error
    except ContentMismatchError as error:
        raise ContentError(subject, str(error)) from error
    return tree, client.host


def _ask_in_turn(transfer: Transfer, reference: Reference, ask: Callable[[RegistryClient], T]) -> T:
    """What the first host answers that knows the name; mirrors that fail in any way are passed over."""
    hosts = hosts_for_pull(reference.registry, transfer.settings)
    for host_name in hosts[:-1]:
        try:
            return ask(transfer.client(host_name))
        except TransferCancelledError:
            raise
        except RegistryError:
            continue
    return ask(transfer.client(hosts[-1]))


def _resolve(transfer: Transfer, reference: Reference, platform: Platform | None) -> ResolvedImage:
    return _ask_in_turn(transfer, reference, lambda client: _resolve_at(client, reference, platform))


def _resolve_at(client: RegistryClient, reference: Reference, platform: Platform | None) -> ResolvedImage:
    subject = reference.canonical
    fetched = client.manifest(reference.digest or reference.tag or "latest")
    found = _parse(fetched.raw, fetched.media_type, subject)
    if isinstance(found, Manifest):
        config = _read_config(client, found, subject)
        _check_platform(config, platform, subject)
        return ResolvedImage(found.descriptor(), found.raw, config, None, client.host)
    chosen = _choose(found, platform or host(), subject)
    child = client.manifest(chosen.digest)
    if len(child.raw) != chosen.size:
        raise ContentError(subject, f"manifest {chosen.digest} has {len(child.raw)} bytes, expected {chosen.size}")
    manifest = _parse_image(child.raw, chosen.media_type, subject)
    config = _read_config(client, manifest, subject)
    return ResolvedImage(manifest.descriptor(chosen.platform), manifest.raw, config, found.descriptor(), client.host)


def _choose(index: Index, wanted: Platform, subject: str) -> Descriptor:
    """The entry for the platform. Raises PlatformMismatchError."""
    chosen = index.select(wanted)
    if chosen is None:
        there = ", ".join(sorted({str(entry.platform) for entry in index.manifests if _is_image(entry)}))
        raise PlatformMismatchError(subject, f"no image for {wanted}, there are {there or 'none'}")
    return chosen


def _is_image(entry: Descriptor) -> bool:
    return entry.platform is not None and entry.platform.os != "unknown"


def _parse(raw: bytes, media_type: str, subject: str) -> Manifest | Index:
    if media_type.startswith(_SCHEMA_1):
        raise ProtocolError(subject, "the image is in docker's schema 1, which has no verifiable content")
    try:
        return parse(raw, media_type)
    except FormatError as error:
        raise ProtocolError(subject, str(error)) from error


def _parse_image(raw: bytes, media_type: str, subject: str) -> Manifest:
    found = _parse(raw, media_type, subject)
    if isinstance(found, Index):
        raise ProtocolError(subject, "the index refers to another index, expected an image")
    if found.config.media_type not in media.CONFIGS:
        raise ProtocolError(subject, f"is an artifact of type {found.config.media_type}, expected an image")
    return found


def _read_config(client: RegistryClient, manifest: Manifest, subject: str) -> bytes:
    """The bytes of the configuration, verified, with as many layers as the manifest."""
    if manifest.config.media_type not in media.CONFIGS:
        raise ProtocolError(subject, f"is an artifact of type {manifest.config.media_type}, expected an image")
    if manifest.config.size > _LARGEST_CONFIG_BYTES:
        raise ProtocolError(subject, f"configuration has {manifest.config.size} bytes")
    raw = b"".join(client.read_blob(manifest.config))
    _verify(raw, manifest.config, client.host, subject)
    try:
        diff_ids = ImageConfig.from_bytes(raw).rootfs.diff_ids
    except FormatError as error:
        raise ProtocolError(subject, str(error)) from error
    if len(diff_ids) != len(manifest.layers):
        problem = f"manifest has {len(manifest.layers)} layers, its configuration {len(diff_ids)}"
        raise ContentError(subject, problem)
    return raw


def _verify(raw: bytes, expected: Descriptor, host_name: str, subject: str) -> None:
    from layers.digest import sha256

    if sha256(raw) != expected.digest:
        problem = f"blob from {host_name} has the digest {sha256(raw)}, expected {expected.digest}"
        raise ContentError(subject, problem)


def _check_platform(config: bytes, wanted: Platform | None, subject: str) -> None:
    """An image that is the only one must be for the platform asked for, when one was."""
    if wanted is None:
        return
    fields = gojson.loads_object(config, "config")
    have = Platform(*(str(fields.get(name) or "") for name in ("os", "architecture", "variant"))).normalised()
    want = wanted.normalised()
    if have.architecture and (have[:2] != want[:2] or have.variant > want.variant):
        raise PlatformMismatchError(subject, f"no image for {want}, there is one for {have}")


def _pull_blob(
    transfer: Transfer,
    hosts: tuple[str, ...],
    store: Store,
    blob: Descriptor,
    reporter: Reporter,
    arrivals: Arrivals | None = None,
) -> None:
    """The blob is in the store, from the first host that delivers it; ``arrivals`` is told as it comes."""
    if store.blobs.refresh(blob.digest, blob.size):
        if arrivals is not None:
            arrivals.whole(blob.digest)
        reporter.state(blob, "exists")
        return
    for number, host_name in enumerate(hosts, 1):
        report = reporter.state(blob, "transferring")
        try:
            _pull_from(transfer.client(host_name), store, blob, report, transfer.subject, arrivals)
        except TransferCancelledError:
            raise
        except RegistryError:
            if number == len(hosts):
                raise
        else:
            if arrivals is not None:
                arrivals.whole(blob.digest)
            reporter.state(blob, "done")
            return


def _pull_from(
    client: RegistryClient, store: Store, blob: Descriptor, report: Report, subject: str, arrivals: Arrivals | None
) -> None:
    blocks = client.read_blob(blob, report)
    try:
        with store.blobs.writer() as writer:
            if arrivals is not None:
                arrivals.begin(blob.digest, writer.path)
            for block in blocks:
                writer.write(block)
                if arrivals is not None:
                    arrivals.grown(blob.digest, writer.size)
            writer.commit(expected=blob)
    except ContentMismatchError as error:
        raise ContentError(subject, f"{error}; it came from {client.host}") from error
    finally:
        blocks.close()
