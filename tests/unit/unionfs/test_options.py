"""What option lists ask for."""

from __future__ import annotations

import pytest

from unionfs.branch import Branch
from unionfs.cli.options import MountRequest, OptionError, Transport, parse_options, split_list
from unionfs.errors import UnionError
from unionfs.mounting import MountOptions
from unionfs.types import (
    Access,
    CopyupMode,
    CreatePolicy,
    DeleteMode,
    IdRange,
    Passthrough,
    PermissionStore,
    UnionOptions,
    WhiteoutForm,
)

ONE = (Branch(b"/a"),)


def asked(*texts: str) -> MountRequest:
    return parse_options(list(texts), privileged=True)


@pytest.mark.parametrize(
    ("text", "union"),
    [
        ("delete=all", UnionOptions(delete=DeleteMode.ALL)),
        ("delete=first", UnionOptions(delete=DeleteMode.FIRST)),
        ("copyup=currentuser", UnionOptions(copyup=CopyupMode.CURRENTUSER)),
        (
            "copyup=mounter,copyupuid=1,copyupgid=2,copyupmode=644",
            UnionOptions(copyup=CopyupMode.MOUNTER, copyup_uid=1, copyup_gid=2, copyup_mode=0o644),
        ),
        ("whiteouts=overlay", UnionOptions(whiteouts=WhiteoutForm.OVERLAY)),
        ("create=mfs", UnionOptions(create=CreatePolicy.MFS)),
        ("ro", UnionOptions(read_only=True)),
        ("ro,rw", UnionOptions()),
        ("volatile", UnionOptions(volatile=True)),
        ("redirect=off", UnionOptions(redirect=False)),
        ("passthrough=fast", UnionOptions(passthrough=Passthrough.FAST)),
        ("timeout=0.5", UnionOptions(sealed_branches=False)),
        (
            "uidmapping=0:100000:1:1:200000:9,gidmapping=0:1:2",
            UnionOptions(uid_map=(IdRange(0, 100000, 1), IdRange(1, 200000, 9)), gid_map=(IdRange(0, 1, 2),)),
        ),
        ("squash_to_uid=7,squash_to_root", UnionOptions(squash_uid=7, squash_gid=0)),
        ("squash_to_root,squash_to_gid=8", UnionOptions(squash_uid=0, squash_gid=8)),
        ("xattr_permissions=2", UnionOptions(permissions=PermissionStore.CONTAINERS)),
        ("inodes=stable", UnionOptions(stable_inodes=True)),
        ("inodes=fast", UnionOptions()),
        ("cow,default_permissions,defaults,noauto,x-anything=1", UnionOptions()),
        ("", UnionOptions()),
    ],
)
def test_union_options(text: str, union: UnionOptions) -> None:
    assert asked(f"dirs=/a,{text}").union == union


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("nodev,nosuid,noexec,noatime", MountOptions(nodev=True, nosuid=True, noexec=True, noatime=True)),
        ("nodev,dev", MountOptions()),
        ("ro", MountOptions(read_only=True)),
        (r"fsname=a\,b,subtype=x", MountOptions(source="a,b", subtype="x")),
        ('context="system_u:object_r:t:s0"', MountOptions(context="system_u:object_r:t:s0")),
    ],
)
def test_mount_options(text: str, mount: MountOptions) -> None:
    assert asked(f"dirs=/a,{text}").mount == mount


def test_a_plain_users_mount_is_his_alone() -> None:
    assert not parse_options(["dirs=/a"], privileged=False).mount.allow_other
    assert parse_options(["dirs=/a,allow_other"], privileged=False).mount.allow_other


def test_branches() -> None:
    assert asked("dirs=/a=rw:/b=ro:/c=nfsro:/d").branches == (
        Branch(b"/a"),
        Branch(b"/b", Access.RO),
        Branch(b"/c", Access.NFSRO),
        Branch(b"/d"),
    )
    assert asked("transport=pyfuse3", "dirs=/a").transport is Transport.PYFUSE3
    assert asked("dirs=/a,timeout=3").timeout_seconds == 3


def test_layers_of_overlay() -> None:
    request = asked(r"lowerdir=/l\:1:/l\,2,upperdir=/u,workdir=/w")
    assert request.branches == (Branch(b"/u"), Branch(b"/l:1", Access.RO), Branch(b"/l,2", Access.RO))
    assert request.union == UnionOptions(whiteouts=WhiteoutForm.OVERLAY)
    assert asked("lowerdir=/l,upperdir=/u,whiteouts=aufs").union == UnionOptions()
    sealed = asked("lowerdir=/l:/m")
    assert sealed.union.read_only
    assert sealed.mount.read_only


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dirs=/a,copyup=mounter", "option 'copyup': mounter needs copyupuid="),
        ("dirs=/a,copyupmode=9", "option 'copyupmode': expected an octal number, got '9'"),
        ("dirs=/a,copyupuid=me", "option 'copyupuid': expected a number, got 'me'"),
        ("dirs=/a,timeout=soon", "option 'timeout': expected a number of seconds, got 'soon'"),
        ("dirs=/a,timeout=-1", "option 'timeout': expected a number of seconds, got '-1'"),
        ("dirs=/a,redirect=no", "option 'redirect': expected on or off, got 'no'"),
        ("dirs=/a,transport=pigeon", "option 'transport': expected one of auto, direct, pyfuse3, got 'pigeon'"),
        ("upperdir=/u", "option 'upperdir': expected lowerdir= beside it"),
        ("lowerdir=/a::/b", "option 'lowerdir': expected a path for every layer, got an empty one"),
        ("dirs=/a,zzzzzz", "option 'zzzzzz' is unknown"),
        ("dirs=/a:", "dirs: expected a path for every branch, got an empty one"),
        (
            "dirs=/a,uidmapping=0:1",
            "option 'uidmapping': expected STORED:SHOWN:LENGTH[:STORED:SHOWN:LENGTH…], got '0:1'",
        ),
        ("dirs=/a,squash_to_uid=-1", "option 'squash_to_uid': expected a number, got '-1'"),
        ("dirs=/a,xattr_permissions=3", "option 'xattr_permissions': expected one of 0, 1, 2, got '3'"),
        ("dirs=/a,inodes=slow", "option 'inodes': expected stable or fast, got 'slow'"),
        ("dirs=/a,inodes=stable,transport=pyfuse3", "option 'inodes': pyfuse3 shows numbers of its own"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(UnionError) as refusal:
        asked(text)
    assert str(refusal.value).startswith(message)


def test_snapshots() -> None:
    assert asked("dirs=/a,snapdir=/s").snapshot_directory == b"/s"
    request = asked("dirs=/a,at=one")
    assert request.at == "one"
    assert request.union.read_only
    assert request.mount.read_only


def test_commas() -> None:
    assert list(split_list(r"a,b\,c,,d\\,e")) == ["a", r"b\,c", "", r"d\\", "e"]
    with pytest.raises(OptionError):
        asked("dirs=/a,dirs=/b")
