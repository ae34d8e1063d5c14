"""What the mounts of a RUN step are made from, and what they are when they are made (`builder.steps.mounts`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from builder.graph import CacheMount, Copy, StepId
from builder.options import SecretSource
from builder.sandbox.spec import Bind, File, Tmpfs
from builder.selection import SourceTree
from builder.session import Session
from unionfs.namedtuple import NamedTuple


class MountSources(NamedTuple):
    """Where mounts come from.

    ``open_source`` opens the tree a copy takes files from. ``secrets`` and ``agents`` (paths of sockets) are those
    given to the build, by id. ``check`` is called while something is waited for, and may raise. ``take_cache`` puts
    what is elsewhere of a cache at a place that is absent or empty, and says whether there was something.
    """

    session: Session
    open_source: Callable[[Copy], AbstractContextManager[SourceTree]]
    secrets: Mapping[str, SecretSource]
    agents: Mapping[str, str]
    check: Callable[[], None]
    verify: Callable[[], None]
    branches: Callable[[StepId], tuple[Path, ...]]
    take_cache: Callable[[CacheMount, Path], bool]


class PreparedMounts(NamedTuple):
    """Mounts of a step; ``env`` are variables that come with them.

    ``fds`` are the detached mounts that binds name by index. ``copiers`` make, of the bind with this number, one that
    shows a copy.
    """

    binds: tuple[Bind, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    files: tuple[File, ...] = ()
    env: tuple[str, ...] = ()
    fds: tuple[int, ...] = ()
    copiers: Mapping[int, Callable[[], Bind]] = {}

    def copied(self) -> tuple[Bind, ...]:
        """The binds as they can be kept after the step: none shows layers. Blocks its thread, and may take long."""
        return tuple(
            self.copiers[number]() if number in self.copiers else bind for number, bind in enumerate(self.binds)
        )
