"""A mount as it is asked for: branches and options, and their form in a message.

Names of branches are bytes; in JSON they are text with surrogate escapes, which `json` keeps.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from typing import Any

from unionfs.branch import Branch
from unionfs.namedtuple import NamedTuple
from unionfs.types import (
    Access,
    CopyupMode,
    CreatePolicy,
    DeleteMode,
    IdRange,
    Passthrough,
    PermissionStore,
    UnionOptions,
    WhiteoutForm,
)
from unionfs.wire import Message


class MountSpec(NamedTuple):
    """Everything a server needs to know to make a union of branches."""

    branches: tuple[Branch, ...]
    options: UnionOptions = UnionOptions()


_WORDS: dict[str, type[enum.Enum]] = {
    "delete": DeleteMode,
    "whiteouts": WhiteoutForm,
    "create": CreatePolicy,
    "copyup": CopyupMode,
    "passthrough": Passthrough,
    "permissions": PermissionStore,
}
_ID_MAPS = frozenset(("uid_map", "gid_map"))


def encode(spec: MountSpec) -> Message:
    """``spec`` as JSON."""
    options = spec.options._asdict()
    return {
        "branches": encode_branches(spec.branches),
        "options": {key: value.value if key in _WORDS else value for key, value in options.items()},
    }


def decode(message: Message) -> MountSpec:
    """The specification in ``message``.

    Raises:
        ValueError, KeyError, TypeError: it is none; the peer is of another version.
    """
    options = {key: _decode_option(key, value) for key, value in message["options"].items()}
    return MountSpec(decode_branches(message["branches"]), UnionOptions(**options))


def _decode_option(key: str, value: Any) -> Any:
    if key in _WORDS:
        return _WORDS[key](value)
    if key in _ID_MAPS:
        return tuple(IdRange(*numbers) for numbers in value)
    return value


def encode_branches(branches: Sequence[Branch]) -> list[Message]:
    """``branches`` as JSON, top first."""
    return [{"path": os.fsdecode(branch.path), "access": branch.access.value} for branch in branches]


def decode_branches(items: Sequence[Message]) -> tuple[Branch, ...]:
    """The branches that `encode_branches` wrote."""
    return tuple(Branch(os.fsencode(item["path"]), Access(item["access"])) for item in items)
