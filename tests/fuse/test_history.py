"""A mounted union lives through everything at once: what the kernel knows of it never is out of date.

The same steps and the same oracle as in tests/property/test_history.py; operations are system calls, and ``unionctl``'s
messages go to the daemon. MOUNTED_STEPS is their number.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import fate
from harness.past import Mounting
from harness.paths import PlainPaths
from harness.unions import start
from unionfs.branch import Branch
from unionfs.caller import find_union
from unionfs.types import Access

pytestmark = pytest.mark.fuse

STEPS = int(os.environ.get("MOUNTED_STEPS", "250"))
SEED = int(os.environ.get("UNION_SEED", "1"))


class Mounted:
    """A union behind a mount of its own."""

    keeps_line = False

    def __init__(self, base: Path, branches: Sequence[Branch], mounting: Mounting, how: str) -> None:
        self._root = base / "root"
        self._root.mkdir(exist_ok=True)
        words = [
            f"delete={mounting.delete}",
            f"whiteouts={mounting.form}",
            f"create={mounting.create}",
            "volatile",
            how,
        ]
        words += ["inodes=stable"] if mounting.stable else []
        self._daemon = start([Path(os.fsdecode(one.path)) for one in branches], self._root, ",".join(words))
        self._set_access(branches)
        self.ways = (PlainPaths(self._root),) * 2

    def _set_access(self, branches: Sequence[Branch]) -> None:
        """The first is mounted writable, the others not: they are made what they are to be."""
        changes = [
            {"set": os.fsdecode(one.path), "access": one.access.value}
            for number, one in enumerate(branches)
            if (one.access is Access.RW) != (number == 0)
        ]
        if changes:
            self.ask({"do": "change", "changes": changes})

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        return find_union(str(self._root)).ask(message)

    def close(self) -> None:
        subprocess.run(["umount", self._root], check=True)
        said = self._daemon.communicate(timeout=20)[1]
        assert (self._daemon.returncode, said) == (0, "")


def behind(how: str) -> Callable[[Path, Sequence[Branch], Mounting], Mounted]:
    return lambda base, branches, mounting: Mounted(base, branches, mounting, how)


@pytest.mark.parametrize("how", ["passthrough=auto", "passthrough=fast", "passthrough=off"])
def test_a_long_history(how: str) -> None:
    fate.run(STEPS, SEED, behind(how))
