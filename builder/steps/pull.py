"""FROM an image: its layers are fetched where they are missing, and unpacked.

Calls into the registry block, so they run in a thread; cancelling the step makes them return at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import outcome
import trio

from builder.bases import Base
from builder.errors import BaseImageError, room_hints
from builder.events import StepJournal
from builder.graph import BaseRef
from builder.session import Session
from layers.config import ImageConfig
from layers.ensure import ensure_unpacked
from layers.errors import LayersError
from layers.manifest import Manifest
from layers.reference import Reference
from layers.registry import transfer
from layers.registry.errors import ConnectionFailedError
from layers.registry.progress import TransferProgress
from layers.registry.settings import RegistrySettings

T = TypeVar("T")

_OFFLINE_HINTS = ("pybuild images lists the images that are here, pybuild load -i FILE takes more from an archive",)


async def resolve(ref: BaseRef, settings: RegistrySettings) -> Base:
    """What the registry has under the name of ``ref``; nothing is stored.

    Raises:
        BaseImageError: there is no such image, or no such registry.
    """
    found = await _place(
        ref,
        lambda cancel: transfer.resolve(ref.reference, platform=ref.platform, settings=settings, cancel=cancel),
    )
    return Base(ref, found.manifest, Manifest.from_bytes(found.raw), ImageConfig.from_bytes(found.config))


async def pull(session: Session, base: Base, journal: StepJournal) -> None:
    """The layers of ``base`` are in the store and unpacked.

    Raises:
        BaseImageError: the image is gone, or what came is not what was promised.
    """
    missing = any(session.store.blobs.size(layer.digest) is None for layer in base.manifest.layers)
    if missing:
        await _fetch(session, base, journal)
    await _place(base.ref, lambda _cancel: ensure_unpacked(session.store, base.manifest, base.config))


async def _fetch(session: Session, base: Base, journal: StepJournal) -> None:
    tell = follow(journal)
    pinned = Reference.parse(base.ref.reference).with_digest(base.descriptor.digest)

    def fetch(cancel: threading.Event) -> None:
        transfer.pull(
            session.store,
            pinned,
            platform=base.ref.platform,
            settings=session.registries,
            progress=tell,
            cancel=cancel,
        )
        session.store.tag(Reference.parse(base.ref.reference), base.descriptor)

    await _place(base.ref, fetch)
    # what the threads have told is shown before the step ends
    await trio.lowlevel.checkpoint()


def follow(journal: StepJournal) -> Callable[[TransferProgress], None]:
    """A callback that hands a transfer's progress, told in other threads, to ``journal`` on this task's thread."""
    token = trio.lowlevel.current_trio_token()
    finished: set[str] = set()

    def show(progress: TransferProgress) -> None:
        word = "" if progress.state in {"transferring", "done"} else f" {progress.state}"
        name = f"{progress.digest[:19]}{word}"
        if progress.state != "waiting" and name not in finished:
            journal.progress(name, progress.done_bytes, progress.total_bytes)
            if progress.done_bytes >= progress.total_bytes:
                finished.add(name)

    return lambda progress: token.run_sync_soon(show, progress)


async def _place(ref: BaseRef, call: Callable[[threading.Event], T]) -> T:
    """What ``call`` returns in a thread; its errors are placed at the FROM that asked for the image."""
    try:
        return await call_blocking(call, threading.Event())
    except LayersError as error:
        message = f"base image {ref.reference!r}: {error}"
        hints = ref.hints or (_OFFLINE_HINTS if isinstance(error, ConnectionFailedError) else room_hints(error))
        raise BaseImageError(message, source=ref.source, hints=hints) from error


Stop = TypeVar("Stop", bound=threading.Event)


async def call_blocking(call: Callable[[Stop], T], cancel: Stop) -> T:
    """What ``call`` returns; it runs in a thread, and its event is set when this task is cancelled."""

    async def watch() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancel.set()

    async def in_thread() -> T:
        return await trio.to_thread.run_sync(call, cancel)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        # captured, so that an error leaves as it is and not in a group
        result = await outcome.acapture(in_thread)
        nursery.cancel_scope.cancel()
    return result.unwrap()
