"""The daemon is killed at any instant: after a remount each operation has happened or has not, and nothing is left over.

KILLS is the number of deaths of each union: ``KILLS=500 pytest -o faulthandler_timeout=0 tests/fuse/test_kill.py``.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fuse.fsstress import Actor, answer_of, seed_tree
from harness.trees import differences, read_tree
from harness.unions import mounted, start

pytestmark = pytest.mark.fuse

KILLS = int(os.environ.get("KILLS", "12"))
ACTORS = 3
BRANCHES = ("top", "middle", "bottom")
DEAD = ("error ENOTCONN", "error ECONNABORTED", "error ENODEV")


class DaemonDiedError(Exception):
    """The union answers no more."""


class Mortal(Actor):
    """An actor whose operations are one change each; ``pending`` is the one that nobody knows the end of."""

    def __init__(self, union: Path, plain: Path, seed: int, *, links: bool, counts: bool) -> None:
        """``links``: names of one file stay together over a remount, since only one branch is written to.

        ``counts``: so do the numbers of links, since no lower file has several names.
        """
        super().__init__(union, plain, seed)
        left_out = ["_create", "_open_file", "_use_open", "_close_file", "_sync", "_unnamed"]
        left_out += [] if links else ["_link"]
        left_out += [] if counts else ["_look"]
        self.operations = [one for one in self.operations if one.__name__ not in left_out]
        self.pending: Callable[[str], object] | None = None

    def _data(self) -> bytes:
        return self._random.randbytes(100)

    def _both(self, action: Callable[[str], object]) -> object:
        answer = answer_of(action, self.sides[0])
        if answer in DEAD:
            self.pending = action
            raise DaemonDiedError
        wanted = answer_of(action, self.sides[1])
        if answer != wanted and answer_of(os.statvfs, self.sides[0]) in DEAD:
            # a read is short, or ends, where the pages end that the kernel had; statvfs is never answered by a cache
            self.pending = action
            raise DaemonDiedError
        assert answer == wanted, f"{self.log[-1]}: the union says {answer}, a plain directory {wanted}"
        return wanted

    def act(self) -> None:
        """Operations were done until the union answered no more."""
        with contextlib.suppress(DaemonDiedError):
            self.run(1 << 30)

    def assert_old_or_new(self) -> None:
        """The union, alive again, shows the plain directory as it is or as the pending operation leaves it."""
        union, plain = map(Path, self.sides)
        shown = read_tree(union)
        old = differences(shown, read_tree(plain))
        if old and self.pending is not None:
            answer_of(self.pending, self.sides[1])
            new = differences(shown, read_tree(plain))
            assert not new, f"{self.log[-1]}: neither old, {old[:5]}, nor new, {new[:5]}; before: {self.log[-200:-1]}"
        else:
            assert not old, f"{self.log[-1]}: {old[:5]}; before: {self.log[-200:-1]}"


@contextlib.contextmanager
def killed_at_the_end(daemon: subprocess.Popen[str], root: Path) -> Iterator[subprocess.Popen[str]]:
    """The daemon; in the end it is dead and its mount gone."""
    try:
        yield daemon
    finally:
        daemon.kill()
        daemon.communicate()
        subprocess.run(["umount", "-l", root], check=True)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in (*BRANCHES, "root", "plain"):
        (tmp_path / name).mkdir()
    for number in range(ACTORS):
        for side in ("bottom", "plain"):
            (tmp_path / side / str(number)).mkdir()
            seed_tree(tmp_path / side / str(number), number)
    return tmp_path


def add_names(root: Path) -> None:
    """Some files below ``root`` have several names, here and there."""
    found = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    for number, path in enumerate(found[::2]):
        for parent in {root, path.parent}:
            os.link(path, parent / f"name {number}")


@pytest.mark.parametrize(
    ("options", "writable"),
    [
        ("whiteouts=aufs", 1),
        ("whiteouts=overlay,passthrough=off", 1),
        ("delete=all,create=top", 2),
        ("volatile", 2),
        ("inodes=stable", 1),
    ],
)
def test_daemon_is_killed(options: str, writable: int, place: Path) -> None:
    chance = random.Random(options)
    branches, root = [place / name for name in BRANCHES], place / "root"
    named = "stable" in options
    if named:
        for number in range(ACTORS):
            add_names(place / "bottom" / str(number))
            add_names(place / "plain" / str(number))
    actors: list[Mortal] = []
    for death in range(KILLS):
        with killed_at_the_end(start(branches, root, options, writable=writable), root) as daemon:
            for actor in actors:
                actor.assert_old_or_new()
            actors = [
                Mortal(
                    root / str(one),
                    place / "plain" / str(one),
                    death * ACTORS + one,
                    links=writable == 1,
                    counts=not named,
                )
                for one in range(ACTORS)
            ]
            killer = threading.Timer(chance.uniform(0.005, 0.15), daemon.kill)
            with ThreadPoolExecutor(ACTORS) as pool:
                killer.start()
                done = [pool.submit(actor.act) for actor in actors]
            killer.join()
            for future in done:
                future.result()
    with mounted(branches, root, options, writable=writable):
        for actor in actors:
            actor.assert_old_or_new()
    for branch in branches:
        assert not (branch / ".wh..unionfs").exists(), f"temporary things are left in {branch.name}"
