"""The words on ``unionctl``'s command line, sorted by kind; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from unionfs.caller import PATIENCE_SECONDS, FoundUnion
from unionfs.cli.running import UsageError
from unionfs.namedtuple import NamedTuple
from unionfs.types import Access

MODES = tuple(access.value for access in Access)
AND = ","
"""Stands between changes that are to happen together."""
_VALUES = {"--before": "--add", "--after": "--add"}
_TIMEOUT = "--timeout"
_LONGEST_SECONDS = 86400.0
CHANGES = ("--add", "--remove", "--mode")
_FLAGS = {"--json": ("diff", "snapshots", "explain"), "--tar": ("diff",)}


class Words(NamedTuple):
    """The command line, or one of several changes on it, sorted by kind."""

    action: str
    union: str
    operands: tuple[str, ...]
    before: str | None
    after: str | None
    mode: str
    flags: frozenset[str]


class Action(NamedTuple):
    """What an action does and how many words it takes beside the union; ``hidden``: nothing need show there."""

    run: Callable[[Words, FoundUnion], None]
    least: int
    most: int
    hidden: bool = False


def take_timeout(arguments: list[str]) -> tuple[list[str], float]:
    """The other words, and how many seconds the daemon has for an answer.

    Raises:
        UsageError: the value is none.
    """
    if _TIMEOUT not in arguments:
        return arguments, PATIENCE_SECONDS
    at = arguments.index(_TIMEOUT)
    value = "".join(arguments[at + 1 : at + 2])
    try:
        seconds = float(value)
        if not 0 < seconds <= _LONGEST_SECONDS:
            raise ValueError(value)
    except ValueError:
        raise UsageError(f"option {_TIMEOUT!r}: expected a number of seconds, got {value!r}") from None
    return arguments[:at] + arguments[at + 2 :], seconds


def sort_several(arguments: list[str], actions: Mapping[str, Action]) -> list[Words]:
    """The words of each of the changes between commas; only the first names the union.

    Raises:
        UsageError: they are no call.
    """
    parts: list[list[str]] = [[]]
    for word in arguments:
        if word == AND:
            parts.append([])
        else:
            parts[-1].append(word)
    found = [sort(parts[0], actions)]
    found += [sort([found[0].union, *part], actions) for part in parts[1:]]
    lonely = next((words.action for words in found if words.action not in CHANGES), None)
    if len(found) > 1 and lonely is not None:
        raise UsageError(f"expected {', '.join(CHANGES)} between commas, got {lonely}")
    return found


def sort(arguments: list[str], actions: Mapping[str, Action]) -> Words:
    """The words by kind.

    Raises:
        UsageError: they are no call.
    """
    found: list[str] = []
    positional: list[str] = []
    values: dict[str, str] = {}
    flags: set[str] = set()
    adding = "--add" in arguments
    rest = iter(arguments)
    for word in rest:
        if word in _VALUES or (word == "--mode" and adding):
            value = next(rest, None)
            if value is None:
                raise UsageError(f"option {word!r} needs a value")
            values[word] = value
        elif word in _FLAGS:
            flags.add(word)
        elif word in actions:
            found.append(word)
        elif word.startswith("--"):
            raise UsageError(f"option {word!r} is unknown")
        else:
            positional.append(word)
    if len(found) != 1:
        raise UsageError(f"expected one action, got {' '.join(found) or 'none'}")
    return _checked(found[0], actions[found[0]], positional, values, flags)


def _checked(action: str, known: Action, positional: list[str], values: dict[str, str], flags: set[str]) -> Words:
    if not positional:
        raise UsageError(f"{action}: expected UNION, the mount point or a path in it")
    beside = len(positional) - 1
    if not known.least <= beside <= known.most:
        wanted = f"{known.least}" if known.least == known.most else f"{known.least} to {known.most}"
        raise UsageError(f"{action}: expected {wanted} word{'s' * (wanted != '1')} beside UNION, got {beside}")
    if action != "--add" and values:
        raise UsageError(f"option {next(iter(values))!r} belongs to --add")
    for flag in flags:
        if action not in _FLAGS[flag]:
            raise UsageError(f"option {flag!r} belongs to {' and '.join(_FLAGS[flag])}")
    if len(values.keys() & {"--before", "--after"}) > 1:
        raise UsageError("expected --before or --after, got both")
    if len(flags) > 1:
        raise UsageError("expected --json or --tar, got both")
    mode = values.get("--mode", "rw")
    if mode not in MODES:
        raise UsageError(f"option '--mode': expected rw, ro or nfsro, got {mode!r}")
    union, *operands = positional
    return Words(action, union, tuple(operands), values.get("--before"), values.get("--after"), mode, frozenset(flags))
