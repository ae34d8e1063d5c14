"""Modes as chmod(1) understands them."""

import stat
import subprocess
from pathlib import Path

import pytest

from builder.modes import parse_mode

SYMBOLIC = [
    "u=rwX,go=rX", "a+x", "+x", "-w", "u+s", "g-s", "o=", "=r", "u=g", "go=u", "+t", "u+t", "u+rw-x", "ug=rw,o-rwx",
    "a=rX", "u=rwxs,g=rxs,o=rt", "g=o", "+X",
]  # fmt: skip
# for directories chmod(1) keeps set-id bits that a short octal mode leaves out; the mode of an image says all of it
CASES = [(text, False) for text in ["644", "0755", "4711", "7"]] + [
    (text, kind) for text in SYMBOLIC for kind in (False, True)
]


@pytest.mark.parametrize(("text", "directory"), CASES)
@pytest.mark.parametrize("mode", [0o644, 0o7777, 0, 0o2755])
def test_agrees_with_chmod(tmp_path: Path, text: str, mode: int, directory: bool) -> None:
    path = tmp_path / "x"
    if directory:
        path.mkdir()
    else:
        path.touch()
    path.chmod(mode)
    subprocess.run(["sh", "-c", 'umask 0; exec chmod "$1" "$2"', "sh", text, path], check=True)
    expected = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o700)
    assert oct(parse_mode(text).apply(mode, directory=directory)) == oct(expected)


@pytest.mark.parametrize("text", ["", "8", "10000", "u", "u=z", "x=r", "u+r,", "0o7", "-1"])
def test_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="mode"):
        parse_mode(text)
