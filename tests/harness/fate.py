"""Lives of unions as chance has it, for ``harness.history``: steps, a run of them, and a failure made shorter."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from harness.history import InProcess, MakeSide, Step, World
from harness.merged import Directory, Entry, File, Link, Whiteout
from harness.past import Mounting

LIFE = 250
"""Steps of one union; then another begins."""
TOGETHER = 5
"""Steps between two comparisons of everything."""
NAMES = (b"a", b"b", b"c")
DEEPEST = 4


class Fate:
    """Steps as chance has it, the same for the same seed. Of each kind there is a function."""

    def __init__(self, seed: str) -> None:
        self._chance = random.Random(seed)
        self._pick = self._chance.choice

    def path(self, shown: Sequence[bytes] = ()) -> bytes:
        """Any path, or mostly one of those that show."""
        if shown and self._chance.random() < 0.7:
            return self._pick(shown)
        return b"/".join(self._pick(NAMES) for _ in range(self._pick((1, 1, 2, 2, 3))))

    def new_path(self, shown: Sequence[bytes]) -> bytes:
        """A path, mostly beside or in one that shows."""
        path = self.path(shown)
        if self._chance.random() < 0.5 and path.count(b"/") < DEEPEST - 1:
            return path + b"/" + self._pick(NAMES)
        return b"".join([*path.rpartition(b"/")[:2], self._pick(NAMES)])

    def data(self) -> bytes:
        return self._chance.randbytes(self._pick((0, 1, 3))) * self._pick((1, 1, 20))

    def entry(self, depth: int) -> Entry:
        kind = self._pick(("file", "link", "whiteout", "device", "beside", "dir", "dir", "dir", "opaque"))
        if kind in {"dir", "opaque"}:
            return Directory(self.entries(depth - 1) if depth > 1 else {}, kind == "opaque", self.mode())
        return {
            "file": File(self.data(), self._pick((0o644, 0o600))),
            "link": Link(b"target"),
            "whiteout": Whiteout("aufs"),
            "device": Whiteout("overlay"),
            "beside": Whiteout("aufs", File(b"hidden")),
        }[kind]

    def entries(self, depth: int) -> dict[bytes, Entry]:
        return {name: self.entry(depth) for name in NAMES if self._chance.random() < 0.6}

    def mode(self) -> int:
        return self._pick((0o755, 0o755, 0o700))

    def access(self) -> str:
        return self._pick(("rw", "ro"))

    def branches(self) -> list[tuple[str, Directory]]:
        return [
            ("ro" if position and self._chance.random() < 0.7 else "rw", Directory(self.entries(3)))
            for position in range(self._pick((1, 2, 2, 3, 4)))
        ]

    def mounting(self) -> Mounting:
        return Mounting(
            self._pick(("whiteout", "whiteout", "all", "first")), self._pick(("aufs", "overlay")),
            self._pick(("parent", "parent", "top")), self._chance.random() < 0.7,
        )  # fmt: skip

    def number(self) -> int:
        return self._chance.randrange(100)

    def operation(self, shown: Sequence[bytes]) -> Step:
        path, new = self.path(shown), self.new_path(shown)
        return self._pick((
            ("write", path, self.data()), ("write", new, self.data()), ("append", path, self.data()),
            ("truncate", path, self.number()), ("mkdir", new), ("mkdir", new), ("symlink", b"target", new),
            ("unlink", path), ("unlink", path), ("rmdir", path), ("rmdir", path),
            ("rename", path, new, self._pick((0, 0, 0, 1, 2))), ("rename", path, new, 0),
            ("rename", path, self.path(shown), self._pick((0, 2))), ("chmod", path, self._pick((0o600, 0o700, 0o755))),
        ))  # fmt: skip

    def change(self) -> tuple[object, ...]:
        kind = self._pick(("add", "remove", "mode", "mode"))
        if kind == "add":
            return kind, self.number(), self.access(), Directory(self.entries(3), self._chance.random() < 0.1)
        return (kind, self.number()) if kind == "remove" else (kind, self.number(), self.access())

    def administration(self) -> Step:
        kind = self._pick(
            ("change", "change", "snapshot", "snapshot", "rollback", "drop", "diff", "remount", "outside")
        )
        if kind == "change":
            return (kind, *(self.change() for _ in range(self._pick((1, 1, 2, 3)))))
        return {
            "snapshot": ("snapshot", f"s{self._chance.randrange(30)}"),
            "rollback": ("rollback", self.number()),
            "drop": ("drop", self.number()),
            "diff": ("diff", self.number(), self.number()),
            "remount": ("remount", self.mounting()),
            "outside": ("outside", self.number(), self.path(), self._pick((None, self.entry(2)))),
        }[kind]

    def step(self, shown: Sequence[bytes]) -> Step:
        return self.administration() if self._chance.random() < 0.12 else self.operation(shown)


Life = tuple[list[tuple[str, Directory]], Mounting]


@contextlib.contextmanager
def world(life: Life, make_side: MakeSide) -> Iterator[World]:
    base = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    try:
        made = World(base, *life, make_side)
        try:
            yield made
        finally:
            made.close()
    finally:
        shutil.rmtree(base)


def live(life: Life, steps: Iterable[Callable[[World], Step]], make_side: MakeSide, together: int = 1) -> None:
    """Every step is made, and all is compared after each few. Raises AssertionError."""
    with world(life, make_side) as made:
        made.check()
        for number, step in enumerate(steps):
            made.step(step(made))
            if number % together == 0:
                made.check()
        made.check()


def fault_of(life: Life, steps: Sequence[Step], make_side: MakeSide) -> Exception | None:
    """What goes wrong in these steps, if anything."""
    try:
        live(life, [lambda _, step=step: step for step in steps], make_side)  # type: ignore[misc]
    except Exception as error:
        return error
    return None


def shorten(life: Life, steps: list[Step], make_side: MakeSide) -> list[Step]:
    """As few of the steps as still fail, found in half a minute: ever smaller pieces are left out."""
    end = time.monotonic() + 30
    size = len(steps) // 2
    while size:
        for start in range(len(steps) - size, -1, -size):
            fewer = steps[:start] + steps[start + size :]
            if time.monotonic() < end and fault_of(life, fewer, make_side) is not None:
                steps = fewer
        size //= 2
    return steps


def run(steps: int, seed: int, make_side: MakeSide = InProcess) -> None:
    """So many steps are made, by one union after the other. Raises AssertionError, with as few steps as show it."""
    for turn in range(-(-steps // LIFE)):
        fate = Fate(f"{seed} {turn}")
        life = (fate.branches(), fate.mounting())
        made: list[Step] = []

        def come(world: World, fate: Fate = fate, made: list[Step] = made) -> Step:
            made.append(fate.step(world.paths()))
            return made[-1]

        try:
            live(life, itertools.repeat(come, min(LIFE, steps)), make_side, TOGETHER)
        except Exception as error:
            few = shorten(life, made, make_side)
            told = "\n  ".join(map(repr, (*life, *few)))
            fault = fault_of(life, few, make_side)
            raise AssertionError(f"life {turn} of UNION_SEED={seed}:\n  {told}\n{fault or error!r}") from error
