"""One digest whatever computes it."""

import hashlib

import pytest

from layers.smallhash import LARGE_BYTES, hex_sha256


@pytest.mark.parametrize("size", [0, 1, 64, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_it_is_that_of_hashlib(size, kind):
    content = bytes(range(256)) * (size // 256 + 1)
    assert hex_sha256(kind(content[:size])) == hashlib.sha256(content[:size]).hexdigest()
