"""B6: four independent stages of two seconds of work each, beside the same work without a builder: the ideal schedule.

The work is a shell's loop, counted so that one takes two seconds here; "no builder" runs the four loops at once as
plain processes, which is the best any schedule can do on these processors.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from builders import builders
from measure import Contender, Goal, alternate, arguments, report

STAGES = 4
STAGE_SECONDS = 2.0
_SAMPLE = 1_000_000
_SAMPLES = 3


def loop(count: int, mark: int) -> str:
    """A command that counts to ``count``; ``mark`` makes it one that no cache knows."""
    return f"i={mark}; while [ $i -lt {mark + count} ]; do i=$((i+1)); done"


def shell() -> str:
    busybox = shutil.which("busybox")
    if busybox is None:
        sys.exit("busybox-static is not installed")
    return busybox


def loops_per_stage() -> int:
    """How far a shell counts in the time of a stage, where nothing disturbs it."""
    taken: list[float] = []
    for _ in range(_SAMPLES):
        begin = time.perf_counter()
        subprocess.run([shell(), "sh", "-c", loop(_SAMPLE, 0)], check=True)
        taken.append(time.perf_counter() - begin)
    return round(_SAMPLE * STAGE_SECONDS / min(taken))


def without_builder(count: int) -> None:
    """The work of all stages, at once."""
    running = [subprocess.Popen([shell(), "sh", "-c", loop(count, stage)]) for stage in range(STAGES)]
    statuses = [one.wait() for one in running]
    if any(statuses):
        sys.exit("the work failed")


def dockerfile(count: int, mark: int) -> str:
    stages = [f"FROM busybox AS s{stage}\nRUN {loop(count, mark + stage)}; echo >/s{stage}" for stage in range(STAGES)]
    copies = [f"COPY --from=s{stage} /s{stage} /" for stage in range(STAGES)]
    return "\n".join([*stages, "FROM busybox", *copies, ""])


def main() -> int:
    """Measures; status 1 when a goal is missed."""
    options = arguments(rounds=3)
    marks = itertools.count(step=STAGES)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        context = Path(name) / "context"
        context.mkdir()
        count = loops_per_stage()

        def never_seen() -> None:
            (context / "Dockerfile").write_text(dockerfile(count, next(marks)))

        with builders(Path(name)) as all_builders:
            contenders = [Contender(one.name, one.run, never_seen) for one in all_builders.contenders(context)]
            contenders.insert(1, Contender("no builder", lambda: without_builder(count)))
            rows = alternate(contenders, options)
            title = f"{STAGES} independent stages of {STAGE_SECONDS:g} s"
            goals = (Goal("no builder", 1.1), Goal("BuildKit (dockerd)", 1.0))
            reached = report(title, rows, goals=goals, absent=all_builders.absent)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
