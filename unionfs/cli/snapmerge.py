"""``snapmerge``: applies snapshots, the oldest first, onto a directory.

Returns 0, 1 with one line on stderr when the merge cannot be done, 2 when the words make no sense.
"""

from __future__ import annotations

import sys
from pathlib import Path

from unionfs.cli.running import UsageError, run
from unionfs.merge import merge

_USAGE = """\
usage: snapmerge [-n] [-k] OUT SNAPSHOT_OLDEST … SNAPSHOT_NEWEST

  -n             only say what would be done
  -k             keep all whiteouts: OUT is not the bottom branch
  -h, --help     show this
  -V, --version  show the version
"""
_FLAGS = frozenset("nk")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    return run("snapmerge", _USAGE, sys.argv[1:] if arguments is None else arguments, _act)


def _act(words: list[str]) -> None:
    flags: set[str] = set()
    paths: list[Path] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            paths += map(Path, rest)
        elif word.startswith("-") and _FLAGS.issuperset(word[1:]):
            flags.update(word[1:])
        elif word.startswith("-"):
            raise UsageError(f"option {word!r} is unknown")
        else:
            paths.append(Path(word))
    if len(paths) < 2:  # noqa: PLR2004 - OUT and one snapshot
        raise UsageError("expected OUT and at least one snapshot")
    dry_run = "n" in flags
    merge(
        paths[0],
        paths[1:],
        keep_whiteouts="k" in flags,
        dry_run=dry_run,
        report=print if dry_run else lambda _line: None,
    )


if __name__ == "__main__":
    sys.exit(main())
