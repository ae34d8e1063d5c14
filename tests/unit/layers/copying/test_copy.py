"""Copies between all kinds of places: what arrives, what travels, what a copy that fails leaves."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from layers import media
from layers.copying.addresses import parse
from layers.copying.copy import Sides, Wanted, copy
from layers.digest import Digest
from layers.errors import ContentMismatchError, FormatError, ImageNotFoundError, LayersError, StoreError
from layers.layoutdir import LayoutDirectory
from layers.load import load
from layers.manifest import Index, Manifest
from layers.platform import Platform
from layers.registry import errors
from layers.registry.settings import Patience, RegistrySettings
from layers.store import Store
from layers.testing.faults import Corrupt, Drop, Endless, Status
from layers.testing.registry import FaultyRegistry
from layers.testing.simple import store_image

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
QUICK = RegistrySettings(
    patience=Patience(tries=3, first_delay_seconds=0.01, longest_delay_seconds=0.02, read_seconds=5),
    auth_files=(Path("/nonexistent/auth.json"),),
)
SIDES = Sides(QUICK, QUICK)
LARGE = bytes(range(251)) * 5_000


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    with FaultyRegistry() as server:
        yield server


@pytest.fixture
def other() -> Iterator[FaultyRegistry]:
    with FaultyRegistry() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "empty") as opened:
        yield opened


@pytest.fixture
def index(store: Store) -> Index:
    images = [store_image(store, None, [LARGE, str(one).encode()], platform=one) for one in (AMD64, ARM64)]
    made = Index.create([image.descriptor(one) for image, one in zip(images, (AMD64, ARM64), strict=True)])
    store.blobs.put(made.raw)
    store.tag("multi:1", made.descriptor())
    return made


def move(store: Store, source: str, target: str, wanted: Wanted = Wanted(), sides: Sides = SIDES) -> Digest:  # noqa: B008
    return copy(store, parse(source), parse(target), wanted, sides)


def blobs_of(store: Store, index: Index) -> dict[Digest, bytes]:
    """Everything below an index, by digest."""
    found: dict[Digest, bytes] = {index.digest: index.raw}
    for entry in index.manifests:
        manifest = Manifest.from_bytes(store.blobs.read(entry.digest))
        for blob in (entry, manifest.config, *manifest.layers):
            found[blob.digest] = store.blobs.read(blob.digest)
    return found


def assert_in_registry(registry: FaultyRegistry, repository: str, expected: dict[Digest, bytes]) -> None:
    memory = registry.memory
    there = {digest: raw for (name, digest), raw in memory.blobs.items() if name == repository}
    there |= {digest: raw for (name, digest), (raw, _) in memory.manifests.items() if name == repository}
    assert there == {str(digest): raw for digest, raw in expected.items()}


def test_round_trip_through_every_place(
    registry: FaultyRegistry, other: FaultyRegistry, store: Store, empty: Store, index: Index, tmp_path: Path
) -> None:
    first, second = f"docker://{registry.host}/a:1", f"docker://{other.host}/b/c:2"
    layout, archive = f"oci:{tmp_path}/layout:1", f"oci-archive:{tmp_path}/x.tar:m:1"
    out = io.BytesIO()
    sides = SIDES._replace(output=lambda: contextlib.nullcontext(out))
    ways = [("multi:1", first), (first, second), (second, layout), (layout, archive)]
    for source, target in ways:
        assert move(store if source == "multi:1" else empty, source, target, sides=sides) == index.digest
    (tmp_path / "x.tar").write_bytes(out.getvalue())
    assert move(empty, archive, "back:1") == index.digest
    expected = blobs_of(store, index)
    assert_in_registry(registry, "a", expected)
    assert_in_registry(other, "b/c", expected)
    assert {digest: empty.blobs.read(digest) for digest in expected} == expected
    assert sorted(os.listdir(tmp_path / "layout")) == ["blobs", "index.json", "oci-layout"]
    assert sorted(os.listdir(tmp_path / "layout/blobs/sha256")) == sorted(digest.hex for digest in expected)
    assert os.listdir(tmp_path / "layout/blobs") == ["sha256"]
    assert empty.image("back:1", ARM64).id == store.image("multi:1", ARM64).id


@pytest.mark.parametrize("target", ["docker", "oci", "store"])
def test_one_platform_needs_nothing_of_the_others(
    registry: FaultyRegistry,
    other: FaultyRegistry,
    store: Store,
    empty: Store,
    index: Index,
    target: str,
    tmp_path: Path,
) -> None:
    move(store, "multi:1", f"docker://{registry.host}/a:1")
    del registry.memory.manifests["a", str(index.manifests[0].digest)]
    to = {"docker": f"docker://{other.host}/b:1", "oci": f"oci:{tmp_path}/l:1", "store": "one:1"}[target]
    digest = move(empty, f"docker://{registry.host}/a:1", to, Wanted(ARM64))
    assert digest == index.manifests[1].digest
    with pytest.raises(errors.ManifestUnknownError):
        move(empty, f"docker://{registry.host}/a:1", to)
    with pytest.raises(LayersError, match="no image for linux/riscv64"):
        move(empty, f"docker://{registry.host}/a:1", to, Wanted(Platform("linux", "riscv64")))


def test_docker_archive_is_one_image(store: Store, empty: Store, index: Index) -> None:
    out = io.BytesIO()
    sides = SIDES._replace(output=lambda: contextlib.nullcontext(out))
    move(store, "multi:1", "docker-archive:x.tar:m:1", Wanted(ARM64), sides)
    out.seek(0)
    (loaded,) = load(empty, out)
    assert loaded.names == ("m:1",)
    assert empty.image("m:1").id == store.image("multi:1", ARM64).id


def test_blobs_are_mounted_within_a_registry(registry: FaultyRegistry, store: Store, index: Index) -> None:
    move(store, "multi:1", f"docker://{registry.host}/a:1")
    registry.requests.clear()
    move(store, f"docker://{registry.host}/a:1", f"docker://{registry.host}/b:1")
    assert_in_registry(registry, "b", blobs_of(store, index))
    assert not registry.seen("GET", "/blobs/")
    assert not registry.seen("PUT", "/blobs/")


def test_only_what_is_missing_travels(
    registry: FaultyRegistry, other: FaultyRegistry, store: Store, index: Index
) -> None:
    source, target = f"docker://{registry.host}/a:1", f"docker://{other.host}/a:1"
    move(store, "multi:1", source)
    move(store, source, target)
    other.requests.clear()
    move(store, source, target)
    assert not other.seen("POST")
    assert len(other.seen("PUT")) == 3, "the manifests"


def test_broken_lines_on_both_sides(
    registry: FaultyRegistry, other: FaultyRegistry, store: Store, index: Index
) -> None:
    source, target = f"docker://{registry.host}/a:1", f"docker://{other.host}/a:1"
    move(store, "multi:1", source)
    registry.fail("GET", "/blobs/", Drop(100_000), times=3)
    other.fail("PUT", "/blobs/uploads/", Status(502), times=2)
    move(store, source, target)
    assert_in_registry(other, "a", blobs_of(store, index))


@pytest.mark.parametrize("fault", [Corrupt(100), Endless(b"x" * 65536)])
def test_wrong_content_never_arrives(
    registry: FaultyRegistry,
    other: FaultyRegistry,
    store: Store,
    empty: Store,
    index: Index,
    fault: object,
    tmp_path: Path,
) -> None:
    source = f"docker://{registry.host}/a:1"
    move(store, "multi:1", source)
    registry.fail("GET", "/blobs/", fault)  # type: ignore[arg-type]
    for target in (f"docker://{other.host}/a:1", f"oci:{tmp_path}/l:1", "x:1"):
        with pytest.raises((errors.ContentError, ContentMismatchError)):
            move(empty, source, target)
    assert not other.memory.blobs
    assert not other.memory.manifests
    assert not empty.entries()
    assert os.listdir(tmp_path / "l/blobs") == ["sha256"]
    assert os.listdir(tmp_path / "l/blobs/sha256") == []


def test_referrers_travel_along(
    registry: FaultyRegistry, other: FaultyRegistry, store: Store, index: Index, tmp_path: Path
) -> None:
    source = f"docker://{registry.host}/a:1"
    move(store, "multi:1", source)
    config = store.blobs.put(b"{}", media_type=media.OCI_EMPTY)
    about = Manifest.create(config, [], artifact_type="application/x", subject=index.descriptor())
    registry.memory.add_blob("a", b"{}")
    registry.memory.lists_referrers = True
    registry.memory.add_manifest("a", "signature", about.raw, media.OCI_MANIFEST)
    layout = f"oci:{tmp_path}/l:1"
    for start, target in ((source, layout), (layout, f"docker://{other.host}/b:1")):
        assert move(store, start, target, Wanted(referrers=True)) == index.digest
    assert ("b", str(about.digest)) in other.memory.manifests
    assert ("b", f"sha256-{index.digest.hex}") in other.memory.tags
    assert len(LayoutDirectory(f"{tmp_path}/l").entries()) == 2
    with pytest.raises(FormatError, match="the store keeps images alone"):
        move(store, source, "x:1", Wanted(referrers=True))


def test_a_layout_of_somebody_else_keeps_what_it_has(store: Store, index: Index, tmp_path: Path) -> None:
    directory = tmp_path / "l"
    move(store, "multi:1", f"oci:{directory}:1")
    content = json.loads((directory / "index.json").read_bytes())
    content["annotations"] = {"a": "b"}
    content["manifests"].append({**content["manifests"][0], "annotations": {"x": "y"}})
    (directory / "index.json").write_text(json.dumps(content))
    move(store, "multi:1", f"oci:{directory}:2", Wanted(ARM64))
    now = json.loads((directory / "index.json").read_bytes())
    assert now["annotations"] == {"a": "b"}
    assert now["manifests"][:2] == content["manifests"]
    names = [entry.get("annotations") for entry in now["manifests"]]
    assert names == [
        {"org.opencontainers.image.ref.name": "1"},
        {"x": "y"},
        {"org.opencontainers.image.ref.name": "2"},
    ]


@pytest.mark.parametrize(
    ("source", "kind", "words"),
    [
        ("gone:1", ImageNotFoundError, 'image "gone:1" is not in the store'),
        ("oci:{tmp}/gone:1", StoreError, "it is no image layout"),
        ("oci:{tmp}/l:gone", ImageNotFoundError, 'no image "gone", there are 1'),
        ("oci-archive:{tmp}/gone.tar", LayersError, "gone.tar"),
        ("docker://127.0.0.1:9/x:1", errors.ConnectionFailedError, "connection refused"),
    ],
)
def test_what_is_not_there(
    store: Store, index: Index, tmp_path: Path, source: str, kind: type[LayersError], words: str
) -> None:
    move(store, "multi:1", f"oci:{tmp_path}/l:1")
    with pytest.raises(kind, match=words):
        move(store, source.format(tmp=tmp_path), f"oci:{tmp_path}/target:1")


def test_targets_that_are_none(store: Store, index: Index, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    with pytest.raises(StoreError, match='is no image layout and holds "file"'):
        move(store, "multi:1", f"oci:{tmp_path}/full:1")
    with pytest.raises(StoreError, match="it is a store"):
        move(store, "multi:1", f"oci:{store.root}:1")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="something else is there"):
        move(store, "multi:1", f"oci:{tmp_path}/file:1")
