"""An event that ends what is under way when it is set."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from builder.errors import Interrupted
from cache import locks
from cache.errors import LockCancelledError


class Cancellation(threading.Event):
    """Set by whoever no longer wants the result; asked, and listened to, by the thread that works for it."""

    def __init__(self) -> None:
        super().__init__()
        self._guard = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []

    def set(self) -> None:
        """It is set, and what was registered has been called."""
        super().set()
        with self._guard:
            callbacks = tuple(self._callbacks)
        for callback in callbacks:
            callback()

    def check(self) -> None:
        """Nothing happens as long as the result is wanted. Raises Interrupted."""
        if self.is_set():
            raise Interrupted

    @contextmanager
    def breaking(self, callback: Callable[[], None]) -> Generator[None]:
        """``callback`` is called, from another thread, when it is set inside the block; at once when it is already."""
        with self._guard:
            self._callbacks.append(callback)
        if self.is_set():
            callback()
        try:
            yield
        finally:
            with self._guard, contextlib.suppress(ValueError):
                self._callbacks.remove(callback)

    @contextmanager
    def locked(self, root: str, name: str) -> Generator[None]:
        """No other build on the store directory ``root`` is in a block of the same name. Raises Interrupted."""
        holding = locks.hold(f"{root}/locks", name, cancelled=self.is_set)
        try:
            holding.__enter__()
        except LockCancelledError as error:
            raise Interrupted from error
        try:
            yield
        finally:
            holding.__exit__(None, None, None)
