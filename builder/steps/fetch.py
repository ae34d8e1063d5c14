"""The remote sources of ADD steps while they are executed: asked for before the key, opened for the work.

Invariants: what decided a step's key is what it copies; descriptors and directories live as long as the step.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from builder.blocking import call_blocking
from builder.events import StepJournal
from builder.finished import Material
from builder.graph import Copy, Step, StepId
from builder.options import BuildOptions
from builder.remote.cancellation import Cancellation
from builder.remote.content import NOTHING, Content
from builder.session import Session
from cache.framing import Value

if TYPE_CHECKING:
    from builder.remote.access import Access
    from builder.remote.sources import Resolved


class RemoteSources:
    """What the ADD steps of one build take from elsewhere, by step."""

    def __init__(self, session: Session, options: BuildOptions) -> None:
        self._session = session
        self._options = options
        self._resolved: dict[StepId, Resolved] = {}
        self.materials: list[Material] = []

    async def resolve(self, step: Step, operation: Copy, journal: StepJournal) -> Sequence[tuple[str, Value]]:
        """The parts of the step's key that say what its remote sources are now; `close` must follow.

        Raises:
            FetchError: one of them can't be had.
        """
        from builder.remote import sources

        access = self._access()
        token = trio.lowlevel.current_trio_token()

        def tell(name: str, done: int, total: int | None) -> None:
            token.run_sync_soon(journal.progress, name, done, total)

        def fetch(cancel: Cancellation) -> None:
            self._resolved[step.id] = sources.resolve(operation, self._session.root, access, cancel=cancel, tell=tell)

        await call_blocking(fetch, Cancellation())
        # what the thread has told is shown before the step ends
        await trio.lowlevel.checkpoint()
        self.materials += self._resolved[step.id].materials()
        return self._resolved[step.id].key_parts()

    def close(self, step: Step) -> None:
        """Nothing is open for ``step``."""
        resolved = self._resolved.pop(step.id, None)
        if resolved is not None:
            resolved.close()

    @contextmanager
    def open(self, step: Step, cancel: Cancellation) -> Generator[Content]:
        """The files of the remote sources of ``step``, there until the block is left. Blocks its thread."""
        resolved = self._resolved.get(step.id)
        if resolved is None:
            yield NOTHING
            return
        access = self._access()
        with ExitStack() as stack:

            def make() -> Path:
                active = self._session.snapshotter.prepare("checkout", None)
                stack.callback(self._session.snapshotter.remove, active)
                return active.path

            yield resolved.open(self._session.root, access, make=make, cancel=cancel)

    def _access(self) -> Access:
        from builder.remote.access import Access

        return Access(self._options.agents.get("default"), self._options.secrets)
