"""Users and groups as an image's ``/etc/passwd`` and ``/etc/group`` have them.

Pure. The rules of USER are those of container runtimes (runc, ``libcontainer/user``); those of ``--chown`` and of
WORKDIR's owner are BuildKit's (``solver/llbsolver/file``): a number alone is user and group.
"""

from __future__ import annotations

from unionfs.namedtuple import NamedTuple

_LARGEST_ID = 2**32 - 2
_PASSWD_FIELDS = 6
_GROUP_FIELDS = 3


class UnknownIdentityError(LookupError):
    """A name that the image's files don't have, or a number out of range."""


class ResolvedUser(NamedTuple):
    """Who a process is: numbers, supplementary groups without the primary one's special place, home directory."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


class PasswdEntry(NamedTuple):
    """A line of ``/etc/passwd``, ``passwd(5)``."""

    name: str
    uid: int
    gid: int
    home: str


class GroupEntry(NamedTuple):
    """A line of ``/etc/group``, ``group(5)``."""

    name: str
    gid: int
    members: tuple[str, ...]


def parse_passwd(content: bytes) -> tuple[PasswdEntry, ...]:
    """The entries of ``/etc/passwd``; lines that are none are left out."""
    return tuple(
        PasswdEntry(fields[0], int(fields[2]), int(fields[3]), fields[5])
        for fields in _lines(content)
        if len(fields) >= _PASSWD_FIELDS and fields[0] and fields[2].isdecimal() and fields[3].isdecimal()
    )


def parse_group(content: bytes) -> tuple[GroupEntry, ...]:
    """The entries of ``/etc/group``; lines that are none are left out."""
    entries: list[GroupEntry] = []
    for fields in _lines(content):
        if len(fields) >= _GROUP_FIELDS and fields[0] and fields[2].isdecimal():
            members = tuple(name for name in "".join(fields[3:4]).split(",") if name)
            entries.append(GroupEntry(fields[0], int(fields[2]), members))
    return tuple(entries)


def resolve_user(text: str, passwd: tuple[PasswdEntry, ...], group: tuple[GroupEntry, ...]) -> ResolvedUser:
    """Who ``USER text`` is: ``name|uid[:group|gid]``, empty for root.

    Without a group the primary and supplementary groups are those of the files, 0 and none for an unknown number;
    with one it is the only group. Two numbers are what they say, whatever names the files have (BuildKit,
    ``executor/oci/user.go``). Raises UnknownIdentityError.
    """
    user_text, _, group_text = text.partition(":")
    number = _number(user_text or "0")
    gid = _number(group_text)
    if number is not None and gid is not None:
        home = next((one.home for one in passwd if one.uid == number), "")
        return ResolvedUser(number, gid, (), home or "/")
    entry = next((one for one in passwd if one.name == user_text or one.uid == number), None)
    if entry is None:
        if number is None:
            raise UnknownIdentityError(f"user {user_text!r} is not in /etc/passwd of the image")
        entry = PasswdEntry("", number, 0, "/")
    home = entry.home or "/"
    if group_text:
        return ResolvedUser(entry.uid, _group_id(group_text, group), (), home)
    groups = tuple(dict.fromkeys(one.gid for one in group if entry.name in one.members)) if entry.name else ()
    return ResolvedUser(entry.uid, entry.gid, groups, home)


def resolve_owner(text: str, passwd: tuple[PasswdEntry, ...], group: tuple[GroupEntry, ...]) -> tuple[int, int]:
    """User and group that ``--chown=text`` gives files; what is empty is root. Raises UnknownIdentityError.

    A number is itself, and ``root`` is 0, whatever the files say. Source: ``llb.WithUser`` of BuildKit, where what is
    unknown is taken for root without a word.
    """
    user_text, _, group_text = text.partition(":")
    number = _owner_number(user_text)
    if number is not None:
        uid = gid = number
    else:
        entry = next((one for one in passwd if one.name == user_text), None)
        if entry is None:
            raise UnknownIdentityError(f"user {user_text!r} is not in /etc/passwd of the image")
        uid, gid = entry.uid, entry.gid
    if not group_text:
        return (uid, gid)
    number = _owner_number(group_text)
    return (uid, _group_id(group_text, group) if number is None else number)


def names_identity(text: str) -> bool:
    """Whether ``text`` (``user[:group]``) holds a name, so that the image's files decide what it means."""
    return any(_owner_number(part) is None for part in text.split(":", 1))


def _group_id(text: str, group: tuple[GroupEntry, ...]) -> int:
    number = _number(text)
    found = next((one.gid for one in group if one.name == text or one.gid == number), number)
    if found is None:
        raise UnknownIdentityError(f"group {text!r} is not in /etc/group of the image")
    return found


def _owner_number(text: str) -> int | None:
    """As `_number`, of an owner of files: what is empty or ``root`` is 0."""
    return 0 if text in {"", "root"} else _number(text)


def _number(text: str) -> int | None:
    """``text`` as an id, None when it is a name. Raises UnknownIdentityError for a number out of range."""
    if not (text.isascii() and text.isdecimal()):
        return None
    number = int(text)
    if number > _LARGEST_ID:
        raise UnknownIdentityError(f"id {text} is out of range, the largest is {_LARGEST_ID}")
    return number


def _lines(content: bytes) -> list[list[str]]:
    """Fields of each line that is neither empty nor a comment."""
    text = content.decode("utf-8", "surrogateescape")
    lines = (line.strip() for line in text.split("\n"))
    return [line.split(":") for line in lines if line and not line.startswith("#")]
