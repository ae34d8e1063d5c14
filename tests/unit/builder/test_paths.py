"""Paths that stay inside a root."""

import pytest

from builder.paths import clean, follow, join, shown


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", b""), ("/", b""), (".", b""), ("..", b""), ("/..", b""), ("a/../..", b""), ("/a//b/./c/", b"a/b/c"),
        ("a/b/../c", b"a/c"), ("../../etc", b"etc"), (b"\xff/..", b""), ("/a/.", b"a"),
    ],
)  # fmt: skip
def test_clean(path, expected):
    assert clean(path) == expected


LINKS = {
    b"abs": b"/dir", b"rel": b"dir", b"dir/up": b"../other", b"out": b"../../../etc", b"dangling": b"none/x",
    b"loop": b"loop2", b"loop2": b"/loop", b"chain": b"rel/up", b"slash": b"/", b"dir/self": b".",
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"", b""), (b"dir/file", b"dir/file"), (b"abs/file", b"dir/file"), (b"rel/file", b"dir/file"),
        (b"dir/up/file", b"other/file"), (b"out/passwd", b"etc/passwd"), (b"dangling", b"none/x"),
        (b"chain/a", b"other/a"), (b"abs/../file", b"file"), (b"slash/a", b"a"), (b"dir/self/self/x", b"dir/x"),
        (b"none/../a", b"a"), (b"../abs", b"dir"),
    ],
)  # fmt: skip
def test_follow(path, expected):
    assert follow(path, LINKS.get) == expected


def test_the_last_link_may_stay():
    assert follow(b"abs/up", LINKS.get, last=False) == b"dir/up"
    assert follow(b"abs", LINKS.get, last=False) == b"abs"


def test_a_loop_is_an_error():
    with pytest.raises(OSError, match="Too many levels") as caught:
        follow(b"loop/x", LINKS.get)
    assert caught.value.filename == "/loop/x"


def test_join_and_shown():
    assert (join(b"", b"a"), join(b"a", b"b"), join(b"a", b"")) == (b"a", b"a/b", b"a")
    assert shown(b"a/\xff") == "/a/\\xff"
