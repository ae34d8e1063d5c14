"""JSON the way Go programs write it, and reading that checks shapes.

Digests of images are digests of JSON, so what this package writes must be the bytes that ``encoding/json`` of Go would
write: no spaces, ``<``, ``>``, ``&`` and the two line separators escaped, all other characters as they are, what is no
UTF-8 replaced by U+FFFD. Bytes that were read and hashed are kept by their readers and never written anew.

Reading follows Go as well: ``null`` is the same as an absent value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from layers.errors import FormatError

JsonObject = dict[str, Any]

_ESCAPES = (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))


def dumps(value: object) -> bytes:
    """The value as Go's ``json.Marshal`` writes it; the order of keys is that of the mapping."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, escape in _ESCAPES:
        text = text.replace(character, escape)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text).encode()


def loads_object(raw: bytes, what: str) -> JsonObject:
    """The JSON object in ``raw``. ``what`` begins the message of a FormatError."""
    try:
        value: object = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is no JSON: {error}") from error
    return as_object(value, what)


def as_object(value: object, what: str) -> JsonObject:
    """The value as an object, an empty one for null. Raises FormatError."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FormatError(f"{what} is no JSON object but {type(value).__name__}")
    return cast("JsonObject", value)


def as_list(value: object, what: str) -> Sequence[Any]:
    """The value as a list, an empty one for null. Raises FormatError."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise FormatError(f"{what} is no JSON list but {type(value).__name__}")
    return cast("Sequence[Any]", value)


def as_text(value: object, what: str) -> str:
    """The value as text, empty for null. Raises FormatError."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise FormatError(f"{what} is no JSON string but {type(value).__name__}")
    return value


def as_int(value: object, what: str) -> int:
    """The value as an integer, 0 for null. Raises FormatError."""
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise FormatError(f"{what} is no JSON integer but {type(value).__name__}")
    return value


def as_texts(value: object, what: str) -> tuple[str, ...]:
    """The value as a list of texts. Raises FormatError."""
    return tuple(as_text(item, what) for item in as_list(value, what))


def as_text_map(value: object, what: str) -> dict[str, str]:
    """The value as an object of texts. Raises FormatError."""
    return {key: as_text(item, what) for key, item in as_object(value, what).items()}


def without_empty(items: Mapping[str, object]) -> JsonObject:
    """The items whose value is not empty: Go's ``omitempty``."""
    return {key: value for key, value in items.items() if value}
