"""What refers to a manifest: by the API where the registry has it, by a tag elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from layers import media
from layers.descriptor import Descriptor
from layers.digest import Digest
from layers.manifest import Index, Manifest
from layers.registry import errors, referrers, transfer
from layers.registry.client import RegistryClient
from layers.registry.pushing import put_manifests
from layers.registry.settings import RegistrySettings
from layers.registry.workers import Transfer
from layers.store import Store
from layers.testing.faults import Status
from layers.testing.registry import FaultyRegistry
from layers.testing.simple import store_image
from layers.tree import Node

EMPTY = b"{}"
KIND = "application/vnd.example.signature"


@pytest.fixture
def image(registry: FaultyRegistry, store: Store, settings: RegistrySettings) -> Manifest:
    made = store_image(store, "sample:1", [b"x"])
    transfer.push(store, "sample:1", f"{registry.host}/a:1", settings=settings, compression="none")
    return made


@pytest.fixture
def pushing(registry: FaultyRegistry, settings: RegistrySettings) -> Iterator[Transfer]:
    with Transfer("a", "a", settings, threading.Event(), push=True) as transfers:
        yield transfers


def attach(registry: FaultyRegistry, transfers: Transfer, subject: Descriptor, text: str) -> Manifest:
    """A manifest about another one is in the registry."""
    registry.memory.add_blob("a", EMPTY)
    config = Descriptor(media.OCI_EMPTY, Digest(registry.memory.add_blob("a", EMPTY)), len(EMPTY))
    made = Manifest.create(config, [], {"text": text}, artifact_type=KIND, subject=subject)
    put_manifests(transfers, lambda: client(registry, transfers), Node(made.descriptor(), made), [str(made.digest)])
    return made


def client(registry: FaultyRegistry, transfers: Transfer) -> RegistryClient:
    return transfers.client(registry.host)


def find(registry: FaultyRegistry, transfers: Transfer, digest: Digest) -> tuple[Descriptor, ...]:
    return transfers.call(lambda: referrers.find(client(registry, transfers), digest))


@pytest.mark.parametrize("knows", [True, False])
def test_both_ways(registry: FaultyRegistry, image: Manifest, pushing: Transfer, knows: bool) -> None:
    registry.memory.lists_referrers = knows
    assert find(registry, pushing, image.digest) == ()
    made = [attach(registry, pushing, image.descriptor(), text) for text in ("first", "second", "second")]
    found = find(registry, pushing, image.digest)
    assert [entry.digest for entry in found] == [made[0].digest, made[1].digest]
    assert {entry.artifact_type for entry in found} == {KIND}
    tags = {tag for _, tag in registry.memory.tags}
    assert tags == ({"1"} if knows else {"1", f"sha256-{image.digest.hex}"})
    if not knows:
        digest = registry.memory.tags["a", f"sha256-{image.digest.hex}"]
        index = Index.from_bytes(registry.memory.manifests["a", digest][0])
        assert [entry.annotations for entry in index.manifests] == [{"text": "first"}, {"text": "second"}]


@pytest.mark.parametrize("status", [Status(404), Status(405), Status(400), Status(200, {"Content-Type": "text/html"})])
def test_a_registry_without_the_api(
    registry: FaultyRegistry, image: Manifest, pushing: Transfer, status: Status
) -> None:
    registry.fail("GET", "/referrers/", status)
    made = attach(registry, pushing, image.descriptor(), "first")
    assert [entry.digest for entry in find(registry, pushing, image.digest)] == [made.digest]


def test_a_list_that_makes_no_sense(registry: FaultyRegistry, image: Manifest, pushing: Transfer) -> None:
    registry.fail("GET", "/referrers/", Status(200, {"Content-Type": media.OCI_INDEX}, b"[]"))
    with pytest.raises(errors.ProtocolError, match="referrers: manifest is no JSON object"):
        find(registry, pushing, image.digest)
