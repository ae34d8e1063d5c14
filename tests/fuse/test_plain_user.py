"""A user without rights mounts through fusermount3."""

from __future__ import annotations

import ctypes  # noqa: TID251 - unshare(2), which Python 3.11 lacks
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from unionfs.branch import Branch, BranchStack
from unionfs.mounting import MountOptions, unmount_command
from unionfs.transport.direct.connection import Settings
from unionfs.transport.direct.mount import DirectMount
from unionfs.types import Access
from unionfs.union import Union

pytestmark = pytest.mark.fuse

CLONE_NEWNS = 0x20000
NOBODY = 65534


def in_child(action: Callable[[], None]) -> int:
    """Exit status of a process that does ``action``."""
    child = os.fork()  # noqa: TID251 - the child gives its rights up; no thread is running
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def become_nobody(own: Path) -> None:
    """A mount namespace in which everybody may open /dev/fuse, and a user without rights."""
    assert ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    os.mknod(own / "fuse", stat.S_IFCHR | 0o666, os.makedev(10, 229))
    os.chmod(own / "fuse", 0o666)
    subprocess.run(["mount", "--bind", own / "fuse", "/dev/fuse"], check=True)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def mount_and_use(place: Path) -> None:
    become_nobody(place)
    branches = (Branch(os.fsencode(place / "top")), Branch(os.fsencode(place / "low"), Access.RO))
    mount = DirectMount(
        os.fsencode(place / "m"),
        MountOptions(allow_other=False),
        lambda notifier: Union(BranchStack(branches), None, notifier),
        Settings(passthrough=True),
        print,
    )
    server = os.fork()  # noqa: TID251 - one serves, the other asks
    if server == 0:
        mount.run()
        mount.close()
        os._exit(0)
    assert (place / "m/in-low").read_text() == "low"
    (place / "m/new").write_text("new")
    assert (place / "top/new").read_text() == "new"
    subprocess.run(unmount_command(os.fsencode(place / "m")), check=True)
    assert os.waitstatus_to_exitcode(os.waitpid(server, 0)[1]) == 0
    assert os.listdir(place / "m") == []


@pytest.mark.skipif(shutil.which("fusermount3") is None, reason="fusermount3 is not installed")
def test_plain_user(tmp_path: Path) -> None:
    for directory in (tmp_path, *list(tmp_path.parents)[:3]):
        directory.chmod(0o755)
    place = tmp_path
    for name in ("top", "low", "m"):
        (place / name).mkdir()
        os.chown(place / name, NOBODY, NOBODY)
    (place / "low/in-low").write_text("low")
    assert in_child(lambda: mount_and_use(place)) == 0
