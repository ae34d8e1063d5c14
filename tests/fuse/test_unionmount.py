"""The commands: every form of the call, refusals, background and end, control."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse.conftest import Command, mount_lines, wait_until

pytestmark = pytest.mark.fuse


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Branches ``top`` and ``low`` and a mount point ``m``; whatever is mounted there goes at the end."""
    for name in ("top", "low/dir", "m", "work"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "top/in-top").write_text("top")
    (tmp_path / "low/in-low").write_text("low")
    (tmp_path / "low/dir/deep").write_text("deep")
    yield tmp_path
    for name in ("m", "low"):
        unmount(tmp_path / name)


def unmount(root: Path) -> None:
    """Nothing is mounted at ``root`` and the daemon behind it is gone."""
    lines = mount_lines(root)
    if not lines:
        return
    minor = lines[-1].split(" ")[2].replace(":", "-")
    path = f"/run/unionfs/{minor}.sock"
    number = identity(path)
    subprocess.run(["umount", root], check=True)
    # the next mount, anybody's, may get the same device number
    wait_until(lambda: identity(path) != number or number is None, "the daemon ends")


def identity(path: str) -> tuple[int, int] | None:
    """Which file lies there, None when none does."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_ctime_ns


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
    "missing mount point": (["dirs={0}/top", "{0}/none"], 1, "mount point '{0}/none': no such directory"),
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
    assert done.stderr == f"unionmount: branch '{place}/none': expected a directory: No such file or directory\n"
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


def test_control(place: Path, command: Command) -> None:
    m, top, low, more = place / "m", place / "top", place / "low", place / "more"
    more.mkdir()
    (more / "in-more").write_text("more")
    (more / "in-top").write_text("hidden")
    assert command("unionmount", f"dirs={top}=rw:{low}=ro", m).returncode == 0

    def ctl(*words: object) -> str:
        done = command("unionctl", *words, cwd=place)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert ctl(m, "--list") == f"\t{top} (rw-)\n\t{low} (r--)\n"
    assert ctl("--query", "m/dir/deep") == f"m/dir/deep\t{low} (r--)\n"
    assert sorted(os.listdir(m)) == ["dir", "in-low", "in-top"]
    ctl(m / "dir", "--add", "--after", 0, "--mode", "ro", "more")
    assert ctl("--list", m) == f"\t{top} (rw-)\n\t{more} (r--)\n\t{low} (r--)\n"
    assert sorted(os.listdir(m)) == ["dir", "in-low", "in-more", "in-top"]
    assert ctl(m / "in-top", "--query") == f"{m}/in-top\t{top} (rw-)\n{m}/in-top\t{more} (r--)\n"
    ctl(m, "--mode", "ro", top)
    with pytest.raises(OSError, match="Read-only"):
        (m / "new").write_text("x")
    ctl(m, "--remove", 0)
    assert (m / "in-top").read_text() == "hidden"
    (more / "from-outside").write_text("x")
    ctl(m, "refresh")
    assert (m / "from-outside").read_text() == "x"
    assert json.loads(ctl(m, "stats"))["transport"] == "direct"


CTL_REFUSALS = {
    "no union": (["/", "--list"], 1, "cannot be reached"),
    "missing path": (["{0}/none", "--list"], 1, "No such file"),
    "no action": (["{0}/m"], 2, "expected one action"),
    "two actions": (["{0}/m", "--list", "--query"], 2, "expected one action"),
    "unknown option": (["{0}/m", "--lst"], 2, "option '--lst' is unknown"),
    "unknown branch": (["{0}/m", "--remove", "/none"], 1, "branch '/none': is no branch of the union"),
    "unknown position": (["{0}/m", "--remove", "7"], 1, "branch '7': the union has 2 branches"),
    "bad mode": (["{0}/m", "--mode", "0", "rx"], 2, "expected a branch and one of rw, ro, nfsro"),
    "missing directory": (["{0}/m", "--add", "{0}/none"], 1, "branch '{0}/none': expected a directory"),
    "already there": (["{0}/m", "--add", "{0}/low"], 1, "branch '{0}/low'"),
}


@pytest.mark.parametrize(("words", "status", "message"), CTL_REFUSALS.values(), ids=CTL_REFUSALS)
def test_control_refuses(words: list[str], status: int, message: str, place: Path, command: Command) -> None:
    assert command("unionmount", f"dirs={place}/top:{place}/low=ro", place / "m").returncode == 0
    done = command("unionctl", *(word.format(place) for word in words))
    assert (done.returncode, done.stdout) == (status, "")
    assert message.format(place) in done.stderr.splitlines()[0]
    assert sorted(os.listdir(place / "m")) == ["dir", "in-low", "in-top"]


def test_explanation(place: Path, command: Command) -> None:
    top, low, m = place / "top", place / "low", place / "m"
    for name in (".wh.gone", "dir/.wh.deep"):
        (top / name).parent.mkdir(exist_ok=True)
        (top / name).touch()
    (low / "gone").mkdir()
    (low / "gone/inside").touch()
    assert command("unionmount", f"dirs={top}=rw:{low}=ro", m).returncode == 0

    def said(path: Path, *words: str) -> list[str]:
        done = command("unionctl", path, "explain", *words)
        assert (done.returncode, done.stderr) == (0, "")
        return [line.split("\t")[-1] for line in done.stdout.splitlines()]

    assert said(m / "in-low") == [f"copied up to '{top}' when changed", "nothing", "file, shown"]
    assert said(m / "in-top") == ["changed in place", "file, shown", "nothing"]
    assert said(m / "dir") == ["changed in place", "directory, shown", "directory, merged"]
    assert said(m / "dir/deep") == [
        "nothing is shown",
        "whiteout",
        f"file, hidden by the whiteout in '{top}'",
    ]
    assert said(m / "gone/inside") == [
        "nothing is shown",
        "whiteout 'gone'",
        f"directory 'gone', hidden by the whiteout in '{top}'",
    ]
    assert said(m) == ["changed in place", "directory, merged", "directory, merged"]
    assert json.loads("\n".join(said(m / "none", "--json")))["shown"] is None


def test_snapshots(place: Path, command: Command) -> None:
    top, m, snapshots = place / "top", place / "m", place / ".unionfs-snapshots"
    words = [f"dirs={top}=rw:{place}/low=ro", m]
    assert command("unionmount", *words).returncode == 0

    def ctl(*words: object) -> str:
        done = command("unionctl", *words)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    (m / "first").write_text("1")
    with open(m / "first", "rb") as reader:
        ctl(m, "snapshot", "one")
        (m / "first").write_text("12")
        (m / "dir/deep").unlink()
        os.rename(m / "dir", m / "moved")
        (m / "in-low").unlink()
        (m / "in-low").mkdir()
        assert reader.read(1) == b"1"
    changes = "D dir\nM first\nM in-low (file → directory)\nA moved\n"
    assert ctl("diff", m) == ctl(m, "diff", "one") == changes
    ctl(m, "snapshot", "two")
    assert ctl(m, "diff") == ""
    assert [line.split("\t")[::2] for line in ctl(m, "snapshots").splitlines()] == [["* one", "-"], ["* two", "one"]]
    assert ctl(m, "--list").count("\n") == 4
    unmount(m)
    assert command("unionmount", *words).returncode == 0
    assert sorted(os.listdir(m)) == ["first", "in-low", "in-top", "moved"]
    assert ctl(m, "rollback", "one") == "what came after is kept as one~1\n"
    assert ((m / "first").read_text(), (m / "dir/deep").read_text()) == ("1", "deep")
    assert sorted(os.listdir(m)) == ["dir", "first", "in-low", "in-top"]
    assert {line["change"] + line["path"] for line in json.loads(ctl(m, "diff", "--json", "one", "two"))} == {
        "Ddir", "Mfirst", "Min-low", "Amoved",
    }  # fmt: skip
    ctl(m, "rollback", "two")
    assert (m / "first").read_text() == "12"
    ctl(m, "drop", "one~1")
    assert sorted(os.listdir(snapshots)) == ["one", "two", "two~1"]
    refused = command("unionctl", m, "drop", "one")
    assert refused.returncode == 1
    assert refused.stderr == "unionctl: snapshot 'one': expected nothing built upon it, got two, two~1\n"
    unmount(m)
    assert command("unionmount", "-o", "at=one", *words).returncode == 0
    assert (m / "first").read_text() == "1"
    with pytest.raises(OSError, match="Read-only"):
        (m / "new").touch()
    assert command("unionctl", m, "snapshot", "three").returncode == 1
    unmount(m)
    missing = command("unionmount", "-o", "at=none", *words)
    assert missing.stderr.startswith("unionmount: snapshot 'none' is not there")


def test_a_difference_is_a_layer(place: Path, command: Command) -> None:
    m, root = place / "m", place / "layer"
    assert command("unionmount", f"dirs={place}/top=rw:{place}/low=ro", m).returncode == 0
    assert command("unionctl", m, "snapshot", "one").returncode == 0
    (m / "dir/deep").unlink()
    (m / "dir/new").write_text("new")
    os.link(m / "dir/new", m / "dir/other")
    root.mkdir()
    with open(place / "layer.tar", "wb") as file:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run(
            [sys.executable, "-m", "unionfs.cli.unionctl", m, "diff", "--tar"],
            env=environment, stdout=file, check=True,
        )  # fmt: skip
    subprocess.run(["tar", "xf", place / "layer.tar", "-C", root], check=True)
    assert sorted(os.listdir(root)) == ["dir"]
    assert sorted(os.listdir(root / "dir")) == [".wh.deep", "new", "other"]
    assert os.stat(root / "dir/new").st_ino == os.stat(root / "dir/other").st_ino
    listed = subprocess.run(["tar", "tf", place / "layer.tar"], check=True, capture_output=True, text=True)
    assert listed.stdout.splitlines() == ["dir/", "dir/.wh.deep", "dir/new", "dir/other"]


def test_snapshots_elsewhere(place: Path, command: Command) -> None:
    m = place / "m"
    words = ["-o", f"snapdir={place}/work/snapshots", f"dirs={place}/top=rw:{place}/low=ro", m]
    assert command("unionmount", *words).returncode == 0
    assert command("unionctl", m, "snapshot", "one").returncode == 0
    assert os.listdir(place / "work/snapshots") == ["one"]
    unmount(m)
    lost = command("unionmount", *words[2:])
    assert lost.returncode == 1
    assert "lacks it (snapdir=)" in lost.stderr
    assert command("unionmount", *words).returncode == 0


def test_a_mount_over_its_own_branch_has_snapshots(place: Path, command: Command) -> None:
    root = place / "low"
    assert command("unionmount", f"dirs={place}/top=rw:{root}=ro", root).returncode == 0
    assert command("unionctl", root, "snapshot", "one").stderr == ""
    (root / "in-low").write_text("changed")
    assert command("unionctl", root, "rollback", "one").stderr == ""
    assert (root / "in-low").read_text() == "low"


@pytest.mark.parametrize("transport", ["direct", "pyfuse3"])
def test_open_files_keep_their_branch(transport: str, place: Path, command: Command) -> None:
    words = ["-o", f"transport={transport},dirs={place}/top:{place}/low=ro", place / "m"]
    assert command("unionmount", *words).returncode == 0
    with open(place / "m/in-top", "a"):
        busy = command("unionctl", place / "m", "--mode", 0, "ro")
        gone = command("unionctl", place / "m", "--remove", 0)
    for done in (busy, gone):
        assert done.returncode == 1
        assert f"branch '{place}/top': cannot be" in done.stderr
        assert f" ({os.getpid()})\n" in done.stderr
    assert command("unionctl", place / "m", "--remove", 0).returncode == 0


def test_control_socket_is_private(place: Path, command: Command) -> None:
    assert command("unionmount", f"dirs={place}/top:{place}/low=ro", place / "m").returncode == 0
    minor = mount_lines(place / "m")[0].split(" ")[2].replace(":", "-")
    assert os.stat(f"/run/unionfs/{minor}.sock").st_mode & 0o777 == 0o600
