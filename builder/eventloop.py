"""The package of the event loop is imported, without what it looks for and never uses here.

trio imports what any use of it could need: TLS and DTLS (`ssl`, `hmac`, with OpenSSL's library), host names in other
scripts (`idna`, whose tables are large), programs and tracebacks, and `ctypes.util`, which loads every compressor and
runs ldconfig, to give threads names. attrs makes twenty classes of validators, of which one is used, and both load
`inspect` and `platform` for one question each. A build uses none of them for its event loop, or only where something
goes wrong; together they are half of what importing trio takes.

Invariants: trio's code is as it was installed; who uses a module that was kept away gets the module, or what answers
as it does; when the import is done, everybody else who imports one of them gets the module itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import CoroutineType, ModuleType
from typing import Any

_THREADS = "libc.so.6"
"""The library with pthread_setname_np(3); where it is another one, threads go without names."""


class _Later(ModuleType):
    """Takes the place of a module until something of it is used that isn't among ``at_once``."""

    def __init__(self, name: str, at_once: Mapping[str, Any]) -> None:
        super().__init__(name)
        self.__dict__.update(at_once)

    def __getattr__(self, name: str) -> Any:
        if name == "__path__":
            # asked by each ``from … import``
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


class _InstanceOf:
    """As the validator of attrs that has this name: that one raises the error."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def __call__(self, instance: object, attribute: object, value: object) -> None:
        if not isinstance(value, self._kind):
            import_module("attr.validators").instance_of(self._kind)(instance, attribute, value)


def _find_library(_name: str) -> str:
    return _THREADS


def _is_coroutine(thing: object) -> bool:
    return isinstance(thing, CoroutineType)


def _without_indent(text: str) -> str:
    """A documentation string without what its lines are indented by. PEP 257, as `inspect.cleandoc` has it."""
    first, *others = text.expandtabs().split("\n")
    margin = min((len(line) - len(line.lstrip()) for line in others if line.strip()), default=0)
    return "\n".join((first.lstrip(), *(line[margin:] for line in others))).strip("\n")


def _python_implementation() -> str:
    return "CPython" if sys.implementation.name == "cpython" else sys.implementation.name


_NOT_YET: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    **{name: {} for name in ("ssl", "idna", "hmac", "subprocess", "traceback", "unicodedata")},
    "inspect": {"iscoroutine": _is_coroutine, "cleandoc": _without_indent},
    "platform": {"python_implementation": _python_implementation},
    "attr.validators": {"instance_of": _InstanceOf},
    "attrs.validators": {},
}
"""What is kept away, with what takes the place of what is asked of it nevertheless."""


def import_trio() -> None:
    """``import trio`` takes no time any more."""
    if "trio" in sys.modules:
        return
    import ctypes  # noqa: TID251  (the place that trio looks at; nothing is called)

    libraries = ModuleType("ctypes.util")
    libraries.__dict__["find_library"] = _find_library
    later = [*(_Later(name, at_once) for name, at_once in _NOT_YET.items()), libraries]
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
