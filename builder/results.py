"""What a finished step leaves: the layers of its root filesystem. On the cached-build path."""

from __future__ import annotations

from layers.descriptor import Descriptor
from unionfs.namedtuple import NamedTuple


class LayerResult(NamedTuple):
    """One layer of a step's root.

    ``descriptor`` is that of the blob in the store; ``created`` the RFC 3339 time at which the layer was made, None
    for layers of a base, whose history stays as it is.
    """

    diff_id: str
    chain_id: str
    descriptor: Descriptor
    created: str | None = None


class StepResult(NamedTuple):
    """A finished step: ``key`` is its definition key, ``layers`` its root from the bottom to the top."""

    key: str
    layers: tuple[LayerResult, ...]

    @property
    def chain_id(self) -> str | None:
        """Chain id of the whole root, None for an empty one."""
        return self.layers[-1].chain_id if self.layers else None


EMPTY = StepResult("", ())
"""The result of no step: an empty root."""
