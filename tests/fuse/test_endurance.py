"""The daemon's memory and descriptors stay flat, however long a union is worked in.

A run is a number of laps. In each, actors (``fsstress``) work in the union beside plain directories, and this process
copies lower files up and removes the copies, again and again. After each lap the kernel forgets all it knows of the
union (a remount makes it), and then the daemon holds what it held in the beginning. ENDURANCE_SECONDS is the length of
a run: ``ENDURANCE_SECONDS=1800 pytest -s -o faulthandler_timeout=0 tests/fuse/test_endurance.py`` prints each sample.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from fuse.conftest import wait_until
from fuse.fsstress import assert_same_tree, seed_tree
from harness.unions import PROJECT, mounted
from unionfs.caller import find_union

pytestmark = pytest.mark.fuse

SECONDS = float(os.environ.get("ENDURANCE_SECONDS", "6"))
LAPS = max(3, round(SECONDS / 60))
SAMPLES_OF_A_LAP = 5
ACTORS = 2
CHURNED = 100
ROOM_BYTES = 3 << 20
"""What an interpreter may hold more at one time than at another: pages of its pools that are not quite empty."""


class Held(NamedTuple):
    """What the daemon holds at a moment."""

    seconds: float
    proportional_bytes: int
    resident_bytes: int
    descriptors: int
    nodes: int


class Watch:
    """Looks at the daemon ``pid`` of the union at ``root``."""

    def __init__(self, pid: int, root: Path) -> None:
        self._pid = pid
        self._root = root
        self._start = time.monotonic()
        self._first = self._descriptors() + 1
        """As many as in the beginning, and the directory of temporary things."""

    def look(self, what: str) -> Held:
        text = Path(f"/proc/{self._pid}/smaps_rollup").read_text(encoding="ascii")
        pss, rss = (int(re.findall(rf"^{word}: +(\d+) kB", text, re.MULTILINE)[0]) << 10 for word in ("Pss", "Rss"))
        descriptors = self._descriptors()
        nodes = find_union(str(self._root)).ask({"do": "stats"})["nodes"]
        held = Held(time.monotonic() - self._start, pss, rss, descriptors, nodes)
        print(f"{what:8} {held.seconds:7.1f} s  PSS {pss >> 10:7} KiB  RSS {rss >> 10:7} KiB ", end="")
        print(f" {descriptors:4} descriptors  {nodes:6} nodes")
        return held

    def rest(self) -> Held:
        """What is held when the kernel has forgotten everything."""
        subprocess.run(["mount", "-i", "-o", "remount,rw", self._root], check=True)
        union = find_union(str(self._root))
        wait_until(lambda: union.ask({"do": "stats"})["nodes"] == 1, "the kernel forgets all nodes")
        # directories that paths of more than 3,000 bytes are reached through are kept open until things move
        union.ask({"do": "refresh"})
        # the connection of a question before may be open still
        wait_until(lambda: self._descriptors() <= self._first, "descriptors are closed")
        return self.look("at rest")

    def _descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self._pid}/fd"))


def churn(directory: Path) -> None:
    """Each lower file is copied up and removed, so that the lower one shows again; others come, are renamed, and go."""
    for number in range(CHURNED):
        name, made = directory / str(number), directory / f"made {number}"
        with open(name, "r+b") as file:
            file.write(b"changed")
            name.unlink()
            assert name.read_bytes() == b"%d" % number
        made.touch()
        os.rename(made, directory / "renamed")
        (directory / "renamed").unlink()


def work(place: Path, seed: int, until: float, options: list[str]) -> Iterator[None]:
    """Everybody has worked until then; a step for each turn."""
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT}:{PROJECT}/tests"}
    command = [sys.executable, str(PROJECT / "tests/fuse/fsstress.py"), *options, "--operations", "150"]
    turn = 0
    while time.monotonic() < until:
        turn += 1
        running = [
            subprocess.Popen(
                [*command, "--seed", f"{seed}{turn:04}{one}", place / f"root/{one}", place / f"plain/{one}"],
                env=environment, stderr=subprocess.PIPE, text=True,
            )
            for one in range(ACTORS)
        ]  # fmt: skip
        try:
            churn(place / "root/churned")
        finally:
            said = [program.communicate()[1].strip().split("\n")[-1] for program in running]
        assert not any(said), said
        yield


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("upper", "lower/churned", "root", "plain"):
        (tmp_path / name).mkdir(parents=True)
    for number in range(CHURNED):
        (tmp_path / f"lower/churned/{number}").write_bytes(b"%d" % number)
    for number in range(ACTORS):
        for side in ("upper", "plain"):
            (tmp_path / f"{side}/{number}").mkdir()
            seed_tree(tmp_path / f"{side}/{number}", number)
    return tmp_path


@pytest.mark.parametrize("how", ["transport=direct", "transport=pyfuse3"])
def test_what_the_daemon_holds_stays_flat(how: str, place: Path) -> None:
    options = ["--without-allocation"] if "pyfuse3" in how else []
    with mounted([place / "upper", place / "lower"], place / "root", f"delete=first,volatile,{how}") as daemon:
        watch = Watch(daemon.pid, place / "root")
        resting: list[Held] = []
        busy: list[list[Held]] = []
        for lap in range(LAPS):
            seen = [watch.look("working")]
            end = time.monotonic() + SECONDS / LAPS
            for _ in work(place, lap, end, options):
                if time.monotonic() > end - SECONDS / LAPS * (1 - len(seen) / SAMPLES_OF_A_LAP):
                    seen.append(watch.look("working"))
            busy.append(seen)
            for one in range(ACTORS):
                assert_same_tree(place / f"root/{one}", place / f"plain/{one}")
            resting.append(watch.rest())
    # the first lap is the warm-up
    highest = [max(held.proportional_bytes for held in seen) for seen in busy]
    assert max(highest[1:]) <= highest[0] * 1.05 + ROOM_BYTES
    assert max(held.proportional_bytes for held in resting[1:]) <= resting[0].proportional_bytes * 1.05 + ROOM_BYTES
