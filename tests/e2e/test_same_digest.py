"""One tree, one layer: on every filesystem, through the union, with any number of threads, with any Python.

``PYTHONS=/a/bin/python:/b/bin/python`` adds interpreters; those called python3.11, python3.12 … that work are taken as
they are found. What an interpreter lacks (zlib-ng, isal, zstandard) it is not asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.unions import mounted
from layers.testing.trees import describe, random_tree

PROJECT = Path(__file__).parents[2]
SECOND_NS = 1_000_000_000
MAKE_FILESYSTEM = {
    "ext4": ("mkfs.ext4", "-q", "-I", "256"),
    "btrfs": ("mkfs.btrfs", "-q"),
    "xfs": ("mkfs.xfs", "-q"),
}
IMAGE_BYTES = 400 << 20
SCRIPT = """
import contextlib, hashlib, io, json, sys
from pathlib import Path
from layers.pack import write_layer

def digest(chunks):
    made = hashlib.sha256()
    for chunk in chunks:
        made.update(chunk)
    return made.hexdigest()

def compressors():
    with contextlib.suppress(ImportError):
        from layers.estargz import Writer
        from layers.registry.compress import choose

        for compression in ("gzip", "gzip:zlib", "gzip:isal", "zstd"):
            with contextlib.suppress(ImportError, ValueError):
                found = choose(compression)
                yield found.name, found.compress
        yield "estargz " + choose("gzip").name, lambda tar, threads: Writer(tar, 6, threads).chunks()

tar = io.BytesIO()
found = {"tar": {str(write_layer(Path(sys.argv[1]), tar).diff_id)}}
for name, compress in compressors():
    with contextlib.suppress(ImportError):
        found[name] = {digest(compress(io.BytesIO(tar.getvalue()), threads)) for threads in (1, 2, 8)}
print(json.dumps({name: sorted(one) for name, one in found.items()}))
"""


def pythons() -> list[str]:
    named = [path for path in os.environ.get("PYTHONS", "").split(":") if path]
    found = [path for minor in range(11, 20) if (path := shutil.which(f"python3.{minor}"))]
    working = [
        path for path in found if subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0
    ]
    return [sys.executable, *named, *working]


def make_tree(root: Path) -> None:
    """Some of everything: kinds, names, times, holes, depth, and enough for several blocks of a compressor."""
    root.mkdir()
    random_tree(root, 5, entries=80, marks=False)
    (root / "large").write_bytes(b"".join(b"%d\n" % number for number in range(300_000)))
    with open(root / "hole", "wb") as file:
        file.write(b"begin")
        file.seek(2 << 20)
        file.write(b"end")
    deep = root.joinpath(*["deep" * 20] * 12)
    deep.mkdir(parents=True)
    (deep / ("n" * 255)).write_text("far away")
    for number, seconds in enumerate((-1, 0, (1 << 31) + 5, (1 << 33) + 1)):
        path = root / f"time{number}"
        path.touch()
        os.utime(path, ns=(0, seconds * SECOND_NS + 999_999_999))
    for directory, names, _ in os.walk(root):
        for name in names:
            os.utime(os.path.join(directory, name), ns=(0, 1_500_000_000 * SECOND_NS + 7))


@contextlib.contextmanager
def filesystem(kind: str, directory: Path) -> Iterator[Path]:
    """An empty filesystem of its own, mounted."""
    point, image = directory / kind, directory / f"{kind}.image"
    point.mkdir()
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "none", point]
    else:
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        subprocess.run([*MAKE_FILESYSTEM[kind], image], check=True, capture_output=True)
        # the loop device goes with the mount
        command = ["mount", "-o", "loop", image, point]
    subprocess.run(command, check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)
        image.unlink(missing_ok=True)


def known() -> list[str]:
    """The filesystems that the kernel has and that can be made here."""
    lines = Path("/proc/filesystems").read_text(encoding="ascii").split()
    return [kind for kind, command in MAKE_FILESYSTEM.items() if kind in lines and shutil.which(command[0])]


def digests_of(tree: Path) -> dict[str, dict[str, list[str]]]:
    """By interpreter and by what was made: the different digests."""
    found = {}
    for python in pythons():
        done = subprocess.run([python, "-c", SCRIPT, tree], capture_output=True, text=True, check=False, cwd=PROJECT)
        assert done.returncode == 0, f"{python}: {done.stderr}"
        found[python] = json.loads(done.stdout)
    return found


@pytest.mark.root("mounts filesystems of all kinds")
@pytest.mark.kernel("loop")
def test_everywhere_the_same(tmp_path: Path) -> None:
    seen: dict[str, set[str]] = {}

    def note(place: str, tree: Path) -> None:
        for python, made in digests_of(tree).items():
            assert all(len(digests) == 1 for digests in made.values()), f"{place}, {python}: threads decide: {made}"
            for name, digests in made.items():
                seen.setdefault(name, set()).update(digests)
        different = {name: digests for name, digests in seen.items() if len(digests) > 1}
        assert not different, f"{place} is different: {different}"

    # the one that can hold least comes first, so that the others have the same tree
    with filesystem("tmpfs", tmp_path) as point:
        make_tree(point / "tree")
        expected = describe(point / "tree")
        note("tmpfs", point / "tree")
        subprocess.run(["cp", "-a", point / "tree", tmp_path / "tree"], check=True)
    assert known()
    for kind in known():
        with filesystem(kind, tmp_path) as point:
            subprocess.run(["cp", "-a", tmp_path / "tree", point / "tree"], check=True)
            assert describe(point / "tree").keys() == expected.keys()
            note(kind, point / "tree")
    (tmp_path / "upper").mkdir()
    (tmp_path / "union").mkdir()
    with mounted([tmp_path / "upper", tmp_path / "tree"], tmp_path / "union"):
        note("the union", tmp_path / "union")
        # half of it copied up
        for name in sorted(os.listdir(tmp_path / "union"))[::2]:
            path = tmp_path / "union" / name
            if not path.is_symlink():
                os.chmod(path, path.stat().st_mode & 0o7777 ^ 0o100)
                os.chmod(path, path.stat().st_mode & 0o7777 ^ 0o100)
        note("the union, half copied up", tmp_path / "union")
    assert os.listdir(tmp_path / "upper")
    assert len(seen) >= 5, seen.keys()
