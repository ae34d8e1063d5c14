"""Whatever an entry is, it survives the codec; whatever bytes come, reading ends in entries or in an ArchiveError."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile

from hypothesis import given, settings
from hypothesis import strategies as st

from layers.errors import ArchiveError
from layers.tar.entry import (
    BLOCK_DEVICE,
    CHARACTER_DEVICE,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    Entry,
    padding,
)
from layers.tar.reader import TarReader
from layers.tar.writer import END, encode_header

COMPONENT = st.binary(min_size=1, max_size=255).map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"0"))
NAMES = st.lists(COMPONENT, min_size=1, max_size=6).map(b"/".join)
XATTRS = st.dictionaries(
    st.text("abcdefghijklmnopqrstuvwxyz._", min_size=1, max_size=20).map(lambda text: b"user." + text.encode()),
    st.binary(max_size=200),
    max_size=3,
)
IDS = st.one_of(st.integers(0, 70_000), st.integers(0, (1 << 32) - 2))
TIMES = st.integers(-(1 << 62), 1 << 62)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind = draw(
        st.sampled_from([REGULAR, REGULAR, DIRECTORY, SYMLINK, HARD_LINK, CHARACTER_DEVICE, BLOCK_DEVICE, FIFO])
    )
    device = kind in {CHARACTER_DEVICE, BLOCK_DEVICE}
    return Entry(
        draw(NAMES),
        kind,
        draw(st.integers(0, 0o7777)),
        draw(IDS),
        draw(IDS),
        draw(st.integers(0, 3000)) if kind == REGULAR else 0,
        draw(TIMES),
        draw(NAMES) if kind in {SYMLINK, HARD_LINK} else b"",
        draw(st.integers(0, 4095)) if device else 0,
        draw(st.integers(0, 65535)) if device else 0,
        draw(XATTRS),
    )


def written(members: list[Entry], *, fractions: bool) -> bytes:
    parts: list[bytes] = []
    for entry in members:
        parts += [encode_header(entry, fractions=fractions), b"c" * entry.size, bytes(padding(entry.size))]
    return b"".join(parts) + END


@settings(max_examples=300, deadline=None)
@given(st.lists(entries(), max_size=5))
def test_entries_survive(members: list[Entry]) -> None:
    reader = TarReader(io.BytesIO(written(members, fractions=True)))
    for expected in members:
        assert next(reader) == expected
        assert b"".join(chunk for _, chunk in reader.chunks()) == b"c" * expected.size
    assert next(reader, None) is None


@settings(max_examples=200, deadline=None)
@given(st.lists(entries(), max_size=4))
def test_tarfile_agrees(members: list[Entry]) -> None:
    data = io.BytesIO(written(members, fractions=False))
    with tarfile.open(fileobj=data, encoding="utf-8", errors="surrogateescape") as archive:
        found = archive.getmembers()
    assert len(found) == len(members)
    for info, entry in zip(found, members, strict=True):
        assert (os.fsencode(info.name), info.type, info.mode) == (entry.name, entry.type, entry.mode)
        assert (info.uid, info.gid, info.size) == (entry.uid, entry.gid, entry.size)
        assert int(info.mtime) == entry.mtime_ns // 1_000_000_000
        assert os.fsencode(info.linkname) == entry.linkname.rstrip(b"/") or entry.linkname == os.fsencode(info.linkname)


@settings(max_examples=300, deadline=None)
@given(st.lists(entries(), min_size=1, max_size=3), st.data())
def test_damaged_archives_end_in_an_error_or_in_entries(members: list[Entry], data: st.DataObject) -> None:
    raw = bytearray(written(members, fractions=True))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    with contextlib.suppress(ArchiveError):
        reader = TarReader(io.BytesIO(raw[:cut]))
        for entry in reader:
            assert 0 <= entry.uid < 1 << 32
            for _offset, _chunk in reader.chunks():
                pass


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2000))
def test_noise(raw: bytes) -> None:
    with contextlib.suppress(ArchiveError):
        list(TarReader(io.BytesIO(raw)))
