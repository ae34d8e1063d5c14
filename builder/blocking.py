"""Calls that block, in a thread of a task that can be cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import outcome
import trio

T = TypeVar("T")
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
