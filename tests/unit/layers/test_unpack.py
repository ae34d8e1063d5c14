"""An archive becomes a branch: attributes, parents that are left out, marks, and what the union sees."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path

import pytest
import zstandard

from corpus.archives.hostile import directory, file, hard, link, pax, record, whole
from layers.digest import sha256
from layers.errors import ContentMismatchError, StoreError
from layers.pack import write_layer
from layers.tar.entry import Entry
from layers.tar.reader import TarReader
from layers.tar.writer import encode_header
from layers.testing.trees import describe
from layers.unpack import apply_layer
from unionfs.delta import ChangeKind, iter_changes
from unionfs.removal import remove_tree

SECOND = 1_000_000_000


def unpack(target: Path, *parts: bytes, parents: tuple[Path, ...] = ()) -> Path:
    apply_layer(io.BytesIO(whole(b"".join(parts))), target, parents=parents)
    return target


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
def test_compression_is_told_by_content(tmp_path: Path, compress) -> None:
    tar = whole(file(b"f", b"content"))
    packed = compress(tar)
    result = apply_layer(io.BytesIO(packed), tmp_path / "t", expected=sha256(tar))
    assert (result.diff_id, result.size, result.compressed_size) == (sha256(tar), len(tar), len(packed))
    assert (result.compression, result.entries) == ({bytes: "none", gzip.compress: "gzip"}.get(compress, "zstd"), 1)
    assert (tmp_path / "t" / "f").read_bytes() == b"content"


def test_padding_after_the_end_counts_for_the_digest(tmp_path: Path) -> None:
    tar = whole(file(b"f")) + bytes(10240)
    assert apply_layer(io.BytesIO(tar), tmp_path / "t").diff_id == sha256(tar)


def test_directories_keep_their_times_and_modes(tmp_path: Path) -> None:
    header = encode_header(Entry(b"d", b"5", 0o1500, mtime_ns=77 * SECOND))
    target = unpack(tmp_path / "t", header, file(b"d/a"), directory(b"d/e", 0), file(b"d/e/f"))
    status = (target / "d").stat()
    assert (status.st_mode & 0o7777, status.st_mtime) == (0o1500, 77)
    assert (target / "d" / "e").stat().st_mode & 0o7777 == 0
    remove_tree(target)


def test_root_of_an_archive(tmp_path: Path) -> None:
    root = encode_header(Entry(b".", b"5", 0o711, mtime_ns=9 * SECOND))
    tree = describe(unpack(tmp_path / "a", root, file(b"./f")))
    assert (tree[b""].mode, tree[b""].mtime_seconds) == (0o711, 9)
    upper = describe(unpack(tmp_path / "b", file(b"g"), parents=(tmp_path / "a",)))
    assert upper[b""] == tree[b""]
    assert describe(unpack(tmp_path / "c", file(b"g")))[b""].mode == 0o755


def test_implied_parents_are_as_in_the_layers_below(tmp_path: Path) -> None:
    tmp = encode_header(Entry(b"tmp", b"5", 0o1777, mtime_ns=5 * SECOND, xattrs={b"user.a": b"1"}))
    below = unpack(tmp_path / "below", tmp, file(b"file"))
    tree = describe(unpack(tmp_path / "t", file(b"tmp/x"), file(b"new/sub/x"), parents=(below,)))
    assert (tree[b"tmp"].mode, tree[b"tmp"].mtime_seconds, tree[b"tmp"].xattrs) == (0o1777, 5, (("user.a", b"1"),))
    assert (tree[b"new"].mode, tree[b"new/sub"].mode, tree[b"new"].mtime_seconds) == (0o755, 0o755, 0)


def test_links_of_the_layers_below_are_followed(tmp_path: Path) -> None:
    """A layer that holds lib/x without lib, on a base where lib is a link to usr/lib."""
    bottom = unpack(tmp_path / "bottom", directory(b"usr"), directory(b"usr/lib", 0o750), link(b"lib", b"usr/lib"))
    middle = unpack(tmp_path / "middle", file(b"other"))
    tree = describe(unpack(tmp_path / "t", file(b"lib/x"), file(b"lib/.wh.y", b""), parents=(middle, bottom)))
    assert set(tree) == {b"", b"usr", b"usr/lib", b"usr/lib/x", b"usr/lib/.wh.y"}
    assert tree[b"usr/lib"].mode == 0o750
    hidden = unpack(tmp_path / "hidden", file(b".wh.lib", b""))
    tree = describe(unpack(tmp_path / "u", file(b"lib/x"), parents=(hidden, bottom)))
    assert set(tree) == {b"", b"lib", b"lib/x"}
    explicit = describe(unpack(tmp_path / "v", directory(b"lib"), file(b"lib/x"), parents=(bottom,)))
    assert set(explicit) == {b"", b"lib", b"lib/x"}


def test_parents_hidden_by_the_same_archive_are_new(tmp_path: Path) -> None:
    below = unpack(tmp_path / "below", directory(b"d", 0o700), file(b"d/old"))
    tree = describe(unpack(tmp_path / "t", file(b".wh.d", b""), file(b"d/new"), parents=(below,)))
    assert set(tree) == {b"", b"d", b"d/.wh..wh..opq", b"d/new"}
    assert tree[b"d"].mode == 0o755


def test_links_inside_an_archive(tmp_path: Path) -> None:
    target = unpack(
        tmp_path / "t",
        directory(b"usr"),
        link(b"abs", b"/usr"),
        link(b"rel", b"./usr/../usr"),
        file(b"abs/a"),
        file(b"rel/b"),
        hard(b"h", b"/abs/a"),
        hard(b"i", b"./rel/b"),
    )
    assert sorted(os.listdir(target / "usr")) == ["a", "b"]
    assert (target / "h").samefile(target / "usr" / "a")
    assert (target / "i").samefile(target / "usr" / "b")


def test_hard_link_to_a_symbolic_link(tmp_path: Path) -> None:
    target = unpack(tmp_path / "t", link(b"l", b"nowhere"), hard(b"h", b"l"))
    assert os.readlink(target / "h") == "nowhere"
    assert (target / "h").lstat().st_ino == (target / "l").lstat().st_ino


def test_sparse_files_keep_their_holes(tmp_path: Path) -> None:
    records = record(b"GNU.sparse.map", b"1048576,4") + record(b"GNU.sparse.size", b"10485760")
    target = unpack(tmp_path / "t", pax(records), file(b"s", b"data"))
    status = (target / "s").stat()
    assert (status.st_size, status.st_blocks * 512 < 1 << 20) == (10 << 20, True)
    with open(target / "s", "rb") as sparse:
        sparse.seek(1 << 20)
        assert sparse.read(6) == b"data\0\0"


@pytest.mark.root("makes devices, and files of owners beyond a namespace")
def test_owners_and_devices(tmp_path: Path) -> None:
    null = encode_header(Entry(b"null", b"3", 0o666, uid=1, gid=2, major=1, minor=3))
    tree = describe(unpack(tmp_path / "t", file(b"f", uid=3_000_000, gid=7, mode=0o6755), null))
    assert (tree[b"f"].uid, tree[b"f"].gid, tree[b"f"].mode) == (3_000_000, 7, 0o6755)
    assert (tree[b"null"].uid, tree[b"null"].device, tree[b"null"].mode) == (1, os.makedev(1, 3), 0o666)


@pytest.mark.parametrize("length", [251, 252, 255])
def test_whiteouts_of_long_names(tmp_path: Path, length: int) -> None:
    """A name over 251 bytes leaves no room for the prefix on disk, but it does in an archive."""
    name = b"n" * length
    target = unpack(tmp_path / "t", directory(b"d"), file(b"d/.wh." + name, b""))
    changes = [(change.path, change.kind) for change in iter_changes(target)]
    assert changes[-1] == (b"d/" + name, ChangeKind.WHITEOUT)
    buffer = io.BytesIO()
    write_layer(target, buffer)
    assert [entry.name for entry in TarReader(io.BytesIO(buffer.getvalue()))] == [b"d", b"d/.wh." + name]


def test_wrong_digest(tmp_path: Path) -> None:
    with pytest.raises(ContentMismatchError, match="expected"):
        apply_layer(io.BytesIO(whole(file(b"f"))), tmp_path / "t", expected=sha256(b""))
    assert os.listdir(tmp_path) == []


def test_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no/t"):
        unpack(tmp_path / "no" / "t", file(b"f"))


def test_what_the_stream_raises_passes(tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            if not data:
                raise ContentMismatchError("the blob is damaged")
            return data

    with pytest.raises(ContentMismatchError, match="the blob is damaged"):
        apply_layer(Broken(whole(file(b"f"))), tmp_path / "t")
    assert os.listdir(tmp_path) == []
