"""Marks on disk: both forms are understood, either is written, names of every length can be hidden."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from unionfs.types import WhiteoutForm

needs_root = pytest.mark.root("sets trusted attributes")


def hide_by_mark(place):
    (place.parent / f".wh.{place.name}").touch()


def hide_by_device(place):
    os.mknod(place, stat.S_IFCHR, 0)


def hide_by_xattr(place):
    place.touch()
    os.setxattr(place, "user.overlay.whiteout", b"y")


@pytest.mark.parametrize("hide", [hide_by_mark, hide_by_device, hide_by_xattr])
def test_a_whiteout_of_any_form_hides_files_and_directories(stand, hide):
    stand.put(1, "f", "lower")
    stand.put(1, "d/x", "lower")
    stand.put(1, "seen", "lower")
    for name in ("f", "d", "nothing"):
        hide(stand.roots[0] / name)
    paths = stand.paths()
    assert paths.list(b"") == [b"seen"]
    for name in (b"f", b"d", b"nothing", b".wh.f"):
        with pytest.raises(FileNotFoundError):
            paths.stat(name)


def opaque_by_mark(place):
    (place / ".wh..wh..opq").touch()


def opaque_by_old_mark(place):
    (place / ".wh.__dir_opaque").touch()


def opaque_by_user_xattr(place):
    os.setxattr(place, "user.overlay.opaque", b"y")


def opaque_by_fuse_overlayfs(place):
    os.setxattr(place, "user.fuseoverlayfs.opaque", b"y")


def opaque_by_trusted_xattr(place):
    os.setxattr(place, "trusted.overlay.opaque", b"y")


@pytest.mark.parametrize(
    "make",
    [
        opaque_by_mark,
        opaque_by_old_mark,
        opaque_by_user_xattr,
        opaque_by_fuse_overlayfs,
        pytest.param(opaque_by_trusted_xattr, marks=needs_root),
    ],
)
def test_an_opaque_directory_of_any_form_cuts_off_what_is_below(stand, make):
    stand.put(0, "d/upper")
    stand.put(1, "d/lower")
    make(stand.roots[0] / "d")
    assert stand.paths().list(b"d") == [b"upper"]


def test_a_mark_hides_the_name_in_its_own_branch_too(stand):
    stand.put(0, "f", "beside its mark")
    stand.put(0, ".wh.f")
    assert stand.paths().list(b"") == []


def test_removal_writes_the_form_that_was_asked_for(stand, form):
    stand.put(1, "f")
    stand.put(1, "d", None)
    paths = stand.paths(whiteouts=form)
    paths.unlink(b"f")
    paths.rmdir(b"d")
    if form is WhiteoutForm.AUFS:
        assert stand.names(0) == [".wh.d", ".wh.f"]
    else:
        for name in ("f", "d"):
            status = os.lstat(stand.roots[0] / name)
            assert stat.S_ISCHR(status.st_mode)
            assert status.st_rdev == 0
    assert paths.list(b"") == []


def test_a_directory_made_over_a_whiteout_is_opaque(stand, form):
    stand.put(1, "d/x")
    paths = stand.paths(whiteouts=form)
    paths.unlink(b"d/x")
    paths.rmdir(b"d")
    paths.mkdir(b"d")
    assert paths.list(b"d") == []
    assert stand.paths().list(b"d") == []
    marks = stand.names(0, "d")
    assert marks == ([".wh..wh..opq"] if form is WhiteoutForm.AUFS else [])
    assert stand.names(0) == ["d"]


@pytest.mark.parametrize("length", [251, 252, 255])
def test_names_of_every_length_can_be_removed(stand, form, length):
    name = "n" * length
    stand.put(1, name)
    paths = stand.paths(whiteouts=form)
    paths.unlink(os.fsencode(name))
    assert paths.list(b"") == []
    assert stand.paths().list(b"") == []
    paths.write(os.fsencode(name), b"again")
    assert stand.paths().read(os.fsencode(name)) == b"again"


def test_the_name_whose_mark_is_the_unions_own_directory_can_be_removed(stand):
    stand.put(1, ".unionfs")
    paths = stand.paths()
    paths.unlink(b".unionfs")
    assert paths.list(b"") == []
    assert stand.paths().list(b"") == []


@pytest.mark.parametrize("name", [b".wh.x", b".wh.", b".wh..wh..opq", b".wh..unionfs"])
def test_names_of_marks_cannot_be_made_and_are_never_shown(stand, name):
    stand.put(1, "f")
    paths = stand.paths()
    calls = [
        lambda: paths.write(name, b""),
        lambda: paths.mkdir(name),
        lambda: paths.symlink(b"t", name),
        lambda: paths.link(b"f", name),
        lambda: paths.rename(b"f", name),
        lambda: paths.mknod(name, stat.S_IFIFO | 0o600),
    ]
    for call in calls:
        with pytest.raises(PermissionError):
            call()
    with pytest.raises(FileNotFoundError):
        paths.stat(name)
    assert paths.list(b"") == [b"f"]


def test_a_device_that_would_be_a_whiteout_is_refused(stand):
    with pytest.raises(PermissionError):
        stand.paths().mknod(b"w", stat.S_IFCHR | 0o600, 0)


def test_marks_of_unions_are_no_attributes(stand):
    stand.put(1, "f")
    os.setxattr(stand.roots[1] / "f", "user.overlay.origin", b"x")
    os.setxattr(stand.roots[1] / "f", "user.kept", b"x")
    paths = stand.paths()
    assert paths.listxattr(b"f") == [b"user.kept"]
    with pytest.raises(OSError) as error:
        paths.getxattr(b"f", b"user.overlay.origin")
    assert error.value.errno == errno.ENODATA
    with pytest.raises(PermissionError):
        paths.setxattr(b"f", b"user.fuseoverlayfs.opaque", b"y")
    paths.chmod(b"f", 0o600)
    assert os.listxattr(stand.roots[0] / "f") == ["user.kept"]


@pytest.mark.parametrize("mark", ["file", "xattr"])
def test_nothing_is_made_below_an_opaque_directory(stand_of, mark):
    stand = stand_of("ro rw")
    stand.put(0, "d", None)
    if mark == "file":
        stand.put(0, "d/.wh..wh..opq")
    else:
        os.setxattr(stand.roots[0] / "d", "user.overlay.opaque", b"y")
    paths = stand.paths()
    with pytest.raises(OSError) as error:
        paths.write(b"d/f", b"x")
    assert error.value.errno == errno.EROFS
    assert stand.names(1) == []
