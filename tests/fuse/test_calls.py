"""unionmount as others call it: mount(8), fstab, a plain user, a user namespace; and what its options do to a mount."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fuse.conftest import Command, mount_lines, shell, unmount, wait_until

pytestmark = pytest.mark.fuse

# mount(8) looks there, whatever PATH says; that of a plain user lacks it
_MOUNT_FUSE = shutil.which("mount.fuse3", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
MOUNT_CALLS = {
    "source": "mount -t fuse.unionmount dirs=top:low=ro m",
    "source, absolute": "mount -t fuse.unionmount dirs=$PWD/top:$PWD/low=ro $PWD/m",
    "options": "mount -t fuse.unionmount -o dirs=top:low=ro,delete=all none m",
    "source and options": "mount -t fuse.unionmount dirs=top:low=ro m -o nodev,noatime,delete=all,x-gvfs-hide",
    "type in the source": "mount -t fuse 'unionmount#dirs=top:low=ro' m",
    "fstab": (
        'echo "dirs=$PWD/top=rw:$PWD/low=ro $PWD/m fuse.unionmount rw,nosuid,noauto,nofail,x-systemd.after=x 0 0" >t;'
        "mount -T t $PWD/m"
    ),
    "fstab, options": (
        'echo "none $PWD/m fuse.unionmount defaults,_netdev,user,exec,dirs=$PWD/top=rw:$PWD/low=ro 0 0" >t;'
        "mount -T t $PWD/m"
    ),
    "overlay's": "mount -t fuse.unionmount overlay m -o lowerdir=low,upperdir=top,workdir=work",
}


@pytest.mark.skipif(_MOUNT_FUSE is None, reason="mount.fuse3 is not installed")
@pytest.mark.parametrize("call", MOUNT_CALLS.values(), ids=MOUNT_CALLS)
def test_mount(call: str, place: Path) -> None:
    shown = shell(place, f"{call}\nls m\necho changed >m/in-low\numount m\ncat top/in-low low/in-low\nls m")
    assert shown.split() == ["dir", "in-low", "in-top", "changed", "low"]


FLAGS = {
    "": ("rw,relatime", "fuse.unionmount", "unionfs"),
    "nosuid,nodev,noexec,noatime": ("rw,nosuid,nodev,noexec,noatime", "fuse.unionmount", "unionfs"),
    "nosuid,suid,nodev,dev": ("rw,relatime", "fuse.unionmount", "unionfs"),
    "ro": ("ro,relatime", "fuse.unionmount", "unionfs"),
    "fsname=my\\,own,subtype=mine": ("rw,relatime", "fuse.mine", "my,own"),
}


@pytest.mark.parametrize("transport", ["direct", "pyfuse3"])
@pytest.mark.parametrize("options", FLAGS)
def test_flags_of_the_mount(options: str, transport: str, place: Path, command: Command) -> None:
    flags, kind, source = FLAGS[options]
    words = f"transport={transport},dirs={place}/top:{place}/low=ro,{options}"
    assert command("unionmount", "-o", words, place / "m").stderr == ""
    fields = mount_lines(place / "m")[0].split()
    assert (fields[5], *fields[fields.index("-") + 1 :][:2]) == (flags, kind, source)


@pytest.mark.skipif(_MOUNT_FUSE is None, reason="mount.fuse3 is not installed")
def test_names_that_need_a_backslash(place: Path) -> None:
    for name in ("a b", "a,b", "a:b", "a=b", "a\\b"):
        (place / name).mkdir()
        (place / name / name).touch()
    dirs = r"dirs=$PWD/a b:$PWD/a\,b:$PWD/a\:b:$PWD/a\=b:$PWD/a\\\\b"
    listed = [f"{place}/{name} (rw-)" for name in ("a b", "a,b", "a:b", "a=b", "a\\b")]
    names = "ls -1 m; unionctl m --list; umount m"
    one = shell(place, f'unionmount "{dirs}" m\n{names}')
    two = shell(place, f'mount -t fuse.unionmount "{dirs}" m\n{names}')
    assert one == two
    assert [line.strip() for line in one.splitlines()[5:]] == listed


def test_in_a_user_namespace(place: Path) -> None:
    script = """\
unionmount dirs=top:low=ro m
grep -c "$PWD/m .* fuse.unionmount" /proc/self/mountinfo
echo changed >m/in-low; mkdir m/made; rm m/dir/deep; mv m/dir m/moved
unionctl m --list; unionctl m snapshot one
umount m
while [ -e top/.wh..unionfs ] || [ -e .unionfs-snapshots/one/.wh..unionfs ]; do sleep 0.02; done  # the daemon ends
ls -A top .unionfs-snapshots/one"""
    shown = shell(place, script, "unshare", "--user", "--map-root-user", "--mount")
    assert shown.split() == [
        *("1", f"{place}/top", "(rw-)", f"{place}/low", "(r--)"),
        *(".unionfs-snapshots/one:", ".wh..wh.snapshot", ".wh.dir", "in-low", "in-top", "made", "moved"),
        *("top:", ".wh..wh.snapshot"),
    ]


def test_five_hundred_branches(place: Path, command: Command) -> None:
    lower = [place / f"lower/{number}" for number in range(500)]
    for branch in lower:
        (branch / "dir").mkdir(parents=True)
        (branch / f"dir/{branch.name}").write_text(branch.name)
        (branch / "everywhere").write_text(branch.name)
    dirs = ":".join([str(place / "top"), *(f"{branch}=ro" for branch in lower)])
    m = place / "m"
    assert command("unionmount", f"dirs={dirs}", m).stderr == ""
    assert len(os.listdir(m / "dir")) == 500
    assert ((m / "dir/499").read_text(), (m / "everywhere").read_text()) == ("499", "0")
    (m / "dir/499").write_text("changed")
    assert (place / "top/dir/499").read_text() == "changed"
    (m / "everywhere").unlink()
    assert not (m / "everywhere").exists()
    assert command("unionctl", m, "--list").stdout.count("\n") == 501
    assert command("unionctl", m, "snapshot", "one").stderr == ""
    os.rename(m / "dir", m / "moved")
    assert len(os.listdir(m / "moved")) == 500


@pytest.mark.parametrize("transport", ["direct", "pyfuse3"])
@pytest.mark.parametrize("seconds", ["0", "0.05"])
def test_changes_from_outside_show_after_the_timeout(
    seconds: str, transport: str, place: Path, command: Command
) -> None:
    m, top, low = place / "m", place / "top", place / "low"
    words = f"transport={transport},timeout={seconds},dirs={top}:{low}=ro"
    assert command("unionmount", "-o", words, m).stderr == ""

    def soon(what: str, condition: object) -> None:
        if seconds == "0":
            assert condition(), what
        else:
            wait_until(condition, what)

    assert sorted(os.listdir(m)) == ["dir", "in-low", "in-top"]
    assert (m / "in-low").read_text() == "low"
    assert not (m / "new").exists()
    with open(m / "in-low") as reader:
        assert reader.read() == "low"
        (low / "new").write_text("new")
        soon("a new name shows", (m / "new").exists)
        soon("the listing shows it", lambda: "new" in os.listdir(m))
        (low / "in-low").write_text("longer")
        soon("new content shows", lambda: (m / "in-low").read_text() == "longer")
        reader.seek(0)
        assert reader.read() == "longer"
    (low / "in-low").chmod(0o600)
    soon("a new mode shows", lambda: (m / "in-low").stat().st_mode & 0o777 == 0o600)
    os.rename(low / "dir", low / "moved")
    soon("a moved directory shows", lambda: (m / "moved/deep").exists() and not (m / "dir").exists())
    (top / "in-top").unlink()
    soon("a removed file does not", lambda: not (m / "in-top").exists())
    (top / ".wh.new").touch()
    soon("a whiteout hides", lambda: not (m / "new").exists() and "new" not in os.listdir(m))


def test_a_union_owns_its_branches_without_a_timeout(place: Path, command: Command) -> None:
    m, low = place / "m", place / "low"
    assert command("unionmount", f"dirs={place}/top:{low}=ro", m).stderr == ""
    assert (os.listdir(m / "dir"), (m / "dir/new").exists()) == (["deep"], False)
    (low / "dir/new").touch()
    assert (os.listdir(m / "dir"), (m / "dir/new").exists()) == (["deep"], False)
    assert command("unionctl", m, "refresh").stderr == ""
    assert (sorted(os.listdir(m / "dir")), (m / "dir/new").exists()) == (["deep", "new"], True)


@pytest.mark.parametrize("transport", ["direct", "pyfuse3"])
def test_owners_shown_and_copied(transport: str, place: Path, command: Command) -> None:
    m, low = place / "m", place / "low"
    os.chown(low / "in-low", 5, 6)
    os.chmod(low / "in-low", 0o640)
    dirs = f"transport={transport},dirs={place}/top:{low}=ro"

    def owner(path: Path) -> tuple[int, int, int]:
        status = path.stat()
        return status.st_uid, status.st_gid, status.st_mode & 0o7777

    assert command("unionmount", "-o", f"{dirs},squash_to_uid=7,squash_to_gid=8", m).stderr == ""
    assert owner(m / "in-low") == (7, 8, 0o640)
    unmount(m)
    assert command("unionmount", "-o", f"{dirs},squash_to_root", m).stderr == ""
    assert owner(m / "in-low") == (0, 0, 0o640)
    unmount(m)
    words = f"{dirs},copyup=mounter,copyupuid=1,copyupgid=2,copyupmode=604"
    assert command("unionmount", "-o", words, m).stderr == ""
    assert owner(m / "in-low") == (5, 6, 0o640)
    (m / "in-low").open("a").close()
    assert owner(m / "in-low") == owner(place / "top/in-low") == (1, 2, 0o604)
    (m / "in-low").unlink()
    unmount(m)
    (place / "top/.wh.in-low").unlink()
    os.chmod(low / "in-low", 0o666)
    assert command("unionmount", "-o", f"{dirs},copyup=currentuser", m).stderr == ""
    assert owner(m / "in-low") == (5, 6, 0o666)
    subprocess.run(
        ["setpriv", "--reuid=1234", "--regid=1235", "--clear-groups", "sh", "-c", "echo more >>in-low"],
        cwd=m, check=True,
    )  # fmt: skip
    assert owner(m / "in-low")[:2] == (1234, 1235)


@pytest.mark.parametrize(
    ("policy", "branch"), [("parent", "middle"), ("top", "top"), ("rr", "top middle low")], ids=lambda word: word
)
def test_where_new_files_go(policy: str, branch: str, place: Path, command: Command) -> None:
    for name in ("middle/dir", "low/dir"):
        (place / name).mkdir(parents=True, exist_ok=True)
    m = place / "m"
    dirs = ":".join(str(place / name) for name in ("top", "middle", "low"))
    assert command("unionmount", "-o", f"dirs={dirs},create={policy}", m).stderr == ""
    for number in range(6):
        (m / f"dir/{number}").touch()
    there = {
        name for name in ("top", "middle", "low") for number in range(6) if (place / name / f"dir/{number}").exists()
    }
    assert there == set(branch.split())


def test_volatile(place: Path, command: Command) -> None:
    assert command("unionmount", "-o", f"volatile,dirs={place}/top", place / "m").stderr == ""
    with open(place / "m/file", "w") as file:
        file.write("x")
        file.flush()
        os.fsync(file.fileno())
    stats = json.loads(command("unionctl", place / "m", "stats").stdout)
    assert stats["opcodes"]["FSYNC"] == 1
