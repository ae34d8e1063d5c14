"""The mounts of a RUN step: what ``--mount`` asks for, ready to be attached in its sandbox.

    bind    layers of another step (`builder.steps.bound`), or a copy of what it selects in the context; writes are
            thrown away
    cache   a directory that stays, by id (`builder.cachemounts`); a spare one while another has it (private), or
            waited for (locked)
    tmpfs   made in the sandbox
    secret  a file in the memory of the sandbox, of which nothing is left; or an environment variable
    ssh     a socket that leads to the user's agent (`builder.steps.agents`)

Invariants: nothing that is mounted becomes part of the layer; what was made for the step is gone after it, caches
excepted; a kill leaves at most abandoned branches, which the snapshotter sweeps.  Source of the rules: ``RUN --mount``
in the Dockerfile reference.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from builder import cachemounts
from builder.errors import BuildError, describe_os_error
from builder.graph import BindMount, CacheMount, Copy, InlineFile, Run, SecretMount, SshMount, TmpfsMount
from builder.sandbox.spec import Bind, File, Tmpfs
from builder.steps import bound, copy
from builder.steps.agents import AgentRelay
from builder.steps.keys import shows_context
from builder.steps.mountsources import MountSources, PreparedMounts
from unionfs.privileges import is_machine_root
from unionfs.removal import remove_tree

_SCRIPT_DIRECTORY = "/dev/pipes"
_WAIT_SECONDS = 0.1
_COPY_NAME = "mounted"


@contextmanager
def prepare(operation: Run, sources: MountSources) -> Generator[PreparedMounts]:
    """What ``operation`` mounts, there until the block is left. Blocks its thread.

    Raises:
        ContextError: a source is not there.
        BuildError: a secret or agent that is required was not given.
    """
    with ExitStack() as stack:
        preparation = _Preparation(sources, stack)
        for mount in operation.mounts:
            preparation.add(mount)
        if any(isinstance(mount, BindMount | CacheMount) and shows_context(mount) for mount in operation.mounts):
            sources.verify()
        if operation.script is not None:
            preparation.add_script(operation.script)
        yield preparation.done()


def source_of(mount: BindMount | CacheMount) -> Copy:
    """The copy that puts what ``mount`` selects below the name ``mounted``."""
    return Copy((mount.source,), f"/{_COPY_NAME}", mount.from_step, context=mount.context)


class _Preparation:
    """The mounts made so far; what must be undone is on the stack."""

    def __init__(self, sources: MountSources, stack: ExitStack) -> None:
        self._sources = sources
        self._stack = stack
        self.binds: list[Bind] = []
        self.tmpfs: list[Tmpfs] = []
        self.files: list[File] = []
        self.env: list[str] = []
        self.fds: list[int] = []
        self.copiers: dict[int, Callable[[], Bind]] = {}

    def done(self) -> PreparedMounts:
        """What has been made."""
        return PreparedMounts(
            tuple(self.binds), tuple(self.tmpfs), tuple(self.files), tuple(self.env), tuple(self.fds), self.copiers
        )

    def add(self, mount: object) -> None:
        """``mount`` is among the mounts."""
        match mount:
            case TmpfsMount():
                self.tmpfs.append(Tmpfs(mount.target, mount.size_bytes or None))
            case BindMount():
                self._bind(mount)
            case CacheMount():
                place = self._cache(mount)
                self.binds.append(Bind(str(place), mount.target, mount.read_only, "cache"))
            case SecretMount():
                self._add_secret(mount)
            case SshMount():
                self._add_agent(mount)
            case _:
                raise TypeError(f"{type(mount).__name__} is no mount")

    def add_script(self, script: InlineFile) -> None:
        """The script is an executable file where the command looks for it."""
        self.files.append(File(f"{_SCRIPT_DIRECTORY}/{script.name}", script.content, 0o755))

    def _bind(self, mount: BindMount) -> None:
        """Files of another step are shown where they lie; where there is no FUSE, and of a context, a copy is."""

        def copied() -> Bind:
            return Bind(str(self._copied(mount)), mount.target, mount.read_only, "bind")

        session = self._sources.session
        held: tuple[Path, ...] = ()
        if mount.from_step is not None and not session.servers.lacks_fuse():
            held = bound.locate(self._sources.branches(mount.from_step), mount.source)
        if held and stat.S_ISDIR(held[0].lstat().st_mode):
            passthrough = "fast" if is_machine_root() else "off"
            fd = bound.mount(session, held, self._stack, writable=not mount.read_only, passthrough=passthrough)
            shown = Bind("", mount.target, mount.read_only, "bind", len(self.fds))
            self.fds.append(fd)
        elif held and mount.read_only and stat.S_ISREG(held[0].lstat().st_mode):
            shown = Bind(str(held[0]), mount.target, mount.read_only, "layer")
        else:
            self.binds.append(copied())
            return
        self.copiers[len(self.binds)] = copied
        self.binds.append(shown)

    def _copied(self, mount: BindMount | CacheMount) -> Path:
        """A copy of what ``mount`` selects; gone with the stack."""
        snapshotter = self._sources.session.snapshotter
        active = snapshotter.prepare("mount", None)
        self._stack.callback(snapshotter.remove, active)
        operation = source_of(mount)
        with self._sources.open_source(operation) as tree:
            copy.apply(operation, tree, (), active.path, check=self._sources.check)
        return active.path / _COPY_NAME

    def _cache(self, mount: CacheMount) -> Path:
        """The directory of the cache, locked as its sharing says until the stack is left."""
        name = cachemounts.identity(mount.id)
        number = 0
        while not self._enter(mount, place := cachemounts.directory_of(self._sources.session.root, name, number)):
            number += 1
        return place

    def _enter(self, mount: CacheMount, place: Path) -> bool:
        """Whether the directory is there and locked for the step; one that is to be locked is waited for.

        It is made under the exclusive lock alone, also where it is shared then. Where nothing can be mounted each step
        sees a directory of its own that takes the place of the other: nobody can share it.
        """
        is_shared = mount.sharing == "shared" and self._sources.session.servers.can_mount
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(f"{place}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._stack.callback(os.close, fd)
        cachemounts.write_id(self._sources.session.root, mount.id)
        while True:
            entered = cachemounts.try_lock(fd, fcntl.LOCK_EX)
            if entered:
                self._fill(mount, place)
            elif mount.sharing == "private":
                return False
            if is_shared:
                # flock(2) converts in two steps: somebody may have removed it in between
                entered = cachemounts.try_lock(fd, fcntl.LOCK_SH) and place.is_dir()
            if entered:
                # the time says when it was used last (`builder.cleaning`)
                os.utime(fd)
                return True
            fcntl.flock(fd, fcntl.LOCK_UN)
            self._sources.check()
            time.sleep(_WAIT_SECONDS)

    def _fill(self, mount: CacheMount, place: Path) -> None:
        """The cache lies at ``place``; a new or empty one with what is elsewhere, or what ``mount`` names, or empty."""
        if cachemounts.is_filled(place) or self._sources.take_cache(mount, place) or place.is_dir():
            return
        fresh = place.with_name(f"{place.name}.new")
        remove_tree(fresh)
        if mount.from_step is None and not mount.context:
            fresh.mkdir()
        else:
            self._copied(mount).rename(fresh)
        try:
            os.chown(fresh, mount.uid, mount.gid)
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise BuildError(
                f"cache mount {mount.target!r} can't be given to {mount.uid}:{mount.gid}: {reason}"
            ) from error
        fresh.chmod(mount.mode)
        fresh.rename(place)

    def _add_secret(self, mount: SecretMount) -> None:
        source = self._sources.secrets.get(mount.id)
        if source is None:
            if mount.required:
                raise BuildError(
                    f"secret {mount.id!r} is required and was not given", hints=(f"--secret id={mount.id},src=FILE",)
                )
            return
        value = source.read()
        if mount.env is not None:
            self.env.append(f"{mount.env}={value.decode('utf-8', 'surrogateescape')}")
        if mount.target is not None:
            self.files.append(File(mount.target, os.fsdecode(value), mount.mode, mount.uid, mount.gid))

    def _add_agent(self, mount: SshMount) -> None:
        path = self._sources.agents.get(mount.id)
        if path is None:
            if mount.required:
                raise BuildError(
                    f"ssh agent {mount.id!r} is required and was not given", hints=(f"--ssh {mount.id}=SOCKET",)
                )
            return
        snapshotter = self._sources.session.snapshotter
        active = snapshotter.prepare("mount", None)
        self._stack.callback(snapshotter.remove, active)
        try:
            relay = self._stack.enter_context(AgentRelay(path, active.path, mount.mode, mount.uid, mount.gid))
        except OSError as error:
            raise BuildError(f"socket of ssh agent {mount.id!r} can't be made: {describe_os_error(error)}") from error
        self.binds.append(Bind(str(relay.path), mount.target, False, "ssh"))
        self.env.append(f"SSH_AUTH_SOCK={mount.target}")
