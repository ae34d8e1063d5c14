"""The asynchronous part of `builder.exchange`: read before the first step, written after the last.

Invariant: nothing here ends a build, whatever is wrong at the other place.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import trio

from builder import cachemounts, exchange
from builder.blocking import call_blocking
from builder.errors import BuildError
from builder.events import Journal, Outcome
from builder.exchange import RemoteCache
from builder.graph import StepId
from builder.options import BuildOptions
from builder.results import StepResult
from builder.session import Session
from cache.records import CacheRecord
from layers.errors import LayersError
from layers.platform import Platform

if TYPE_CHECKING:
    from builder.api import Preparation


async def open_caches(
    options: BuildOptions, platform: Platform, session: Session, journal: Journal
) -> tuple[RemoteCache, ...]:
    """The results elsewhere that ``--cache-from`` names; of those that can't be read a warning is told."""
    if not options.cache_from or options.no_cache:
        return ()
    step = journal.start("importing cache from " + ", ".join(map(exchange.name_of, options.cache_from)))
    try:
        caches = await call_blocking(
            lambda cancel: exchange.open_caches(options.cache_from, session, platform, journal.notice, cancel),
            threading.Event(),
        )
    except trio.Cancelled:
        step.finish(Outcome.CANCELLED)
        raise
    step.finish(Outcome.DONE)
    return caches


async def export_caches(
    preparations: Sequence[Preparation],
    results: Sequence[Mapping[StepId, StepResult]],
    session: Session,
    journal: Journal,
) -> None:
    """The results, those of each graph, are where ``--cache-to`` says; where that can't be, a warning is told."""
    for fields in preparations[0].options.cache_to:
        if fields["type"] == "inline":
            # it is part of the image
            continue
        name = exchange.name_of(fields)
        step = journal.start(f"exporting cache to {name}")

        def write(cancel: threading.Event, fields: Mapping[str, str] = fields) -> str:
            records: list[CacheRecord] = []
            wanted: dict[str, str] = {}
            for one, own in zip(preparations, results, strict=True):
                steps = one.graph.steps if fields.get("mode") == "max" else one.graph.final_chain
                records += exchange.exportable(session, one.lookup.records(steps, own))
                wanted |= cachemounts.used_by(steps) if fields.get("mounts") == "true" else {}
            mounts = cachemounts.pack_all(session, wanted, journal.notice, cancel)
            try:
                return exchange.write_cache(
                    _unique(records), mounts, exchange.place_of(fields, session), session, cancel
                )
            finally:
                from builder.cleaning import discard_archives

                discard_archives(session, [mount.blob.digest for mount in mounts])

        try:
            written = await call_blocking(write, threading.Event())
        except trio.Cancelled:
            step.finish(Outcome.CANCELLED)
            raise
        except (LayersError, OSError, BuildError) as error:
            journal.notice(f"cache {name!r} is not written: {error}")
            step.finish(Outcome.FAILED, str(error))
        else:
            step.output(1, f"{written}\n".encode())
            step.finish(Outcome.DONE)


def _unique(records: Sequence[CacheRecord]) -> list[CacheRecord]:
    """The records, one a key: platforms may share steps."""
    return list({record.key: record for record in records}.values())
