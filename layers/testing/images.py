"""Random images in a store, made the way a build makes them."""

from __future__ import annotations

from layers.config import History, ImageConfig, RootFS
from layers.digest import ChainId
from layers.image import make_image, put_image
from layers.packing import CommittedLayer, commit_layer
from layers.platform import host
from layers.snapshotter import Snapshotter
from layers.store import Store, StoredImage
from layers.testing.trees import random_tree


def random_image(store: Store, name: str, seed: int, layers: int = 2, entries: int = 20) -> StoredImage:
    """The image is in the store under the name, its layers unpacked; equal seeds give equal images."""
    snapshots = Snapshotter(store)
    parent: ChainId | None = None
    made: list[CommittedLayer] = []
    for number in range(layers):
        active = snapshots.prepare(f"{name} {number}", parent)
        random_tree(active.path, seed * 1000 + number, entries)
        made.append(commit_layer(store, active, parent))
        parent = made[-1].chain_id
    config = ImageConfig(
        architecture=host().architecture,
        created="2020-01-01T00:00:00Z",
        env=("PATH=/bin", "MARKUP=<a>&</a>"),
        cmd=("/bin/sh", "-c", f"echo {seed}"),
        labels={"seed": str(seed)},
        rootfs=RootFS(tuple(layer.diff_id for layer in made)),
        history=tuple(History("2020-01-01T00:00:00Z", f"RUN step {number}") for number in range(layers)),
    )
    store.tag(name, put_image(store, make_image(config, [layer.descriptor for layer in made])))
    return store.image(name)
