import pytest

from layers.digest import ChainId, Digest, chain_id, chain_ids, from_hex, sha256
from layers.errors import FormatError

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_sha256() -> None:
    digest = sha256(b"")
    assert digest == f"sha256:{EMPTY}"
    assert (digest.hex, digest.short) == (EMPTY, EMPTY[:12])
    assert from_hex(EMPTY) == Digest(str(digest)) == digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        EMPTY,
        "sha256:" + EMPTY.upper(),
        "sha512:" + EMPTY,
        f"sha256:{EMPTY}0",
        "sha256:" + "../" * 21 + "a",
    ],
)
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(FormatError, match="digest"):
        Digest(text)


def test_chain_ids_are_those_of_image_spec() -> None:
    first, second = sha256(b"1"), sha256(b"2")
    expected = sha256(f"{first} {second}".encode())
    assert chain_ids((first, second)) == (first, expected)
    assert chain_id(ChainId(first), second) == expected
    assert chain_ids(()) == ()
