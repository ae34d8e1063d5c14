"""What RUN steps ask of the sandbox, as far as the options of a build say it. Pure."""

from __future__ import annotations

from builder.sandbox.spec import Network, parse_network


def sandbox_network(instruction: str, build: str) -> Network:
    """The network of a step; ``default`` of the instruction is the build's, whose default is the private one."""
    return parse_network(build if instruction == "default" else instruction)
