"""U4, U5, U6: large reads and writes, and small ones at random places.

U4 reads 1 GiB of a lower file, cold and warm; U5 writes 1 GiB to a new file; U6 is fio, 4 KiB at random places of a
file of 256 MiB, reads of the lower branch and writes in the upper one.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from measure import Goal, Row, arguments, report
from unions import KERNEL, OURS_OFF, best, unions

LARGE_BYTES = 1 << 30
MIDDLE_BYTES = 256 << 20
CHUNK_BYTES = 1 << 20


def make_file(path: Path, size_bytes: int) -> None:
    """A file without holes."""
    block = bytes(range(256)) * (CHUNK_BYTES // 256)
    with path.open("wb", buffering=0) as file:
        for _ in range(size_bytes // CHUNK_BYTES):
            file.write(block)


def read_large(root: Path) -> None:
    """All of the large file is read in order."""
    buffer = bytearray(CHUNK_BYTES)
    with (root / "large").open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def write_large(root: Path) -> None:
    """A new file of 1 GiB."""
    make_file(root / "new", LARGE_BYTES)


def fio(root: Path, how: str, file: str) -> None:
    """Half as many operations as the file has blocks; the page cache is left as it is."""
    command = ["fio", "--name=random", f"--rw={how}", "--bs=4k", "--ioengine=psync", "--size=256m", "--io_size=128m"]
    command += ["--invalidate=0", "--fallocate=none", "--randseed=1", "--minimal", f"--filename={root / file}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def with_middle(upper: Path) -> None:
    """The upper branch has a file to write in."""
    make_file(upper / "written", MIDDLE_BYTES)


def sequential(rows: Sequence[Row]) -> list[Goal]:
    """As fast as the kernel where the kernel does the work, as the peer where the server does."""
    return [Goal(KERNEL, 1.15), Goal("fuse-overlayfs", 1.0, OURS_OFF), *best(rows, 1.0)]


def main() -> int:
    """Measures; status 1 when a goal is missed."""
    options = arguments(rounds=5)
    with tempfile.TemporaryDirectory(prefix="union-content-") as name:
        lower = Path(name, "lower")
        lower.mkdir()
        make_file(lower / "large", LARGE_BYTES)
        make_file(lower / "middle", MIDDLE_BYTES)
        with unions(Path(name), [lower]) as here:
            rows = here.measure(options, read_large)
            met = report("U4 cold read of 1 GiB", rows, goals=sequential(rows), absent=here.absent)
            rows = here.measure(options, read_large, before=read_large)
            met &= report("U4 warm read of 1 GiB", rows, goals=sequential(rows), absent=here.absent)
            rows = here.measure(options, write_large)
            met &= report("U5 write of 1 GiB", rows, goals=sequential(rows), absent=here.absent)
            rows = here.measure(options, lambda root: fio(root, "randread", "middle"))
            goals = [*best(rows, 1.0), Goal(KERNEL, 1.2), *best(rows, 1.0, of=OURS_OFF)]
            met &= report("U6 random reads of 4 KiB", rows, goals=goals, absent=here.absent)
            rows = here.measure(options, lambda root: fio(root, "randwrite", "written"), fill=with_middle)
            goals = [*best(rows, 1.0), Goal(KERNEL, 1.2), *best(rows, 1.0, of=OURS_OFF)]
            met &= report("U6 random writes of 4 KiB", rows, goals=goals, absent=here.absent)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
