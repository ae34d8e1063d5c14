"""Finished images go to their registries."""

from __future__ import annotations

import threading

import trio

from builder.errors import BuildError
from builder.events import Journal, Outcome
from builder.session import Session
from builder.steps.pull import call_blocking, follow
from layers.errors import LayersError
from layers.reference import Reference
from layers.registry import transfer


async def push_all(session: Session, names: tuple[Reference, ...], journal: Journal) -> dict[str, str]:
    """Every image of ``names`` is in its registry; the digests of the manifests by name.

    Raises:
        BuildError: a registry refused or does not answer; names before it are pushed.
    """
    pushed: dict[str, str] = {}
    for name in names:
        pushed[name.name] = await _push(session, name, journal)
    return pushed


async def _push(session: Session, name: Reference, journal: Journal) -> str:
    step = journal.start(f"pushing {name.name}")
    tell = follow(step)

    def push(cancel: threading.Event) -> str:
        return transfer.push(session.store, name, name, settings=session.registries, progress=tell, cancel=cancel)

    try:
        digest = await call_blocking(push, threading.Event())
    except LayersError as error:
        step.finish(Outcome.FAILED, str(error))
        raise BuildError(f"push of {name.name!r}: {error}") from error
    except trio.Cancelled:
        step.finish(Outcome.CANCELLED)
        raise
    step.output(1, f"manifest {digest}\n".encode())
    step.finish(Outcome.DONE)
    return digest
