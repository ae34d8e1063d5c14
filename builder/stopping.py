"""Work that SIGINT and SIGTERM end: it is cancelled, and what was begun is undone before `Interrupted` is raised.

Invariants: a second signal does not interrupt the undoing, which takes a fraction of a second; an error of the work
leaves as it is, not in a group.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import trio

from builder.errors import Interrupted

_TICK_SECONDS = 0.1

T = TypeVar("T")


async def until_signal(work: Callable[[], Awaitable[T]], tick: Callable[[], None] | None = None) -> T:
    """What ``work`` returns; ``tick`` is called ten times a second meanwhile. On the main thread only.

    Raises:
        Interrupted: SIGINT or SIGTERM came.
    """
    result: list[T] = []
    failure: list[Exception] = []
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_at_signal, signals, nursery.cancel_scope)
            if tick is not None:
                nursery.start_soon(_tick, tick)
            try:
                result.append(await work())
            except Exception as error:  # noqa: BLE001 - raised below, outside of the nursery's group
                failure.append(error)
            nursery.cancel_scope.cancel()
    if failure:
        raise failure[0]
    if not result:
        # all that is left is to end: a further signal must not come between
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise Interrupted
    return result[0]


async def _cancel_at_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _number in signals:
        scope.cancel()


async def _tick(tick: Callable[[], None]) -> None:
    while True:
        await trio.sleep(_TICK_SECONDS)
        tick()
