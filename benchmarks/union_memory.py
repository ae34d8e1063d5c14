"""U13: resident memory of the server that knows 200,000 files, and once the kernel has forgotten them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import Row, arguments, report
from union_tree import find
from unions import ours

from unionfs.client import UnionServer

DIRECTORIES = 2000
FILES = 100
LIMIT_MIB = 150
PATIENCE_SECONDS = 30


def make_tree(lower: Path) -> None:
    """200,000 empty files."""
    for directory in range(DIRECTORIES):
        (lower / f"dir-{directory:04}").mkdir(parents=True)
        for file in range(FILES):
            os.close(os.open(lower / f"dir-{directory:04}/file-{file:03}", os.O_CREAT | os.O_WRONLY, 0o644))


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def forget(root: Path, pid: int) -> float:
    """Resident memory once the kernel has dropped the names of the mount, which a remount makes it do."""
    subprocess.run(["mount", "-i", "-o", "remount,rw", root], check=True)
    end = time.monotonic() + PATIENCE_SECONDS
    before, now = -1.0, resident_mib(pid)
    while now != before and time.monotonic() < end:
        time.sleep(0.5)
        before, now = now, resident_mib(pid)
    return now


def main() -> int:
    """Measures; status 1 when a goal is missed."""
    options = arguments(rounds=1)
    known, forgotten = Row("knows 200,000 files", []), Row("has forgotten them", [])
    with tempfile.TemporaryDirectory(prefix="union-memory-") as name:
        base = Path(name)
        make_tree(base / "lower")
        (base / "upper").mkdir()
        (base / "root").mkdir()
        for _ in range(options.rounds):
            with UnionServer.start() as server:
                ended = ours(server, [base / "lower"], "fast")(base / "upper", base, base / "root")
                find(base / "root")
                known.samples.append(resident_mib(server.pid))
                forgotten.samples.append(forget(base / "root", server.pid))
                subprocess.run(["umount", base / "root"], check=True)
                if ended is not None:
                    os.close(ended)
    falls = forgotten.median < known.median
    print(f"\nmemory {'falls' if falls else 'DOES NOT FALL'} after forget")
    met = report("U13 memory", [known, forgotten], limit=LIMIT_MIB, ratios=False, unit="MiB", scale=1.0)
    return 0 if met and falls else 1


if __name__ == "__main__":
    sys.exit(main())
