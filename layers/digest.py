"""Digests of content, and the ids that are made of them.

Invariants: a `Digest` always has the form ``sha256:<64 lower-case hex digits>`` (image-spec, descriptor.md#digests),
so it may become part of a path without further checks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NewType, Self

from layers.errors import FormatError
from layers.smallhash import hex_sha256

_PREFIX = "sha256:"
_LENGTH = len(_PREFIX) + 64
_HEX = frozenset("0123456789abcdef")


class Digest(str):
    """A checked content digest.

    Raises:
        FormatError: the text is no sha256 digest.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """The digest that ``text`` spells."""
        if len(text) != _LENGTH or not text.startswith(_PREFIX) or not _HEX.issuperset(text[len(_PREFIX) :]):
            raise FormatError(f'digest "{text[:100]}" is not of the form sha256:<64 hex digits>')
        return super().__new__(cls, text)

    @property
    def hex(self) -> str:
        """The 64 digits."""
        return self[len(_PREFIX) :]

    @property
    def short(self) -> str:
        """The 12 digits that people read."""
        return self[len(_PREFIX) : len(_PREFIX) + 12]


ChainId = NewType("ChainId", Digest)
"""Names a stack of layers: image-spec, config.md#layer-chainid."""


def from_hex(digits: str) -> Digest:
    """The digest with these 64 digits. Raises FormatError."""
    return Digest(_PREFIX + digits)


def sha256(content: bytes | bytearray | memoryview) -> Digest:
    """The digest of the content."""
    return str.__new__(Digest, _PREFIX + hex_sha256(content))


def chain_id(parent: ChainId | None, diff_id: Digest) -> ChainId:
    """The id of the stack ``parent`` with one more layer on top (image-spec, config.md#layer-chainid)."""
    return ChainId(diff_id) if parent is None else ChainId(sha256(f"{parent} {diff_id}".encode()))


def chain_ids(diff_ids: Iterable[Digest]) -> tuple[ChainId, ...]:
    """The id of the stack after each layer, bottom first."""
    chain: list[ChainId] = []
    for diff_id in diff_ids:
        chain.append(chain_id(chain[-1] if chain else None, diff_id))
    return tuple(chain)
