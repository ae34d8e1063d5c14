"""What the words on ``unionmount``'s command line ask for; pure apart from making paths absolute.

Both families of option lists are understood: the union's own (``dirs=a=rw:b=ro``) and overlay's
(``lowerdir=,upperdir=,workdir=``), which podman and buildah use. docs/unionmount.md explains each option.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterator
from typing import Any

from unionfs.branch import Branch, parse_dirs
from unionfs.errors import UnionError
from unionfs.mounting import MountOptions
from unionfs.namedtuple import NamedTuple
from unionfs.ownership import parse_id_map
from unionfs.types import (
    Access,
    CopyupMode,
    CreatePolicy,
    DeleteMode,
    Passthrough,
    PermissionStore,
    UnionOptions,
    WhiteoutForm,
)


class Transport(enum.Enum):
    """How requests travel between the kernel and the union."""

    AUTO = "auto"
    DIRECT = "direct"
    PYFUSE3 = "pyfuse3"


class OptionError(UnionError):
    """An option list that cannot be followed; one line naming the option."""


class MountRequest(NamedTuple):
    """One union to be mounted."""

    branches: tuple[Branch, ...]
    union: UnionOptions
    mount: MountOptions
    transport: Transport
    timeout_seconds: float
    snapshot_directory: bytes | None = None
    at: str | None = None


class _Chosen:
    """What the options read so far have chosen."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.union: dict[str, Any] = {}
        self.mount: dict[str, Any] = {}
        self.dirs: tuple[Branch, ...] | None = None
        self.lower: tuple[Branch, ...] = ()
        self.upper: Branch | None = None
        self.transport = Transport.AUTO
        self.timeout_seconds = 1.0
        self.snapshot_directory: bytes | None = None
        self.at: str | None = None


_Setter = Callable[[_Chosen, str, str], None]


def split_list(text: str) -> Iterator[str]:
    r"""Options between the commas of ``text``; ``\,`` belongs to the option and keeps its backslash."""
    option = ""
    characters = iter(text)
    for character in characters:
        if character == "\\":
            option += character + next(characters, "")
        elif character == ",":
            yield option
            option = ""
        else:
            option += character
    yield option


def parse_options(texts: list[str], *, privileged: bool) -> MountRequest:
    """The union that the option lists ask for, read from left to right.

    ``privileged``: the mount is there for all users unless said otherwise; a plain user's is for him alone.

    Raises:
        OptionError: an option is unknown, given twice where that says nothing, or has a value it cannot have.
        BranchSyntaxError: ``dirs=`` cannot be read.
    """
    chosen = _Chosen()
    chosen.mount["allow_other"] = privileged
    for text in texts:
        for option in split_list(text):
            if option:
                _apply(chosen, option)
    return _request(chosen)


def _apply(chosen: _Chosen, option: str) -> None:
    key, equals, value = option.partition("=")
    setter = _OPTIONS.get(key)
    if setter is None:
        if key in _IGNORED or key.startswith("x-"):
            return
        if key in _REFUSED:
            raise OptionError(f"option {key!r}: {_REFUSED[key]}")
        raise OptionError(f"option {key!r} is unknown{_suggestion(key)}")
    needs_value = key in _WITH_VALUE
    if needs_value and not value:
        raise OptionError(f"option {key!r}: expected a value, as in {key}=…")
    if equals and not needs_value:
        raise OptionError(f"option {key!r}: expected no value, got {value!r}")
    if needs_value and key in chosen.seen:
        raise OptionError(f"option {key!r} is there twice")
    chosen.seen.add(key)
    setter(chosen, key, value)


def _request(chosen: _Chosen) -> MountRequest:
    overlay = chosen.upper is not None or bool(chosen.lower)
    if chosen.dirs is not None and overlay:
        raise OptionError("option 'dirs': expected either dirs= or lowerdir=, got both")
    if chosen.upper is not None and not chosen.lower:
        raise OptionError("option 'upperdir': expected lowerdir= beside it")
    if overlay:
        branches = ((chosen.upper,) if chosen.upper is not None else ()) + chosen.lower
        if chosen.upper is None:
            chosen.union["read_only"] = chosen.mount["read_only"] = True
        chosen.union.setdefault("whiteouts", WhiteoutForm.OVERLAY)
    elif chosen.dirs is not None:
        branches = chosen.dirs
    else:
        raise OptionError("option 'dirs' is missing: say which branches to unite, as in dirs=/top=rw:/bottom=ro")
    if chosen.at is not None:
        chosen.union["read_only"] = chosen.mount["read_only"] = True
    union = UnionOptions(**chosen.union)
    if union.copyup is CopyupMode.MOUNTER and None in {union.copyup_uid, union.copyup_gid, union.copyup_mode}:
        raise OptionError("option 'copyup': mounter needs copyupuid=, copyupgid= and copyupmode=")
    if union.stable_inodes and chosen.transport is Transport.PYFUSE3:
        raise OptionError("option 'inodes': pyfuse3 shows numbers of its own, expected transport=direct beside stable")
    return MountRequest(
        branches,
        union,
        MountOptions(**chosen.mount),
        chosen.transport,
        chosen.timeout_seconds,
        chosen.snapshot_directory,
        chosen.at,
    )


def _suggestion(key: str) -> str:
    from difflib import get_close_matches  # only a typing error needs it

    near = get_close_matches(key, _OPTIONS, n=1)
    return f", did you mean {near[0]!r}" if near else ""


def _word(field: str, words: type[enum.Enum]) -> _Setter:
    def setter(chosen: _Chosen, key: str, value: str) -> None:
        try:
            chosen.union[field] = words(value)
        except ValueError:
            allowed = ", ".join(word.value for word in words)
            raise OptionError(f"option {key!r}: expected one of {allowed}, got {value!r}") from None

    return setter


def _number(field: str, base: int) -> _Setter:
    def setter(chosen: _Chosen, key: str, value: str) -> None:
        try:
            chosen.union[field] = int(value, base)
            if chosen.union[field] < 0:
                raise ValueError(value)
        except ValueError:
            kind = "an octal number" if base == _OCTAL else "a number"
            raise OptionError(f"option {key!r}: expected {kind}, got {value!r}") from None

    return setter


def _id_map(field: str) -> _Setter:
    def setter(chosen: _Chosen, key: str, value: str) -> None:
        try:
            chosen.union[field] = parse_id_map(value)
        except ValueError:
            expected = "STORED:SHOWN:LENGTH[:STORED:SHOWN:LENGTH…]"
            raise OptionError(f"option {key!r}: expected {expected}, got {value!r}") from None

    return setter


def _squash_to_root(chosen: _Chosen, _key: str, _value: str) -> None:
    chosen.union.setdefault("squash_uid", 0)
    chosen.union.setdefault("squash_gid", 0)


def _inodes(chosen: _Chosen, key: str, value: str) -> None:
    if value not in {"stable", "fast"}:
        raise OptionError(f"option {key!r}: expected stable or fast, got {value!r}")
    chosen.union["stable_inodes"] = value == "stable"


def _mount_flag(field: str, *, on: bool) -> _Setter:
    def setter(chosen: _Chosen, _key: str, _value: str) -> None:
        chosen.mount[field] = on

    return setter


def _mount_text(field: str) -> _Setter:
    def setter(chosen: _Chosen, _key: str, value: str) -> None:
        chosen.mount[field] = _unescaped(value).strip('"')

    return setter


def _read_only(chosen: _Chosen, key: str, _value: str) -> None:
    chosen.union["read_only"] = chosen.mount["read_only"] = key == "ro"


def _volatile(chosen: _Chosen, _key: str, _value: str) -> None:
    chosen.union["volatile"] = True


def _redirect(chosen: _Chosen, key: str, value: str) -> None:
    if value not in {"on", "off"}:
        raise OptionError(f"option {key!r}: expected on or off, got {value!r}")
    chosen.union["redirect"] = value == "on"


def _timeout(chosen: _Chosen, key: str, value: str) -> None:
    try:
        chosen.timeout_seconds = float(value)
        valid = 0 <= chosen.timeout_seconds < float("inf")
    except ValueError:
        valid = False
    if not valid:
        raise OptionError(f"option {key!r}: expected a number of seconds, got {value!r}")
    chosen.union["sealed_branches"] = False


def _transport(chosen: _Chosen, key: str, value: str) -> None:
    try:
        chosen.transport = Transport(value)
    except ValueError:
        raise OptionError(f"option {key!r}: expected one of auto, direct, pyfuse3, got {value!r}") from None


def _snapdir(chosen: _Chosen, _key: str, value: str) -> None:
    chosen.snapshot_directory = os.fsencode(os.path.abspath(_unescaped(value)))


def _at(chosen: _Chosen, _key: str, value: str) -> None:
    chosen.at = value


def _dirs(chosen: _Chosen, _key: str, value: str) -> None:
    chosen.dirs = parse_dirs(value)


def _lowerdir(chosen: _Chosen, _key: str, value: str) -> None:
    chosen.lower = tuple(_directory(part, Access.RO) for part in _split_colons(value))


def _upperdir(chosen: _Chosen, _key: str, value: str) -> None:
    chosen.upper = _directory(value, Access.RW)


def _nothing(_chosen: _Chosen, _key: str, _value: str) -> None:
    """Accepted: what it asks for is so anyway."""


def _directory(text: str, access: Access) -> Branch:
    if not text:
        raise OptionError("option 'lowerdir': expected a path for every layer, got an empty one")
    return Branch(os.fsencode(os.path.abspath(_unescaped(text))), access)


def _split_colons(text: str) -> list[str]:
    parts = [""]
    characters = iter(text)
    for character in characters:
        if character == "\\":
            parts[-1] += character + next(characters, "")
        elif character == ":":
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _unescaped(text: str) -> str:
    plain = ""
    characters = iter(text)
    for character in characters:
        plain += next(characters, "\\") if character == "\\" else character
    return plain


_OCTAL = 8
_DECIMAL = 10

_WITH_VALUE: dict[str, _Setter] = {
    "dirs": _dirs,
    "lowerdir": _lowerdir,
    "upperdir": _upperdir,
    "workdir": _nothing,  # temporary files live in the upper branch itself
    "delete": _word("delete", DeleteMode),
    "copyup": _word("copyup", CopyupMode),
    "copyupuid": _number("copyup_uid", _DECIMAL),
    "copyupgid": _number("copyup_gid", _DECIMAL),
    "copyupmode": _number("copyup_mode", _OCTAL),
    "whiteouts": _word("whiteouts", WhiteoutForm),
    "create": _word("create", CreatePolicy),
    "redirect": _redirect,
    "inodes": _inodes,
    "snapdir": _snapdir,
    "at": _at,
    "uidmapping": _id_map("uid_map"),
    "gidmapping": _id_map("gid_map"),
    "squash_to_uid": _number("squash_uid", _DECIMAL),
    "squash_to_gid": _number("squash_gid", _DECIMAL),
    "xattr_permissions": _word("permissions", PermissionStore),
    "passthrough": _word("passthrough", Passthrough),
    "transport": _transport,
    "timeout": _timeout,
    "fsname": _mount_text("source"),
    "subtype": _mount_text("subtype"),
    "context": _mount_text("context"),
}
_FLAGS: dict[str, _Setter] = {
    "cow": _nothing,
    "default_permissions": _nothing,
    "nonempty": _nothing,
    "ro": _read_only,
    "rw": _read_only,
    "volatile": _volatile,
    "squash_to_root": _squash_to_root,
    "allow_other": _mount_flag("allow_other", on=True),
    "dev": _mount_flag("nodev", on=False),
    "nodev": _mount_flag("nodev", on=True),
    "suid": _mount_flag("nosuid", on=False),
    "nosuid": _mount_flag("nosuid", on=True),
    "exec": _mount_flag("noexec", on=False),
    "noexec": _mount_flag("noexec", on=True),
    "atime": _mount_flag("noatime", on=False),
    "noatime": _mount_flag("noatime", on=True),
}
_OPTIONS: dict[str, _Setter] = {**_WITH_VALUE, **_FLAGS}

_REFUSED = {
    "remount": "unionctl changes a union that is mounted; for flags of the mount: mount -i -o remount,ro",
}

# what mount(8) hands on from /etc/fstab and the kernel never sees
_IGNORED = frozenset(
    {
        *("defaults", "auto", "noauto", "nofail", "_netdev", "comment"),
        *("user", "nouser", "users", "owner", "group"),
        *("async", "relatime", "silent", "loud"),
    }
)
