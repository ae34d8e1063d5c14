from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator

import pytest

from layers.aside import LARGE_BYTES, HashAside, ReadAhead

PIECES = [random.Random(1).randbytes(1 << 20) for _ in range(12)]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("count", [0, 1, LARGE_BYTES >> 20, (LARGE_BYTES >> 20) + 1, 12])
def test_hash(count: int) -> None:
    aside = HashAside()
    for piece in PIECES[:count]:
        aside.update(piece)
        aside.update(b"")
    assert aside.hexdigest() == hashlib.sha256(b"".join(PIECES[:count])).hexdigest()
    aside.close()


def test_a_hash_that_nobody_asks_for() -> None:
    aside = HashAside()
    for piece in PIECES:
        aside.update(piece)
    aside.close()
    aside.close()


def test_reading_ahead_keeps_the_order_and_ends() -> None:
    left = iter(PIECES)
    ahead = ReadAhead(lambda: next(left, b""))
    assert [ahead.next() for _ in PIECES] == PIECES
    assert ahead.next() == b""
    assert ahead.next() == b""
    ahead.close()


def test_what_fails_ahead_fails_where_it_would_have_been() -> None:
    left = iter(PIECES[:2])

    def read() -> bytes:
        for piece in left:
            return piece
        raise OSError(5, "no more")

    ahead = ReadAhead(read)
    assert [ahead.next(), ahead.next()] == PIECES[:2]
    with pytest.raises(OSError, match="no more"):
        ahead.next()
    assert ahead.next() == b""
    ahead.close()


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_reading_ahead_is_given_up(taken: int) -> None:
    count = 0

    def read() -> bytes:
        nonlocal count
        count += 1
        return PIECES[0]

    ahead = ReadAhead(read)
    for _ in range(taken):
        ahead.next()
    ahead.close()
    ahead.close()
    # what is read ahead is bounded
    assert count <= taken + 12
