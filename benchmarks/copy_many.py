"""B3: COPY of 50,000 files (500 MiB): new, unchanged, one file changed; beside buildah and BuildKit."""

from __future__ import annotations

import itertools
import random
import sys
import tempfile
from pathlib import Path

from builders import builders
from measure import Contender, Goal, alternate, arguments, report

FILES = 50_000
FILES_PER_DIRECTORY = 100
FILE_BYTES = (500 << 20) // FILES
RATIO = 0.6


def plant(context: Path) -> None:
    """The files, none like another, and the Dockerfile."""
    source = random.Random(0)
    for number in range(FILES):
        directory = context / f"d{number // FILES_PER_DIRECTORY:03d}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number:05d}").write_bytes(source.randbytes(FILE_BYTES))
    (context / "Dockerfile").write_text("FROM scratch\nCOPY . /src/\n")


def main() -> int:
    """Measures; status 1 when a goal is missed."""
    options = arguments(rounds=3)
    numbers = itertools.count()
    goals = (Goal("BuildKit (dockerd)", RATIO), Goal("buildah", RATIO))
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        context = Path(name) / "context"
        plant(context)

        def change_one() -> None:
            (context / "d123" / "f12345").write_text(f"changed {next(numbers)}\n")

        with builders(Path(name)) as all_builders:
            measured = all_builders.contenders(context)
            parts: tuple[tuple[str, list[Contender]], ...] = (
                ("new", all_builders.newcomers(context)),
                ("unchanged", measured),
                ("one file changed", [one._replace(prepare=change_one) for one in measured]),
            )
            reached = [
                report(
                    f"COPY of {FILES} files, {title}", alternate(part, options), goals=goals, absent=all_builders.absent
                )
                for title, part in parts
            ]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
