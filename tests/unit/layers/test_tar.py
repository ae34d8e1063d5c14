"""The codec beside tarfile and GNU tar, which read what it writes and write what it reads."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from layers.errors import ArchiveError
from layers.tar.entry import (
    BLOCK,
    CHARACTER_DEVICE,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    SYMLINK,
    Entry,
    padding,
)
from layers.tar.reader import TarReader
from layers.tar.writer import END, encode_header

SECOND = 1_000_000_000
ENTRIES = [
    Entry(b"file", size=5, mode=0o4755, uid=1000, gid=50, mtime_ns=1_600_000_000 * SECOND),
    Entry(b"d", DIRECTORY, 0o1777),
    Entry(b"d/" + b"n" * 99, mtime_ns=0),
    Entry(b"p" * 60 + b"/" + b"q" * 60),
    Entry(b"long" * 50),
    Entry(b"x" * 155 + b"/" + b"y" * 100),
    Entry(b"x" * 156 + b"/" + b"y" * 100),
    Entry(b"l", SYMLINK, 0o777, linkname=b"../target"),
    Entry(b"ll", SYMLINK, 0o777, linkname=b"t" * 150),
    Entry(b"h", HARD_LINK, linkname=b"file"),
    Entry(b"null", CHARACTER_DEVICE, 0o666, major=1, minor=3),
    Entry(b"fifo", FIFO, 0o600),
    Entry("größe".encode()),
    Entry(("ö" * 120).encode()),
    Entry(b"\xff\xfe raw"),
    Entry(b"\xff" * 120),
    Entry(b"uid", uid=2_097_151, gid=2_097_151),
    Entry(b"uid large", uid=2_097_152, gid=4_000_000_000),
    Entry(b"before 1970", mtime_ns=-5 * SECOND),
    Entry(b"xattrs", xattrs={b"user.b": b"\x00\xff=\n", b"security.capability": b"\x01\x00\x00\x02" + bytes(16)}),
    Entry(b"dir" * 40, DIRECTORY, 0o700),
]


def write(entries: list[Entry], *, fractions: bool = False) -> bytes:
    parts = []
    for entry in entries:
        parts.append(encode_header(entry, fractions=fractions))
        if entry.type == b"0":
            parts += [b"x" * entry.size, bytes(padding(entry.size))]
    return b"".join(parts) + END


def read(data: bytes) -> list[Entry]:
    return list(TarReader(io.BytesIO(data)))


def test_what_is_written_is_read() -> None:
    assert read(write(ENTRIES)) == ENTRIES


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: repr(entry.name[:20]))
def test_tarfile_reads_the_same(entry: Entry) -> None:
    with tarfile.open(fileobj=io.BytesIO(write([entry])), encoding="utf-8", errors="surrogateescape") as archive:
        (member,) = archive.getmembers()
    assert os.fsencode(member.name) == entry.name
    assert os.fsencode(member.linkname) == entry.linkname
    assert (member.type, member.mode, member.uid, member.gid) == (entry.type, entry.mode, entry.uid, entry.gid)
    assert (member.size, member.mtime * SECOND) == (entry.size, entry.mtime_ns)
    assert (member.uname, member.gname, member.devmajor, member.devminor) == ("", "", entry.major, entry.minor)
    found = {key.removeprefix("SCHILY.xattr."): value for key, value in member.pax_headers.items() if "xattr" in key}
    assert {os.fsencode(k): os.fsencode(v) for k, v in found.items()} == entry.xattrs


def test_gnu_tar_reads_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(write(ENTRIES))
    listed = subprocess.run(
        ["tar", "--quoting-style=literal", "-tf", tmp_path / "a.tar"],
        capture_output=True,
        check=True,
        env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
    )
    expected = [entry.name + b"/" if entry.type == DIRECTORY else entry.name for entry in ENTRIES]
    assert listed.stdout.split(b"\n")[:-1] == expected


@pytest.mark.parametrize("name", [b"n" * 100, b"d/" + b"n" * 100, b"x" * 155 + b"/" + b"y" * 100])
def test_pax_only_where_needed(name: bytes) -> None:
    assert len(encode_header(Entry(name, uid=2_097_151, size=0o77777777777, mtime_ns=SECOND + 5))) == BLOCK


@pytest.mark.parametrize("entry", [Entry(b"n" * 101), Entry(b"u", uid=2_097_152), Entry(b"s", size=1 << 33)])
def test_pax_where_needed(entry: Entry) -> None:
    assert len(encode_header(entry)) == 3 * BLOCK


def test_large_size_is_read() -> None:
    reader = TarReader(io.BytesIO(encode_header(Entry(b"s", size=1 << 40))))
    assert next(reader).size == 1 << 40


def test_fractions_of_a_second_when_asked_for() -> None:
    entry = Entry(b"f", mtime_ns=1_600_000_000_123_456_789)
    assert read(write([entry], fractions=True)) == [entry]
    assert read(write([entry])) == [entry._replace(mtime_ns=1_600_000_000 * SECOND)]
    before = Entry(b"f", mtime_ns=-1_500_000_000)
    assert read(write([before], fractions=True)) == [before]


FORMATS = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT, "ustar": tarfile.USTAR_FORMAT}


@pytest.mark.parametrize("name", FORMATS)
def test_reads_what_tarfile_writes(name: str) -> None:
    buffer = io.BytesIO()
    names = ["a", "b" * 90 + "/" + "c" * 90, "größe"]
    if name != "ustar":
        names += ["d" * 300, "e" * 120 + "/" + "f" * 120]
    with tarfile.open(fileobj=buffer, mode="w", format=FORMATS[name], encoding="utf-8") as archive:
        for each in names:
            info = tarfile.TarInfo(each)
            info.size, info.mtime, info.uid = 3, 1_600_000_000, 5 if name == "ustar" else 3_000_000
            archive.addfile(info, io.BytesIO(b"abc"))
    reader = TarReader(io.BytesIO(buffer.getvalue()))
    found = [(entry.name.decode(), entry.uid, b"".join(chunk for _, chunk in reader.chunks())) for entry in reader]
    assert found == [(each, 5 if name == "ustar" else 3_000_000, b"abc") for each in names]


@pytest.mark.parametrize(
    "options", [["--format=gnu"], ["--format=pax"], ["--format=v7"], ["--format=oldgnu"], ["--format=ustar"]]
)
def test_reads_what_gnu_tar_writes(tmp_path: Path, options: list[str]) -> None:
    tree = tmp_path / "t"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "file").write_bytes(b"content")
    (tree / "link").symlink_to("sub/file")
    os.link(tree / "sub" / "file", tree / "zhard")
    if options != ["--format=v7"]:
        os.mkfifo(tree / "fifo")
    if options[0].endswith(("gnu", "pax")):
        (tree / ("n" * 150)).touch()
    done = subprocess.run(
        ["tar", *options, "--sort=name", "-C", tree, "-cf", "-", "."], capture_output=True, check=True
    )
    names = {entry.name.removeprefix(b"./"): entry for entry in read(done.stdout)}
    assert {name for name in names if name != b"."} == {os.fsencode(path.relative_to(tree)) for path in tree.rglob("*")}
    assert names[b"link"].linkname == b"sub/file"
    assert names[b"zhard"].linkname == b"./sub/file"


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=pax"],
        ["--format=pax", "--sparse-version=0.0"],
        ["--format=pax", "--sparse-version=0.1"],
    ],
)
def test_reads_sparse_files_of_gnu_tar(tmp_path: Path, options: list[str]) -> None:
    size = 80 << 20
    with open(tmp_path / "s", "wb") as file:
        for offset in range(0, size, size // 40):
            file.seek(offset)
            file.write(b"%d" % offset)
        file.truncate(size)
    done = subprocess.run(["tar", *options, "-S", "-C", tmp_path, "-cf", "-", "s"], capture_output=True, check=True)
    if len(done.stdout) > size:
        shutil.rmtree(tmp_path)
        pytest.fail("tar wrote no sparse archive")
    reader = TarReader(io.BytesIO(done.stdout))
    entry = next(reader)
    assert (entry.name, entry.size) == (b"s", size)
    content = bytearray(size)
    for offset, chunk in reader.chunks():
        content[offset : offset + len(chunk)] = chunk
    assert content == (tmp_path / "s").read_bytes()
    assert next(reader, None) is None


def test_global_records_speak_of_all_that_follow() -> None:
    body = b"15 uid=3000000\n"
    header = bytearray(encode_header(Entry(b"g", size=len(body))))
    header[156:157] = b"g"
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    data = bytes(header) + body + bytes(padding(len(body))) + write([Entry(b"a"), Entry(b"b")])
    assert [(entry.name, entry.uid) for entry in read(data)] == [(b"a", 3_000_000), (b"b", 3_000_000)]


def test_content_that_is_not_read_is_passed_over() -> None:
    data = encode_header(Entry(b"a", size=2000)) + b"x" * 2000 + bytes(padding(2000)) + write([Entry(b"b", size=3)])
    reader = TarReader(io.BytesIO(data))
    first = next(reader)
    offset, chunk = next(reader.chunks())
    assert (first.size, offset, len(chunk)) == (2000, 0, 2000)
    assert next(reader).name == b"b"


@pytest.mark.parametrize("data", [b"", END, bytes(BLOCK), bytes(10240)])
def test_empty_archives(data: bytes) -> None:
    assert read(data) == []


def test_archive_without_its_end_is_read() -> None:
    assert [entry.name for entry in read(write([Entry(b"a")])[: -len(END)])] == [b"a"]


@pytest.mark.parametrize("length", [1, 511])
def test_part_of_a_block_is_an_error(length: int) -> None:
    with pytest.raises(ArchiveError, match="ends in the middle"):
        read(write([Entry(b"a")])[: BLOCK + length])
