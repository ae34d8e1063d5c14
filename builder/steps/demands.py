"""What RUN steps ask of the sandbox, as far as the options of a build say it. Pure."""

from __future__ import annotations

from builder.sandbox.spec import Network


def sandbox_network(instruction: str, build: str) -> Network:
    """The network of a step; ``default`` of the instruction is the build's, and the build's default is the host's."""
    wanted = build if instruction == "default" else instruction
    return "none" if wanted == "none" else "host"
