"""Text as Go's ``%q`` and ``%v`` write it, for history lines."""

from __future__ import annotations

from collections.abc import Iterable

_NAMED = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}
_LAST_BYTE_ESCAPE = 0x80
_LAST_SHORT_ESCAPE = 0x10000


def quote(text: str) -> str:
    """Return ``text`` in double quotes, with everything escaped that does not print (strconv.Quote)."""
    return '"' + "".join(_quote_character(character) for character in text) + '"'


def quote_list(values: Iterable[str]) -> str:
    """Return ``["a" "b"]``."""
    return "[" + " ".join(quote(value) for value in values) + "]"


def plain_list(values: Iterable[str]) -> str:
    """Return ``[a b]``."""
    return "[" + " ".join(values) + "]"


def _quote_character(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code < _LAST_BYTE_ESCAPE:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < _LAST_SHORT_ESCAPE else f"\\U{code:08x}"
