"""unionctl: looking at a union in use, changing its branches, refusals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fuse.conftest import Command, mount_lines, unmount, wait_until
from harness.unions import socket_of
from unionfs.control import peer_of

pytestmark = pytest.mark.fuse


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
    "no union": (["/", "--list"], 1, "'/': lies in no union"),
    "missing path": (["{0}/m/none", "--list"], 1, "'{0}/m/none': no such file or directory"),
    "no action": (["{0}/m"], 2, "expected one action"),
    "no union named": (["--list"], 2, "--list: expected UNION"),
    "too many words": (["{0}/m", "--list", "more"], 2, "--list: expected 0 words beside UNION, got 1"),
    "too few words": (["{0}/m", "snapshot"], 2, "snapshot: expected 1 word beside UNION, got 0"),
    "two actions": (["{0}/m", "--list", "--query"], 2, "expected one action"),
    "unknown option": (["{0}/m", "--lst"], 2, "option '--lst' is unknown"),
    "bad timeout": (["{0}/m", "--timeout", "-1", "--list"], 2, "option '--timeout': expected a number of seconds"),
    "no change": (["{0}/m", "--list", ",", "--list"], 2, "expected --add, --remove, --mode between commas, got --list"),
    "nothing after the comma": (["{0}/m", "--remove", "0", ","], 2, "expected one action, got none"),
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


@pytest.mark.parametrize("way", ["m/dir", "m", "link/dir", "other/../m/dir/"])
def test_a_directory_of_the_union_itself_is_no_branch(way: str, place: Path, command: Command) -> None:
    m = place / "m"
    (place / "link").symlink_to("m")
    (place / "other").mkdir()
    assert command("unionmount", f"dirs={place}/top:{place}/low=ro", m).returncode == 0
    done = command("unionctl", m, "--timeout", "5", "--add", place / way)
    assert (done.returncode, done.stdout) == (1, "")
    assert "lies inside the union itself" in done.stderr
    assert sorted(os.listdir(m)) == ["dir", "in-low", "in-top"]


def test_a_branch_joins_a_union_that_lies_over_one_of_its_branches(place: Path, command: Command) -> None:
    top, low, more = place / "top", place / "low", place / "more"
    more.mkdir()
    (more / "in-more").touch()
    assert command("unionmount", f"dirs={top}:{low}=ro", low).returncode == 0
    try:
        assert command("unionctl", low, "refresh").returncode == 0
        done = command("unionctl", low, "--timeout", "5", "--add", more)
        assert (done.returncode, done.stderr) == (0, "")
        assert (low / "in-more").exists()
    finally:
        unmount(low)


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
    assert os.stat(socket_path(place / "m")).st_mode & 0o777 == 0o600


def test_several_changes_happen_together(place: Path, command: Command) -> None:
    m, top, low, more = place / "m", place / "top", place / "low", place / "more"
    more.mkdir()
    assert command("unionmount", f"dirs={top}=rw:{low}=ro", m).returncode == 0
    done = command("unionctl", m, "--add", more, ",", "--mode", "ro", "1", ",", "--remove", low)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    listed = f"\t{more} (rw-)\n\t{top} (r--)\n"
    assert command("unionctl", m, "--list").stdout == listed
    refused = command("unionctl", m, "--add", low, ",", "--remove", "/none")
    assert (refused.returncode, refused.stderr) == (1, "unionctl: branch '/none': is no branch of the union\n")
    assert command("unionctl", m, "--list").stdout == listed
    with open(m / "in-top", "rb"):
        refused = command("unionctl", m, "--remove", more, ",", "--add", low, ",", "--remove", top)
    assert refused.returncode == 1
    assert command("unionctl", m, "--list").stdout == listed


def daemon_of(root: Path) -> int:
    """The process behind the only union at ``root``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(socket_path(root))
        return peer_of(sock)[0]


def socket_path(root: Path) -> str:
    return socket_of(mount_lines(root)[0].split(" ")[2])


@pytest.mark.parametrize("word", ["--list", "refresh", "explain", "stats"])
def test_a_daemon_that_hangs_is_told(word: str, place: Path, command: Command) -> None:
    m = place / "m"
    assert command("unionmount", f"dirs={place}/top:{place}/low=ro", m).returncode == 0
    daemon = daemon_of(m)
    os.kill(daemon, signal.SIGSTOP)
    try:
        done = command("unionctl", "--timeout", "0.1", m / "dir/deep", word)
    finally:
        os.kill(daemon, signal.SIGCONT)
    assert (done.returncode, done.stdout) == (1, "")
    expected = f"union '{m}': its daemon (process {daemon}) did not answer 'list' within 0.1 seconds"
    assert done.stderr.splitlines()[0] == f"unionctl: {expected}"
    assert command("unionctl", m / "dir/deep", word).returncode == 0


def test_a_daemon_that_was_killed_is_told_and_its_socket_swept(place: Path, command: Command) -> None:
    m = place / "m"
    assert command("unionmount", f"dirs={place}/top:{place}/low=ro", m).returncode == 0
    path = socket_path(m)
    os.kill(daemon_of(m), signal.SIGKILL)
    wait_until(lambda: refuses(path), "the daemon is dead")
    done = command("unionctl", m / "dir", "--list")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f"unionctl: union '{m}' cannot be reached: its daemon has ended",
        f"hint: unmount it: umount '{m}'",
    ]
    assert command("unionmount", f"dirs={place}/top:{place}/low=ro", place / "work").returncode == 0
    assert not os.path.exists(path)
    for root in (place / "work", m):
        subprocess.run(["umount", root], check=True)


def refuses(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        return sock.connect_ex(path) != 0


def test_a_caller_that_dies_in_the_middle_does_no_harm(place: Path, command: Command) -> None:
    m = place / "m"
    assert command("unionmount", f"dirs={place}/top:{place}/low=ro", m).returncode == 0
    said = b'{"do":"list"}'
    frame = len(said).to_bytes(4, "big") + said
    for part in (b"", frame[:2], frame[:7], frame):
        # gone before it has said all, or before it has read the answer
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(socket_path(m))
            sock.sendall(part)
    for nonsense in (b"\xff" * 64, (5).to_bytes(4, "big") + b"hello", (2).to_bytes(4, "big") + b"[]"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(socket_path(m))
            sock.sendall(nonsense)
            with contextlib.suppress(ConnectionError):
                assert sock.recv(1) == b""
    assert command("unionctl", m, "--list").stdout == f"\t{place}/top (rw-)\n\t{place}/low (r--)\n"


def test_many_callers_at_once(place: Path, command: Command, project_root: Path) -> None:
    m = place / "m"
    assert command("unionmount", f"dirs={place}/top:{place}/low=ro", m).returncode == 0
    names = [place / f"more{number}" for number in range(12)]
    for name in names:
        name.mkdir()
    callers = [
        subprocess.Popen(
            [sys.executable, "-m", "unionfs.cli.unionctl", m, "--add", name],
            env={**os.environ, "PYTHONPATH": str(project_root)},
        )
        for name in names
    ]
    assert [caller.wait() for caller in callers] == [0] * len(names)
    listed = command("unionctl", m, "--list").stdout.splitlines()
    assert sorted(listed[: len(names)]) == sorted(f"\t{name} (rw-)" for name in names)
    assert len(listed) == len(names) + 2


def test_a_path_leads_to_the_union_that_holds_it(place: Path, command: Command) -> None:
    m, inner = place / "m", place / "low/dir"
    (place / "low/to-deep").symlink_to("dir/deep")
    (place / "link").symlink_to("m/dir")
    (place / "low/out").symlink_to(place / "top")
    (inner / "below").mkdir()
    assert command("unionmount", f"dirs={place}/top:{place}/low=ro", m).returncode == 0

    def ctl(*words: object, cwd: Path = place) -> str:
        done = command("unionctl", *words, cwd=cwd)
        return done.stdout or done.stderr

    assert ctl("link", "--list") == ctl(".", "--list", cwd=m / "dir") == ctl("m/../link/deep", "--list")
    assert ctl("m/to-deep", "--query") == f"m/to-deep\t{place}/low (r--)\n"
    assert ctl("m/out", "--list") == "unionctl: 'm/out': lies in no union\n"
    assert command("unionmount", f"dirs={place}/work", m / "dir/below").returncode == 0
    assert ctl("link/below", "--list") == f"\t{place}/work (rw-)\n"
    unmount(m / "dir/below")
    subprocess.run(["mount", "-t", "tmpfs", "none", m / "dir/below"], check=True)
    assert ctl("link/below", "--list") == "unionctl: 'link/below': lies in no union\n"
    subprocess.run(["umount", m / "dir/below"], check=True)
