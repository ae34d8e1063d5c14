"""What a step used, in words; only steps that have run anything come here."""

from __future__ import annotations

from builder.events import Usage
from builder.progress.plain import format_bytes

_SECOND_NS = 1_000_000_000


def describe(usage: Usage) -> str:
    """All that was counted: ``0.10s cpu (0.07s user, 0.03s system), 12.30MB memory, 4 processes, 1.20MB read, …``.

    Memory and processes are the most there were at a time; bytes are those of disks, not of the kernel's cache.
    """
    parts: list[str] = []
    if usage.cpu_user_ns is not None and usage.cpu_system_ns is not None:
        user, system = usage.cpu_user_ns / _SECOND_NS, usage.cpu_system_ns / _SECOND_NS
        parts.append(f"{user + system:.2f}s cpu ({user:.2f}s user, {system:.2f}s system)")
    if usage.memory_peak_bytes is not None:
        parts.append(f"{format_bytes(usage.memory_peak_bytes)} memory")
    if usage.pids_peak is not None:
        parts.append(f"{usage.pids_peak} process{'' if usage.pids_peak == 1 else 'es'}")
    if usage.read_bytes is not None:
        parts.append(f"{format_bytes(usage.read_bytes)} read")
    if usage.written_bytes is not None:
        parts.append(f"{format_bytes(usage.written_bytes)} written")
    return ", ".join(parts)


def describe_briefly(usage: Usage) -> str:
    """Processor time and memory, as far as they were counted."""
    parts: list[str] = []
    if usage.cpu_user_ns is not None and usage.cpu_system_ns is not None:
        parts.append(f"{(usage.cpu_user_ns + usage.cpu_system_ns) / _SECOND_NS:.1f}s cpu")
    if usage.memory_peak_bytes is not None:
        parts.append(format_bytes(usage.memory_peak_bytes))
    return " ".join(parts)
