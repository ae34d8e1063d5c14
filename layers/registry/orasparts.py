"""What of oras is built upon, imported without what it loads and nothing here asks for.

oras compares manifests with schemas in the calls that upload and fetch them, and packs directories with tarfile; those
are replaced here (`layers.registry.client`), yet loading the validator is a third of what a pull of a small image
takes. They come when something asks for them after all.

Invariant: for everybody else ``import jsonschema`` means what it always does.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_DEFERRED = ("jsonschema", "tarfile")


class _Deferred(ModuleType):
    """Stands for a module until the first use of what is in it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


def _load() -> tuple[Any, Any]:
    deferred = [name for name in _DEFERRED if name not in sys.modules]
    sys.modules.update((name, _Deferred(name)) for name in deferred)
    try:
        import oras.container
        import oras.provider
    finally:
        for name in deferred:
            del sys.modules[name]
    return oras.container.Container, oras.provider.Registry


Container, Registry = _load()
