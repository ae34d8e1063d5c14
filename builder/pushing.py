"""Finished images go to their registries."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import trio

from builder.advice import hints_for
from builder.blocking import call_blocking
from builder.errors import BuildError, LostLayerError
from builder.events import Journal, Outcome
from builder.finished import Ready
from builder.session import Session
from builder.steps.pull import follow
from layers.errors import LayersError
from layers.registry import transfer


async def push_all(session: Session, pushes: Sequence[Ready], journal: Journal) -> dict[str, str]:
    """Everything in ``pushes`` is in its registry; the digests of the manifests by name.

    Layers that are elsewhere are fetched where a registry neither has them nor can take them from there.

    Raises:
        BuildError: a registry refused or does not answer; what comes before it is pushed.
    """
    pushed: dict[str, str] = {}
    for ready in pushes:
        pushed[ready.push.name.name] = await _push(session, ready, journal)
    return pushed


async def _push(session: Session, ready: Ready, journal: Journal) -> str:
    name = ready.push.name
    step = journal.start(f"pushing {name.name}")
    tell = follow(step)
    settings = session.registries
    if ready.push.insecure:
        settings = settings._replace(insecure=settings.insecure | {name.registry})

    def push(cancel: threading.Event) -> str:
        return transfer.push(
            session.store,
            ready.image,
            name,
            compression=ready.compression,
            settings=settings,
            elsewhere=session.absent,
            progress=tell,
            cancel=cancel,
        )

    try:
        digest = await call_blocking(push, threading.Event())
    except LayersError as error:
        step.finish(Outcome.FAILED, str(error))
        raise BuildError(f"push of {name.name!r}: {error}", hints=hints_for(error)) from error
    except (trio.Cancelled, LostLayerError):
        step.finish(Outcome.CANCELLED)
        raise
    except BuildError as error:
        step.finish(Outcome.FAILED, error.message)
        raise
    step.output(1, f"manifest {digest}\n".encode())
    step.finish(Outcome.DONE)
    return digest
