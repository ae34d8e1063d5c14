"""The store on a filesystem that fills up and then becomes read-only: clear errors, nothing lost, nothing left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.sandbox

PROJECT = Path(__file__).parents[2]
SCRIPT = """
import io, os, subprocess, sys
from pathlib import Path
from corpus.archives import hostile
from layers.errors import StoreError
from layers.packing import commit_layer
from layers.snapshotter import Snapshotter
from layers.store import Store
from layers.testing.images import random_image
from layers.unpack import apply_layer
from layers.validate import validate_store

def fails(text, call):
    try:
        call()
    except StoreError as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"expected: {text}")

place = sys.argv[1]
store = Store(f"{place}/store")
image = random_image(store, "kept", 1, entries=3)
snapshots = Snapshotter(store)
active = snapshots.prepare("large", None)
(active.path / "large").write_bytes(b"x" * 1_500_000)
archive = io.BytesIO(hostile.whole(hostile.file(b"f", b"y" * 3_000_000)))
fails("the disk is full", lambda: commit_layer(store, active, None))
fails("the disk is full", lambda: apply_layer(archive, Path(place) / "store" / "target"))
fails("the disk is full", lambda: store.blobs.put(b"z" * 3_000_000))
assert os.listdir(f"{place}/store/tmp") == [], os.listdir(f"{place}/store/tmp")
snapshots.remove(active)
store.blobs.put(b"z" * 1_000_000)
validate_store(store)

subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
reader = Store(f"{place}/store")
assert reader.image("kept") == image
assert Snapshotter(reader).has(image.config.rootfs.chain_ids[-1])
validate_store(reader)
fails("read-only", lambda: reader.tag("new", image.descriptor))
fails("read-only", lambda: reader.blobs.put(b"q"))
fails("read-only", lambda: Snapshotter(reader).prepare("x", None))
print("done")
"""


def test_small_disk(tmp_path: Path) -> None:
    command = 'mount -t tmpfs -o size=3M none "$1" && shift && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, "sh", tmp_path, sys.executable, "-c", SCRIPT, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
        env={"PYTHONPATH": f"{PROJECT}:{PROJECT}/tests", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    assert (done.stdout, done.stderr) == ("done\n", "")
