"""How a RUN step that failed is told: what ended it, and what may help. Pure.

Invariants: running out of memory, of processes or of disk is what the kernel or the disk says, never guessed from a
status.
"""

from __future__ import annotations

from collections.abc import Sequence

from builder.errors import ROOM_HINTS, StepFailed
from builder.events import Usage
from builder.graph import Run, Step
from builder.limits import Limits
from builder.sandbox.isolation import NO_NAMESPACES, hint_on_namespaces
from builder.sandbox.spec import Oom, SandboxResult

_MIB = 1 << 20
_ABSENT = ("/proc", "proc fs", "/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/pts", "openpt")


def usage_of(result: SandboxResult) -> Usage:
    """What the step used, as events tell it."""
    return Usage(
        result.cpu_user_ns,
        result.cpu_system_ns,
        result.memory_peak_bytes,
        result.pids_peak,
        result.read_bytes,
        result.written_bytes,
    )


def describe_oom(oom: Oom) -> str:
    """``out of memory at the limit of 64 MiB (peak 64 MiB)``."""
    limit = f"at the limit of {oom.limit_bytes / _MIB:.0f} MiB" if oom.limit_bytes else "of the whole machine"
    return f"out of memory {limit} (peak {oom.peak_bytes / _MIB:.0f} MiB)"


def describe_failure(
    step: Step, operation: Run, result: SandboxResult, output: tuple[str, ...], limits: Limits, *, disk_is_full: bool
) -> StepFailed:
    """The error of a step whose sandbox gave ``result``; ``output`` are its last lines."""
    hints = ROOM_HINTS if disk_is_full else ()
    if result.pids_refused and limits.pids is not None:
        hints = (*hints, f"it met the limit of {limits.pids} processes (--pids-limit) {result.pids_refused} times")
    return StepFailed(
        f"process {operation.shell_text!r} {_describe(result)}",
        status=result.status or 1,
        source=step.source,
        hints=hints,
        output=output,
        used=usage_of(result),
    )


def hint_on_absence(output: Sequence[str]) -> tuple[str, ...]:
    """What may help a step that ran without /proc, where its last lines speak of that."""
    if not any(word in line for line in output for word in _ABSENT):
        return ()
    return (f"steps have no /proc at isolation {NO_NAMESPACES}: {hint_on_namespaces(in_container=True)}",)


def _describe(result: SandboxResult) -> str:
    if result.oom is not None:
        return f"did not complete: {describe_oom(result.oom)}"
    if result.error is not None:
        return f"could not be run: {result.error}"
    if result.signal is not None:
        return f"was killed by signal {result.signal}"
    return f"did not complete successfully: exit code: {result.status}"
