"""B2: 20 × RUN touch on busybox, nothing cached: what one step costs, beside buildah and BuildKit."""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path

from builders import builders
from measure import Contender, Goal, Row, alternate, arguments, report

STEPS = 20
LIMIT_MS = 40


def main() -> int:
    """Measures; status 1 when a goal is missed."""
    options = arguments(rounds=5)
    numbers = itertools.count()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        context = Path(name) / "context"
        context.mkdir()

        def never_seen() -> None:
            number = next(numbers)
            steps = "\n".join(f"RUN touch /{number}-{step}" for step in range(STEPS))
            (context / "Dockerfile").write_text(f"FROM busybox\n{steps}\n")

        with builders(Path(name)) as all_builders:
            contenders = [Contender(one.name, one.run, never_seen) for one in all_builders.contenders(context)]
            rows = alternate(contenders, options)
            steps = [Row(row.name, [value / STEPS for value in row.samples]) for row in rows]
            goals = (Goal("buildah", 0.5), Goal("BuildKit (dockerd)", 1.0))
            reached = report(
                f"one cold step of {STEPS} × RUN touch", steps, goals=goals, limit=LIMIT_MS, absent=all_builders.absent
            )
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
