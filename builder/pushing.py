"""Finished images go to their registries."""

from __future__ import annotations

import threading

import trio

from builder.errors import BuildError, LostLayerError
from builder.events import Journal, Outcome
from builder.session import Session
from builder.steps.pull import call_blocking, follow
from layers.errors import LayersError
from layers.reference import Reference
from layers.registry import transfer
from layers.store import StoredImage


async def push_all(
    session: Session, image: StoredImage, names: tuple[Reference, ...], journal: Journal
) -> dict[str, str]:
    """``image`` is in the registries of ``names``; the digests of its manifests by name.

    Layers that are elsewhere are fetched where a registry neither has them nor can take them from there.

    Raises:
        BuildError: a registry refused or does not answer; names before it are pushed.
    """
    pushed: dict[str, str] = {}
    for name in names:
        pushed[name.name] = await _push(session, image, name, journal)
    return pushed


async def _push(session: Session, image: StoredImage, name: Reference, journal: Journal) -> str:
    step = journal.start(f"pushing {name.name}")
    tell = follow(step)

    def push(cancel: threading.Event) -> str:
        return transfer.push(
            session.store,
            image,
            name,
            settings=session.registries,
            elsewhere=session.absent,
            progress=tell,
            cancel=cancel,
        )

    try:
        digest = await call_blocking(push, threading.Event())
    except LayersError as error:
        step.finish(Outcome.FAILED, str(error))
        raise BuildError(f"push of {name.name!r}: {error}") from error
    except (trio.Cancelled, LostLayerError):
        step.finish(Outcome.CANCELLED)
        raise
    except BuildError as error:
        step.finish(Outcome.FAILED, error.message)
        raise
    step.output(1, f"manifest {digest}\n".encode())
    step.finish(Outcome.DONE)
    return digest
