"""What keeps a union from being mounted or written to: one clear line each, and nothing half done."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fuse.conftest import PROJECT, Command, attempt, mount_lines, wait_until
from unionfs import daemon
from unionfs.branch import Branch
from unionfs.daemon import DaemonCall
from unionfs.errors import UnionError
from unionfs.mounting import MountOptions
from unionfs.mountspec import MountSpec

pytestmark = pytest.mark.fuse

NO_FUSE = """\
mount -t tmpfs none /dev
mknod /dev/null c 1 3; mknod /dev/urandom c 1 9
"""
WITHOUT = {
    "device": (NO_FUSE, "unionmount: /dev/fuse: no such file or directory", "load the kernel module"),
    "device of another kind": (
        f"{NO_FUSE}touch /dev/fuse",
        "unionmount: /dev/fuse: expected the character device 10:229, got another file",
        None,
    ),
    "device without a driver": (
        f"{NO_FUSE}mknod /dev/fuse c 10 240",
        "unionmount: /dev/fuse: no such device",
        "load the kernel module: modprobe fuse",
    ),
}


@pytest.mark.parametrize(("preparation", "message", "hint"), WITHOUT.values(), ids=WITHOUT)
@pytest.mark.root("makes another device")
def test_without(preparation: str, message: str, hint: str | None, place: Path) -> None:
    done = attempt(place, f"{preparation}\nunionmount dirs=top:low=ro m || exit $?")
    assert_refused(done, message, hint)


def assert_refused(done: subprocess.CompletedProcess[str], message: str, hint: str | None) -> None:
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, lines[0]) == (1, "", message)
    assert lines[1:] == [] if hint is None else lines[1].startswith(f"hint: {hint}")
    assert len(lines) <= 2


def test_without_the_right_to_mount(place: Path, command: Command) -> None:
    words = [sys.executable, "-m", "unionfs.cli.unionmount", f"dirs={place}/top", place / "m"]
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", *words],
        env={**os.environ, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert_refused(
        done, "unionmount: mount of a FUSE file system: operation not permitted", "run as root, or in a user namespace"
    )
    assert mount_lines(place) == []


def test_a_mount_point_whose_daemon_was_killed(place: Path) -> None:
    words = [sys.executable, "-m", "unionfs.cli.unionmount", "-f", f"dirs={place}/top", place / "m"]
    with subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(PROJECT)}) as served:
        wait_until((place / "m/in-top").exists, "the union is mounted")
        served.send_signal(signal.SIGKILL)
    done = attempt(place, "unionmount dirs=top m/dir || exit $?")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "unionmount: mount point 'm/dir': transport endpoint is not connected",
        "hint: a union whose daemon has ended is mounted there: umount 'm/dir'",
    ]
    subprocess.run(["umount", place / "m"], check=True)


def test_working_directory_is_the_mount_point(place: Path, command: Command) -> None:
    done = command("unionmount", "dirs=../top:.=ro", "../low", cwd=place / "low")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir(place / "low")) == ["dir", "in-low", "in-top"]
    subprocess.run(["umount", place / "low"], check=True)


def test_a_working_directory_that_is_gone(place: Path) -> None:
    done = attempt(
        place,
        "mkdir gone; cd gone; rmdir ../gone; unionmount dirs=$OLDPWD/top $OLDPWD/m; ls $OLDPWD/m; umount $OLDPWD/m",
    )
    assert (done.returncode, done.stdout) == (0, "in-top\n")
    done = attempt(place, "mkdir gone; cd gone; rmdir ../gone; unionmount dirs=top $OLDPWD/m || exit $?")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "unionmount: no such file or directory")


@pytest.mark.parametrize("transport", ["direct", "pyfuse3"])
def test_a_full_branch(transport: str, place: Path, command: Command) -> None:
    m, low, small = place / "m", place / "low", place / "small"
    small.mkdir()
    (low / "large").write_bytes(os.urandom(3 << 20))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], check=True)
    (small / "top").mkdir()
    words = f"transport={transport},dirs={small}/top:{low}=ro"
    assert command("unionmount", "-o", words, m).stderr == ""
    with pytest.raises(OSError) as full:
        os.open(m / "large", os.O_RDWR)
    assert full.value.errno == errno.ENOSPC
    assert (m / "large").read_bytes() == (low / "large").read_bytes()
    assert used(small) < 1 << 17
    with pytest.raises(OSError) as full:
        (m / "new").write_bytes(bytes(2 << 20))
    assert full.value.errno == errno.ENOSPC
    done = command("unionctl", m, "snapshot", "one")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("no space left on device\n")
    assert done.stderr.count("\n") == 1
    (m / "new").unlink()
    # the kernel lets a file that it passed through go a moment after it was closed
    wait_until(lambda: used(small) < 1 << 17, "the blocks are free")
    os.rename(m / "dir", m / "moved")
    assert (m / "moved/deep").read_text() == "deep"
    assert command("unionctl", m, "snapshot", "one").stderr == ""
    assert sorted(os.listdir(m)) == ["in-low", "large", "moved"]
    subprocess.run(["umount", m], check=True)
    wait_until(lambda: subprocess.run(["umount", small], check=False, stderr=-3).returncode == 0, "the daemon ends")


def used(root: Path) -> int:
    status = os.statvfs(root)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def end_at_once(*_arguments: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(*_arguments: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize("transport", ["direct", "pyfuse3"])
@pytest.mark.parametrize(
    ("fault", "message"), [(end_at_once, "daemon ended before the union answered"), (refuse, "too many open files")]
)
def test_a_daemon_that_fails_after_it_has_mounted(
    fault: Callable[..., None], message: str, transport: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_control", fault)
    spec = MountSpec((Branch(os.fsencode(place / "top")),))
    call = DaemonCall(spec, os.fsencode(place / "m"), MountOptions(), through_pyfuse3=transport == "pyfuse3")
    with pytest.raises(UnionError, match=message):
        daemon.start(call)
    assert mount_lines(place) == []
    assert os.listdir(place / "m") == []
