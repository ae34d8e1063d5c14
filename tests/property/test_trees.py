"""Any tree, packed and unpacked, is the same tree: every kind, name, owner, mode, time, attribute, hole and hard link.

TREE_EXAMPLES is the number of trees. Times are compared in whole seconds, which is what a layer holds.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from layers.digest import sha256
from layers.pack import write_layer
from layers.testing.trees import describe
from layers.unpack import apply_layer

SECOND_NS = 1_000_000_000
# what ext4 holds: ext4(5), 34 bits of seconds from 1901 on
TIMES = st.one_of(
    st.integers(-(1 << 31) * SECOND_NS, 15_032_385_535 * SECOND_NS),
    st.sampled_from([-1, 0, 1, -SECOND_NS, (1 << 31) * SECOND_NS + 1, 8_589_934_592 * SECOND_NS]),
)
CAPABILITY = b"\x01\x00\x00\x02\x00\x04" + bytes(14)
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, 6, number) for tag, number in ((1, 2**32 - 1), (2, 1000), (4, 2**32 - 1), (16, 2**32 - 1), (32, 2**32 - 1))
)  # fmt: skip


def usable(name: bytes) -> bool:
    return not name.startswith(b".wh.") and name not in {b".", b".."}


NAME = (
    st.one_of(
        st.binary(min_size=1, max_size=20),
        st.binary(min_size=250, max_size=255),
        st.sampled_from([b"x" * 255, b"a b", b"n\nl", b"-", b"\xff\xfe", "ü".encode(), b"PaxHeaders.0", b"..."]),
    )
    .map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"0"))
    .filter(usable)
)
XATTRS = st.dictionaries(
    st.one_of(
        st.text("abc._=\n ä", min_size=1, max_size=12).map(lambda text: b"user." + text.encode()),
        st.sampled_from([b"trusted.note", b"user.overlay", b"user.x=y"]),
    ),
    st.binary(max_size=60),
    max_size=3,
)
IDS = st.sampled_from([0, 1, 1000, 65534, 2_097_151, 2_097_152, 4_294_967_294])


class File(NamedTuple):
    """One thing in a tree. ``place`` chooses the directory, and for a hard link the file, among those before it."""

    kind: str
    name: bytes
    place: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: dict[bytes, bytes]
    pieces: list[tuple[int, bytes]]
    target: bytes
    device: tuple[int, int]


FILES = st.builds(
    File,
    kind=st.sampled_from(
        ["file", "file", "file", "directory", "directory", "link", "symlink", "fifo", "character", "block"]
    ),
    name=NAME,
    place=st.integers(0, 1 << 20),
    mode=st.integers(0, 0o7777),
    uid=IDS,
    gid=IDS,
    mtime_ns=TIMES,
    xattrs=XATTRS,
    pieces=st.lists(st.tuples(st.integers(0, 300_000), st.binary(min_size=1, max_size=2000)), max_size=3),
    target=st.one_of(st.binary(min_size=1, max_size=300), st.just(b"t" * 4000)).map(
        lambda target: target.replace(b"\0", b"0")
    ),
    device=st.tuples(st.integers(1, 4095), st.integers(0, 0xFFFFF)),
)


def make(root: bytes, files: list[File]) -> None:
    """The tree; a name that is taken, or too far from the root, is passed over."""
    directories, contents = [root], [b""]
    made: list[tuple[bytes, File]] = []
    for file in files:
        path = directories[file.place % len(directories)] + b"/" + file.name
        if os.path.lexists(path) or len(path) > 3000:
            continue
        if file.kind == "link":
            if (source := contents[file.place % len(contents)]) and os.stat(source).st_nlink < 60:
                os.link(source, path)
            continue
        _make_one(path, file)
        {"directory": directories, "file": contents}.get(file.kind, []).append(path)
        made.append((path, file))
    for path, file in reversed(made):
        _dress(path, file)


def _make_one(path: bytes, file: File) -> None:
    if file.kind == "directory":
        os.mkdir(path)
    elif file.kind == "symlink":
        os.symlink(file.target, path)
    elif file.kind == "fifo":
        os.mkfifo(path)
    elif file.kind in {"character", "block"}:
        kind = stat.S_IFCHR if file.kind == "character" else stat.S_IFBLK
        os.mknod(path, kind, os.makedev(*file.device))
    else:
        with open(path, "wb") as out:
            for offset, data in file.pieces:
                out.seek(offset)
                out.write(data)
            if file.place % 5 == 0:
                out.truncate(file.place)


def _dress(path: bytes, file: File) -> None:
    os.chown(path, file.uid, file.gid, follow_symlinks=False)
    for key, value in file.xattrs.items():
        if file.kind in {"file", "directory"} or key.startswith(b"trusted."):
            os.setxattr(path, key, value, follow_symlinks=False)
    if file.kind == "file" and file.place % 3 == 0:
        os.setxattr(path, "security.capability", CAPABILITY)
    if file.kind != "symlink":
        os.chmod(path, file.mode)
    if file.kind in {"file", "directory"} and file.place % 7 == 0:
        os.setxattr(path, "system.posix_acl_access", ACL)
    os.utime(path, ns=(0, file.mtime_ns), follow_symlinks=False)


def plain(name: bytes, kind: str = "file", **fields: object) -> File:
    return File(kind, name, 1, 0o644, 0, 0, 0, {}, [], b"t", (1, 3))._replace(**fields)


@pytest.mark.root("makes devices, and files of owners beyond a namespace")
@settings(
    max_examples=int(os.environ.get("TREE_EXAMPLES", "60")), deadline=None, suppress_health_check=list(HealthCheck)
)
@given(st.lists(FILES, max_size=25))
@example([plain(b"d" * 255, "directory", place=number) for number in range(11)])
@example([plain(b"a", xattrs={b"user.x=y": b"\n\0="}), plain(b"b", "link"), plain(b"c", "link")])
@example(
    [plain(b"a", mtime_ns=-1), plain(b"b", "fifo", mtime_ns=-SECOND_NS - 1), plain(b"c", "symlink", mtime_ns=1 << 62)]
)
def test_it_is_the_same_tree(files: list[File]) -> None:
    base = Path(tempfile.mkdtemp())
    try:
        source, target = base / "source", base / "target"
        source.mkdir(mode=0o755)
        make(os.fsencode(source), files)
        os.utime(source, (0, 0))
        packed = io.BytesIO()
        result = write_layer(source, packed)
        assert result.diff_id == sha256(packed.getvalue())
        assert result.notes == ()
        unpacked = apply_layer(io.BytesIO(packed.getvalue()), target)
        assert (unpacked.diff_id, unpacked.notes) == (result.diff_id, ())
        assert describe(target) == describe(source)
        again = io.BytesIO()
        write_layer(target, again)
        assert again.getvalue() == packed.getvalue()
    finally:
        shutil.rmtree(base)
