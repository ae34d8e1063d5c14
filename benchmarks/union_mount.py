"""U11: from the wish for a union to its first answer, in a server that runs already and by the command; and its end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import Contender, alternate, arguments, report
from unions import COMMAND, KERNEL, OURS, OURS_OFF, unions

LIMIT_SERVER_MS = 10
LIMIT_COMMAND_MS = 120


def main() -> int:
    """Measures; status 1 when a goal is missed."""
    options = arguments(rounds=15)
    with tempfile.TemporaryDirectory(prefix="union-mount-") as name:
        lower = Path(name, "lower")
        lower.mkdir()
        (lower / "file").write_bytes(b"content")
        with unions(Path(name), [lower], without=[OURS_OFF], command=True) as here:
            here.mounts[OURS].fresh()  # the server has read all its modules
            mounting = [
                Contender(kind, lambda one=one: (one.attach(), os.stat(one.root / "file")), one.renew)
                for kind, one in here.mounts.items()
            ]
            rows = {row.name: row for row in alternate(mounting, options)}
            met = True
            for first, limit in ((OURS, LIMIT_SERVER_MS), (COMMAND, LIMIT_COMMAND_MS)):
                ordered = [rows[first], *(row for kind, row in rows.items() if kind not in {OURS, COMMAND})]
                met &= report(f"U11 mount to first answer, {first}", ordered, limit=limit, absent=here.absent)
            ending = [
                Contender(kind, lambda one=one: subprocess.run(["umount", one.root], check=True), one.fresh)
                for kind, one in here.mounts.items()
            ]
            met &= report(f"U11 unmount, {KERNEL} and others", alternate(ending, options), absent=here.absent)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
