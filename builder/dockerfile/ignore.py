r"""Patterns over file names: ``.dockerignore``, ``--exclude``, and the wildcards of COPY and ADD.

The wildcards are those of Go's ``filepath.Match``: ``*`` and ``?`` stay within one component, ``[a-z]`` and ``[^a-z]``
are classes, ``\`` makes the next character literal.  Ignore patterns know ``**`` besides, which is any number of
components, and are anchored at the root.  The last pattern that matches a path *or one of its parents* decides: one
that begins with ``!`` brings the path back.  The rules are those of moby's patternmatcher.

Invariants: a Matcher is immutable; names are compared as text, bytes that are not UTF-8 as single characters.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from builder.dockerfile.characters import SPACES
from builder.errors import ContextError

_BELOW = r"(?:/.*)?\Z"
_SPECIAL = frozenset("*?[]\\")


def parse_ignore_file(text: bytes | str) -> tuple[str, ...]:
    """Return the patterns of a ``.dockerignore``: comments, blank lines and leading slashes removed, paths cleaned."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    patterns: list[str] = []
    for line in text.removeprefix("\ufeff").split("\n"):
        if line.startswith("#"):
            continue
        pattern = line.strip(SPACES)
        mark = "!" if pattern.startswith("!") else ""
        pattern = pattern.removeprefix("!").strip(SPACES)
        if pattern:
            cleaned = _clean(pattern)
            pattern = cleaned.removeprefix("/") or cleaned
        if mark or pattern:
            patterns.append(mark + pattern)
    return tuple(patterns)


class Matcher:
    """Decides which paths a list of ignore patterns excludes.

    Paths are relative to the root, with slashes between components and none at the ends.
    """

    __slots__ = ("_groups", "patterns")

    def __init__(self, patterns: Iterable[str]) -> None:
        """Compile ``patterns``, as ``parse_ignore_file`` returns them or as ``--exclude`` gives them.

        Raises:
            ContextError: a pattern is malformed.
        """
        cleaned: list[tuple[bool, str]] = []
        for pattern in patterns:
            text = pattern.strip(SPACES)
            if text:
                text = _clean(text)
                cleaned.append((text.startswith("!"), text.removeprefix("!")))
        self.patterns = tuple(cleaned)
        """The patterns in order: whether it brings back, and what it matches."""
        self._groups = _compile_groups(cleaned)

    def excluded(self, path: str | bytes) -> bool:
        """Return whether ``path`` is left out; the root itself never is."""
        name = _text(path)
        if name in {"", "."}:
            return False
        for brings_back, expression, _ in self._groups:
            if expression.match(name):
                return not brings_back
        return False

    def could_reinclude(self, directory: str | bytes) -> bool:
        """Return whether something below ``directory``, which is excluded, may be brought back.

        False means that a walk need not descend; True may be said in vain.
        """
        name = _text(directory)
        components = name.split("/")
        for brings_back, expression, patterns in self._groups:
            if brings_back:
                if any(_reaches_below(pattern, components) for pattern in patterns):
                    return True
            elif expression.match(name):
                return False
        return False


def compile_wildcard(pattern: str) -> re.Pattern[str]:
    """Return an expression whose ``fullmatch`` is Go's ``filepath.Match``.

    Raises:
        ContextError: the pattern is malformed.
    """
    return re.compile(_translate(pattern, pattern, deep=False), re.DOTALL)


def match_wildcard(pattern: str, name: str | bytes) -> bool:
    """Return whether all of ``name`` matches ``pattern`` (Go, ``filepath.Match``); raises as ``compile_wildcard``."""
    return compile_wildcard(pattern).fullmatch(_text(name)) is not None


def _text(path: str | bytes) -> str:
    return path if isinstance(path, str) else path.decode("utf-8", "surrogateescape")


def _clean(pattern: str) -> str:
    cleaned = posixpath.normpath(pattern)
    # POSIX gives exactly two leading slashes a meaning of their own, Go does not
    return cleaned[1:] if cleaned.startswith("//") else cleaned


_Group = tuple[bool, re.Pattern[str], list[str]]


def _compile_groups(patterns: list[tuple[bool, str]]) -> list[_Group]:
    """Return the patterns from last to first, neighbours of the same kind as one expression."""
    groups: list[tuple[bool, list[str]]] = []
    for brings_back, pattern in reversed(patterns):
        if not pattern:
            raise ContextError('ignore pattern "!" has nothing to bring back')
        if not groups or groups[-1][0] != brings_back:
            groups.append((brings_back, []))
        groups[-1][1].append(pattern)
    return [
        (brings_back, re.compile(f"(?:{'|'.join(map(_ignore_expression, members))}){_BELOW}", re.DOTALL), members)
        for brings_back, members in groups
    ]


def _ignore_expression(pattern: str) -> str:
    if pattern.startswith("**") and not pattern.startswith("**/") and _SPECIAL.isdisjoint(pattern[2:]):
        # without any other wildcard this form is a suffix of the whole path, within a component as well
        return ".*" + re.escape(pattern[2:])
    return _translate(pattern, pattern, deep=True)


def _translate(pattern: str, whole: str, *, deep: bool) -> str:
    """Return the regular expression for ``pattern``; ``deep`` gives ``**`` its meaning."""
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        character = pattern[at]
        at += 1
        if character == "*":
            if deep and pattern.startswith("*", at):
                at += 1
                at += pattern.startswith("/", at)
                parts.append("(?:.*/)?" if at < len(pattern) else ".*")
            else:
                parts.append("[^/]*")
        elif character == "?":
            parts.append("[^/]")
        elif character == "[":
            expression, at = _translate_class(pattern, at, whole)
            parts.append(expression)
        elif character == "\\":
            if at == len(pattern):
                raise ContextError(f"pattern {whole!r} ends with a backslash")
            parts.append(re.escape(pattern[at]))
            at += 1
        else:
            parts.append(re.escape(character))
    return "".join(parts)


def _translate_class(pattern: str, at: int, whole: str) -> tuple[str, int]:
    """Return the expression for the class whose ``[`` is before ``at``, and where it ends."""
    negated = pattern.startswith("^", at)
    at += negated
    ranges: list[str] = []
    while not ranges or not pattern.startswith("]", at):
        low, at = _class_character(pattern, at, whole)
        high = low
        if pattern.startswith("-", at):
            high, at = _class_character(pattern, at + 1, whole)
        if low <= high:
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
        elif not ranges:
            # an empty range matches nothing, but it is one
            ranges.append("")
    body = "".join(ranges)
    if not body:
        return ("." if negated else r"(?!)"), at + 1
    return f"[{'^' if negated else ''}{body}]", at + 1


def _class_character(pattern: str, at: int, whole: str) -> tuple[str, int]:
    character = pattern[at : at + 1]
    if character == "\\":
        at += 1
        character = pattern[at : at + 1]
    elif character in {"-", "]"}:
        character = ""
    if not character:
        raise ContextError(f"pattern {whole!r} has a malformed class")
    return character, at + 1


def _reaches_below(pattern: str, directory: list[str]) -> bool:
    """Return whether ``pattern`` may match something below the components of ``directory``."""
    components = pattern.split("/")
    for number, name in enumerate(directory):
        if number == len(components):
            return False
        component = components[number]
        if "**" in component:
            return True
        try:
            if not match_wildcard(component, name):
                return False
        except ContextError:
            return True  # a class that holds a slash: it cannot be told by components
    return len(components) > len(directory)
