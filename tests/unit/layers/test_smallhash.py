"""One digest whatever computes it."""

import hashlib

import pytest

from layers.smallhash import LARGE_BYTES, Sha256, hex_sha256


@pytest.mark.parametrize("size", [0, 1, 64, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_it_is_that_of_hashlib(size, kind):
    content = bytes(range(256)) * (size // 256 + 1)
    assert hex_sha256(kind(content[:size])) == hashlib.sha256(content[:size]).hexdigest()


@pytest.mark.parametrize("pieces", [(), (0,), (1, 2), (LARGE_BYTES, 1), (1, LARGE_BYTES, 5), (LARGE_BYTES - 1, 1, 1)])
def test_so_is_that_of_pieces(pieces):
    ours, theirs = Sha256(b"start"), hashlib.sha256(b"start")
    for number, size in enumerate(pieces):
        ours.update(bytes([number]) * size)
        theirs.update(bytes([number]) * size)
        assert ours.hexdigest() == theirs.hexdigest()
