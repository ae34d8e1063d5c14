"""A user without rights mounts through fusermount3."""

from __future__ import annotations

import contextlib
import ctypes  # noqa: TID251 - unshare(2), which Python 3.11 lacks
import io
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from unionfs.branch import Branch, BranchStack
from unionfs.cli import unionctl, unionmount
from unionfs.mounting import MountOptions, unmount_command
from unionfs.transport.direct.connection import Settings
from unionfs.transport.direct.mount import DirectMount
from unionfs.types import Access
from unionfs.union import Union

pytestmark = [pytest.mark.fuse, pytest.mark.root("becomes another user, who runs fusermount3")]

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


def own_namespace(own: Path) -> None:
    """A mount namespace in which everybody may open /dev/fuse."""
    assert ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    os.mknod(own / "fuse", stat.S_IFCHR | 0o666, os.makedev(10, 229))
    os.chmod(own / "fuse", 0o666)
    subprocess.run(["mount", "--bind", own / "fuse", "/dev/fuse"], check=True)


def become_nobody() -> None:
    """A user without rights."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def mount_and_use(place: Path) -> None:
    own_namespace(place)
    become_nobody()
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


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Branches and a mount point of a user without rights."""
    for directory in (tmp_path, *list(tmp_path.parents)[:3]):
        directory.chmod(0o755)
    for name in ("top", "low", "m"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, NOBODY, NOBODY)
    (tmp_path / "low/in-low").write_text("low")
    os.chown(tmp_path / "low/in-low", NOBODY, NOBODY)
    (tmp_path / "low/roots").mkdir()
    (tmp_path / "low/roots/file").touch()
    for name in ("roots", "roots/file"):
        (tmp_path / "low" / name).chmod(0o777)
    return tmp_path


needs_fusermount = pytest.mark.skipif(shutil.which("fusermount3") is None, reason="fusermount3 is not installed")


@needs_fusermount
def test_plain_user(place: Path) -> None:
    assert in_child(lambda: mount_and_use(place)) == 0


def said(main: Callable[[list[str]], int], *words: object) -> tuple[int, str]:
    """Status of the command, and what it writes."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = main([str(word) for word in words])
    return status, out.getvalue()


def as_nobody(action: Callable[[], None]) -> None:
    def act() -> None:
        become_nobody()
        action()

    assert in_child(act) == 0


def call_the_commands(place: Path) -> None:
    own_namespace(place)
    # the directory for its socket, whoever runs the tests
    os.environ.pop("XDG_RUNTIME_DIR", None)
    m = place / "m"
    listed = (0, f"\t{place}/top (rw-)\n\t{place}/low (r--)\n")

    def mount() -> None:
        assert said(unionmount.main, f"dirs={place}/top:{place}/low=ro", m) == (0, "")
        assert ((m / "in-low").read_text(), (m / "roots").stat().st_uid) == ("low", 0)
        (m / "in-low").write_text("changed")
        # a copy is the mounter's, who may not give it away
        (m / "roots/file").open("a").close()
        assert ((m / "roots").stat().st_uid, (m / "roots/file").stat().st_uid) == (NOBODY, NOBODY)
        assert said(unionctl.main, m, "--list") == listed
        assert said(unionctl.main, m, "snapshot", "one") == (0, "")

    as_nobody(mount)
    # root may not look into it, but may ask
    with pytest.raises(PermissionError):
        os.listdir(m)
    assert said(unionctl.main, m, "rollback", "one") == (0, "what came after is kept as one~1\n")
    assert said(unionctl.main, m / "in-low", "explain")[1].startswith(f"{m}/in-low\t")

    def meddle() -> None:
        os.setresuid(NOBODY - 1, NOBODY - 1, NOBODY - 1)
        status, message = said(unionctl.main, m, "--list")
        assert (status, message.count("\n")) == (1, 1)
        assert "permission denied" in message

    assert in_child(meddle) == 0
    as_nobody(lambda: subprocess.run(["fusermount3", "-u", m], check=True))


@needs_fusermount
def test_commands_of_a_plain_user(place: Path) -> None:
    os.chown(place, NOBODY, NOBODY)
    assert in_child(lambda: call_the_commands(place)) == 0


def call_in_vain(place: Path) -> None:
    own_namespace(place)
    call = f"dirs={place}/top:{place}/low=ro", place / "m"

    def is_refused(message: str, path: str, *options: str) -> Callable[[], None]:
        def act() -> None:
            os.environ["PATH"] = path
            assert said(unionmount.main, *options, *call) == (1, message)
            assert os.listdir(place / "m") == []

        return act

    there = os.environ["PATH"]
    (place / "fusermount3").write_text("#!/bin/sh\nexit 5\n")
    (place / "fusermount3").chmod(0o755)
    as_nobody(
        is_refused(
            "unionmount: fusermount3: no such file or directory\nhint: install the package fuse3, or mount as root\n",
            "/nonexistent",
        )
    )
    as_nobody(is_refused("unionmount: fusermount3: ended with status 5\n", f"{place}:{there}"))
    allowed = "option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf"
    subprocess.run(["mount", "--bind", "/dev/null", "/etc/fuse.conf"], check=True)
    as_nobody(is_refused(f"unionmount: {allowed}\n", there, "-o", "allow_other"))
    (place / "fuse").chmod(0o600)
    as_nobody(is_refused("unionmount: failed to open /dev/fuse: Permission denied\n", there))
    (place / "top").chmod(0)
    os.chown(place / "top", 0, 0)
    message = f"unionmount: branch '{place}/top': expected a directory: permission denied\n"
    as_nobody(is_refused(message, there))
    os.chown(place / "m", 0, 0)
    subprocess.run(["umount", "/dev/fuse"], check=True)


@needs_fusermount
def test_what_keeps_a_plain_user_from_mounting(place: Path) -> None:
    assert in_child(lambda: call_in_vain(place)) == 0
