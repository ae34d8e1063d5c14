"""Marks on disk: how a branch says "this name is hidden" and "nothing below shows in this directory".

Two forms are understood everywhere, either may be written (``WhiteoutForm``):

============  ============================================  ==========================================================
mark          aufs form (as in OCI layers)                  overlay form
============  ============================================  ==========================================================
whiteout      empty regular file ``.wh.NAME``               character device 0:0 named NAME, or an empty regular file
                                                            NAME with xattr ``trusted.|user.overlay.whiteout``
opaque        ``.wh..wh..opq`` (``.wh.__dir_opaque`` is     xattr ``trusted.|user.overlay.opaque`` = ``y`` or
              understood) in the directory                  ``user.fuseoverlayfs.opaque`` = ``y``
============  ============================================  ==========================================================

A whiteout hides NAME in its own branch and in those below. NAME longer than 251 bytes leaves no room for the prefix,
so its whiteout is written in the overlay form whatever was asked; likewise ``.unionfs`` at the root of a branch, whose
mark would be the union's own directory. Names that begin ``.wh.`` are never shown and cannot be made.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from unionfs import _sys
from unionfs.branch import TEMPORARY_NAME, OpenBranch
from unionfs.types import WhiteoutForm

PREFIX = b".wh."
OPAQUE_NAME = b".wh..wh..opq"
OPAQUE_NAMES = frozenset((OPAQUE_NAME, b".wh.__dir_opaque"))
LONGEST_MARKED_BYTES = 255 - len(PREFIX)

_RESERVED = b".wh..wh."
_NAMELESS = frozenset((PREFIX, PREFIX + b".", PREFIX + b".."))
_WHITEOUT_XATTRS = ("trusted.overlay.whiteout", "user.overlay.whiteout")
_OPAQUE_XATTRS = ("trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque")
_HIDDEN_XATTRS = ("trusted.overlay.", "user.overlay.", "user.fuseoverlayfs.")
_HIDDEN_XATTRS_BYTES = tuple(prefix.encode() for prefix in _HIDDEN_XATTRS)


def is_reserved(name: bytes) -> bool:
    """Whether the union keeps ``name`` for itself: it is never shown and cannot be made."""
    return name.startswith(PREFIX)


def hidden_name(mark: bytes, *, at_root: bool, is_directory: bool) -> bytes | None:
    """The name that ``mark``, which begins ``.wh.``, hides; None for the marks that hide no name."""
    if mark.startswith(_RESERVED) or mark in OPAQUE_NAMES or mark in _NAMELESS:
        return None
    if at_root and is_directory and mark == TEMPORARY_NAME:
        return None
    return mark[len(PREFIX) :]


def is_own_xattr(name: bytes) -> bool:
    """Whether the attribute is a mark of a union and must not be seen or set through it."""
    return name.startswith(_HIDDEN_XATTRS_BYTES)


def is_whiteout(branch: OpenBranch, path: bytes, status: os.stat_result) -> bool:
    """Whether what lies at ``path`` is a whiteout of its own name (overlay form)."""
    if stat.S_ISCHR(status.st_mode):
        return status.st_rdev == 0
    if status.st_size or not stat.S_ISREG(status.st_mode):
        return False
    return carries_whiteout_xattr(branch.proc_path(path))


def carries_whiteout_xattr(path: bytes) -> bool:
    """Whether the empty regular file at the host path is marked as a whiteout."""
    names = _listxattr(path)
    return bool(names) and any(name in names for name in _WHITEOUT_XATTRS)


def carries_opaque_xattr(path: bytes) -> bool:
    """Whether the directory at the host path is marked opaque by an xattr."""
    names = _listxattr(path)
    return bool(names) and any(
        name in names and os.getxattr(path, name, follow_symlinks=False) == b"y" for name in _OPAQUE_XATTRS
    )


def foreign_xattrs(path: bytes) -> list[tuple[str, bytes]]:
    """The attributes, sorted, of what lies at the host path, the marks of unions left out."""
    found = _listxattr(path)
    if not found:
        return []
    names = sorted(name for name in found if not name.startswith(_HIDDEN_XATTRS))
    return [(name, os.getxattr(path, name, follow_symlinks=False)) for name in names]


def _listxattr(path: bytes) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.EACCES, errno.EPERM}:
            return []
        raise


def is_opaque(branch: OpenBranch, path: bytes) -> bool:
    """Whether the directory at ``path`` is opaque in either form."""
    prefix = path + b"/" if path else b""
    return any(exists(branch, prefix + name) for name in OPAQUE_NAMES) or carries_opaque_xattr(branch.proc_path(path))


def exists(branch: OpenBranch, path: bytes) -> bool:
    """Whether anything lies at ``path``."""
    fd, rest = branch.at(path)
    try:
        os.stat(rest, dir_fd=fd, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise
    return True


def has_mark(branch: OpenBranch, prefix: bytes, name: bytes) -> bool:
    """Whether ``.wh.NAME`` lies beside ``name`` in the directory with ``prefix`` (``b""`` or ending in ``/``)."""
    if len(name) > LONGEST_MARKED_BYTES or (not prefix and PREFIX + name == TEMPORARY_NAME):
        return False
    return exists(branch, prefix + PREFIX + name)


def written_form(prefix: bytes, name: bytes, form: WhiteoutForm) -> WhiteoutForm:
    """The form a whiteout of ``name`` is written in when ``form`` is asked for."""
    if len(name) > LONGEST_MARKED_BYTES or (not prefix and PREFIX + name == TEMPORARY_NAME):
        return WhiteoutForm.OVERLAY
    return form


def make_device(fd: int, name: bytes) -> None:
    """A whiteout in overlay form named ``name`` is in the open directory ``fd``, where nothing had the name.

    A character device where the filesystem and the privileges allow it, else an empty file with the xattr.
    """
    try:
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=fd)
    except PermissionError:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o000, dir_fd=fd))
        _set_mark(b"/proc/self/fd/%d/%s" % (fd, name), _WHITEOUT_XATTRS)


def place(branch: OpenBranch, prefix: bytes, name: bytes, form: WhiteoutForm) -> None:
    """``name`` is hidden in and below ``branch``; an instance that is no directory may have been replaced by the mark.

    Atomic: at no instant is a lower instance shown. A directory at ``name`` stays in its place, hidden, when the form
    is aufs; in the overlay form the caller moves it away (``rename.withdraw``).
    """
    if written_form(prefix, name, form) is WhiteoutForm.AUFS:
        fd, rest = branch.at(prefix + PREFIX + name)
        with contextlib.suppress(FileExistsError):
            os.close(
                os.open(rest, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644, dir_fd=fd)
            )
        return
    temporary_fd, temporary = branch.temporary()
    make_device(temporary_fd, temporary)
    fd, rest = branch.at(prefix + name)
    try:
        os.rename(temporary, rest, src_dir_fd=temporary_fd, dst_dir_fd=fd)
    except IsADirectoryError:
        _sys.renameat2(temporary_fd, temporary, fd, rest, _sys.RENAME_EXCHANGE)
        branch.discard(temporary)
    except BaseException:
        branch.discard(temporary)
        raise


def remove_mark(branch: OpenBranch, prefix: bytes, name: bytes) -> None:
    """``.wh.NAME`` is gone; nothing happens when there was none."""
    if written_form(prefix, name, WhiteoutForm.AUFS) is WhiteoutForm.AUFS:
        fd, rest = branch.at(prefix + PREFIX + name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(rest, dir_fd=fd)


def make_opaque(fd: int, path: bytes, form: WhiteoutForm) -> None:
    """The directory at ``path`` under the open directory ``fd`` is opaque; idempotent."""
    if form is WhiteoutForm.OVERLAY:
        _set_mark(b"/proc/self/fd/%d/%s" % (fd, path), _OPAQUE_XATTRS[:2])
        return
    mark = path + b"/" + OPAQUE_NAME
    with contextlib.suppress(FileExistsError):
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644, dir_fd=fd))


def remove_opaque(branch: OpenBranch, path: bytes) -> None:
    """The directory at ``path`` is no longer opaque; idempotent."""
    for name in OPAQUE_NAMES:
        fd, rest = branch.at(path + b"/" + name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(rest, dir_fd=fd)
    host_path = branch.proc_path(path)
    present = _listxattr(host_path)
    for xattr in _OPAQUE_XATTRS:
        if xattr in present:
            os.removexattr(host_path, xattr, follow_symlinks=False)


def holds_entries(branch: OpenBranch, path: bytes) -> bool:
    """Whether the directory at ``path`` holds anything but marks, shown or hidden."""
    with os.scandir(branch.proc_path(path)) as entries:
        return any(
            not is_reserved(entry.name)
            and not is_whiteout(branch, path + b"/" + entry.name, entry.stat(follow_symlinks=False))
            for entry in entries
        )


def strip(branch: OpenBranch, path: bytes) -> bool:
    """The directory at ``path``, in which nothing shows, is empty on the branch: opaque by an xattr, without marks.

    False, and nothing is changed, where the filesystem takes no xattrs or a directory lies hidden in it.
    """
    with os.scandir(branch.proc_path(path)) as entries:
        found = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    if not found:
        return True
    if any(found.values()):
        return False
    fd, rest = branch.at(path)
    try:
        make_opaque(fd, rest, WhiteoutForm.OVERLAY)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.EACCES}:
            raise
        return False
    # what a mark of the same directory hides goes before the mark
    for name in sorted(found, key=is_reserved):
        fd, rest = branch.at(path + b"/" + name)
        os.unlink(rest, dir_fd=fd)
    return True


def _set_mark(path: bytes, names: tuple[str, ...]) -> None:
    """The first attribute of ``names`` that may be set has the value ``y``; trusted ones need CAP_SYS_ADMIN."""
    try:
        os.setxattr(path, names[0], b"y", follow_symlinks=False)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.EACCES}:
            raise
        os.setxattr(path, names[1], b"y", follow_symlinks=False)
