"""Layers that are unpacked while they come: what is read, what a restart does, what is never left."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from layers.errors import LayersError
from layers.registry import errors, transfer
from layers.registry.settings import RegistrySettings
from layers.snapshotter import Snapshotter
from layers.store import Store
from layers.testing.faults import Corrupt, Delay, Drop, Fault, Stall
from layers.testing.registry import FaultyRegistry
from layers.testing.simple import store_image

CONTENTS = [bytes(range(251)) * 5_000, b"second", bytes(range(241)) * 3_000]


@pytest.fixture
def pushed(registry: FaultyRegistry, store: Store, settings: RegistrySettings) -> str:
    name = f"{registry.host}/a:1"
    store_image(store, "sample:1", CONTENTS)
    transfer.push(store, "sample:1", name, settings=settings, compression="gzip:zlib")
    return name


def assert_unpacked(store: Store, name: str) -> None:
    chain = store.image(name).config.rootfs.chain_ids[-1]
    directories = Snapshotter(store).view(chain)
    for number, content in enumerate(CONTENTS):
        assert (directories[len(CONTENTS) - 1 - number] / f"file{number}").read_bytes() == content


def assert_nothing_left(store: Store) -> None:
    assert not store.entries()
    assert not list((store.root / "tmp").iterdir())
    assert not [name for name in os.listdir(store.root / "layers") if name.startswith("active")] or not any(
        (store.root / "layers/active").iterdir()
    )


@pytest.mark.parametrize(
    "fault", [None, Delay(0.3), Drop(5_000), Corrupt(2_000)], ids=["none", "late", "broken", "wrong"]
)
def test_unpacked_with_the_pull(
    registry: FaultyRegistry, empty: Store, pushed: str, settings: RegistrySettings, fault: Fault | None
) -> None:
    """Also when the first bytes were wrong, and a mirror's: what counts is what was compared."""
    if isinstance(fault, Corrupt):
        with FaultyRegistry(registry.memory) as mirror:
            mirror.fail("GET", "/blobs/", fault, skip=1)
            transfer.pull(
                empty, pushed, unpack=True, settings=settings._replace(mirrors={registry.host: (mirror.host,)})
            )
    else:
        if fault is not None:
            registry.fail("GET", "/blobs/", fault, times=1, skip=1)
        transfer.pull(empty, pushed, unpack=True, settings=settings)
    assert_unpacked(empty, pushed)
    registry.requests.clear()
    transfer.pull(empty, pushed, unpack=True, settings=settings)
    assert len(registry.seen("GET", "/blobs/")) == 1, "the configuration"


def test_blobs_that_are_here_already(
    registry: FaultyRegistry, empty: Store, pushed: str, settings: RegistrySettings
) -> None:
    transfer.pull(empty, pushed, settings=settings)
    transfer.pull(empty, pushed, unpack=True, settings=settings)
    assert_unpacked(empty, pushed)


@pytest.mark.parametrize("fault", [Corrupt(2_000), Drop(0), Stall(2_000)], ids=["wrong", "broken", "stalled"])
def test_a_pull_that_fails_leaves_nothing_half(
    registry: FaultyRegistry, empty: Store, pushed: str, settings: RegistrySettings, fault: Fault
) -> None:
    quick = settings._replace(patience=settings.patience._replace(read_seconds=0.3, tries=2))
    registry.fail("GET", "/blobs/", fault, skip=1)
    with pytest.raises(errors.RegistryError):
        transfer.pull(empty, pushed, unpack=True, settings=quick)
    assert_nothing_left(empty)


def test_layers_that_are_not_what_the_configuration_says(
    registry: FaultyRegistry, store: Store, empty: Store, settings: RegistrySettings, tmp_path: Path
) -> None:
    from layers import media
    from layers.config import ImageConfig, RootFS
    from layers.digest import sha256
    from layers.manifest import Manifest

    made = store_image(store, None, CONTENTS)
    config = ImageConfig(architecture="amd64", rootfs=RootFS(tuple(sha256(str(n).encode()) for n in range(3))))
    wrong = Manifest.create(store.blobs.put(config.to_bytes(), media_type=media.OCI_CONFIG), made.layers)
    store.blobs.put(wrong.raw)
    store.tag("wrong:1", wrong.descriptor())
    name = f"{registry.host}/a:1"
    transfer.push(store, "wrong:1", name, settings=settings, compression="none")
    with pytest.raises(LayersError, match="layer has the diff ID"):
        transfer.pull(empty, name, unpack=True, settings=settings)
    assert_nothing_left(empty)


def test_cancel_while_a_layer_is_unpacked(
    registry: FaultyRegistry, empty: Store, pushed: str, settings: RegistrySettings
) -> None:
    cancel = threading.Event()
    registry.fail("GET", "/blobs/", Stall(2_000), skip=1)

    def stop_when_begun() -> None:
        while not registry.arrived("GET", "/blobs/"):
            time.sleep(0.01)
        time.sleep(0.2)
        cancel.set()

    watcher = threading.Thread(target=stop_when_begun)
    watcher.start()
    try:
        with pytest.raises(errors.TransferCancelledError):
            transfer.pull(empty, pushed, unpack=True, settings=settings, cancel=cancel)
    finally:
        watcher.join()
    assert_nothing_left(empty)
