"""What of oras is built upon, imported without the validator of JSON schemas that it loads.

oras compares manifests with schemas in the calls that upload and fetch them; those are replaced here (`layers.registry.
client`), yet loading the validator is a third of what a pull of a small image takes. It comes when something asks for
it after all.

Invariant: for everybody else ``import jsonschema`` means what it always does.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_VALIDATOR = "jsonschema"


class _Deferred(ModuleType):
    """Stands for a module until the first use of what is in it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


def _load() -> tuple[Any, Any]:
    deferred = _VALIDATOR not in sys.modules
    if deferred:
        sys.modules[_VALIDATOR] = _Deferred(_VALIDATOR)
    try:
        import oras.container
        import oras.provider
    finally:
        if deferred:
            del sys.modules[_VALIDATOR]
    return oras.container.Container, oras.provider.Registry


Container, Registry = _load()
