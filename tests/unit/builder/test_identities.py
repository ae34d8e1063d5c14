"""USER and --chown against the files of an image, as tables."""

import pytest

from builder.identities import (
    ResolvedUser,
    UnknownIdentityError,
    names_identity,
    parse_group,
    parse_passwd,
    resolve_owner,
    resolve_user,
)

PASSWD = parse_passwd(
    b"""root:x:0:0:root:/root:/bin/sh
# comment
daemon:x:1:1::/usr/sbin:/bin/false

app:x:1000:1001:App:/home/app:/bin/sh
nohome:x:1002:1002:::
broken:x:abc:1::/:
short:x:5
twin:x:1000:7::/home/twin:/bin/sh
2000:x:3000:7::/named:/bin/sh
"""
)
GROUP = parse_group(
    b"""root:x:0:
wheel:x:10:root,app
app:x:1001:
video:x:44:other,app
extra:x:10:app
broken:x:no:app
nomembers:x:50
60:x:61:
"""
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ResolvedUser(0, 0, (10,), "/root")),
        ("root", ResolvedUser(0, 0, (10,), "/root")),
        ("0", ResolvedUser(0, 0, (10,), "/root")),
        ("app", ResolvedUser(1000, 1001, (10, 44), "/home/app")),
        ("1000", ResolvedUser(1000, 1001, (10, 44), "/home/app")),
        ("twin", ResolvedUser(1000, 7, (), "/home/twin")),
        ("1234", ResolvedUser(1234, 0, (), "/")),
        ("nohome", ResolvedUser(1002, 1002, (), "/")),
        ("app:wheel", ResolvedUser(1000, 10, (), "/home/app")),
        ("app:44", ResolvedUser(1000, 44, (), "/home/app")),
        ("app:999", ResolvedUser(1000, 999, (), "/home/app")),
        ("1234:5678", ResolvedUser(1234, 5678, (), "/")),
        ("1000:50", ResolvedUser(1000, 50, (), "/home/app")),
        ("2000", ResolvedUser(3000, 7, (), "/named")),
        ("2000:60", ResolvedUser(2000, 60, (), "/")),
        ("app:", ResolvedUser(1000, 1001, (10, 44), "/home/app")),
        (":wheel", ResolvedUser(0, 10, (), "/root")),
        ("4294967294", ResolvedUser(4294967294, 0, (), "/")),
    ],
)
def test_user(text, expected):
    assert resolve_user(text, PASSWD, GROUP) == expected


@pytest.mark.parametrize("text", ["nobody", "broken", "short", "app:nogroup", "4294967295", "app:99999999999", "-1"])
def test_unknown_users(text):
    with pytest.raises(UnknownIdentityError):
        resolve_user(text, PASSWD, GROUP)


def test_without_files():
    assert resolve_user("", (), ()) == ResolvedUser(0, 0, (), "/")
    assert resolve_user("5", (), ()) == ResolvedUser(5, 0, (), "/")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (0, 0)),
        ("55", (55, 55)),
        ("1000", (1000, 1000)),
        ("app", (1000, 1001)),
        ("app:wheel", (1000, 10)),
        ("55:wheel", (55, 10)),
        ("app:7", (1000, 7)),
        ("55:66", (55, 66)),
        ("55:", (55, 55)),
    ],
)
def test_owner(text, expected):
    assert resolve_owner(text, PASSWD, GROUP) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("", (0, 0)), (":wheel", (0, 10)), ("root", (0, 0)), ("1:60", (1, 60)), ("1:root", (1, 0))]
)
def test_root_and_numbers_need_no_file(text, expected):
    assert resolve_owner(text, PASSWD, GROUP) == expected
    assert names_identity(text) == ("wheel" in text)
    if "wheel" not in text:
        assert resolve_owner(text, (), ()) == expected


@pytest.mark.parametrize("text", ["nobody", "app:nogroup", ":nogroup"])
def test_unknown_owners(text):
    with pytest.raises(UnknownIdentityError):
        resolve_owner(text, PASSWD, GROUP)


@pytest.mark.parametrize(
    ("text", "named"), [("", False), ("1", False), ("1:2", False), ("a", True), ("1:a", True), ("a:1", True)]
)
def test_names_identity(text, named):
    assert names_identity(text) is named
