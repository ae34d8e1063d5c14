"""One logical line into its parts: keyword, flags, words, JSON arrays.

Invariants: quotes and escape characters stay in the words, except in flags, since expansion (``shell``) reads them;
nothing is expanded here.
"""

from __future__ import annotations

import functools
import json
import re

from builder.dockerfile.characters import BLANKS, SPACE_SET, SPACES
from builder.errors import DockerfileError

_BLANKS = re.compile(r"[\t\v\f\r ]+")
_SURROGATE = "[\ud800-\udfff]"


def split_keyword(line: str) -> tuple[str, str]:
    """Return the first word of ``line`` and the stripped rest."""
    keyword, *rest = _BLANKS.split(line.strip(SPACES), maxsplit=1)
    return keyword, rest[0].strip(SPACES) if rest else ""


def split_blanks(text: str) -> list[str]:
    """Return the words of ``text``, whatever quotes they hold."""
    return _BLANKS.split(text) if text else []


def split_first(text: str) -> tuple[str, str]:
    """Return ``text`` up to its first blanks and after them; the second is empty when there are none."""
    first, *rest = _BLANKS.split(text, maxsplit=1)
    return first, rest[0] if rest else ""


def split_quoted(text: str, escape: str) -> list[str]:
    """Return the words of ``text``: blanks inside quotes or after ``escape`` do not separate.

    An escape character that ends the text is dropped; a quote that is not closed reaches to the end.
    """
    words: list[str] = []
    for found in _word_pattern(escape).finditer(text):
        word = found.group()
        if found.group("bare") is not None or found.group("quoted") is not None:
            word = word[: -len(escape)]
            if not word:
                continue
        words.append(word)
    return words


@functools.cache
def _word_pattern(escape: str) -> re.Pattern[str]:
    e = re.escape(escape)
    return re.compile(
        rf"""(?:{e}.|(?P<bare>{e}\Z)|'[^']*+(?:'|\Z)"""
        rf"""|"(?:{e}.|(?P<quoted>{e}\Z)|[^"{e}])*+(?:"|\Z)|[^{SPACES}'"{e}])++""",
        re.DOTALL,
    )


def split_flags(text: str, escape: str) -> tuple[list[str], str]:
    """Return the leading words that begin with ``--``, quotes and escapes removed, and what follows them.

    A word ``--`` ends the flags and belongs to neither.
    """
    flags: list[str] = []
    at = 0
    while text.startswith("--", at):
        word, at = _read_flag(text, at, escape)
        while at < len(text) and text[at] in SPACE_SET:
            at += 1
        if word == "--":
            break
        flags.append(word)
    return flags, text[at:]


def _read_flag(text: str, at: int, escape: str) -> tuple[str, int]:
    """Return the word that begins at ``at``, unquoted, and where it ends."""
    word: list[str] = []
    quote = ""
    while at < len(text):
        character = text[at]
        if character == quote:
            quote = ""
        elif not quote and character in SPACE_SET:
            break
        elif not quote and character in {"'", '"'}:
            quote = character
        elif character == escape:
            at += 1
            word.append(text[at : at + 1])
        else:
            word.append(character)
        at += 1
    return "".join(word), min(at, len(text))


def parse_json_array(text: str) -> list[str] | None:
    """Return the strings of a JSON array, None when ``text`` is no JSON array.

    Raises:
        DockerfileError: it is an array, but not of strings alone.
    """
    if not text.lstrip(SPACES).startswith("["):
        return None
    try:
        values: object = json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return None
    except RecursionError:
        raise DockerfileError("a JSON array must hold strings only, got deeply nested arrays") from None
    strings: list[str] = []
    if isinstance(values, list):
        for value in values:  # pyright: ignore[reportUnknownVariableType] - whatever JSON holds
            if not isinstance(value, str):
                raise DockerfileError(f"a JSON array must hold strings only, got {json.dumps(value)}")
            strings.append(re.sub(_SURROGATE, "\ufffd", value))
    return strings


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def strip_blanks(text: str) -> str:
    """Return ``text`` without blanks around it."""
    return text.strip(BLANKS)
