"""U7, U8, U9: files made, removed and copied up.

U7 makes 5,000 files of 1 KiB in 50 directories that lie in the lower branch. U8 removes them again, and removes 5,000
files of the lower branch. U9 writes to 1,000 lower files of 8 KiB, and to one of 1 GiB.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from measure import arguments, report
from union_content import LARGE_BYTES, make_file
from unions import COPYING_PEERS, FUSE_PEERS, OURS_OFF, best, unions

DIRECTORIES = 50
FILES = 100
CONTENT = bytes(1024)
COPIED_FILES = 1000
COPIED_BYTES = 8192


def paths(root: Path, prefix: str) -> list[str]:
    """The 5,000 files."""
    return [f"{root}/dir-{one}/{prefix}-{file}" for one in range(DIRECTORIES) for file in range(FILES)]


def create(root: Path) -> None:
    """5,000 new files."""
    for path in paths(root, "new"):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, CONTENT)
        os.close(fd)


def unlink(root: Path, prefix: str) -> None:
    """They are gone."""
    for path in paths(root, prefix):
        os.unlink(path)


def append(root: Path) -> None:
    """One byte more in each of the 1,000 files."""
    for number in range(COPIED_FILES):
        _append(f"{root}/copied/{number}")


def append_large(root: Path) -> None:
    """One byte more in the large file."""
    _append(f"{root}/large")


def _append(path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"x")
    os.close(fd)


def make_lower(lower: Path) -> None:
    """What the lower branch holds."""
    for directory in range(DIRECTORIES):
        (lower / f"dir-{directory}").mkdir(parents=True)
    for path in paths(lower, "old"):
        Path(path).write_bytes(CONTENT)
    (lower / "copied").mkdir()
    for number in range(COPIED_FILES):
        (lower / "copied" / str(number)).write_bytes(bytes(COPIED_BYTES))
    make_file(lower / "large", LARGE_BYTES)


def main() -> int:
    """Measures; status 1 when a goal is missed."""
    options = arguments(rounds=5)
    met = True
    with tempfile.TemporaryDirectory(prefix="union-names-") as name:
        lower = Path(name, "lower")
        make_lower(lower)
        with unions(Path(name), [lower]) as here:
            absent = here.absent
            rows = here.measure(options, create)
            goals = [*best(rows, 1.0), *best(rows, 1.0, of=OURS_OFF)]
            met &= report("U7 create 5,000 files of 1 KiB", rows, goals=goals, absent=absent)
            rows = here.measure(options, lambda root: unlink(root, "new"), before=create)
            goals = [*best(rows, 1.0), *best(rows, 1.0, of=OURS_OFF)]
            met &= report("U8 unlink 5,000 new files", rows, goals=goals, absent=absent)
            for title, work in (
                ("U8 unlink 5,000 lower files", lambda root: unlink(root, "old")),
                ("U9 copy-up of 1,000 files of 8 KiB", append),
                ("U9 copy-up of one file of 1 GiB", append_large),
            ):
                rows = here.measure(options, work, without=[one for one in FUSE_PEERS if one not in COPYING_PEERS])
                met &= report(title, rows, goals=best(rows, 1.0, peers=COPYING_PEERS), absent=absent)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
