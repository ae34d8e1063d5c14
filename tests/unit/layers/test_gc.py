"""What goes and what stays; and that validation finds what does not hold."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

from layers import media
from layers.config import History, RootFS
from layers.digest import sha256
from layers.ensure import ensure_layers
from layers.errors import ImageNotFoundError, StoreError
from layers.gc import collect
from layers.image import Image, make_image, put_image
from layers.manifest import Manifest
from layers.snapshotter import Snapshotter
from layers.store import Store
from layers.testing.images import random_image
from layers.validate import InvalidImageError, validate_image, validate_store

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "store") as made:
        yield made


def test_what_images_refer_to_stays(store: Store) -> None:
    random_image(store, "a", 1)
    random_image(store, "b", 2)
    blobs, chains = list(store.blobs), list(Snapshotter(store).chains())
    assert collect(store) == ((), (), 0, 0)
    assert (list(store.blobs), list(Snapshotter(store).chains())) == (blobs, chains)


def test_removed_image_goes(store: Store) -> None:
    kept, gone = random_image(store, "a", 1), random_image(store, "b", 2)
    size = sum(store.blobs.size(each) or 0 for each in store.blobs)
    store.untag("b")
    planned = collect(store, dry_run=True)
    assert len(list(store.blobs)) == 8
    done = collect(store)
    assert (done, len(done.blobs), set(done.chains)) == (planned, 4, set(gone.config.rootfs.chain_ids))
    assert size - sum(store.blobs.size(each) or 0 for each in store.blobs) == done.freed_bytes
    validate_store(store)
    validate_image(store, "a")
    assert set(Snapshotter(store).chains()) == set(kept.config.rootfs.chain_ids)


def test_what_the_cache_names_stays(store: Store) -> None:
    image = random_image(store, "a", 1, layers=3)
    store.untag("a")
    chains = image.config.rootfs.chain_ids
    extra = store.blobs.put(b"kept").digest
    done = collect(store, live_chains=[chains[1]], live_digests=[extra])
    assert done.chains == (chains[2],)
    assert set(store.blobs) == {extra, *image.config.rootfs.diff_ids[:2]}
    assert Snapshotter(store).has(chains[1])
    validate_store(store)


def test_leavings_of_the_dead_go(store: Store) -> None:
    code = "import os, sys; from layers.store import Store; from layers.snapshotter import Snapshotter; "
    code += "store = Store(sys.argv[1]); store.blobs.writer(); Snapshotter(store).prepare('x', None); os._exit(0)"
    subprocess.run([sys.executable, "-c", code, store.root], cwd=PROJECT, check=True)
    assert collect(store).temporary == 2


HOLDING = """
import sys
from layers.store import Store
store = Store(sys.argv[1])
store.blobs.put(b"not yet named")
print("ready", flush=True)
sys.stdin.read()
"""


def test_what_others_may_still_name_stays(store: Store) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, store.root], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        old = store.blobs.put(b"old")
        os.utime(store.blobs.path(old.digest), (1, 1))
        assert collect(store).blobs == (old.digest,)
        assert list(store.blobs) == [sha256(b"not yet named")]
        assert collect(store, grace_seconds=-10, dry_run=True).blobs == (sha256(b"not yet named"),)
        process.stdin.close()
        process.wait()
    assert collect(store).blobs == (sha256(b"not yet named"),)


def test_nothing_goes_while_an_image_cannot_be_read(store: Store) -> None:
    image = random_image(store, "a", 1)
    extra = store.blobs.put(b"garbage").digest
    store.blobs.remove(image.descriptor.digest)
    with pytest.raises(StoreError, match="nothing is removed"):
        collect(store)
    assert extra in store.blobs


# -- validation -----------------------------------------------------------------------------------------------------
def rewritten(store: Store, image: Image) -> None:
    store.tag("bad", put_image(store, image))


def config_change(**changes: object):
    def change(store: Store, image: Image) -> None:
        config = image.config._replace(**changes)
        raw = config.to_bytes()
        described = store.blobs.put(raw, media_type=media.OCI_CONFIG)
        rewritten(store, Image(Manifest.create(described, image.manifest.layers), config, raw))

    return change


def layer_change(**changes: object):
    def change(store: Store, image: Image) -> None:
        layers = [layer._replace(**changes) for layer in image.manifest.layers]
        rewritten(store, image._replace(manifest=Manifest.create(image.manifest.config, layers)))

    return change


def duplicate_entries(store: Store, image: Image) -> None:
    from corpus.archives.hostile import file, whole

    tar = whole(file(b"f") + file(b"./f") + file(b"f/x"))
    layer = store.blobs.put(tar, media_type=media.OCI_LAYER)
    config = image.config._replace(rootfs=RootFS((layer.digest,)), history=())
    rewritten(store, make_image(config, [layer]))


def damage_blob(store: Store, image: Image) -> None:
    rewritten(store, image)
    path = store.blobs.path(image.manifest.layers[0].digest)
    path.write_bytes(b"\0" * path.stat().st_size)


def remove_blob(store: Store, image: Image) -> None:
    rewritten(store, image)
    store.blobs.remove(image.manifest.layers[0].digest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (config_change(architecture=""), "no platform"),
        (config_change(history=(History(),)), "history has 1 entries"),
        (config_change(rootfs=RootFS((sha256(b"x"),)), history=()), "2 layers, the config names 1"),
        (config_change(rootfs=RootFS((sha256(b"x"), sha256(b"y")))), "has the diff ID"),
        (layer_change(size=5), "the manifest says 5"),
        (layer_change(media_type="text/plain"), "no layer's"),
        (layer_change(media_type=media.OCI_LAYER_GZIP), "compressed as none"),
        (duplicate_entries, "twice"),
        (duplicate_entries, "no directory"),
        (damage_blob, "damaged"),
        (remove_blob, "not in the store"),
    ],
)
def test_claims_that_do_not_hold(store: Store, change, message: str) -> None:
    image = Image.stored(store, random_image(store, "good", 1, entries=5))
    validate_image(store, "good")
    change(store, image)
    with pytest.raises(InvalidImageError, match=message):
        validate_image(store, "bad")
    with pytest.raises(InvalidImageError, match=message):
        validate_store(store)


def test_validation_of_nothing(store: Store) -> None:
    validate_store(store)
    with pytest.raises(ImageNotFoundError):
        validate_image(store, "a")


def test_unpacked_layer_that_was_changed(store: Store) -> None:
    image = random_image(store, "a", 1)
    bottom, top = image.config.rootfs.chain_ids
    (Snapshotter(store).path(top) / "new").touch()
    with pytest.raises(InvalidImageError, match="does not pack into its diff ID"):
        validate_store(store)
    Snapshotter(store).drop(top)
    validate_store(store)
    random_image(store, "a", 1)
    Snapshotter(store).drop(bottom)
    with pytest.raises(InvalidImageError, match="lies on"):
        validate_store(store)


def test_archive_of_a_live_layer_stays(store: Store) -> None:
    """A base whose name is gone, on which results of the cache lie: they can still be exported."""
    image = random_image(store, "a", 1)
    packed = [store.blobs.put(gzip.compress(store.blobs.read(each.digest))) for each in image.manifest.layers]
    chains = image.config.rootfs.chain_ids
    for chain in chains:
        Snapshotter(store).drop(chain)
    store.untag("a")
    assert ensure_layers(store, list(zip(packed, image.config.rootfs.diff_ids, strict=True))) == chains[-1]
    collect(store, live_chains=[chains[-1]])
    assert {each.digest for each in packed} <= set(store.blobs)
    assert Snapshotter(store).has(chains[-1])
    assert len(collect(store).chains) == 2
