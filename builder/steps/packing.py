"""COPY without a branch: what it adds goes from where it lies into the layer's tar.

Invariant: the layer is the one that a branch would have given (``builder.draft``). Only root of the machine has it made
this way: what a plain user may not have in a branch (owners, devices) must not get into a layer either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from builder.draft import TooManyEntriesError
from builder.errors import ContextError
from builder.graph import Copy, StepId
from builder.lookup import Lookup
from builder.results import StepResult
from builder.session import Session
from builder.steps import copy
from layers.digest import ChainId
from layers.errors import PackError
from layers.packing import PackedLayer, pack_changes
from unionfs.namedtuple import NamedTuple
from unionfs.privileges import is_machine_root

if TYPE_CHECKING:
    from layers.registry.compress import Compressor


def is_packable(operation: Copy) -> bool:
    """Whether `pack` can do it."""
    return copy.is_draftable(operation) and is_machine_root()


class Drafted(NamedTuple):
    """The operation on ``parent``, whose directories are ``branches``; ``verify`` raises when its sources changed.

    ``compressor``: the layer is compressed at once.
    """

    operation: Copy
    parent: ChainId | None
    branches: Sequence[Path]
    verify: Callable[[], None]
    compressor: Compressor | None = None


def pack(
    drafted: Drafted,
    session: Session,
    lookup: Lookup,
    results: Mapping[StepId, StepResult],
    check: Callable[[], None],
) -> PackedLayer | None:
    """The layer that ``drafted`` adds to its parent; None: it is too large.

    Blocks its thread; ``check`` is called for every file and ends the work by raising. Raises as ``copy.apply``.
    """
    with lookup.open_source(drafted.operation, results) as tree:
        try:
            with copy.draft(drafted.operation, tree, drafted.branches, check=check) as layer:
                changes = layer.changes(check)
                packed = pack_changes(session.store, changes, drafted.parent, lookup.epoch, drafted.compressor)
        except TooManyEntriesError:
            return None
        except PackError as error:
            raise ContextError(f"{tree.title} changed while it was copied: {error}") from error
    try:
        drafted.verify()
    except BaseException:
        packed.discard()
        raise
    return packed
