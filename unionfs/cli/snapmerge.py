"""``snapmerge``: applies snapshots, the oldest first, onto a directory.

Returns 0, 1 with one line on stderr when the merge cannot be done, 2 when the words make no sense.
"""

from __future__ import annotations

import sys
from pathlib import Path

from unionfs.errors import UnionError
from unionfs.merge import merge

_USAGE = """\
usage: snapmerge [-n] [-k] OUT SNAPSHOT_OLDEST … SNAPSHOT_NEWEST

  -n  only say what would be done
  -k  keep all whiteouts: OUT is not the bottom branch
"""


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or "-h" in words or "--help" in words:
        print(_USAGE, end="", file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    flags = {letter for word in words if word.startswith("-") for letter in word[1:]}
    paths = [Path(word) for word in words if not word.startswith("-")]
    if flags - {"n", "k"} or len(paths) < 2:  # noqa: PLR2004 - OUT and one snapshot
        print("snapmerge: expected OUT and at least one snapshot\nhint: snapmerge --help", file=sys.stderr)
        return 2
    dry_run = "n" in flags
    try:
        merge(
            paths[0],
            paths[1:],
            keep_whiteouts="k" in flags,
            dry_run=dry_run,
            report=print if dry_run else lambda _line: None,
        )
    except (UnionError, OSError) as error:
        print(f"snapmerge: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
