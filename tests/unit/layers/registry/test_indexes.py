"""Whole indexes, to a registry and back: every platform, and attestations that follow what a push makes of an image."""

from __future__ import annotations

import json

import pytest

from layers import media
from layers.descriptor import Descriptor
from layers.errors import BlobNotFoundError
from layers.manifest import Index, Manifest
from layers.platform import Platform
from layers.registry import errors, transfer
from layers.registry.settings import RegistrySettings
from layers.store import Store
from layers.testing.registry import FaultyRegistry
from layers.testing.simple import store_image

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
CONTENT = b"content " * 4096


def attestation(store: Store, of: Manifest) -> Descriptor:
    """What BuildKit puts beside an image: a statement about its manifest, in a manifest of its own."""
    statement = {
        "_type": "https://in-toto.io/Statement/v0.1",
        "predicateType": "https://slsa.dev/provenance/v1",
        "subject": [{"name": "pkg:docker/x@1", "digest": {"sha256": of.digest.hex}}],
        "predicate": {"buildDefinition": {}},
    }
    layer = store.blobs.put(json.dumps(statement).encode(), media_type="application/vnd.in-toto+json")
    config = {
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [str(layer.digest)]},
    }
    described = store.blobs.put(json.dumps(config).encode(), media_type=media.OCI_CONFIG)
    made = Manifest.create(described, [layer])
    store.blobs.put(made.raw)
    annotations = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": str(of.digest),
    }
    return made.descriptor(Platform("unknown", "unknown"))._replace(annotations=annotations)


@pytest.fixture
def index(store: Store) -> Index:
    images = [
        store_image(store, None, [CONTENT + str(platform).encode(), b"same"], platform=platform)
        for platform in (AMD64, ARM64)
    ]
    entries = [image.descriptor(platform) for image, platform in zip(images, (AMD64, ARM64), strict=True)]
    made = Index.create([*entries, *(attestation(store, image) for image in images)], {"who": "test"})
    store.blobs.put(made.raw)
    store.tag("multi:1", made.descriptor())
    return made


def test_there_and_back_unchanged(
    registry: FaultyRegistry, store: Store, empty: Store, index: Index, settings: RegistrySettings
) -> None:
    name = f"{registry.host}/a:1"
    assert transfer.push(store, "multi:1", name, settings=settings, compression="none") == index.digest
    found = transfer.pull(empty, name, all_platforms=True, settings=settings)
    assert found.digest == index.digest
    assert empty.find(name) == index.descriptor()._replace(annotations=empty.entries()[0].annotations)
    for platform in (AMD64, ARM64):
        assert empty.image(name, platform).id == store.image("multi:1", platform).id
    assert all(empty.blobs.read(entry.digest) for entry in index.manifests)
    registry.requests.clear()
    transfer.pull(empty, name, all_platforms=True, settings=settings)
    assert not registry.seen("GET", "/blobs/")


def test_manifests_go_up_from_below(
    registry: FaultyRegistry, store: Store, index: Index, settings: RegistrySettings
) -> None:
    transfer.push(store, "multi:1", f"{registry.host}/a:1", tags=["2"], settings=settings)
    put = [seen.target.rpartition("/")[2] for seen in registry.seen("PUT", "/manifests/")]
    assert {put.pop(), put.pop()} == {"1", "2"}
    assert len(put) == 4
    assert all(name.startswith("sha256:") for name in put)


def test_attestations_speak_of_what_was_sent(
    registry: FaultyRegistry, store: Store, empty: Store, index: Index, settings: RegistrySettings
) -> None:
    """A push that compresses makes other manifests; everything that names them by their digests names the new ones."""
    name = f"{registry.host}/a:1"
    digest = transfer.push(store, "multi:1", name, settings=settings, compression="gzip:zlib")
    assert digest != index.digest
    transfer.pull(empty, name, all_platforms=True, settings=settings)
    found = Index.from_bytes(empty.blobs.read(digest))
    assert found.annotations == index.annotations
    images, attestations = found.manifests[:2], found.manifests[2:]
    for image, attested in zip(images, attestations, strict=True):
        manifest = Manifest.from_bytes(empty.blobs.read(image.digest))
        assert manifest.layers[0].media_type == media.OCI_LAYER_GZIP
        assert attested.annotations["vnd.docker.reference.digest"] == str(image.digest)
        about = Manifest.from_bytes(empty.blobs.read(attested.digest))
        statement = json.loads(empty.blobs.read(about.layers[0].digest))
        assert statement["subject"][0]["digest"]["sha256"] == image.digest.hex
        config = json.loads(empty.blobs.read(about.config.digest))
        assert config["rootfs"]["diff_ids"] == [str(about.layers[0].digest)]
        assert image.platform is not None
        assert empty.image(name, image.platform).id == store.image("multi:1", image.platform).id
    assert transfer.push(store, "multi:1", name, settings=settings, compression="gzip:zlib") == digest


def test_one_platform(registry: FaultyRegistry, store: Store, index: Index, settings: RegistrySettings) -> None:
    name = f"{registry.host}/a:1"
    digest = transfer.push(store, "multi:1", name, platform=ARM64, settings=settings, compression="none")
    assert digest == index.manifests[1].digest
    assert [tag for _, tag in registry.memory.tags] == ["1"]
    assert len(registry.memory.manifests) == 1


def test_an_index_that_is_not_whole(
    registry: FaultyRegistry, store: Store, index: Index, settings: RegistrySettings
) -> None:
    store.blobs.remove(index.manifests[1].digest)
    with pytest.raises(BlobNotFoundError, match=r'image "multi:1": its manifest for linux/arm64 is not in the store'):
        transfer.push(store, "multi:1", f"{registry.host}/a:1", settings=settings)
    assert not registry.memory.blobs
    transfer.push(store, "multi:1", f"{registry.host}/a:1", platform=AMD64, settings=settings)


def test_a_platform_that_is_missing_in_the_registry(
    registry: FaultyRegistry, store: Store, empty: Store, index: Index, settings: RegistrySettings
) -> None:
    name = f"{registry.host}/a:1"
    transfer.push(store, "multi:1", name, settings=settings, compression="none")
    del registry.memory.manifests["a", str(index.manifests[1].digest)]
    with pytest.raises(errors.ManifestUnknownError):
        transfer.pull(empty, name, all_platforms=True, settings=settings)
    assert not empty.entries()
    transfer.pull(empty, name, platform=AMD64, settings=settings)
