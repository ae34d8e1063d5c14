r"""Patterns of parameter expansion: ``${x#p}``, ``${x%p}``, ``${x/p/r}``.

``*`` is any text within a line, ``?`` any character, ``\`` makes the next of ``* ? \`` literal; there are no
bracket classes.  Before ``}`` and ``/`` the backslash belongs to the expansion, not to the pattern.

Invariant: matching takes linear time per start: every star but the last of a longest match is atomic, which changes no
result because the earliest place for what follows a star leaves the most room.
"""

from __future__ import annotations

import re

_ESCAPABLE = frozenset("*?\\}/")


def remove_prefix(value: str, pattern: str, *, longest: bool) -> str:
    """Return ``value`` without the shortest or longest prefix that matches.

    Raises:
        ValueError: a backslash stands before a character it does not escape.
    """
    found = _compile(_tokens(pattern), longest=longest).match(value)
    return value[found.end() :] if found else value


def remove_suffix(value: str, pattern: str, *, longest: bool) -> str:
    """Return ``value`` without the shortest or longest suffix that matches; raises as ``remove_prefix``."""
    backwards = _compile(_tokens(pattern)[::-1], longest=longest).match(value[::-1])
    return value[: len(value) - backwards.end()] if backwards else value


def replace(value: str, pattern: str, replacement: str, *, every: bool) -> str:
    """Return ``value`` with the first or every longest match replaced, literally; raises as ``remove_prefix``.

    An empty match right after a match is none.
    """
    parts: list[str] = []
    done = 0
    last_end = -1
    for found in _compile(_tokens(pattern), longest=True).finditer(value):
        if found.start() == found.end() == last_end:
            continue
        parts += [value[done : found.start()], replacement]
        done = last_end = found.end()
        if not every:
            break
    parts.append(value[done:])
    return "".join(parts)


def _tokens(pattern: str) -> list[str | None]:
    """Return one regular expression per character of the pattern, None for a star; runs of stars are one."""
    tokens: list[str | None] = []
    characters = iter(pattern)
    for character in characters:
        if character == "*":
            if tokens[-1:] != [None]:
                tokens.append(None)
        elif character == "?":
            tokens.append(".")
        elif character == "\\":
            following = next(characters, "")
            if following not in _ESCAPABLE:
                raise ValueError(f"\\{following} is no escape, only \\*, \\? and \\\\ are")
            tokens.append(re.escape(following))
        else:
            tokens.append(re.escape(character))
    return tokens


def _compile(tokens: list[str | None], *, longest: bool) -> re.Pattern[str]:
    segments: list[str] = [""]
    for token in tokens:
        if token is None:
            segments.append("")
        else:
            segments[-1] += token
    head, *starred = segments
    expression = head
    for number, segment in enumerate(starred, start=1):
        if longest and number == len(starred):
            expression += ".*" + segment
        else:
            expression += f"(?>.*?{segment})"
    return re.compile(expression)
