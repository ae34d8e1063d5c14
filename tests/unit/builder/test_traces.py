"""What mount points leave in the branch of a step, and what of it goes."""

import os
import shutil

import pytest

from builder.steps.traces import forget_directories

OLD_NS = 1_000_000_000_000_000_000


@pytest.fixture
def roots(tmp_path):
    """``lower`` and ``upper``, where each directory of ``usr/share/doc`` has come up unchanged."""
    for name in ("lower", "upper"):
        (tmp_path / name / "usr/share/doc").mkdir(parents=True)
    os.symlink("usr/share", tmp_path / "lower/link")
    for name in ("lower", "upper"):
        for place in ("usr/share/doc", "usr/share", "usr", ""):
            os.utime(tmp_path / name / place, ns=(OLD_NS, OLD_NS))
    return tmp_path / "lower", tmp_path / "upper"


def left(roots, *targets):
    lower, upper = roots
    forget_directories(upper, [lower], targets)
    return sorted(str(place.relative_to(upper)) for place in upper.rglob("*"))


@pytest.mark.parametrize("target", ["/usr/share/doc/new", "/usr/share/doc/new/deep/point", "/link/doc/../doc/new"])
def test_unchanged_directories_go(roots, target):
    before = (roots[1].stat().st_mtime_ns, roots[1].stat().st_mode)
    assert left(roots, target) == []
    assert (roots[1].stat().st_mtime_ns, roots[1].stat().st_mode) == before


def test_those_above_have_their_time_when_they_stay(roots):
    (roots[1] / "usr/file").touch()
    os.utime(roots[1] / "usr", ns=(OLD_NS, OLD_NS))
    assert left(roots, "/usr/share/doc/new") == ["usr", "usr/file"]
    assert (roots[1] / "usr").stat().st_mtime_ns == OLD_NS


@pytest.mark.parametrize(
    "change",
    [
        lambda place: (place / "file").touch(),
        lambda place: os.utime(place, ns=(OLD_NS, OLD_NS + 1)),
        lambda place: (place.chmod(0o700), os.utime(place, ns=(OLD_NS, OLD_NS))),
        lambda place: os.chown(place, 5, 6),
        lambda place: os.setxattr(place, "user.x", b"1"),
        lambda place: (place / ".wh..wh..opq").touch(),
    ],
)
def test_what_the_command_changed_stays(roots, change):
    change(roots[1] / "usr/share/doc")
    assert left(roots, "/usr/share/doc/new")[:3] == ["usr", "usr/share", "usr/share/doc"]


def test_what_is_new_or_elsewhere_stays(roots):
    (roots[1] / "made").mkdir()
    assert left(roots, "/made/point", "/other/point", "/point") == ["made", "usr", "usr/share", "usr/share/doc"]


def test_no_link_of_the_command_is_followed(roots, tmp_path):
    outside = tmp_path / "outside"
    (outside / "share/doc").mkdir(parents=True)
    shutil.rmtree(roots[1] / "usr")
    os.symlink(outside, roots[1] / "usr")
    assert left(roots, "/usr/share/doc/new") == ["usr"]
    assert (outside / "share/doc").is_dir()


def test_nothing_below(tmp_path):
    (tmp_path / "a").mkdir()
    forget_directories(tmp_path, [], ["/a/b"])
    assert (tmp_path / "a").is_dir()
