"""Who users are, remembered from one step of a build to the next."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.sandbox.spec import User
from builder.steps.roots import KnownUsers, Root, resolve_user

PASSWD = "root:x:0:0::/root:\napp:x:5:6::/home/app:\n"
OTHER = "root:x:0:0::/other:\napp:x:7:8::/srv:\n"


def layer(place: Path, *, passwd: str | None = None, mark: str = "", opaque: bool = False, link: str = "") -> Path:
    place.mkdir()
    if passwd is not None:
        (place / "etc").mkdir()
        (place / "etc/passwd").write_text(passwd)
    if link:
        (place / "etc").mkdir()
        (place / "etc/passwd").symlink_to(link)
    if mark:
        (place / mark).touch()
    if opaque:
        os.setxattr(place, "user.overlay.opaque", b"y")
    return place


def root(tmp_path: Path, name: str, *lower: Path) -> Root:
    upper = tmp_path / f"upper-{name}"
    upper.mkdir()
    return Root(upper, lower)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return layer(tmp_path / "base", passwd=PASSWD)


def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is looked up in a root, from here on."""
    asked: list[str] = []
    real = resolve_user.__globals__["_resolve"]

    def resolve(user: str, files: object) -> tuple[User, str]:
        asked.append(user)
        return real(user, files)

    monkeypatch.setitem(resolve_user.__globals__, "_resolve", resolve)
    return asked


def test_found_once_where_layers_leave_etc_alone(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users, asked = KnownUsers(), counting(monkeypatch)
    plain = [layer(tmp_path / "one", mark="file"), layer(tmp_path / "two", mark="etcetera")]
    assert users.resolve("app", root(tmp_path, "a", base)) == (User(5, 6, ()), "/home/app")
    assert users.resolve("app", root(tmp_path, "b", plain[0], base)) == (User(5, 6, ()), "/home/app")
    assert users.resolve("app", root(tmp_path, "c", plain[1], plain[0], base)) == (User(5, 6, ()), "/home/app")
    assert asked == ["app"]
    assert users.resolve("root", root(tmp_path, "d", base)) == (User(0, 0, ()), "/root")
    assert asked == ["app", "root"]


@pytest.mark.parametrize(
    "above",
    [
        {"passwd": OTHER},
        {"mark": ".wh.etc"},
        {"mark": ".wh..wh..opq"},
        {"opaque": True},
        {"link": "/run/passwd"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_layer_with_other_users_is_looked_into(tmp_path: Path, base: Path, above: dict[str, str]) -> None:
    users = KnownUsers()
    users.resolve("", root(tmp_path, "a", base))
    changed = root(tmp_path, "b", layer(tmp_path / "above", **above), base)  # type: ignore[arg-type]
    assert users.resolve("", changed) == resolve_user("", changed)
    assert users.resolve("", root(tmp_path, "c", base)) == (User(0, 0, ()), "/root")


def test_user_that_went_is_unknown(tmp_path: Path, base: Path) -> None:
    users = KnownUsers()
    users.resolve("app", root(tmp_path, "a", base))
    gone = layer(tmp_path / "gone", mark=".wh.etc")
    with pytest.raises(BuildError, match="USER app"):
        users.resolve("app", root(tmp_path, "b", gone, base))


def test_file_that_a_link_leads_to_is_looked_for_each_time(tmp_path: Path) -> None:
    """What is outside of /etc may change where /etc does not."""
    users = KnownUsers()
    base = layer(tmp_path / "base", link="/srv/users")
    (base / "srv").mkdir()
    (base / "srv/users").write_text(PASSWD)
    assert users.resolve("app", root(tmp_path, "a", base))[0] == User(5, 6, ())
    above = tmp_path / "above"
    (above / "srv").mkdir(parents=True)
    (above / "srv/users").write_text(OTHER)
    assert users.resolve("app", root(tmp_path, "b", above, base))[0] == User(7, 8, ())


def test_other_base_is_another_image(tmp_path: Path, base: Path) -> None:
    users = KnownUsers()
    other = layer(tmp_path / "other", passwd=OTHER)
    assert users.resolve("app", root(tmp_path, "a", base))[0] == User(5, 6, ())
    assert users.resolve("app", root(tmp_path, "b", other))[0] == User(7, 8, ())
    assert users.resolve("7", root(tmp_path, "c"))[0] == User(7, 0, ())
