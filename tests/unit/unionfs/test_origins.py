"""Inode numbers that outlive the mount."""

from __future__ import annotations

import os
from pathlib import Path

from harness.abilities import is_root_of_the_machine
from unionfs.origins import PLACES, Filesystem, large_number, plan_places, read_origin, write_origin

from .conftest import Stand

NAMES = (b"file", b"dir", b"dir/deep", b"link", b"other")


def numbers(stand: Stand) -> dict[bytes, int]:
    """What a union mounted anew shows."""
    union = stand.paths(stable_inodes=True)
    found = {name: union.ino(name) for name in NAMES}
    union.ops.close()
    return found


def test_places() -> None:
    one, two, three = Filesystem(1, 111), Filesystem(2, 222), Filesystem(3, 333)
    assert plan_places([one]) == {1: 0}
    places = plan_places([one, two, three, two])
    assert plan_places([one, three, two]) == places
    assert len(set(places.values())) == 3
    assert all(0 <= place < PLACES for place in places.values())
    assert plan_places([two, one])[2] == 0


def test_places_that_meet() -> None:
    many = [Filesystem(number, 5) for number in range(100)]
    places = plan_places(many)
    assert sorted(set(places.values())) == sorted(places.values())
    assert plan_places(many[:50]).items() <= places.items()


def test_large_numbers() -> None:
    number = 1 << 50
    assert large_number(1, number) == large_number(1, number) != large_number(2, number)
    assert large_number(1, number) >> 63 == 1


def test_a_number_counts_for_its_file_alone(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text("")
    path = os.fsencode(tmp_path / "a")
    own = os.stat(path).st_ino
    assert read_origin(path, own) is None
    write_origin(path, 77)
    assert read_origin(path, own) == 77
    assert read_origin(path, own + 1) is None


def test_numbers_stay_over_a_remount(stand: Stand) -> None:
    stand.put(1, "file", "x")
    stand.put(1, "dir/deep", "x")
    stand.put(1, "other", "x")
    os.symlink("file", stand.roots[1] / "link")
    before = numbers(stand)
    union = stand.paths(stable_inodes=True)
    union.append(b"file", b"y")
    union.append(b"dir/deep", b"y")
    union.chown(b"link", os.geteuid(), os.getegid())
    union.rename(b"other", b"moved")
    union.rename(b"moved", b"other")
    assert {name: union.ino(name) for name in NAMES} == before
    union.ops.close()
    assert (stand.roots[0] / "file").exists()
    assert (stand.roots[0] / "other").exists()
    after = numbers(stand)
    if not is_root_of_the_machine():
        del before[b"link"], after[b"link"]  # only the superuser's attributes go onto links
    assert after == before


def test_a_new_file_has_a_number_of_its_own(stand: Stand) -> None:
    for name in ("file", "dir/deep", "link", "other"):
        stand.put(1, name, "x")
    union = stand.paths(stable_inodes=True)
    old = union.ino(b"file")
    union.append(b"file", b"y")
    union.unlink(b"file")
    union.write(b"file", b"new")
    new = union.ino(b"file")
    union.ops.close()
    assert new != old
    assert numbers(stand)[b"file"] == new
