"""What one build works on: store, cache and layers of one root directory.

On the cached-build path. Invariants: opened once, closed with the block; the servers start only when a step runs.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from builder.results import LayerResult
from cache.pins import Pins
from cache.records import BuildCache
from layers.digest import ChainId, Digest
from layers.snapshotter import Snapshotter
from layers.store import Store

if TYPE_CHECKING:
    import trio

    from builder.absent import AbsentLayers
    from builder.servers import Servers
    from layers.registry.settings import RegistrySettings


def warn_on_stderr(text: str) -> None:
    """``text`` is a line on stderr."""
    sys.stderr.write(f"WARN: {text}\n")


class Session:
    """The opened services; use it as a context manager."""

    def __init__(self, root: str, warn: Callable[[str], None] = warn_on_stderr, isolation: str = "auto") -> None:
        """``isolation`` is that of steps (`builder.options.BuildOptions`)."""
        # the servers have working directories of their own
        self.root = os.path.abspath(root)
        self.started_ns = time.time_ns()
        self.store = Store(self.root)
        self.snapshotter = Snapshotter(self.store)
        self.cache = BuildCache(self.root, warn)
        self.pins = Pins(self.root)
        self._isolation = isolation
        self.absent: AbsentLayers | None = None
        """What else has layers that are not here, while steps are run."""
        self.unsettled: dict[str, trio.Event] = {}
        """What tells that the archive of a layer without a directory is in the store, by chain ID, until it is."""
        self._servers: Servers | None = None
        self._registries: RegistrySettings | None = None

    @property
    def servers(self) -> Servers:
        """The union and sandbox servers, which start at their first use."""
        if self._servers is None:
            from builder.servers import Servers

            self._servers = Servers(self._isolation, self.snapshotter)
        return self._servers

    def use_registries(self, settings: RegistrySettings | None) -> None:
        """Registries are spoken to as ``settings`` say, None for what the configuration says."""
        self._registries = settings or self._registries

    @property
    def registries(self) -> RegistrySettings:
        """How registries are spoken to, from the configuration file. Raises UsageError where that is wrong."""
        if self._registries is None:
            from builder.configuration import read_registry_settings

            self._registries = read_registry_settings(os.environ)
        return self._registries

    def end_servers(self) -> None:
        """No step will run any more: servers that run are ending, which `close` waits for."""
        if self._servers is not None:
            self._servers.end()

    def is_unpacked(self, layers: Sequence[LayerResult]) -> bool:
        """Whether the directories of ``layers``, bottom first, are there."""
        return not layers or self.snapshotter.has(ChainId(Digest(layers[-1].chain_id)))

    def ensure_unpacked(self, layers: Sequence[LayerResult]) -> None:
        """The directories of ``layers``, bottom first, are there; those that are elsewhere are fetched.

        A layer that no step looked at has none so far. Raises LayersError where a blob is gone or damaged, BuildError
        where one cannot be fetched.
        """
        if self.is_unpacked(layers):
            return
        from layers.ensure import ensure_layers

        if self.absent is not None:
            bare = [layer for layer in layers if not self.snapshotter.has(ChainId(Digest(layer.chain_id)))]
            self.absent.fetch_for_step([layer.descriptor for layer in bare])
        ensure_layers(self.store, [(layer.descriptor, Digest(layer.diff_id)) for layer in layers])

    def close(self) -> None:
        """Nothing is open and no server runs. Idempotent."""
        if self._servers is not None:
            self._servers.close()
            self._servers = None
        self.pins.close()
        self.cache.close()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
