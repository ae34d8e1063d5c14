"""Which snapshot a branch is built upon: the note in its root, and what follows from the notes of all.

::

    TOP                          {"line": "3f…", "below": "b"}      what is written now
    .unionfs-snapshots/b         {"line": "3f…", "below": "a"}      as it was when b was taken
    .unionfs-snapshots/a         {"line": "3f…", "below": null}
    .unionfs-snapshots/a~1       {"line": "3f…", "below": "a"}      what came after a, put aside by a rollback

A union of TOP is one of TOP, b, a and the branches given below TOP. Invariants: a note is replaced whole; its name is
one that no union shows and no layer holds; a directory whose note says that it waits under its own name was made for a
step that never happened, and is empty.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping

from unionfs.errors import SnapshotError
from unionfs.namedtuple import NamedTuple

NOTE = b".wh..wh.snapshot"
_NEW_NOTE = b".wh..wh.snapshot.new"
DROPPED = ".dropped-"
"""How the name of a directory begins that is about to be removed."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
_SET_ASIDE = "~"


class Note(NamedTuple):
    """What a branch says about itself.

    ``line`` is the same in a top branch and all its snapshots. ``below`` names the snapshot the branch is built upon.
    ``frozen_ns`` is when it became a snapshot. ``waits`` is the name it was made under, until it takes TOP's place.
    """

    line: str
    below: str | None = None
    frozen_ns: int | None = None
    waits: str | None = None


def encode_note(note: Note) -> bytes:
    """The content of the file."""
    return json.dumps(note._asdict(), sort_keys=True).encode() + b"\n"


def decode_note(content: bytes) -> Note:
    """The note in ``content``.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    fields = json.loads(content)
    return Note(str(fields["line"]), fields.get("below"), fields.get("frozen_ns"), fields.get("waits"))


def check_name(name: str) -> str:
    """``name``, which a snapshot may have.

    Raises:
        SnapshotError: it may not.
    """
    if not _NAME.fullmatch(name):
        raise SnapshotError(
            f"snapshot {name!r}: expected letters, digits and _ . + -, beginning with none of the last three"
        )
    return name


def plan_chain(notes: Mapping[str, Note], start: str | None) -> tuple[str, ...]:
    """Names of the snapshots from ``start`` down to the first that was taken.

    Raises:
        SnapshotError: one of them is not there.
    """
    chain: list[str] = []
    name = start
    while name is not None:
        if name not in notes or name in chain:
            raise SnapshotError(f"snapshot {name!r} is not there")
        chain.append(name)
        name = notes[name].below
    return tuple(chain)


def plan_drop(notes: Mapping[str, Note], head: Note, name: str) -> None:
    """Nothing is built upon the snapshot ``name``.

    Raises:
        SnapshotError: something is, or the snapshot is not there.
    """
    if name not in notes:
        raise SnapshotError(f"snapshot {name!r} is not there")
    if head.below == name:
        raise SnapshotError(f"snapshot {name!r}: the union is built upon it")
    above = sorted(other for other, note in notes.items() if note.below == name)
    if above:
        raise SnapshotError(f"snapshot {name!r}: expected nothing built upon it, got {', '.join(above)}")


def name_aside(notes: Mapping[str, Note], name: str) -> str:
    """A free name for what came after ``name`` and is put aside."""
    number = 1
    while f"{name}{_SET_ASIDE}{number}" in notes:
        number += 1
    return f"{name}{_SET_ASIDE}{number}"


def read_note(root_fd: int) -> Note | None:
    """The note of the branch, or None when it has none and never had a snapshot.

    Raises:
        SnapshotError: there is one that cannot be read.
    """
    try:
        fd = os.open(NOTE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=root_fd)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        try:
            return decode_note(file.read())
        except (ValueError, KeyError, TypeError) as error:
            raise SnapshotError(f"{os.fsdecode(NOTE)}: expected a note on a snapshot, got {error!r}") from error


def write_note(root_fd: int, note: Note) -> None:
    """The branch has the note, on the disk; the times of its root stay."""
    times = os.fstat(root_fd)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_NEW_NOTE, dir_fd=root_fd)
    fd = os.open(_NEW_NOTE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=root_fd)
    with open(fd, "wb") as file:
        file.write(encode_note(note))
        file.flush()
        os.fsync(fd)
    os.rename(_NEW_NOTE, NOTE, src_dir_fd=root_fd, dst_dir_fd=root_fd)
    os.utime(b"/proc/self/fd/%d" % root_fd, ns=(times.st_atime_ns, times.st_mtime_ns))


def remove_note(root_fd: int) -> None:
    """The branch has no note, not even half of one."""
    for name in (_NEW_NOTE, NOTE):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=root_fd)
