"""unionmount: every form of the call, refusals, background and end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fuse.conftest import Command, mount_lines, unmount, wait_until

pytestmark = pytest.mark.fuse


FORMS = {
    "short": ["dirs={0}/top=rw:{0}/low=ro", "{0}/m"],
    "short, relative": ["dirs=top:low=ro", "m"],
    "options": ["-o", "dirs={0}/top=rw:{0}/low=ro,delete=whiteout", "{0}/m"],
    "options, joined": ["-odirs={0}/top=rw:{0}/low=ro", "{0}/m"],
    "of mount(8)": ["dirs={0}/top=rw:{0}/low=ro", "{0}/m", "-o", "rw,dev,suid"],
    "of mount(8), any source": ["none", "{0}/m", "-o", "rw,noauto,x-systemd.automount,dirs={0}/top:{0}/low=ro"],
    "of overlay": ["-o", "lowerdir={0}/low,upperdir={0}/top,workdir={0}/work,nodev,volatile", "{0}/m"],
    "through pyfuse3": ["-o", "transport=pyfuse3,dirs={0}/top:{0}/low=ro", "{0}/m"],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_form_of_the_call(form: list[str], place: Path, command: Command) -> None:
    done = command("unionmount", *(word.format(place) for word in form), cwd=place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(os.listdir(place / "m")) == ["dir", "in-low", "in-top"]
    with open(place / "m/in-low", "a") as file:
        file.write(" changed")
    assert (place / "top/in-low").read_text() == "low changed"
    assert (place / "low/in-low").read_text() == "low"
    assert " - fuse.unionmount unionfs " in mount_lines(place / "m")[0]


def test_lower_layers_alone_are_read_only(place: Path, command: Command) -> None:
    assert command("unionmount", "-o", f"lowerdir={place}/top:{place}/low", place / "m").returncode == 0
    assert (place / "m/dir/deep").read_text() == "deep"
    with pytest.raises(OSError, match="Read-only"):
        (place / "m/new").write_text("x")


def test_mount_point_may_be_a_branch(place: Path, command: Command) -> None:
    assert command("unionmount", f"dirs={place}/top:{place}/low=ro", place / "low").returncode == 0
    assert sorted(os.listdir(place / "low")) == ["dir", "in-low", "in-top"]
    (place / "low/in-low").write_text("changed")
    assert (place / "top/in-low").read_text() == "changed"
    unmount(place / "low")
    assert (place / "low/in-low").read_text() == "low"


def test_odd_names_of_branches(place: Path, command: Command) -> None:
    odd = place / "a:b,c=rw d"
    odd.mkdir()
    (odd / "odd").write_text("odd")
    escaped = str(odd).replace(":", r"\:").replace(",", r"\,").replace("=", r"\=")
    done = command("unionmount", "-o", f"dirs={place}/top=rw:{escaped}=ro", place / "m")
    assert done.stderr == ""
    assert (place / "m/odd").read_text() == "odd"


def test_options_of_podman(place: Path, command: Command) -> None:
    os.chown(place / "low/in-low", 3, 4)
    stored = "user.containers.override_stat"
    os.setxattr(place / "low/dir/deep", stored, b"5:6:4750")
    options = (
        f'lowerdir={place}/low,upperdir={place}/top,workdir={place}/work,nodev,volatile,context="a:b:c:s0",'
        "uidmapping=0:1000:100,gidmapping=0:2000:100,xattr_permissions=2,inodes=stable"
    )
    assert command("unionmount", "-o", options, place / "m").stderr == ""
    low, deep, new = place / "m/in-low", place / "m/dir/deep", place / "m/new"
    assert (low.stat().st_uid, low.stat().st_gid) == (1003, 2004)
    assert (deep.stat().st_uid, deep.stat().st_gid, deep.stat().st_mode & 0o7777) == (1005, 2006, 0o4750)
    assert [entry.stat().st_uid for entry in os.scandir(place / "m/dir")] == [1005]
    os.chown(deep, 1007, 2008)
    new.write_text("x")
    os.chown(new, 1001, 2001)
    assert (new.stat().st_uid, new.stat().st_gid) == (1001, 2001)
    assert os.getxattr(place / "top/new", stored) == b"1:1:644"
    assert os.getxattr(place / "top/dir/deep", stored) == b"7:8:750"
    assert os.stat(place / "top/new").st_uid == os.geteuid()
    numbers = [os.stat(path).st_ino for path in (low, deep, new)]
    unmount(place / "m")
    assert command("unionmount", "-o", options, place / "m").stderr == ""
    assert [os.stat(path).st_ino for path in (low, deep, new)] == numbers


REFUSALS = {
    "unknown option": (
        ["-o", "delte=all,dirs={0}/top", "{0}/m"],
        1,
        "option 'delte' is unknown, did you mean 'delete'",
    ),
    "remount": (["none", "{0}/m", "-o", "remount,ro"], 1, "option 'remount': unionctl changes a union"),
    "bad value": (
        ["-o", "delete=some,dirs={0}/top", "{0}/m"],
        1,
        "option 'delete': expected one of whiteout, all, first",
    ),
    "no value": (["-o", "delete,dirs={0}/top", "{0}/m"], 1, "option 'delete': expected a value"),
    "value too many": (["-o", "ro=yes,dirs={0}/top", "{0}/m"], 1, "option 'ro': expected no value, got 'yes'"),
    "dirs twice": (["dirs={0}/top", "-o", "dirs={0}/low", "{0}/m"], 1, "option 'dirs' is there twice"),
    "no dirs": (["-o", "delete=all", "{0}/m"], 1, "option 'dirs' is missing"),
    "two families": (
        ["-o", "dirs={0}/top,lowerdir={0}/low", "{0}/m"],
        1,
        "expected either dirs= or lowerdir=, got both",
    ),
    "bad mode": (["dirs={0}/top=rx", "{0}/m"], 1, "expected =rw, =ro or =nfsro, got '=rx'"),
    "missing branch": (["dirs={0}/top:{0}/none", "{0}/m"], 1, "branch '{0}/none': expected a directory"),
    "branch twice": (["dirs={0}/top:{0}/top", "{0}/m"], 1, "branch '{0}/top': is already there"),
    "branch inside another": (["dirs={0}/low:{0}/low/dir", "{0}/m"], 1, "branch '{0}/low/dir': lies inside branch"),
    "missing mount point": (["dirs={0}/top", "{0}/none"], 1, "mount point '{0}/none': no such file or directory"),
    "mount point is a file": (["dirs={0}/top", "{0}/top/in-top"], 1, "mount point '{0}/top/in-top': not a directory"),
    "copyup without owner": (["-o", "copyup=mounter,dirs={0}/top", "{0}/m"], 1, "mounter needs copyupuid="),
    "no mount point": (["dirs={0}/top"], 2, "mount point is missing"),
    "unknown flag": (["-z", "dirs={0}/top", "{0}/m"], 2, "option '-z' is unknown"),
    "too many words": (["a", "b", "{0}/m"], 2, "expected at most a source and a mount point"),
}


@pytest.mark.parametrize(("words", "status", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refusal_is_one_clear_line(words: list[str], status: int, message: str, place: Path, command: Command) -> None:
    done = command("unionmount", *(word.format(place) for word in words))
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (status, "")
    assert message.format(place) in lines[0]
    assert len(lines) == 1 or lines[1].startswith("hint: ")
    assert mount_lines(place) == []


def test_refusal_through_pyfuse3(place: Path, command: Command) -> None:
    done = command("unionmount", "-o", f"transport=pyfuse3,dirs={place}/top:{place}/none", place / "m")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"unionmount: branch '{place}/none': expected a directory: no such file or directory\n"
    assert mount_lines(place) == []


@pytest.mark.parametrize("transport", ["direct", "pyfuse3"])
def test_sigterm_unmounts(transport: str, place: Path, project_root: Path) -> None:
    words = ["-f", "-o", f"transport={transport},dirs={place}/top:{place}/low=ro", str(place / "m")]
    environment = {**os.environ, "PYTHONPATH": str(project_root)}
    command = [sys.executable, "-m", "unionfs.cli.unionmount", *words]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as daemon:
        wait_until(lambda: bool(mount_lines(place)) and os.path.exists(place / "m/in-low"), "the union is mounted")
        with open(place / "m/in-low", "r+") as file:
            daemon.send_signal(signal.SIGTERM)
            wait_until(lambda: not mount_lines(place), "the union is unmounted")
            file.write("LOW")
        assert daemon.wait(10) == 0
        assert daemon.stderr is not None
        assert daemon.stderr.read() == b""
    assert (place / "top/in-low").read_text() == "LOW"


def test_requests_are_logged(place: Path, project_root: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(project_root)}
    command = [sys.executable, "-m", "unionfs.cli.unionmount", "-d", f"dirs={place}/top:{place}/low=ro", place / "m"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as daemon:
        wait_until(lambda: bool(mount_lines(place)), "the union is mounted")
        assert not (place / "m/none").exists()
        subprocess.run(["umount", place / "m"], check=True)
        _, log = daemon.communicate(timeout=10)
    assert daemon.returncode == 0
    assert any("LOOKUP node 1 " in line for line in log.splitlines())
