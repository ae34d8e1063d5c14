"""Images to and from the double: what travels, what is stored, what is said when it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from layers import media
from layers.config import ImageConfig
from layers.descriptor import Descriptor
from layers.digest import sha256
from layers.errors import DamagedBlobError, ImageNotFoundError
from layers.manifest import Index, Manifest
from layers.platform import Platform
from layers.registry import errors, transfer
from layers.registry.progress import TransferProgress
from layers.registry.settings import RegistrySettings
from layers.store import Store
from layers.testing.faults import (
    Corrupt,
    Delay,
    Drop,
    DropRequest,
    Extend,
    Headers,
    IgnoreRange,
    Redirect,
    Stall,
    Status,
    Truncate,
)
from layers.testing.registry import FaultyRegistry
from layers.testing.simple import store_image

MIDDLE = 100_000
BLOB = "/blobs/sha256"


@pytest.fixture
def pushed(registry: FaultyRegistry, store: Store, image: str, settings: RegistrySettings) -> str:
    """The sample image lies uncompressed in the registry; requests are forgotten."""
    name = f"{registry.host}/team/sample:1"
    transfer.push(store, image, name, settings=settings, compression="none")
    registry.requests.clear()
    return name


def large_blob(store: Store, image: str) -> Descriptor:
    return store.image(image).manifest.layers[0]


def assert_same_image(first: Store, second: Store, image: str, name: str) -> None:
    ours, theirs = first.image(image), second.image(name)
    assert theirs.descriptor.digest == ours.descriptor.digest
    assert theirs.id == ours.id
    for blob in (*ours.manifest.layers, ours.manifest.config):
        assert second.blobs.read(blob.digest) == first.blobs.read(blob.digest)


def assert_nothing_stored(store: Store) -> None:
    assert not store.entries()
    assert not list((store.root / "tmp").iterdir())


# -- the plain way ---------------------------------------------------------------------------------------------------
def test_there_and_back(store: Store, empty: Store, image: str, pushed: str, settings: RegistrySettings) -> None:
    found = transfer.pull(empty, pushed, settings=settings)
    assert found.digest == store.image(image).descriptor.digest
    assert_same_image(store, empty, image, pushed)


def test_only_what_is_missing_travels(
    registry: FaultyRegistry, store: Store, empty: Store, image: str, pushed: str, settings: RegistrySettings
) -> None:
    transfer.pull(empty, pushed, settings=settings)
    registry.requests.clear()
    transfer.pull(empty, pushed, settings=settings)
    config = store.image(image).manifest.config.digest
    assert [seen.target for seen in registry.seen("GET", BLOB)] == [f"/v2/team/sample/blobs/{config}"]
    registry.requests.clear()
    transfer.push(store, image, pushed, settings=settings, compression="none")
    assert not registry.seen("POST")
    assert [seen.target for seen in registry.seen("PUT")] == ["/v2/team/sample/manifests/1"]


def test_resolve_stores_nothing_and_fetches_no_layer(
    registry: FaultyRegistry, store: Store, image: str, pushed: str, settings: RegistrySettings
) -> None:
    found = transfer.resolve(pushed, settings=settings)
    local = store.image(image)
    assert found.manifest == local.descriptor._replace(annotations={})
    assert found.raw == local.manifest.raw
    assert ImageConfig.from_bytes(found.config) == local.config
    assert found.parent is None
    assert len(registry.seen("GET", BLOB)) == 1


def test_by_digest(
    registry: FaultyRegistry, store: Store, empty: Store, image: str, pushed: str, settings: RegistrySettings
) -> None:
    digest = store.image(image).descriptor.digest
    name = f"{registry.host}/team/sample@{digest}"
    transfer.pull(empty, name, settings=settings)
    assert empty.image(name).descriptor.digest == digest
    assert transfer.push(store, image, name, settings=settings, compression="none") == digest
    absent = f"{registry.host}/team/sample@sha256:{'0' * 64}"
    with pytest.raises(errors.ManifestUnknownError):
        transfer.pull(empty, absent, settings=settings)
    with pytest.raises(errors.ContentError, match="the image has the digest"):
        transfer.push(store, image, absent, settings=settings, compression="none")


def test_several_tags(registry: FaultyRegistry, store: Store, image: str, settings: RegistrySettings) -> None:
    digest = transfer.push(store, image, f"{registry.host}/t:1", tags=["2", "latest", "1"], settings=settings)
    assert registry.memory.tags == {("t", tag): digest for tag in ("1", "2", "latest")}
    last = [seen.method for seen in registry.requests if seen.method == "PUT"]
    assert "/manifests/" in registry.seen("PUT")[len(last) - 1].target
    first_manifest = next(n for n, seen in enumerate(registry.seen("PUT")) if "/manifests/" in seen.target)
    assert all("/manifests/" in seen.target for seen in registry.seen("PUT")[first_manifest:])


@pytest.mark.parametrize("compression", ["gzip", "gzip:zlib", "zstd"])
def test_layers_are_compressed_once_and_the_id_stays(
    registry: FaultyRegistry, store: Store, empty: Store, image: str, settings: RegistrySettings, compression: str
) -> None:
    name = f"{registry.host}/t:1"
    digest = transfer.push(store, image, name, settings=settings, compression=compression)
    states: list[str] = []
    again = f"{registry.host}/other:1"
    for target in (name, again):
        second = transfer.push(
            store, image, target, settings=settings, compression=compression, progress=lambda p: states.append(p.state)
        )
        assert second == digest
    assert "compressing" not in states
    transfer.pull(empty, name, settings=settings)
    pulled = empty.image(name)
    assert pulled.descriptor.digest == digest
    assert pulled.id == store.image(image).id
    wanted = media.layer_media_type(compression.partition(":")[0])
    assert [layer.media_type for layer in pulled.manifest.layers] == [wanted, wanted]
    # what came compressed is sent as it came
    sent = transfer.push(empty, name, f"{registry.host}/third:1", settings=settings, compression="gzip")
    assert sent == digest


def test_an_unknown_compression_is_refused_before_anything_is_sent(
    registry: FaultyRegistry, store: Store, image: str, settings: RegistrySettings
) -> None:
    with pytest.raises(ValueError, match="none of gzip"):
        transfer.push(store, image, f"{registry.host}/t:1", settings=settings, compression="rar")
    with pytest.raises(ImageNotFoundError):
        transfer.push(store, "absent:1", f"{registry.host}/t:1", settings=settings)
    assert not registry.requests


def test_layers_that_the_registry_has_elsewhere_are_mounted(
    registry: FaultyRegistry, store: Store, image: str, pushed: str, settings: RegistrySettings
) -> None:
    store.tag(pushed, store.image(image).descriptor)
    store.tag(f"{registry.host}/never/pushed:1", store.image(image).descriptor)
    states: dict[str, str] = {}

    def note(progress: TransferProgress) -> None:
        states[progress.digest] = progress.state

    transfer.push(store, image, f"{registry.host}/new:1", settings=settings, compression="none", progress=note)
    layers = [layer.digest for layer in store.image(image).manifest.layers]
    assert [states[layer] for layer in layers] == ["mounted", "mounted"]
    sent = [seen.target for seen in registry.seen("PUT", "/blobs/")]
    assert len(sent) == 1, "only the configuration travels"
    assert not registry.memory.uploads, "refused mounts leave no open uploads"


def test_docker_images_stay_docker_images(
    registry: FaultyRegistry, store: Store, empty: Store, settings: RegistrySettings
) -> None:
    made = store_image(store, "docker:1", [b"one"], docker=True)
    name = f"{registry.host}/docker:1"
    transfer.push(store, "docker:1", name, settings=settings)
    transfer.pull(empty, name, settings=settings)
    pulled = empty.image(name)
    assert pulled.manifest.media_type == media.DOCKER_MANIFEST
    assert pulled.manifest.layers[0].media_type == media.DOCKER_LAYER_GZIP
    assert pulled.id == made.config.digest


def test_progress_counts_every_byte(
    store: Store, empty: Store, image: str, pushed: str, settings: RegistrySettings
) -> None:
    told: list[TransferProgress] = []
    transfer.pull(empty, pushed, settings=settings, progress=told.append)
    for layer in store.image(image).manifest.layers:
        mine = [progress for progress in told if progress.digest == layer.digest]
        assert mine[0].state == "waiting"
        assert mine[-1].state == "done"
        assert mine[-2].done_bytes == layer.size == mine[-1].total_bytes
        counts = [progress.done_bytes for progress in mine]
        assert counts == sorted(counts)


# -- platforms -------------------------------------------------------------------------------------------------------
PLATFORMS = [Platform("linux", "amd64"), Platform("linux", "arm64"), Platform("linux", "arm", "v6")]


@pytest.fixture
def multi(registry: FaultyRegistry, store: Store, settings: RegistrySettings) -> tuple[str, dict[str, Manifest]]:
    """An index of three platforms, with an attestation beside them."""
    made: dict[str, Manifest] = {}
    entries = []
    for platform in PLATFORMS:
        name = f"{platform.architecture}:1"
        made[str(platform)] = store_image(store, name, [str(platform).encode()], platform=platform)
        transfer.push(
            store, name, f"{registry.host}/multi:{platform.architecture}", settings=settings, compression="none"
        )
        entries.append(made[str(platform)].descriptor(platform))
    attestation = entries[0]._replace(
        platform=Platform("unknown", "unknown"), annotations={"vnd.docker.reference.type": "attestation-manifest"}
    )
    index = Index.create([*entries, attestation])
    registry.memory.add_manifest("multi", "all", index.raw, index.media_type)
    return f"{registry.host}/multi:all", made


@pytest.mark.parametrize(
    ("wanted", "got"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/arm64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm/v7", "linux/arm/v6"),
    ],
)
def test_platform_of_an_index(
    multi: tuple[str, dict[str, Manifest]], empty: Store, settings: RegistrySettings, wanted: str, got: str
) -> None:
    name, made = multi
    parts = wanted.split("/")
    found = transfer.pull(empty, name, platform=Platform(*parts), settings=settings)
    assert found.digest == made[got].digest
    assert empty.image(name).descriptor.digest == made[got].digest
    assert transfer.resolve(name, platform=Platform(*parts), settings=settings).parent is not None


def test_a_platform_that_is_not_there(
    multi: tuple[str, dict[str, Manifest]], registry: FaultyRegistry, empty: Store, settings: RegistrySettings
) -> None:
    name, _ = multi
    with pytest.raises(errors.PlatformMismatchError) as caught:
        transfer.pull(empty, name, platform=Platform("linux", "s390x"), settings=settings)
    expected = "no image for linux/s390x, there are linux/amd64, linux/arm/v6, linux/arm64"
    assert str(caught.value) == f"{name}: {expected}"
    single = f"{registry.host}/multi:arm64"
    with pytest.raises(errors.PlatformMismatchError, match="no image for linux/amd64, there is one for linux/arm64"):
        transfer.pull(empty, single, platform=Platform("linux", "amd64"), settings=settings)
    transfer.pull(empty, single, settings=settings)


# -- connections that break ------------------------------------------------------------------------------------------
def test_a_broken_download_is_taken_up_where_it_broke(
    registry: FaultyRegistry, store: Store, empty: Store, image: str, pushed: str, settings: RegistrySettings
) -> None:
    blob = large_blob(store, image)
    registry.fail("GET", blob.digest, Drop(MIDDLE), times=5)
    transfer.pull(empty, pushed, settings=settings)
    assert_same_image(store, empty, image, pushed)
    seen = registry.seen("GET", blob.digest)
    assert [one.status for one in seen] == [200, 206, 206, 206, 206, 206]
    assert [one.headers.get("range") for one in seen[1:]] == [f"bytes={n * MIDDLE}-" for n in range(1, 6)]


def test_a_server_without_ranges_is_read_again_from_the_start(
    registry: FaultyRegistry, store: Store, empty: Store, image: str, pushed: str, settings: RegistrySettings
) -> None:
    blob = large_blob(store, image)
    registry.fail("GET", blob.digest, Drop(MIDDLE), times=1)
    registry.fail("GET", blob.digest, IgnoreRange())
    transfer.pull(empty, pushed, settings=settings)
    assert_same_image(store, empty, image, pushed)


def test_a_download_that_breaks_without_progress_ends(
    registry: FaultyRegistry, store: Store, empty: Store, image: str, pushed: str, settings: RegistrySettings
) -> None:
    registry.fail("GET", large_blob(store, image).digest, Drop(0))
    with pytest.raises(errors.ConnectionFailedError) as caught:
        transfer.pull(empty, pushed, settings=settings)
    assert str(caught.value) == f"{pushed}: {registry.host}: the connection broke"
    assert_nothing_stored(empty)


def test_a_server_that_stalls_is_a_timeout(
    registry: FaultyRegistry, store: Store, empty: Store, image: str, pushed: str, settings: RegistrySettings
) -> None:
    registry.fail("GET", large_blob(store, image).digest, Stall(0))
    quick = settings._replace(patience=settings.patience._replace(read_seconds=0.2, tries=2))
    with pytest.raises(errors.RegistryTimeoutError) as caught:
        transfer.pull(empty, pushed, settings=quick)
    assert str(caught.value) == f"{pushed}: {registry.host}: no answer in time"
    assert_nothing_stored(empty)


def test_a_part_that_is_not_the_one_asked_for(
    registry: FaultyRegistry, store: Store, empty: Store, image: str, pushed: str, settings: RegistrySettings
) -> None:
    blob = large_blob(store, image)
    registry.fail("GET", blob.digest, Drop(MIDDLE), times=1)
    registry.fail("GET", blob.digest, Headers({"Content-Range": "bytes 5-9/10"}))
    with pytest.raises(errors.ProtocolError, match=f"was asked for bytes from {MIDDLE}, answered with others"):
        transfer.pull(empty, pushed, settings=settings)
    assert_nothing_stored(empty)


def test_a_broken_upload_starts_over(
    registry: FaultyRegistry, store: Store, image: str, settings: RegistrySettings
) -> None:
    registry.fail("PUT", "/blobs/uploads/", DropRequest(MIDDLE), times=2)
    name = f"{registry.host}/t:1"
    digest = transfer.push(store, image, name, settings=settings, compression="none")
    assert digest == store.image(image).descriptor.digest
    for blob in store.image(image).manifest.layers:
        assert registry.memory.blobs["t", blob.digest] == store.blobs.read(blob.digest)


def test_an_upload_whose_answer_was_lost_is_not_repeated(
    registry: FaultyRegistry, store: Store, settings: RegistrySettings
) -> None:
    made = store_image(store, "one:1", [b"only"])
    lost = threading.Event()
    answer = registry.memory.answer

    def lose(request: object) -> object:
        found = answer(request)  # type: ignore[arg-type]
        if request.method == "PUT" and made.layers[0].digest.hex in request.target and not lost.is_set():  # type: ignore[attr-defined]
            lost.set()
            raise ConnectionAbortedError
        return found

    registry.memory.answer = lose  # type: ignore[method-assign,assignment]
    transfer.push(store, "one:1", f"{registry.host}/t:1", settings=settings, compression="none")
    assert lost.is_set()
    assert len([seen for seen in registry.seen("PUT", "/blobs/") if made.layers[0].digest.hex in seen.target]) == 0


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "HEAD"])
def test_a_busy_registry_is_asked_again(
    registry: FaultyRegistry, store: Store, image: str, settings: RegistrySettings, method: str, status: int
) -> None:
    name = f"{registry.host}/t:1"
    registry.fail(method, "/v2/", Status(status, {"Retry-After": "0"}), times=2)
    transfer.push(store, image, name, settings=settings, compression="none")
    with Store(store.root.parent / "other") as other:
        transfer.pull(other, name, settings=settings)
        assert_same_image(store, other, image, name)


def test_a_registry_that_stays_busy(
    registry: FaultyRegistry, empty: Store, pushed: str, settings: RegistrySettings
) -> None:
    registry.fail("GET", "/manifests/", Status(503, {"Retry-After": "1"}, b"be patient"))
    settings = settings._replace(patience=settings.patience._replace(tries=2))
    with pytest.raises(errors.UnavailableError) as caught:
        transfer.pull(empty, pushed, settings=settings)
    assert str(caught.value) == f"{pushed}: {registry.host} answered 503, to be tried after 1 s"
    assert len(registry.seen("GET", "/manifests/")) == 2
    registry.heal()
    registry.requests.clear()
    registry.fail("GET", "/manifests/", Status(429, {"Retry-After": "3600"}))
    with pytest.raises(errors.UnavailableError, match=r"too many requests \(429\), to be tried after 3600 s"):
        transfer.pull(empty, pushed, settings=settings)
    assert len(registry.seen("GET", "/manifests/")) == 1


def test_what_is_wrong_is_not_asked_again(
    registry: FaultyRegistry, empty: Store, pushed: str, settings: RegistrySettings
) -> None:
    registry.fail(
        "GET", "/manifests/", Status(418, {}, b'{"errors":[{"code":"TEAPOT","message":"short\\nand stout"}]}')
    )
    with pytest.raises(errors.ProtocolError) as caught:
        transfer.pull(empty, pushed, settings=settings)
    assert str(caught.value) == f"{pushed}: {registry.host} answered 418: short and stout"
    assert len(registry.seen("GET", "/manifests/")) == 1


# -- content that is wrong -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Truncate(MIDDLE), f"has no bytes after {MIDDLE}, expected"),
        (Extend(b"more"), "sends more than the"),
        (Corrupt(MIDDLE), "blob has the digest sha256:"),
        (Truncate(0), "ends after 0 bytes, expected"),
    ],
)
def test_a_layer_that_is_wrong_is_not_stored(
    registry: FaultyRegistry,
    store: Store,
    empty: Store,
    image: str,
    pushed: str,
    settings: RegistrySettings,
    fault: Corrupt | Truncate | Extend,
    words: str,
) -> None:
    blob = large_blob(store, image)
    if isinstance(fault, Truncate) and fault.to_bytes:
        # the registry holds less than it should
        registry.memory.blobs["team/sample", blob.digest] = store.blobs.read(blob.digest)[:MIDDLE]
    else:
        registry.fail("GET", blob.digest, fault)
    with pytest.raises(errors.ContentError, match=words) as caught:
        transfer.pull(empty, pushed, settings=settings)
    assert str(caught.value).startswith(f"{pushed}: ")
    assert "\n" not in str(caught.value)
    assert blob.digest not in empty.blobs
    assert_nothing_stored(empty)


@pytest.mark.parametrize("what", ["manifests", "config"])
def test_metadata_that_is_wrong(
    registry: FaultyRegistry, store: Store, empty: Store, image: str, pushed: str, settings: RegistrySettings, what: str
) -> None:
    target = "/manifests/" if what == "manifests" else store.image(image).manifest.config.digest
    registry.fail("GET", target, Corrupt(20))
    with pytest.raises(errors.ContentError, match="has the digest"):
        transfer.pull(empty, pushed, settings=settings)
    assert_nothing_stored(empty)


HUGE = json.dumps({"schemaVersion": 2, "x": "y" * (4 << 20)}).encode()
NOT_AN_IMAGE = Manifest.create(Descriptor(media.OCI_EMPTY, sha256(b"{}"), 2), ())
BAD_MANIFESTS = [
    (b"", media.OCI_MANIFEST, errors.ProtocolError, "manifest"),
    (b"[]", media.OCI_MANIFEST, errors.ProtocolError, "manifest"),
    (b'{"schemaVersion": 1}', media.OCI_MANIFEST, errors.ProtocolError, "schema version 1"),
    (b"{}", "application/vnd.docker.distribution.manifest.v1+prettyjws", errors.ProtocolError, "schema 1"),
    (HUGE, media.OCI_MANIFEST, errors.ContentError, "sends more than the 4194304 bytes"),
    (
        b'{"schemaVersion":2,"mediaType":"' + media.OCI_INDEX.encode() + b'","manifests":[]}',
        media.OCI_MANIFEST,
        errors.ProtocolError,
        "but came as",
    ),
    (
        b'{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:/etc/passwd","size":1},"layers":[]}',
        media.OCI_MANIFEST,
        errors.ProtocolError,
        "is not of the form sha256",
    ),
    (NOT_AN_IMAGE.raw, media.OCI_MANIFEST, errors.ProtocolError, "is an artifact of type application/vnd.oci.empty"),
    (
        Index.create([]).raw,
        media.OCI_INDEX,
        errors.PlatformMismatchError,
        "there are none",
    ),
]


@pytest.mark.parametrize(("raw", "media_type", "kind", "words"), BAD_MANIFESTS)
def test_manifests_that_make_no_sense(
    registry: FaultyRegistry,
    empty: Store,
    settings: RegistrySettings,
    raw: bytes,
    media_type: str,
    kind: type[errors.RegistryError],
    words: str,
) -> None:
    registry.memory.add_manifest("bad", "1", raw, media_type)
    with pytest.raises(kind, match=words):
        transfer.pull(empty, f"{registry.host}/bad:1", settings=settings)
    assert_nothing_stored(empty)


def test_layers_that_do_not_fit_the_configuration(
    registry: FaultyRegistry, store: Store, empty: Store, image: str, pushed: str, settings: RegistrySettings
) -> None:
    manifest = store.image(image).manifest
    fewer = Manifest.create(manifest.config, manifest.layers[:1])
    registry.memory.add_manifest("team/sample", "fewer", fewer.raw, fewer.media_type)
    with pytest.raises(errors.ContentError, match="manifest has 1 layers, its configuration 2"):
        transfer.pull(empty, f"{registry.host}/team/sample:fewer", settings=settings)


def test_a_blob_that_the_registry_lost(
    registry: FaultyRegistry, store: Store, empty: Store, image: str, pushed: str, settings: RegistrySettings
) -> None:
    blob = large_blob(store, image)
    del registry.memory.blobs["team/sample", blob.digest]
    with pytest.raises(errors.BlobUnknownError, match="blob unknown"):
        transfer.pull(empty, pushed, settings=settings)
    assert_nothing_stored(empty)


def test_a_damaged_layer_is_not_accepted(
    registry: FaultyRegistry, store: Store, image: str, settings: RegistrySettings
) -> None:
    path = store.blobs.path(large_blob(store, image).digest)
    content = bytearray(path.read_bytes())
    content[MIDDLE] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedBlobError, match=f'blob "{path}" is damaged'):
        transfer.push(store, image, f"{registry.host}/t:1", settings=settings, compression="none")
    assert not registry.memory.tags


# -- names that lead nowhere -----------------------------------------------------------------------------------------
def test_unknown(registry: FaultyRegistry, empty: Store, settings: RegistrySettings) -> None:
    with pytest.raises(errors.ManifestUnknownError) as caught:
        transfer.pull(empty, f"{registry.host}/team/absent:7", settings=settings)
    assert str(caught.value) == f"{registry.host}/team/absent:7: manifest unknown"


def test_nobody_there(empty: Store, settings: RegistrySettings) -> None:
    from layers.testing.docker_registry import free_port

    host = f"127.0.0.1:{free_port()}"
    for call in (transfer.pull, lambda _, name, **rest: transfer.resolve(name, **rest)):
        with pytest.raises(errors.ConnectionFailedError) as caught:
            call(empty, f"{host}/demo", settings=settings)
        assert str(caught.value) == f"{host}/demo:latest: {host}: connection refused"


def test_no_such_host(empty: Store, settings: RegistrySettings) -> None:
    with pytest.raises(errors.NameResolutionError) as caught:
        transfer.pull(empty, "registry.invalid/demo:1", settings=settings)
    expected = "registry.invalid: the name of the host leads to no address"
    assert str(caught.value) == f"registry.invalid/demo:1: {expected}"


def test_plain_http_is_not_spoken_to_others(registry: FaultyRegistry, empty: Store, settings: RegistrySettings) -> None:
    """A name that is no loopback name, whatever it leads to, is only spoken to over TLS."""
    import socket

    real = socket.getaddrinfo

    def lead_here(host: str | bytes | None, *rest: object, **more: object) -> object:
        return real("127.0.0.1" if host in {"registry.example", b"registry.example"} else host, *rest, **more)  # type: ignore[arg-type]

    name = f"registry.example:{registry.port}"
    socket.getaddrinfo = lead_here  # type: ignore[assignment]
    try:
        with pytest.raises(errors.TlsError):
            transfer.pull(empty, f"{name}/demo:1", settings=settings)
        assert not registry.seen("*", "/v2/")
        with pytest.raises(errors.ManifestUnknownError):
            transfer.pull(empty, f"{name}/demo:1", settings=settings._replace(insecure=frozenset({name})))
    finally:
        socket.getaddrinfo = real


# -- mirrors ---------------------------------------------------------------------------------------------------------
def test_mirrors_in_order(
    registry: FaultyRegistry, store: Store, empty: Store, image: str, pushed: str, settings: RegistrySettings
) -> None:
    with FaultyRegistry() as broken, FaultyRegistry(registry.memory) as mirror:
        broken.fail("*", "/v2/", Status(403))
        mirrors = {registry.host: (broken.host, mirror.host)}
        transfer.pull(empty, pushed, settings=settings._replace(mirrors=mirrors))
        assert_same_image(store, empty, image, pushed)
        assert broken.requests
        assert len(mirror.seen("GET", BLOB)) == 3
        assert not registry.requests


def test_a_mirror_that_lacks_a_layer(
    registry: FaultyRegistry, store: Store, empty: Store, image: str, pushed: str, settings: RegistrySettings
) -> None:
    with FaultyRegistry(registry.memory) as mirror:
        mirror.fail("GET", large_blob(store, image).digest, Status(404))
        transfer.pull(empty, pushed, settings=settings._replace(mirrors={registry.host: (mirror.host,)}))
        assert_same_image(store, empty, image, pushed)
        assert len(registry.seen("GET", BLOB)) == 1


# -- redirects -------------------------------------------------------------------------------------------------------
def test_blobs_may_come_from_elsewhere(
    registry: FaultyRegistry, store: Store, empty: Store, image: str, pushed: str, settings: RegistrySettings
) -> None:
    with FaultyRegistry(registry.memory) as elsewhere:
        registry.fail("GET", BLOB, Redirect(f"http://{elsewhere.host}"))
        elsewhere.fail("GET", large_blob(store, image).digest, Drop(MIDDLE), times=1)
        transfer.pull(empty, pushed, settings=settings)
        assert_same_image(store, empty, image, pushed)
        assert len(elsewhere.seen("GET", BLOB)) == 4


def test_redirects_end(registry: FaultyRegistry, empty: Store, pushed: str, settings: RegistrySettings) -> None:
    registry.fail("GET", "/manifests/", Redirect(f"http://{registry.host}"))
    with pytest.raises(errors.ProtocolError, match="redirects more than 5 times"):
        transfer.pull(empty, pushed, settings=settings)
    registry.heal()
    registry.fail("GET", "/manifests/", Redirect("ftp://example"))
    with pytest.raises(errors.ProtocolError, match="redirects to an address that is none"):
        transfer.pull(empty, pushed, settings=settings)


# -- stopping --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fault", [Stall(0), Stall(MIDDLE), Delay(30), Status(503, {"Retry-After": "2"})])
def test_cancel_while_waiting(
    registry: FaultyRegistry,
    store: Store,
    empty: Store,
    image: str,
    pushed: str,
    settings: RegistrySettings,
    fault: Stall | Delay | Status,
) -> None:
    registry.fail("GET", large_blob(store, image).digest, fault)
    cancel = threading.Event()
    stopper = threading.Thread(target=_when_seen, args=(registry, large_blob(store, image).digest, cancel.set))
    stopper.start()
    settings = settings._replace(patience=settings.patience._replace(read_seconds=60, retry_after_limit_seconds=60))
    with pytest.raises(errors.TransferCancelledError) as caught:
        transfer.pull(empty, pushed, settings=settings, cancel=cancel)
    stopper.join()
    assert str(caught.value) == f"{pushed}: cancelled"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("registry")]
    assert_nothing_stored(empty)


def _when_seen(registry: FaultyRegistry, part: str, act: Callable[[], None], method: str = "GET") -> None:
    while not registry.arrived(method, part) and not registry.stopping.wait(0.01):
        pass
    time.sleep(0.05)
    act()


def test_cancel_before_anything(
    registry: FaultyRegistry, empty: Store, pushed: str, settings: RegistrySettings
) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(errors.TransferCancelledError):
        transfer.pull(empty, pushed, settings=settings, cancel=cancel)


def test_cancel_from_the_progress_of_a_push(
    registry: FaultyRegistry, store: Store, image: str, settings: RegistrySettings
) -> None:
    cancel = threading.Event()

    def stop(progress: TransferProgress) -> None:
        if progress.state in {"compressing", "transferring"} and progress.done_bytes:
            cancel.set()

    for compression in ("gzip", "none"):
        cancel.clear()
        with pytest.raises(errors.TransferCancelledError):
            transfer.push(
                store,
                image,
                f"{registry.host}/t:1",
                settings=settings,
                compression=compression,
                progress=stop,
                cancel=cancel,
            )
    assert not registry.memory.tags
    assert not list((store.root / "tmp").iterdir())


def test_an_error_in_the_callback_stops_the_transfer(
    registry: FaultyRegistry, empty: Store, pushed: str, settings: RegistrySettings
) -> None:
    def fail(progress: TransferProgress) -> None:
        if progress.state == "transferring":
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        transfer.pull(empty, pushed, settings=settings, progress=fail)
    assert_nothing_stored(empty)


def test_cancel_while_the_registry_does_not_read(
    registry: FaultyRegistry, store: Store, image: str, settings: RegistrySettings
) -> None:
    registry.fail("PUT", "/blobs/uploads/", Delay(30))
    cancel = threading.Event()
    stopper = threading.Thread(target=_when_seen, args=(registry, "/blobs/uploads/", cancel.set, "PUT"))
    stopper.start()
    settings = settings._replace(patience=settings.patience._replace(read_seconds=60))
    with pytest.raises(errors.TransferCancelledError):
        transfer.push(store, image, f"{registry.host}/t:1", settings=settings, compression="none", cancel=cancel)
    stopper.join()
    assert not registry.memory.tags


INTERRUPTED = """
import sys
from layers.registry import transfer
from layers.store import Store
with Store(sys.argv[1]) as store:
    try:
        transfer.pull(store, sys.argv[2])
    except KeyboardInterrupt:
        sys.exit(130)
"""


def test_ctrl_c(
    registry: FaultyRegistry, store: Store, empty: Store, image: str, pushed: str, environ: Path, project_root: Path
) -> None:
    """The command ends although the registry says nothing more, and leaves nothing half-done."""
    registry.fail("GET", large_blob(store, image).digest, Stall(MIDDLE))
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(empty.root), pushed],
        env={**os.environ, "PYTHONPATH": str(project_root)},
        stderr=subprocess.PIPE,
        text=True,
    )
    _when_seen(registry, large_blob(store, image).digest, lambda: process.send_signal(signal.SIGINT))
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert said == ""
    assert_nothing_stored(empty)
