"""B9: peak memory of pybuild and its helpers while it builds python-app, nothing cached.

Every 20 ms the proportional set sizes (PSS) of the command, the union server, the sandbox server and its children are
added up; what runs inside a step is not pybuild's. RSS counts shared pages once per process, so it is more.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from builders import example, made, pybuild_command
from measure import Row, arguments, report

INTERVAL_SECONDS = 0.02
LIMIT_MIB = 200
OWN = re.compile(rb"pybuild|unionfs\.|builder\.")


def descendants(pid: int) -> list[int]:
    """``pid`` and every process below it."""
    found, waiting = [], [pid]
    while waiting:
        current = waiting.pop()
        found.append(current)
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{current}/task").iterdir():
                waiting += [int(word) for word in (task / "children").read_text().split()]
    return found


def kib_of(pid: int, field: str) -> int:
    """A line of smaps_rollup; 0 for a process that is gone or not pybuild's own."""
    with contextlib.suppress(OSError):
        if OWN.search(Path(f"/proc/{pid}/cmdline").read_bytes()):
            found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
            return int(found.group(1)) if found else 0
    return 0


def peaks(command: list[str]) -> dict[str, int]:
    """Largest sums seen while the command ran, in KiB."""
    highest = {"Pss": 0, "Rss": 0}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None:
            pids = descendants(process.pid)
            for field, seen in highest.items():
                highest[field] = max(seen, sum(kib_of(pid, field) for pid in pids))
            time.sleep(INTERVAL_SECONDS)
        _, said = process.communicate()
    if process.returncode != 0:
        sys.exit(f"the build failed:\n{said.decode()[-3000:]}")
    return highest


def main() -> int:
    """Measures; status 1 when the limit is exceeded."""
    options = arguments(rounds=2)
    rows = {"Pss": Row("PSS of all processes", []), "Rss": Row("RSS of all processes", [])}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        for number in range(options.rounds):
            root = f"{name}/{number}"
            subprocess.run(
                [pybuild_command(), "load", "--root", root, "-i", made("debian")], check=True, stdout=subprocess.DEVNULL
            )
            command = [pybuild_command(), "build", "--root", root, "--progress", "quiet", str(example("python-app"))]
            for field, kib in peaks(command).items():
                rows[field].samples.append(kib / 1024)
    reached = report(
        "peak memory while building python-app", list(rows.values()), limit=LIMIT_MIB, ratios=False, unit="MiB", scale=1
    )
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
