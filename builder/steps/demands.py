"""What RUN steps ask of the sandbox, as far as the options of a build say it. Pure."""

from __future__ import annotations

from builder.options import StepLimits
from builder.sandbox.spec import Limits, Network


def sandbox_network(instruction: str, build: str) -> Network:
    """The network of a step; ``default`` of the instruction is the build's, and the build's default is the host's."""
    wanted = build if instruction == "default" else instruction
    return "none" if wanted == "none" else "host"


def sandbox_limits(limits: StepLimits) -> Limits:
    """``limits`` as the sandbox takes them."""
    return Limits(
        memory_bytes=limits.memory_bytes,
        memory_swap_bytes=limits.memory_swap_bytes,
        cpus=limits.cpus,
        cpu_shares=limits.cpu_shares,
        pids=limits.pids,
        shm_bytes=limits.shm_bytes,
    )
