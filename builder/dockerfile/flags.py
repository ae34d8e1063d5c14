"""The ``--name=value`` flags of instructions.

Invariants: a flag that an instruction does not know is an error, and so is a second one where only one makes sense;
a boolean flag is ``--x``, ``--x=true`` or ``--x=false``.
"""

from __future__ import annotations

from collections.abc import Mapping

from builder.dockerfile.suggest import did_you_mean
from builder.errors import DockerfileError

TEXT = "text"
BOOLEAN = "boolean"
LIST = "list"


class Flags:
    """The flags given to one instruction; each is asked for by the kind it was declared with."""

    __slots__ = ("_given",)

    def __init__(self, given: Mapping[str, list[str]]) -> None:
        self._given = given

    def text(self, name: str, default: str = "") -> str:
        """Return the value, ``default`` when it is not given."""
        return self._given[name][-1] if name in self._given else default

    def boolean(self, name: str) -> bool | None:
        """Return the value, None when it is not given."""
        return self._given[name][-1] == "true" if name in self._given else None

    def values(self, name: str) -> tuple[str, ...]:
        """Return all values in order."""
        return tuple(self._given.get(name, ()))


def parse_flags(given: tuple[str, ...], known: Mapping[str, str], instruction: str) -> Flags:
    """Return the flags of ``instruction``; ``known`` maps names to TEXT, BOOLEAN or LIST.

    Raises:
        DockerfileError: unknown, repeated or without a value it needs.
    """
    values: dict[str, list[str]] = {}
    for flag in given:
        name, equals, value = flag[2:].partition("=")
        kind = known.get(name)
        if kind is None:
            hints = tuple(hint.replace("mean ", "mean --") for hint in did_you_mean(name, known))
            raise DockerfileError(f"{instruction} has no flag --{name}", hints=hints or _known_hint(known, instruction))
        if name in values and kind != LIST:
            raise DockerfileError(f"the flag --{name} of {instruction} is given twice")
        if kind == BOOLEAN:
            value = _parse_boolean(name, value, instruction, given=bool(equals))
        elif not equals:
            raise DockerfileError(f"the flag --{name} of {instruction} needs a value")
        values.setdefault(name, []).append(value)
    return Flags(values)


def _parse_boolean(name: str, value: str, instruction: str, *, given: bool) -> str:
    lowered = value.lower() if given else "true"
    if lowered not in {"true", "false"}:
        raise DockerfileError(f"the flag --{name} of {instruction} takes true or false, got {value!r}")
    return lowered


def _known_hint(known: Mapping[str, str], instruction: str) -> tuple[str, ...]:
    if not known:
        return (f"{instruction} takes no flags",)
    return (f"the flags of {instruction} are " + ", ".join(f"--{name}" for name in sorted(known)),)
