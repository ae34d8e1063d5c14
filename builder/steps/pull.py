"""FROM an image: its layers are fetched where they are missing, at once or when they are needed, and unpacked.

Calls into the registry block, so they run in a thread; cancelling the step makes them return at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import trio

from builder.advice import hints_for
from builder.bases import Base
from builder.blocking import call_blocking
from builder.errors import BaseImageError
from builder.events import Journal, Outcome, StepJournal
from builder.graph import BaseRef
from builder.session import Session
from layers.config import ImageConfig
from layers.descriptor import Descriptor
from layers.ensure import ensure_unpacked
from layers.errors import LayersError
from layers.manifest import Manifest
from layers.reference import Reference
from layers.registry import transfer
from layers.registry.errors import ConnectionFailedError, TransferCancelledError
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


Tell = Callable[[TransferProgress], None]


def told_fetch(title: str, journal: Journal) -> Callable[[Callable[[Tell], None]], None]:
    """A call that does in any thread what it is given, told as a step ``title``; to be made on the loop's thread."""
    token = trio.lowlevel.current_trio_token()

    def on_loop(call: Callable[[], T]) -> T:
        return trio.from_thread.run_sync(call, trio_token=token)

    def fetch(work: Callable[[Tell], None]) -> None:
        step = on_loop(lambda: journal.start(title))
        tell = on_loop(lambda: follow(step))
        try:
            work(tell)
        except TransferCancelledError:
            on_loop(lambda: step.finish(Outcome.CANCELLED))
            raise
        except Exception as error:
            message = str(error)
            on_loop(lambda: step.finish(Outcome.FAILED, message))
            raise
        on_loop(lambda: step.finish(Outcome.DONE))

    return fetch


class BaseOrigin:
    """A base as a place where its layers are (`builder.absent.Origin`); to be made on the event loop's thread."""

    replaceable = False

    def __init__(self, session: Session, base: Base, journal: Journal) -> None:
        self._session = session
        self._base = base
        self._fetch = told_fetch(f"pulling {base.ref.canonical}", journal)

    @property
    def name(self) -> str:
        """See `Origin`."""
        return self._base.ref.reference

    @property
    def repository(self) -> Reference | None:
        """See `Origin`."""
        return Reference.parse(self._base.ref.reference)

    def fetch(self, blobs: Sequence[Descriptor], cancel: threading.Event) -> None:
        """See `Origin`: all layers of the base come at once, also those nobody asked for yet."""
        del blobs
        self._fetch(lambda tell: _fetch(self._session, self._base, tell, cancel))


async def pull(session: Session, base: Base, journal: StepJournal, *, unpack: bool) -> None:
    """The layers of ``base`` are in the store, and with ``unpack`` their directories are there.

    Raises:
        BaseImageError: the image is gone, or what came is not what was promised.
    """
    if any(session.store.blobs.size(layer.digest) is None for layer in base.manifest.layers):
        tell = follow(journal)
        await call_blocking(lambda cancel: _fetch(session, base, tell, cancel, unpack=unpack), threading.Event())
        # what the threads have told is shown before the step ends
        await trio.lowlevel.checkpoint()
    if unpack:
        await _place(base.ref, lambda _cancel: ensure_unpacked(session.store, base.manifest, base.config))


def _fetch(session: Session, base: Base, tell: Tell, cancel: threading.Event, *, unpack: bool = False) -> None:
    """The base is in the store under its name, with ``unpack`` its layers were unpacked as they came.

    Raises BaseImageError.
    """
    reference = Reference.parse(base.ref.reference)
    with _placed(base.ref):
        transfer.pull(
            session.store,
            reference.with_digest(base.descriptor.digest),
            platform=base.ref.platform,
            unpack=unpack,
            settings=session.registries,
            progress=tell,
            cancel=cancel,
        )
        session.store.tag_platform(reference, base.descriptor, base.config.platform.normalised())


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
    with _placed(ref):
        return await call_blocking(call, threading.Event())


@contextmanager
def _placed(ref: BaseRef) -> Generator[None]:
    try:
        yield
    except TransferCancelledError:
        raise
    except LayersError as error:
        message = f"base image {ref.reference!r}: {error}"
        hints = ref.hints or (_OFFLINE_HINTS if isinstance(error, ConnectionFailedError) else hints_for(error))
        raise BaseImageError(message, source=ref.source, hints=hints) from error
