"""File modes as ``--chmod`` gives them: octal digits, or the symbols of chmod(1) as ``u=rwX,go=rX``.

Invariants: a parsed mode is a value; applying it looks at nothing but the mode it is applied to and whether that is a
directory.  A symbol without ``u``, ``g``, ``o`` means everybody: no umask takes part.
"""

from __future__ import annotations

import re

from unionfs.namedtuple import NamedTuple

# not compiled on import: most builds have no --chmod
_CLAUSE = r"([ugoa]*)((?:[-+=](?:[rwxXst]*|[ugo]))+)\Z"
_ACTION = r"([-+=])([ugo]|[rwxXst]*)"
_LARGEST = 0o7777
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}
_SPECIAL = {"u": 0o4000, "g": 0o2000, "o": 0o1000}
_SPECIAL_LETTER = {"u": "s", "g": "s", "o": "t"}
_SET_ID = 0o6000
_ANY_EXECUTE = 0o111


class Change(NamedTuple):
    """One action on one class of users: ``+``, ``-`` or ``=`` with permission letters or the class to copy from."""

    who: str
    operator: str
    what: str


class Mode(NamedTuple):
    """Either ``octal`` is set, or ``changes`` say what is done to the mode a file has."""

    octal: int | None
    changes: tuple[Change, ...] = ()

    def apply(self, mode: int, *, directory: bool) -> int:
        """Return the permission bits (07777) that a file of ``mode`` gets."""
        if self.octal is not None:
            return self.octal
        result = mode & _LARGEST
        for change in self.changes:
            result = _change(result, change, directory=directory)
        return result


def parse_mode(text: str) -> Mode:
    """Return what ``text`` says.

    Raises:
        ValueError: neither octal digits up to 07777 nor symbols.
    """
    if re.match(r"[0-7]+\Z", text) and int(text, 8) <= _LARGEST:
        return Mode(int(text, 8))
    if re.match(r"[0-9]+\Z", text):
        raise ValueError(f"mode {text!r} is not octal digits between 0 and 07777")
    changes: list[Change] = []
    for clause in text.split(","):
        found = re.match(_CLAUSE, clause)
        if found is None:
            raise ValueError(f"mode {text!r} is neither octal nor of the form u=rwX,go=rX")
        who = "ugo" if not found.group(1) or "a" in found.group(1) else found.group(1)
        changes += [Change(who, operator, what) for operator, what in re.findall(_ACTION, found.group(2))]
    return Mode(None, tuple(changes))


def _change(mode: int, change: Change, *, directory: bool) -> int:
    mask = bits = 0
    for user in change.who:
        shift = _SHIFTS[user]
        mask |= 0o7 << shift | _SPECIAL[user]
        bits |= _permissions(mode, change.what, directory=directory) << shift
        if _SPECIAL_LETTER[user] in change.what:
            bits |= _SPECIAL[user]
    if change.operator == "+":
        return mode | bits
    if change.operator == "-":
        return mode & ~bits
    # chmod(1): a directory keeps its set-id bits unless they are named
    kept = mode & _SET_ID if directory and "s" not in change.what else 0
    return mode & ~mask | bits | kept


def _permissions(mode: int, what: str, *, directory: bool) -> int:
    if what in _SHIFTS:
        return mode >> _SHIFTS[what] & 0o7
    bits = sum(_BITS.get(letter, 0) for letter in set(what) - {"X"})
    if "X" in what and (directory or mode & _ANY_EXECUTE):
        bits |= _BITS["x"]
    return bits
