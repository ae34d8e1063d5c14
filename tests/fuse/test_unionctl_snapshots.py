"""unionctl: snapshots of a union in use."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fuse.conftest import Command, unmount
from harness.unions import mounted, start

pytestmark = pytest.mark.fuse


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


def test_a_drop_that_was_cut_off_is_finished_by_the_next(place: Path, command: Command) -> None:
    m, snapshots = place / "m", place / ".unionfs-snapshots"
    assert command("unionmount", f"dirs={place}/top:{place}/low=ro", m).returncode == 0
    for name in ("one", "two"):
        (m / f"dir/{name}").mkdir()
        assert command("unionctl", m, "snapshot", name).stderr == ""
        assert command("unionctl", m, "rollback", name).stderr == ""
    # as a kill between the answer of the daemon and the end of the removal leaves it
    os.rename(snapshots / "one~1", snapshots / ".dropped-0")
    assert command("unionctl", m, "snapshots").stdout.count("\n") == 3
    assert command("unionctl", m, "drop", "two~1").stderr == ""
    assert sorted(os.listdir(snapshots)) == ["one", "two"]


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("action", ["snapshot", "rollback", "drop"])
def test_a_daemon_that_is_killed_meanwhile(action: str, place: Path, project_root: Path) -> None:
    """KILLS as for test_kill.py; the instant is chance, the states are two."""
    branches, m = [place / "top", place / "low"], place / "m"
    environment = {**os.environ, "PYTHONPATH": str(project_root)}

    def ctl(*words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "unionfs.cli.unionctl", m, *words]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    with mounted(branches, m):
        assert ctl("snapshot", "base").wait() == 0
        base = contents(m)
        (m / "in-low").write_text("changed")
        (m / "dir/deep").unlink()
        assert ctl("snapshot", "aside").wait() == 0
        assert ctl("rollback", "base").wait() == 0
        assert ctl("rollback", "aside").wait() == 0
        now = contents(m)
    chance = random.Random(action)
    for number in range(int(os.environ.get("KILLS", "1"))):
        name = {"snapshot": f"more{number}", "rollback": "base", "drop": "base~1"}[action]
        daemon = start(branches, m)
        try:
            caller = ctl(action, name)
            time.sleep(chance.uniform(0.05, 0.15))
        finally:
            daemon.kill()
            daemon.communicate()
        caller.wait()
        subprocess.run(["umount", m], check=True)
        with mounted(branches, m):
            assert contents(m) in ([now, base] if action == "rollback" else [now])
            (m / "still").write_text("writable")
            assert ctl("snapshot", f"after{number}").wait() == 0
            assert ctl("rollback", "aside").wait() == 0
            assert contents(m) == now
    assert not (place / "top/.wh..unionfs").exists()
