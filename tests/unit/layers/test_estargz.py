"""eStargz layers: told apart by their footer, each content where the table says, verified chunk by chunk.

The checks follow docs/estargz.md of stargz-snapshotter, not the writer.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
import zlib
from typing import Any

import pytest

from layers import estargz
from layers.compression import Decompressed
from layers.digest import sha256
from layers.estargz import Writer
from layers.gc import collect
from layers.layer import Layer
from layers.media import OCI_LAYER, OCI_LAYER_GZIP, TOC_DIGEST
from layers.store import Store
from layers.tar.reader import TarReader

FOOTER_BYTES = 51
LARGE = random.Random(7).randbytes(9 << 20)


def archive(*, large: bool = True) -> bytes:
    """One entry of each kind, a file of several chunks, attributes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: Any) -> None:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.mtime = kind, len(content), 1_600_000_000
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content))

        add("d", tarfile.DIRTYPE, mode=0o750, uid=7, gid=8)
        add("d/small", content=b"small content")
        add("d/empty")
        add("d/again", tarfile.LNKTYPE, linkname="d/small")
        add("d/link", tarfile.SYMTYPE, linkname="../else")
        add("null", tarfile.CHRTYPE, devmajor=1, devminor=3)
        add("fifo", tarfile.FIFOTYPE)
        add("capable", content=b"x" * 700, pax_headers={"SCHILY.xattr.user.a": "value"})
        if large:
            add("large", content=LARGE)
        for number in range(50):
            add(f"many/{number:03}", content=bytes([number]) * number)
    return out.getvalue()


def write(tar: bytes, threads: int = 2, level: int = 6) -> tuple[bytes, Writer]:
    writer = Writer(io.BytesIO(tar), level, threads)
    return b"".join(writer.chunks()), writer


def member_at(blob: bytes, offset: int) -> bytes:
    """The content of the one gzip member that begins at ``offset``."""
    return zlib.decompressobj(wbits=31).decompress(blob[offset:])


def table_of(blob: bytes) -> tuple[dict[str, Any], bytes]:
    """The table of contents, found from the footer, and its bytes."""
    footer = blob[-FOOTER_BYTES:]
    assert footer[:4] == b"\x1f\x8b\x08\x04"
    assert int.from_bytes(footer[10:12], "little") == 26
    assert footer[12:14] == b"SG"
    assert int.from_bytes(footer[14:16], "little") == 22
    assert footer[32:38] == b"STARGZ"
    assert gzip.decompress(footer) == b""
    with tarfile.open(fileobj=io.BytesIO(member_at(blob, int(footer[16:32], 16)))) as tar:
        [info] = tar.getmembers()
        assert info.name == "stargz.index.json"
        content = tar.extractfile(info)
        assert content is not None
        raw = content.read()
    return json.loads(raw), raw


def verified_contents(blob: bytes) -> dict[str, bytes]:
    """The files of the layer, each read from the members that the table names, each chunk verified."""
    table, _ = table_of(blob)
    assert table["version"] == 1
    contents: dict[str, bytes] = {}
    sizes: dict[str, int] = {}
    seen: set[int] = set()
    for entry in table["entries"]:
        if entry["type"] not in {"reg", "chunk"} or not (entry.get("size") or entry["type"] == "chunk"):
            continue
        name = entry["name"]
        sizes.setdefault(name, entry.get("size", 0))
        assert entry["offset"] not in seen
        seen.add(entry["offset"])
        data = member_at(blob, entry["offset"])
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == entry["chunkDigest"]
        assert entry.get("chunkOffset", 0) == len(contents.get(name, b""))
        assert entry.get("chunkSize", 0) in {0, len(data)}
        contents[name] = contents.get(name, b"") + data
    for name, content in contents.items():
        assert len(content) == sizes[name]
    return contents


def test_every_file_is_where_the_table_says() -> None:
    blob, writer = write(archive())
    contents = verified_contents(blob)
    assert contents["d/small"] == b"small content"
    assert contents["large"] == LARGE
    assert contents["many/049"] == bytes([49]) * 49
    assert contents[".no.prefetch.landmark"] == b"\x0f"
    table, raw = table_of(blob)
    assert str(writer.toc_digest) == f"sha256:{hashlib.sha256(raw).hexdigest()}"
    kinds = {entry["name"]: entry for entry in table["entries"] if entry["type"] != "chunk"}
    assert (kinds["d/"]["type"], kinds["d/"]["mode"], kinds["d/"]["uid"], kinds["d/"]["gid"]) == ("dir", 0o750, 7, 8)
    assert (kinds["d/again"]["type"], kinds["d/again"]["linkName"]) == ("hardlink", "d/small")
    assert (kinds["d/link"]["type"], kinds["d/link"]["linkName"]) == ("symlink", "../else")
    assert (kinds["null"]["type"], kinds["null"]["devMajor"], kinds["null"]["devMinor"]) == ("char", 1, 3)
    assert kinds["fifo"]["type"] == "fifo"
    assert kinds["capable"]["xattrs"] == {"user.a": "dmFsdWU="}
    assert kinds["d/small"]["modtime"] == "2020-09-13T12:26:40Z"
    assert "offset" not in kinds["d/empty"]


def test_it_is_a_gzip_layer_for_everybody_else() -> None:
    tar = archive()
    blob, writer = write(tar)
    plain = gzip.decompress(blob)
    assert sha256(plain) == writer.diff_id
    assert len(plain) == writer.size
    with tarfile.open(fileobj=io.BytesIO(plain)) as found, tarfile.open(fileobj=io.BytesIO(tar)) as before:
        names = found.getnames()
        assert names == [".no.prefetch.landmark", *before.getnames(), "stargz.index.json"]
        for info in before:
            other = found.getmember(info.name)
            assert (other.type, other.mode, other.uid, other.gid, other.size, other.linkname) == (
                info.type, info.mode, info.uid, info.gid, info.size, info.linkname,
            )  # fmt: skip
    assert sum(1 for _ in TarReader(Decompressed(io.BytesIO(blob)))) == len(names)


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_bytes_do_not_depend_on_threads(threads: int) -> None:
    tar = archive()
    assert write(tar, threads)[0] == write(tar, 3)[0]


def test_an_archive_that_is_one_already_becomes_the_same() -> None:
    blob, first = write(archive(large=False))
    again, second = write(gzip.decompress(blob))
    assert again == blob
    assert second.toc_digest == first.toc_digest


def test_many_entries_without_content_stay_within_bounded_members() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(5000):
            info = tarfile.TarInfo(f"d{number}")
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
    blob, writer = write(out.getvalue())
    table, _ = table_of(blob)
    assert len(table["entries"]) == 5001
    assert sha256(gzip.decompress(blob)) == writer.diff_id


def test_a_converted_layer_is_remembered_and_kept_with_its_source(tmp_path: Any) -> None:
    with Store(tmp_path / "store") as store:
        tar = archive(large=False)
        plain = store.blobs.put(tar, media_type=OCI_LAYER)
        made, diff_id = estargz.convert(store, plain, plain.digest, None)
        assert made.media_type == OCI_LAYER_GZIP
        assert set(made.annotations) == {TOC_DIGEST, "io.containers.estargz.uncompressed-size"}
        assert b"".join(Layer(store.blobs, made, diff_id).uncompressed())
        assert estargz.convert(store, plain, plain.digest, None) == (made, diff_id)
        assert estargz.convert(store, plain, plain.digest, 1)[0].digest != made.digest
        collect(store, live_digests=[plain.digest])
        assert made.digest in store.blobs
        with pytest.raises(ValueError, match="has no level 10"):
            estargz.convert(store, plain, plain.digest, 10)
