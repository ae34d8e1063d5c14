"""Names made and removed: create, mkdir, mknod, symlink, link, unlink, rmdir.

Invariants: an entry appears complete (type, owner, mode, opaqueness) or not at all: what can't be made so in its place
is made in the directory of temporary things and renamed; a whiteout of the name is given up last. Names that begin
``.wh.`` are refused with EPERM.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from unionfs import _sys, whiteout
from unionfs.branch import OpenBranch
from unionfs.inodes import DirectoryNode, FileNode, Node
from unionfs.lift import Lifter
from unionfs.listing import probe
from unionfs.namedtuple import NamedTuple
from unionfs.policy import Action, Hide, Remove, plan_create, plan_removal
from unionfs.resolve import CODE_SHADOWS, CODE_SHIFT, Index, Kind, instances
from unionfs.tree import Tree, refuse
from unionfs.types import Caller, WhiteoutForm

Maker = Callable[[int, bytes], int]
"""Makes an entry at a path under a directory descriptor; a descriptor of the open file, or -1."""

_NAME_BYTES = 255
_DEFAULT_ACL = "system.posix_acl_default"


class Made(NamedTuple):
    """A new entry; ``fd`` is open (-1: not) and belongs to the receiver."""

    node: Node
    status: os.stat_result
    fd: int


class _Wanted(NamedTuple):
    """What a new entry shall be. ``mode`` None: a symbolic link has none."""

    kind: Kind
    mode: int | None
    uid: int
    gid: int
    opaque: bool


class Names:
    """Makes and removes names in a tree."""

    def __init__(self, tree: Tree, lifter: Lifter) -> None:
        self._tree = tree
        self._lifter = lifter
        self._turn = 0
        self._ids = (os.geteuid(), os.getegid())

    # -- making ------------------------------------------------------------------------------------------------
    def check_free(self, directory: DirectoryNode, name: bytes) -> None:
        """``name`` may be made in ``directory``. Raises EEXIST, EPERM, ENAMETOOLONG, ENOENT."""
        self.check_name(directory, name)
        if self._tree.find(directory, name) is not None:
            refuse(errno.EEXIST, name)

    def check_name(self, directory: DirectoryNode, name: bytes) -> None:
        """``name`` is one that an entry of ``directory`` may have. Raises EPERM, ENAMETOOLONG, ENOENT."""
        if whiteout.is_reserved(name):
            refuse(errno.EPERM, name)
        if len(name) > _NAME_BYTES:
            refuse(errno.ENAMETOOLONG, name)
        if directory.parent is None and directory is not self._tree.root:
            refuse(errno.ENOENT, name)

    def make(
        self, directory: DirectoryNode, name: bytes, kind: Kind, mode: int | None, caller: Caller, maker: Maker
    ) -> Made:
        """A new entry, made by ``maker``, that belongs to the caller, its group that of a setgid directory."""
        self.check_free(directory, name)
        code = self._tree.index(directory).codes.get(name, 0)
        claim = code >> CODE_SHIFT if code else None
        positions = self.positions(directory, claim)
        wanted = self._wanted(directory, kind, mode, caller, opaque=claim is not None and kind is Kind.DIRECTORY)
        for position in positions[:-1]:
            try:
                return self._make_at(directory, name, position, claim, wanted, maker)
            except OSError as error:
                if error.errno != errno.EROFS:
                    raise
        return self._make_at(directory, name, positions[-1], claim, wanted, maker)

    def positions(self, directory: DirectoryNode, claim: int | None) -> tuple[int, ...]:
        """Where a new entry of ``directory`` may go whose name is hidden at position ``claim``, the best first."""
        tree = self._tree
        lowest = directory.floor if claim is None else min(claim, directory.floor)
        holders = tuple([branch.position for branch in directory.branches])
        self._turn += 1
        return plan_create(tree.writable, holders, lowest, tree.options.create, self._free_bytes, self._turn)

    def _free_bytes(self, position: int) -> int:
        status = os.fstatvfs(self._tree.branches[position].fd)
        return status.f_bavail * status.f_frsize

    def _wanted(
        self, directory: DirectoryNode, kind: Kind, mode: int | None, caller: Caller, *, opaque: bool = False
    ) -> _Wanted:
        parent = self._tree.stat(directory)
        gid = caller.gid
        if parent.st_mode & stat.S_ISGID:
            gid = parent.st_gid
            if kind is Kind.DIRECTORY and mode is not None:
                mode |= stat.S_ISGID
        return _Wanted(kind, mode, caller.uid, gid, opaque)

    def _make_at(
        self, directory: DirectoryNode, name: bytes, position: int, claim: int | None, wanted: _Wanted, maker: Maker
    ) -> Made:
        branch = self._lifter.directory(directory, position)
        hidden = claim == position
        inherits = self.inherits_acl(directory)
        if inherits or not (hidden or (wanted.uid, wanted.gid) != self._ids):
            status, fd = self._make_in_place(branch, directory, name, wanted, maker, hidden=hidden, inherits=inherits)
        else:
            status, fd = self._make_staged(branch, directory, name, wanted, maker, hidden=hidden)
        return self._enter(branch, directory, name, wanted, status, fd)

    def _make_in_place(
        self,
        branch: OpenBranch,
        directory: DirectoryNode,
        name: bytes,
        wanted: _Wanted,
        maker: Maker,
        *,
        hidden: bool,
        inherits: bool,
    ) -> tuple[os.stat_result, int]:
        """Made where it belongs: it is whole at once, or a mark hides it until it is."""
        if hidden:
            whiteout.place(branch, directory.prefix, name, WhiteoutForm.AUFS)
            withdraw(branch, directory.prefix + name)
        dir_fd, rest = branch.at(directory.prefix + name)
        fd = maker(dir_fd, rest)
        try:
            status = _dress(dir_fd, rest, fd, wanted, keep_mode=inherits)
            if wanted.opaque:
                whiteout.make_opaque(dir_fd, rest, self._tree.options.whiteouts)
                status = _status(dir_fd, rest, fd)
        except BaseException:
            _undo(dir_fd, rest, fd, wanted.kind)
            raise
        if hidden:
            whiteout.remove_mark(branch, directory.prefix, name)
        return status, fd

    def _make_staged(
        self, branch: OpenBranch, directory: DirectoryNode, name: bytes, wanted: _Wanted, maker: Maker, *, hidden: bool
    ) -> tuple[os.stat_result, int]:
        temporary_fd, staged = branch.temporary()
        fd = maker(temporary_fd, staged)
        try:
            _dress(temporary_fd, staged, fd, wanted, keep_mode=False)
            if wanted.opaque:
                whiteout.make_opaque(temporary_fd, staged, self._tree.options.whiteouts)
            dir_fd, rest = branch.at(directory.prefix + name)
            replace(branch, staged, dir_fd, rest, over=hidden)
            status = _status(dir_fd, rest, fd)
        except BaseException:
            if fd >= 0:
                os.close(fd)
            branch.discard(staged)
            raise
        if hidden:
            whiteout.remove_mark(branch, directory.prefix, name)
        return status, fd

    def inherits_acl(self, directory: DirectoryNode) -> bool:
        """Whether new entries of ``directory`` get a default ACL, which only the filesystem itself applies."""
        if directory.inherits_acl is None:
            try:
                os.getxattr(directory.branch.proc_path(directory.path), _DEFAULT_ACL)
            except OSError:
                directory.inherits_acl = False
            else:
                directory.inherits_acl = True
        return directory.inherits_acl

    def _enter(
        self,
        branch: OpenBranch,
        directory: DirectoryNode,
        name: bytes,
        wanted: _Wanted,
        status: os.stat_result,
        fd: int,
    ) -> Made:
        """The new entry is in the index and has a node."""
        tree = self._tree
        self.new_instance(status)
        self.show_change(directory, branch)
        floor = branch.position if wanted.opaque else directory.floor
        tree.enter(directory, name, branch.position, wanted.kind, floor)
        if wanted.kind is Kind.DIRECTORY:
            node = tree.table.add_directory(directory, name, (branch,), floor)
            if tree.options.sealed_branches:
                node.index = Index({}, {})
            return Made(node, status, fd)
        return Made(tree.table.add_file(directory, name, branch), status, fd)

    def make_unnamed(self, directory: DirectoryNode, mode: int, caller: Caller) -> Made:
        """A regular file without a name on the branch a new entry of ``directory`` would go to (O_TMPFILE)."""
        self.check_name(directory, b"")
        tree = self._tree
        branch = self._lifter.directory(directory, self.positions(directory, None)[0])
        dir_fd, rest = branch.at(directory.path)
        fd = os.open(rest, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode, dir_fd=dir_fd)
        try:
            wanted = self._wanted(directory, Kind.FILE, mode, caller)
            status = os.fstat(fd)
            if (status.st_uid, status.st_gid) != (wanted.uid, wanted.gid):
                os.fchown(fd, wanted.uid, wanted.gid)
            if stat.S_IMODE(status.st_mode) != mode and not self.inherits_acl(directory):
                os.fchmod(fd, mode)
            status = os.fstat(fd)
        except BaseException:
            os.close(fd)
            raise
        self.new_instance(status)
        return Made(tree.table.add_file(None, b"", branch), status, fd)

    def new_instance(self, status: os.stat_result) -> None:
        """What was known of an earlier file with the same number on its filesystem is forgotten."""
        tree = self._tree
        if tree.origins:
            tree.origins.pop(tree.identity(status), None)
        if tree.table.by_link:
            tree.table.by_link.pop(tree.identity(status), None)

    def show_change(self, directory: DirectoryNode, branch: OpenBranch) -> None:
        """A change of ``directory`` in ``branch`` shows in its times, though those of the top instance are shown."""
        top = directory.branch
        if top is not branch and top.writable:
            fd, rest = top.at(directory.path)
            status = os.stat(rest, dir_fd=fd, follow_symlinks=False)
            changed_fd, changed = branch.at(directory.path)
            mtime_ns = os.stat(changed, dir_fd=changed_fd, follow_symlinks=False).st_mtime_ns
            os.utime(rest, ns=(status.st_atime_ns, mtime_ns), dir_fd=fd)

    # -- links -------------------------------------------------------------------------------------------------
    def link(self, node: FileNode, directory: DirectoryNode, name: bytes) -> FileNode:
        """``name`` in ``directory`` is one more name of ``node``, or of its successor, which is returned."""
        self.check_free(directory, name)
        tree = self._tree
        code = tree.index(directory).codes.get(name, 0)
        lowest = min(code >> CODE_SHIFT, directory.floor) if code else directory.floor
        node = self._lifter.writable(node)
        if node.branch.position > lowest:
            node = self._lifter.file(node, self.positions(directory, lowest)[0])
        branch = self._lifter.directory(directory, node.branch.position)
        hidden = bool(code) and code >> CODE_SHIFT == branch.position
        temporary_fd, staged = branch.temporary()
        if node.parent is None:
            unnamed = node.file.fd if node.file is not None else node.ghost
            os.link(b"/proc/self/fd/%d" % (-1 if unnamed is None else unnamed), staged, dst_dir_fd=temporary_fd)
        else:
            fd, rest = branch.at(node.path)
            os.link(rest, staged, src_dir_fd=fd, dst_dir_fd=temporary_fd, follow_symlinks=False)
        try:
            dir_fd, rest = branch.at(directory.prefix + name)
            replace(branch, staged, dir_fd, rest, over=hidden)
        except BaseException:
            branch.discard(staged)
            raise
        if hidden:
            whiteout.remove_mark(branch, directory.prefix, name)
        self.show_change(directory, branch)
        tree.enter(directory, name, branch.position, Kind.FILE)
        tree.add_name(node, directory, name)
        tree.table.know_link(node, tree.identity(tree.stat(node)))
        return node

    # -- removing ----------------------------------------------------------------------------------------------
    def unlink(self, directory: DirectoryNode, name: bytes) -> None:
        """``name``, no directory, is removed as the delete mode says."""
        node, status = self._tree.child(directory, name)
        if not isinstance(node, FileNode):
            refuse(errno.EISDIR, name)
        self.remove(directory, name, node, status)

    def rmdir(self, directory: DirectoryNode, name: bytes) -> None:
        """The directory ``name``, empty as merged, is removed as the delete mode says."""
        node, status = self._tree.child(directory, name)
        if not isinstance(node, DirectoryNode):
            refuse(errno.ENOTDIR, name)
        self.check_empty(node)
        self.remove(directory, name, node, status)

    def check_empty(self, node: DirectoryNode) -> None:
        """Nothing shows in the directory. Raises ENOTEMPTY."""
        for name in self._tree.index(node).shown():
            if self._tree.find(node, name) is not None:
                refuse(errno.ENOTEMPTY, node.name)

    def remove(self, directory: DirectoryNode, name: bytes, node: Node, status: os.stat_result) -> None:
        """``name``, which leads to ``node`` in the state ``status``, is removed."""
        tree = self._tree
        if isinstance(node, FileNode) and node.extra_links > 0:
            self._lifter.keep(node, status)
        code = tree.index(directory).codes[name]
        position = code >> CODE_SHIFT
        actions = self._plan(directory, name, code)
        last = isinstance(node, DirectoryNode) or not node.aliases
        if last:
            tree.keep_ghost(node)
        for action in actions:
            self._perform(directory, name, action, actions)
        for action in actions:
            self.show_change(directory, tree.branches[action.position])
        removed = Remove(position) in actions and position == node.branch.position
        if removed:
            tree.lose_instance(node, status)
        if isinstance(node, FileNode):
            if not removed:
                node.extra_links -= 1
                self._lifter.links_changed(node)
            if status.st_nlink + node.extra_links <= 1 and node.kept is None:
                tree.table.unlink_keys(node)
        tree.detach(node, directory, name)
        self._removed(directory, name, code, actions)

    def _removed(self, directory: DirectoryNode, name: bytes, code: int, actions: tuple[Action, ...]) -> None:
        """The index, which said ``code`` about ``name``, knows what ``actions`` have done."""
        tree = self._tree
        if len(actions) == 1 and isinstance(actions[0], Remove) and not code & CODE_SHADOWS:
            tree.index(directory).remove(name)
            tree.touched(directory)
            return
        marks = [action.position for action in actions if isinstance(action, Hide)]
        if marks:
            tree.hidden(directory, name, min(marks))
        else:
            tree.refresh(directory, name)

    def _plan(self, directory: DirectoryNode, name: bytes, code: int) -> tuple[Action, ...]:
        tree = self._tree
        mode = tree.options.delete
        if not code & CODE_SHADOWS:
            return plan_removal((code >> CODE_SHIFT,), tree.writable, mode)
        found = instances(tuple(probe(directory.branches, directory.prefix, name)))
        kept = [
            instance.position
            for instance in found[1:]
            if instance.kind is Kind.DIRECTORY
            and whiteout.holds_entries(tree.branches[instance.position], directory.prefix + name)
        ]
        return plan_removal(tuple([instance.position for instance in found]), tree.writable, mode, kept)

    def _perform(self, directory: DirectoryNode, name: bytes, action: Action, actions: tuple[Action, ...]) -> None:
        form = self._tree.options.whiteouts
        if isinstance(action, Hide):
            branch = self._lifter.directory(directory, action.position)
            whiteout.place(branch, directory.prefix, name, form)
            return
        branch = self._tree.branches[action.position]
        replaced = whiteout.written_form(directory.prefix, name, form) is WhiteoutForm.OVERLAY
        if not (replaced and Hide(action.position) in actions):
            withdraw(branch, directory.prefix + name)


def _dress(dir_fd: int, path: bytes, fd: int, wanted: _Wanted, *, keep_mode: bool) -> os.stat_result:
    """Owner and mode are those wanted, whatever the process's own ids and umask have made of them; the new state."""
    status = _status(dir_fd, path, fd)
    chowns = status.st_uid != wanted.uid or status.st_gid != wanted.gid
    if chowns:
        os.chown(path, wanted.uid, wanted.gid, dir_fd=dir_fd, follow_symlinks=False)
    chmods = wanted.mode is not None and not keep_mode and (chowns or stat.S_IMODE(status.st_mode) != wanted.mode)
    if wanted.mode is not None and chmods:
        os.chmod(path, wanted.mode, dir_fd=dir_fd)
    return _status(dir_fd, path, fd) if chowns or chmods else status


def _status(dir_fd: int, path: bytes, fd: int) -> os.stat_result:
    """State of the new entry at ``path``, by its descriptor where it has one (-1: it has none)."""
    return os.fstat(fd) if fd >= 0 else os.stat(path, dir_fd=dir_fd, follow_symlinks=False)


def _undo(dir_fd: int, path: bytes, fd: int, kind: Kind) -> None:
    if fd >= 0:
        os.close(fd)
    if kind is Kind.DIRECTORY:
        os.rmdir(path, dir_fd=dir_fd)
    else:
        os.unlink(path, dir_fd=dir_fd)


def replace(branch: OpenBranch, staged: bytes, dir_fd: int, path: bytes, *, over: bool) -> None:
    """What was staged lies at ``path``; what lay there (only when ``over``) is gone. One rename."""
    temporary_fd = branch.temporary()[0]
    if not over:
        try:
            _sys.renameat2(temporary_fd, staged, dir_fd, path, _sys.RENAME_NOREPLACE)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # a filesystem without the flag; that nothing is there was seen, and one caller at a time is the rule
            os.rename(staged, path, src_dir_fd=temporary_fd, dst_dir_fd=dir_fd)
        return
    try:
        os.rename(staged, path, src_dir_fd=temporary_fd, dst_dir_fd=dir_fd)
    except (NotADirectoryError, IsADirectoryError, OSError) as error:
        if error.errno not in {errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST}:
            raise
        _sys.renameat2(temporary_fd, staged, dir_fd, path, _sys.RENAME_EXCHANGE)
        branch.discard(staged)


def withdraw(branch: OpenBranch, path: bytes) -> None:
    """Nothing lies at ``path`` any more; a directory goes with all that is in it, in one rename."""
    fd, rest = branch.at(path)
    try:
        os.unlink(rest, dir_fd=fd)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError) as error:
        # unlink(2) of a directory: EISDIR on Linux, EPERM says POSIX
        if not stat.S_ISDIR(os.stat(rest, dir_fd=fd, follow_symlinks=False).st_mode):
            raise error from None
        _withdraw_directory(branch, fd, rest)


def _withdraw_directory(branch: OpenBranch, fd: int, rest: bytes) -> None:
    try:
        os.rmdir(rest, dir_fd=fd)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        temporary_fd, staged = branch.temporary()
        os.rename(rest, staged, src_dir_fd=fd, dst_dir_fd=temporary_fd)
        branch.discard(staged)
