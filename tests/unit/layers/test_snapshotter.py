"""Unpacked layers: made, found again, dropped; two at once, after a crash, after a boot."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from layers.config import RootFS
from layers.digest import ChainId, Digest, chain_id, sha256
from layers.ensure import ensure_unpacked
from layers.errors import BlobNotFoundError, ContentMismatchError, FormatError, StoreError
from layers.layerrecord import LayerRecord
from layers.packing import CommittedLayer, commit_layer
from layers.snapshotter import Snapshotter
from layers.store import Store
from layers.testing.images import random_image
from layers.testing.trees import describe
from layers.validate import validate_store
from unionfs.removal import remove_tree

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "store") as made:
        yield made
        validate_store(made)


def make(store: Store, name: str, parent: ChainId | None = None) -> CommittedLayer:
    active = Snapshotter(store).prepare(name, parent)
    (active.path / name).write_text(name)
    os.utime(active.path / name, (1, 1))
    return commit_layer(store, active, parent)


def actives(store: Store) -> list[str]:
    return os.listdir(store.root / "layers" / "active")


def rebooted(store: Store, chain: ChainId) -> Snapshotter:
    """The layer looks as if it was made before the machine was booted."""
    path = store.root / "layers" / chain.hex / "layer.json"
    path.write_bytes(LayerRecord.from_bytes(path.read_bytes())._replace(boot="another").to_bytes())
    return Snapshotter(store)


def test_layers_on_layers(store: Store) -> None:
    bottom = make(store, "a")
    top = make(store, "b", bottom.chain_id)
    snapshots = Snapshotter(store)
    assert top.chain_id == chain_id(bottom.chain_id, top.diff_id)
    assert [sorted(os.listdir(path)) for path in snapshots.view(top.chain_id)] == [["b"], ["a"]]
    assert snapshots.has(bottom.chain_id)
    assert snapshots.has(top.chain_id)
    assert not snapshots.has(ChainId(sha256(b"other")))
    assert set(snapshots.chains()) == {bottom.chain_id, top.chain_id}
    assert actives(store) == []
    assert store.blobs.size(top.diff_id) == top.descriptor.size
    layer = snapshots.layer(top.chain_id)
    assert layer is not None
    assert (layer.diff_id, layer.chain) == (top.diff_id, (bottom.chain_id, top.chain_id))


def test_layer_that_is_there_already(store: Store) -> None:
    first = make(store, "a")
    inode = Snapshotter(store).path(first.chain_id).stat().st_ino
    assert make(store, "a") == first
    assert Snapshotter(store).path(first.chain_id).stat().st_ino == inode
    assert actives(store) == []


def test_branch_begins_with_the_root_below(store: Store) -> None:
    snapshots = Snapshotter(store)
    active = snapshots.prepare("a", None)
    assert stat.S_IMODE(active.path.stat().st_mode) == 0o755
    active.path.chmod(0o711)
    os.utime(active.path, (5, 5))
    layer = commit_layer(store, active, None)
    assert layer.entries == 1
    above = snapshots.prepare("b", layer.chain_id)
    assert (stat.S_IMODE(above.path.stat().st_mode), above.path.stat().st_mtime) == (0o711, 5)
    assert commit_layer(store, above, layer.chain_id).entries == 0


def test_removed_branch(store: Store) -> None:
    snapshots = Snapshotter(store)
    active = snapshots.prepare("a", None)
    (active.path / "d").mkdir()
    (active.path / "d" / "f").touch()
    os.chmod(active.path / "d", 0)
    snapshots.remove(active)
    snapshots.remove(active)
    assert actives(store) == []


def test_missing_parent(store: Store) -> None:
    with pytest.raises(StoreError, match="not unpacked"):
        Snapshotter(store).prepare("a", ChainId(sha256(b"x")))
    with pytest.raises(StoreError, match="not unpacked"):
        Snapshotter(store).view(ChainId(sha256(b"x")))


def test_dropped_layer(store: Store) -> None:
    snapshots = Snapshotter(store)
    layer = make(store, "a")
    assert snapshots.has(layer.chain_id)
    snapshots.drop(layer.chain_id)
    snapshots.drop(layer.chain_id)
    assert not snapshots.has(layer.chain_id)
    assert (list(snapshots.chains()), actives(store)) == ([], [])


def test_stack_without_its_bottom_is_not_there(store: Store) -> None:
    bottom = make(store, "a")
    top = make(store, "b", bottom.chain_id)
    Snapshotter(store).drop(bottom.chain_id)
    assert not Snapshotter(store).has(top.chain_id)
    Snapshotter(store).drop(top.chain_id)


@pytest.mark.parametrize("raw", [b"", b"{", b"{}", b'{"diff_id":"x"}'])
def test_damaged_record_counts_as_absent(store: Store, raw: bytes) -> None:
    layer = make(store, "a")
    (store.root / "layers" / layer.chain_id.hex / "layer.json").write_bytes(raw)
    assert not Snapshotter(store).has(layer.chain_id)
    assert make(store, "a") == layer
    assert Snapshotter(store).has(layer.chain_id)


def test_layer_that_survived_a_boot(store: Store) -> None:
    layer = make(store, "a")
    snapshots = rebooted(store, layer.chain_id)
    assert snapshots.has(layer.chain_id)
    record = LayerRecord.from_bytes((store.root / "layers" / layer.chain_id.hex / "layer.json").read_bytes())
    assert record.boot != "another"


def test_layer_that_lost_content_in_a_crash(store: Store) -> None:
    layer = make(store, "a")
    (Snapshotter(store).path(layer.chain_id) / "a").write_bytes(b"")
    snapshots = rebooted(store, layer.chain_id)
    assert not snapshots.has(layer.chain_id)
    assert list(snapshots.chains()) == []
    assert make(store, "a") == layer


def test_image_is_unpacked_from_its_blobs(store: Store) -> None:
    image = random_image(store, "random", 3, layers=3)
    snapshots = Snapshotter(store)
    chains = image.config.rootfs.chain_ids
    before = [describe(path) for path in snapshots.view(chains[-1])]
    for chain in chains[1:]:
        snapshots.drop(chain)
    steps: list[tuple[int, int]] = []
    assert ensure_unpacked(store, image.manifest, image.config, lambda *step: steps.append(step)) == chains[-1]
    assert steps == [(1, 3), (2, 3), (3, 3)]
    after = [describe(path) for path in Snapshotter(store).view(chains[-1])]
    for ours, theirs in zip(after, before, strict=True):
        # marks have no attributes that matter
        assert {p: n for p, n in ours.items() if b".wh." not in p and p} == {
            p: n for p, n in theirs.items() if b".wh." not in p and p
        }
        assert set(ours) == set(theirs)
    rebooted(store, chains[1])
    assert not Snapshotter(store).has(chains[-1])
    assert ensure_unpacked(store, image.manifest, image.config) == chains[-1]


def test_image_that_does_not_fit_together(store: Store) -> None:
    image = random_image(store, "random", 4)
    for chain in image.config.rootfs.chain_ids:
        Snapshotter(store).drop(chain)
    wrong = image.config._replace(rootfs=RootFS(tuple(reversed(image.config.rootfs.diff_ids))))
    with pytest.raises(ContentMismatchError, match="diff ID"):
        ensure_unpacked(store, image.manifest, wrong)
    with pytest.raises(FormatError, match="2 layers"):
        ensure_unpacked(store, image.manifest, image.config._replace(rootfs=RootFS()))
    blob = store.blobs.path(image.manifest.layers[1].digest)
    content = blob.read_bytes()
    blob.unlink()
    with pytest.raises(BlobNotFoundError):
        ensure_unpacked(store, image.manifest, image.config)
    blob.write_bytes(content)
    assert actives(store) == []


def test_image_without_layers(store: Store) -> None:
    image = random_image(store, "empty", 1, layers=0)
    assert ensure_unpacked(store, image.manifest, image.config) is None


COMMITTING = """
import os, sys, time
from pathlib import Path
from layers.packing import commit_layer
from layers.snapshotter import Snapshotter
from layers.store import Store
store = Store(sys.argv[1])
snapshots = Snapshotter(store)
parent = None
for number in range(10):
    active = snapshots.prepare("x", parent)
    for name in range(20):
        path = active.path / f"{number} {name}"
        path.write_text("content")
        os.utime(path, (1, 1))
    parent = commit_layer(store, active, parent).chain_id
print(parent)
"""


def test_same_layers_by_several_processes_at_once(store: Store) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", COMMITTING, store.root], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    results = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0, 0]
    (chain,) = results
    assert len(Snapshotter(store).view(ChainId(Digest(chain.strip())))) == 10
    assert actives(store) == []


KILLED = """
import os, sys, signal
from layers.snapshotter import Snapshotter
from layers.store import Store
active = Snapshotter(Store(sys.argv[1])).prepare("x", None)
(active.path / "d" / "e").mkdir(parents=True)
(active.path / "d" / "f").touch()
os.chmod(active.path / "d", 0)
print(active.path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_branches_of_killed_processes_are_swept(store: Store) -> None:
    subprocess.run([sys.executable, "-c", KILLED, store.root], cwd=PROJECT, check=False, capture_output=True)
    snapshots = Snapshotter(store)
    living = snapshots.prepare("mine", None)
    assert len(actives(store)) == 2
    assert snapshots.sweep() == 1
    assert living.path.is_dir()
    snapshots.remove(living)


# -- removal --------------------------------------------------------------------------------------------------------
def test_removal_follows_no_link(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "f").touch()
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "l").symlink_to(kept)
    os.mkfifo(tree / "a" / "b" / "fifo")
    (tree / "a" / b"\xff\n".decode(errors="surrogateescape")).touch()
    (tmp_path / "link").symlink_to(kept)
    remove_tree(tree)
    remove_tree(tmp_path / "link")
    remove_tree(tmp_path / "nothing")
    assert sorted(os.listdir(tmp_path)) == ["kept"]
    assert os.listdir(kept) == ["f"]


def test_removal_of_a_tree_nobody_may_enter(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a" / "b" / "c").mkdir(parents=True)
    (tree / "a" / "b" / "f").touch()
    for path in (tree / "a" / "b", tree / "a", tree):
        path.chmod(0)
    remove_tree(tree)
    assert os.listdir(tmp_path) == []
