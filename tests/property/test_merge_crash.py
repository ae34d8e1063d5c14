"""snapmerge cut off between any two system calls: running it again gives what it would have given."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.deaths import survives
from harness.trees import read_tree
from unionfs.merge import merge

PATHS = ("a", "b", "a/a", "a/b", "b/a", "a/a/a")
KINDS = ("dir", "opaque", "file", "sparse", "link", "whiteout", "hard", "fifo")
layers = st.lists(st.dictionaries(st.sampled_from(PATHS), st.sampled_from(KINDS), max_size=6), min_size=2, max_size=3)

EVERY_KIND = {
    "roots": [
        {"a": "dir", "a/a": "file", "a/b": "hard", "b": "file"},
        {"a": "file", "b": "dir", "b/a": "sparse"},
        {"a": "opaque", "a/a": "file", "a/b": "hard", "b": "whiteout"},
    ],
    "keep": True,
}


def make(root: Path, entries: dict[str, str], second: int) -> None:
    root.mkdir(mode=0o750)
    first = None
    for path, kind in sorted(entries.items()):
        place = root / path
        above = [parent for parent in place.parents if parent.is_relative_to(root) and os.path.lexists(parent)]
        if os.path.lexists(place) or not all(stat.S_ISDIR(os.lstat(parent).st_mode) for parent in above):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if kind in {"dir", "opaque"}:
            place.mkdir(mode=0o711)
            if kind == "opaque":
                (place / ".wh..wh..opq").touch()
        elif kind == "link":
            place.symlink_to("/etc")
        elif kind == "whiteout":
            (place.parent / f".wh.{place.name}").touch()
        elif kind == "hard" and first is not None:
            os.link(first, place)
        elif kind == "fifo":
            os.mkfifo(place)
        else:
            place.write_text(f"{path} of {root.name}")
            if kind == "sparse":
                os.truncate(place, 1 << 20)
            os.setxattr(place, "user.from", root.name.encode())
            first = place
    date(root, second)


def date(root: Path, second: int) -> None:
    for directory, _, files in os.walk(root, topdown=False):
        for name in files:
            os.utime(os.path.join(directory, name), ns=(1, second * 10**9 + 7), follow_symlinks=False)
        os.utime(directory, ns=(2, second * 10**9 + 8))


def seen(root: Path) -> dict[str, tuple[object, ...]]:
    """The tree with times and the space each file takes."""
    found = {}
    for path, entry in read_tree(root).items():
        status = os.lstat(root / path)
        is_mark = os.path.basename(path).startswith(".wh.")
        found[path] = (*entry, 0 if is_mark else status.st_mtime_ns, status.st_blocks if entry.kind == "file" else 0)
    return found


@settings(
    max_examples=int(os.environ.get("CRASH_EXAMPLES", "3")), deadline=None, suppress_health_check=list(HealthCheck)
)
@given(roots=layers, keep=st.booleans())
@example(**EVERY_KIND)
@example(**{**EVERY_KIND, "keep": False})
def test_a_merge_is_finished_by_running_it_again(roots: list[dict[str, str]], keep: bool) -> None:
    base = Path(tempfile.mkdtemp())

    def apply(out: Path) -> None:
        merge(out, snapshots, keep_whiteouts=keep, dry_run=False, report=lambda _line: None)

    try:
        snapshots = [base / f"s{number}" for number in range(1, len(roots))]
        for second, (root, entries) in enumerate(zip([base / "then", *snapshots], roots, strict=True)):
            make(root, entries, second)
        unchanged = [seen(snapshot) for snapshot in snapshots]
        expected = None
        changes = 0
        finished = False
        while not finished:
            out = base / "now"
            subprocess.run(["cp", "-a", base / "then", out], check=True)
            if expected is None:
                apply(out)
                expected = seen(out)
            else:
                finished = survives(changes, lambda out=out: apply(out))
                apply(out)
                assert seen(out) == expected, f"after {changes} changes"
                changes += 1
            shutil.rmtree(out)
        assert [seen(snapshot) for snapshot in snapshots] == unchanged
        assert expected["."][-2] == unchanged[-1]["."][-2]
    finally:
        shutil.rmtree(base)
