"""Values that cross to another process, and the mount table."""

from __future__ import annotations

import json

import pytest

from unionfs.branch import Branch
from unionfs.mountinfo import MountEntry, parse_line, read_mounts
from unionfs.mountspec import MountSpec, decode, encode
from unionfs.types import (
    Access,
    DeleteMode,
    IdRange,
    Passthrough,
    PermissionStore,
    UnionOptions,
    WhiteoutForm,
)

SPECS = [
    MountSpec((Branch(b"/a"),)),
    MountSpec(
        (Branch(b"/\xff\xfe"), Branch("/ü".encode(), Access.NFSRO)),
        UnionOptions(
            delete=DeleteMode.FIRST, whiteouts=WhiteoutForm.OVERLAY, copyup_mode=0o600, passthrough=Passthrough.OFF
        ),
    ),
    MountSpec(
        (Branch(b"/a"),),
        UnionOptions(uid_map=(IdRange(0, 1, 2), IdRange(3, 4, 5)), permissions=PermissionStore.CONTAINERS),
    ),
]


@pytest.mark.parametrize("spec", SPECS)
def test_specification_crosses_unchanged(spec: MountSpec) -> None:
    assert decode(json.loads(json.dumps(encode(spec)))) == spec


def test_another_versions_message_is_refused() -> None:
    message = encode(SPECS[0])
    message["options"]["from_the_future"] = True
    with pytest.raises(TypeError):
        decode(message)


def test_mount_line() -> None:
    line = b"40 29 0:39 / /mnt/a\\040b rw,relatime shared:5 - fuse.unionmount un\\134ion rw,user_id=1000,group_id=0\n"
    assert parse_line(line) == MountEntry(40, (0, 39), b"/mnt/a b", b"fuse.unionmount", b"un\\ion", 1000)
    with pytest.raises(ValueError, match="unexpected line"):
        parse_line(b"40 29")


def test_mounts_of_this_process() -> None:
    assert any(entry.mount_point == b"/" for entry in read_mounts())
