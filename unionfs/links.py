"""Names of one lower file stay names of one file when the union is mounted again (``inodes=stable``).

::

    bottom/a, bottom/b   one file, number 7            lookup of b: number 7 is in the index of top
    top/a                its copy, number 9            → b shows number 9
    top/.wh..wh.links/KEY  number 9 too; KEY is made of the file system, number and ctime of the lower file

An attribute of the copy says which KEY is its, and how many names were neither copied up nor hidden yet; when none is
left the entry goes. Invariants: the entry is there before the copy has a name; the count is never too low, after a
kill it may be too high by one, and then the entry stays; a lower file that was changed since, or another one with its
number, has another KEY; no layer and no union shows the entries, which lie where names begin ``.wh..wh.``.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence

from unionfs import blake
from unionfs.branch import OpenBranch
from unionfs.namedtuple import NamedTuple
from unionfs.origins import filesystem_of

LINKS_NAME = b".wh..wh.links"
"""Directory at the root of a branch that holds copies under their KEYs."""

_ATTRIBUTES = ("trusted.overlay.unionfs.links", "user.overlay.unionfs.links")


class Link(NamedTuple):
    """The copy of a lower file with several names: where it lies in ``branch``, and the names not copied up yet."""

    branch: OpenBranch
    key: bytes
    left: int

    @property
    def path(self) -> bytes:
        """Path of the entry in the branch."""
        return place_of(self.key)


def place_of(key: bytes) -> bytes:
    """Path in the branch of the entry with the KEY."""
    return LINKS_NAME + b"/" + key


def link_key(branch: OpenBranch, status: os.stat_result) -> bytes:
    """The KEY of the file in the state ``status`` on ``branch``."""
    system = filesystem_of(branch.fd)
    said = f"{system.identity or status.st_dev} {status.st_ino} {status.st_ctime_ns}"
    return blake.digest(said.encode(), 16).hex().encode()


def add_link(branch: OpenBranch, staged: bytes, key: bytes, left: int) -> bool:
    """Whether the staged copy is in the index of ``branch``; it is not where it can carry no attribute."""
    temporary_fd = branch.temporary()[0]
    host_path = b"/proc/self/fd/%d/%s" % (temporary_fd, staged)
    status = os.stat(staged, dir_fd=temporary_fd, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode) or not _write(host_path, key, left, status.st_ino):
        return False
    if not has_links(branch):
        with branch.times_kept(b""):
            os.mkdir(LINKS_NAME, 0o700, dir_fd=branch.fd)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(place_of(key), dir_fd=branch.fd)
    os.link(staged, place_of(key), src_dir_fd=temporary_fd, dst_dir_fd=branch.fd, follow_symlinks=False)
    return True


def has_links(branch: OpenBranch) -> bool:
    """Whether the branch has an index."""
    try:
        return stat.S_ISDIR(os.stat(LINKS_NAME, dir_fd=branch.fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def find_link(above: Sequence[OpenBranch], branch: OpenBranch, status: os.stat_result) -> Link | None:
    """What the file in the state ``status`` on ``branch`` became in the branches above, given from the top down."""
    found: Link | None = None
    for one in reversed(above):
        key = link_key(branch, status)
        try:
            status_there = os.stat(place_of(key), dir_fd=one.fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            continue
        known = read_link(one, place_of(key), status_there)
        if known is not None:
            found, branch, status = known, one, status_there
    return found


def read_link(branch: OpenBranch, path: bytes, status: os.stat_result) -> Link | None:
    """What the file at ``path`` in the state ``status`` says about itself, if the index agrees."""
    host_path = branch.proc_path(path)
    for attribute in _ATTRIBUTES:
        try:
            key, left, carrier = os.getxattr(host_path, attribute, follow_symlinks=False).split()
            number = os.stat(place_of(key), dir_fd=branch.fd, follow_symlinks=False).st_ino
            if int(carrier) == status.st_ino == number:
                return Link(branch, key, int(left))
        except (OSError, ValueError):
            continue
    return None


def read_again(link: Link) -> Link | None:
    """The link as it is on the disk now; None when it is gone."""
    try:
        status = os.stat(link.path, dir_fd=link.branch.fd, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return read_link(link.branch, link.path, status)


def change_link(link: Link, left: int) -> Link | None:
    """``left`` names are not copied up; with none the file is no longer in the index."""
    host_path = link.branch.proc_path(link.path)
    if left > 0:
        _write(host_path, link.key, left, os.stat(host_path, follow_symlinks=False).st_ino)
        return link._replace(left=left)
    for attribute in _ATTRIBUTES:
        with contextlib.suppress(OSError):
            os.removexattr(host_path, attribute, follow_symlinks=False)
    os.unlink(link.path, dir_fd=link.branch.fd)
    with contextlib.suppress(OSError), link.branch.times_kept(b""):
        os.rmdir(LINKS_NAME, dir_fd=link.branch.fd)
    return None


def _write(host_path: bytes, key: bytes, left: int, number: int) -> bool:
    for attribute in _ATTRIBUTES:
        try:
            os.setxattr(host_path, attribute, b"%s %d %d" % (key, left, number), follow_symlinks=False)
        except OSError:
            continue
        return True
    return False
