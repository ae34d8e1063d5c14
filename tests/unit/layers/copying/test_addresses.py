from __future__ import annotations

from pathlib import Path

import pytest

from layers.copying.addresses import Address, parse
from layers.errors import FormatError

GOOD = [
    ("docker://debian:12", Address("docker", "", "debian:12")),
    ("docker://127.0.0.1:5000/a/b:1", Address("docker", "", "127.0.0.1:5000/a/b:1")),
    ("oci:dir", Address("oci", "dir", "")),
    ("oci:/a/dir:1", Address("oci", "/a/dir", "1")),
    ("oci:dir:127.0.0.1:5000/a:1", Address("oci", "dir", "127.0.0.1:5000/a:1")),
    ("oci-archive:x.tar:a:1", Address("oci-archive", "x.tar", "a:1")),
    ("docker-archive:x.tar", Address("docker-archive", "x.tar", "")),
    ("sample:1", Address("store", "", "sample:1")),
    ("127.0.0.1:5000/a:1", Address("store", "", "127.0.0.1:5000/a:1")),
    ("store:oci:1", Address("store", "", "oci:1")),
    ("docker:24", Address("store", "", "docker:24")),
    ("sha256:" + "0" * 64, Address("store", "", "sha256:" + "0" * 64)),
]


@pytest.mark.parametrize(("text", "address"), GOOD)
def test_good(text: str, address: Address) -> None:
    assert parse(text) == address
    assert parse(str(address)) == address


@pytest.mark.parametrize(
    "text", ["", "docker://", "oci:", "oci::1", "dir:x", "docker-daemon:x", "https://x", "oci://x"]
)
def test_what_names_no_place(text: str) -> None:
    with pytest.raises(FormatError, match=r"expected docker://NAME, oci:DIR"):
        parse(text)


def test_a_path_that_is_there_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    assert parse(f"oci:{tmp_path}/a:b") == Address("oci", f"{tmp_path}/a:b", "")
    assert parse(f"oci:{tmp_path}/a:c") == Address("oci", f"{tmp_path}/a", "c")
