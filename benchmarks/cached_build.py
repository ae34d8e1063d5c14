"""B1: a fully cached build of 20 steps, the whole command, beside buildah and a BuildKit that is already running."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from builders import builders
from measure import Goal, alternate, arguments, report

STEPS = 20
LIMIT_MS = 70


def main() -> int:
    """Measures; status 1 when a goal is missed."""
    options = arguments(rounds=15)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        context = Path(name) / "context"
        context.mkdir()
        lines = ["FROM busybox", *(f"RUN echo {number} >/step-{number}" for number in range(STEPS))]
        (context / "Dockerfile").write_text("\n".join(lines) + "\n")
        with builders(Path(name)) as all_builders:
            contenders = all_builders.contenders(context)
            for contender in contenders:
                contender.run()
            rows = alternate(contenders, options)
            goals = (Goal("buildah", 0.5), Goal("BuildKit (dockerd)", 1.0))
            reached = report(
                f"cached build of {STEPS} steps", rows, goals=goals, limit=LIMIT_MS, absent=all_builders.absent
            )
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
