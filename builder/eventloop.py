"""The package of the event loop is imported, without what it looks for and never uses here.

trio imports what any use of it could need: TLS and DTLS (`ssl`, `hmac`, with OpenSSL's library), host names in other
scripts (`idna`, whose tables are large), programs and tracebacks, and `ctypes.util`, which loads every compressor and
runs ldconfig, to give threads names. A build uses none of them for its event loop, or only where something goes wrong;
together they are a third of what importing trio takes.

Invariants: trio's code is as it was installed; who uses a module that was kept away gets the module; when the import is
done, everybody else who imports one of them does so too.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_NOT_YET = ("ssl", "idna", "hmac", "subprocess", "traceback", "unicodedata")
_THREADS = "libc.so.6"
"""The library with pthread_setname_np(3); where it is another one, threads go without names."""


class _Later(ModuleType):
    """Takes the place of a module until something of it is used."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def _find_library(_name: str) -> str:
    return _THREADS


def import_trio() -> None:
    """``import trio`` takes no time any more."""
    if "trio" in sys.modules:
        return
    import ctypes  # noqa: TID251  (the place that trio looks at; nothing is called)

    libraries = ModuleType("ctypes.util")
    libraries.__dict__["find_library"] = _find_library
    later = [*map(_Later, _NOT_YET), libraries]
    kept_away = [module for module in later if module.__name__ not in sys.modules]
    sys.modules.update({module.__name__: module for module in kept_away})
    if libraries in kept_away:
        setattr(ctypes, "util", libraries)  # noqa: B010  (no attribute that type checkers know)
    try:
        import_module("trio")
    finally:
        for module in kept_away:
            if sys.modules.get(module.__name__) is module:
                del sys.modules[module.__name__]
        if libraries in kept_away:
            delattr(ctypes, "util")
