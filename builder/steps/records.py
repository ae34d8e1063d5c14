"""What the build cache remembers of a step that was run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from builder.assemble import format_time
from builder.graph import Step
from builder.results import StepResult
from builder.steps.keys import StepKeys
from cache.records import CacheRecord

if TYPE_CHECKING:
    from layers.packing import CommittedLayer


def record_of(
    step: Step, keys: StepKeys, layer: CommittedLayer, parent: StepResult, started_ns: int, identity: str
) -> CacheRecord:
    """The record of ``step``, whose layer on ``parent`` is ready now, under its definition key."""
    ended_ns = time.time_ns()
    return CacheRecord(
        key=keys.definition.digest,
        kind=keys.definition.domain,
        chain_id=layer.chain_id,
        parent_chain_id=parent.chain_id or "",
        diff_id=layer.diff_id,
        media_type=layer.descriptor.media_type,
        digest=layer.descriptor.digest,
        size_bytes=layer.descriptor.size,
        created=format_time(ended_ns),
        created_ns=ended_ns,
        duration_ns=ended_ns - started_ns,
        identity=identity,
        description=step.title,
        parts=keys.definition.parts,
    )
