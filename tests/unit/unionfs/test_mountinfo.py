"""Lines of mountinfo as kernels write them."""

from __future__ import annotations

import pytest

from unionfs.mountinfo import MountEntry, parse_line, read_mounts

LINES = {
    b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n": (
        MountEntry(36, (98, 0), b"/mnt2", b"ext3", b"/dev/root", None)
    ),
    # the root of pasta: its source is empty
    b"171 141 0:43 / / ro,nosuid - tmpfs  ro,size=0k,nr_inodes=2,uid=65534\n": (
        MountEntry(171, (0, 43), b"/", b"tmpfs", b"", None)
    ),
    b"40 29 0:35 / /a\\040b\\134c rw shared:5 master:2 - fuse.union dirs=x\\040y rw,user_id=1000,group_id=0\n": (
        MountEntry(40, (0, 35), b"/a b\\c", b"fuse.union", b"dirs=x y", 1000)
    ),
}


@pytest.mark.parametrize("line", LINES)
def test_what_a_line_says(line: bytes) -> None:
    assert parse_line(line) == LINES[line]


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"36 35 98:0 / /m rw ext3 /dev/root rw a\n", b"36 35 98:0 / /m rw - ext3\n"]
)
def test_what_is_no_line(line: bytes) -> None:
    with pytest.raises(ValueError, match="mountinfo: unexpected line"):
        parse_line(line)


def test_this_process_sees_its_root() -> None:
    assert any(entry.mount_point == b"/" for entry in read_mounts())
