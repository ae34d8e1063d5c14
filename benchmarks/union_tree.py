"""U1, U2, U3: `find -ls`, cold and warm, and cold `tar` of 20,000 small files.

The files lie in 200 directories of the lower branch, 1 to 16 KiB each.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import Goal, arguments, report
from unions import KERNEL, best, unions

DIRECTORIES = 200
FILES = 100


def make_tree(lowers: list[Path]) -> None:
    """20,000 files in 200 directories, dealt out to ``lowers`` one by one, each of which has all the directories."""
    chance = random.Random(1)
    for directory in range(DIRECTORIES):
        for lower in lowers:
            (lower / f"dir-{directory:03}").mkdir(parents=True)
        for file in range(FILES):
            size = chance.randrange(1 << 10, 16 << 10)
            lower = lowers[file % len(lowers)]
            (lower / f"dir-{directory:03}/file-{file:03}").write_bytes(chance.randbytes(size))


def find(root: Path) -> None:
    """Attributes of everything."""
    subprocess.run(["find", root, "-ls"], stdout=subprocess.DEVNULL, check=True)


def tar(root: Path) -> None:
    """Attributes and content of everything."""
    # to a pipe: GNU tar does not read files when it sees that the archive is /dev/null
    with subprocess.Popen(["tar", "-C", root, "-cf", "-", "."], stdout=subprocess.PIPE) as archiver:
        assert archiver.stdout is not None
        while os.read(archiver.stdout.fileno(), 1 << 20):
            pass
    assert archiver.returncode == 0


def main() -> int:
    """Measures; status 1 when a goal is missed."""
    options = arguments(rounds=7)
    with tempfile.TemporaryDirectory(prefix="union-tree-") as name:
        lower = Path(name, "lower")
        make_tree([lower])
        with unions(Path(name), [lower]) as all_of_them:
            absent = all_of_them.absent
            rows = all_of_them.measure(options, find)
            goals = [*best(rows, 1.0), Goal(KERNEL, 2.0)]
            met = report("U1 cold find -ls of 20,000 files", rows, goals=goals, absent=absent)
            rows = all_of_them.measure(options, find, before=find)
            goals = [*best(rows, 1.0), Goal(KERNEL, 1.1)]
            met &= report("U2 warm find -ls of 20,000 files", rows, goals=goals, absent=absent)
            rows = all_of_them.measure(options, tar)
            met &= report("U3 cold tar of 20,000 files", rows, goals=best(rows, 0.9), absent=absent)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
