"""What the rules found in a Dockerfile, as the lines at the end of a build's progress."""

from __future__ import annotations

from collections.abc import Sequence

from builder.dockerfile.source import Finding


def summary_of(findings: Sequence[Finding]) -> list[str]:
    """The lines: how many there are and how to see more, then one for each; none when nothing was found."""
    if not findings:
        return []
    count = f"{len(findings)} warning{'s' if len(findings) > 1 else ''} found"
    return [f" {count} (pybuild check shows the places):", *(f" - {_line(finding)}" for finding in findings)]


def _line(finding: Finding) -> str:
    place = "" if finding.source is None else f" (line {finding.source.start})"
    return f"{finding.rule}: {finding.message}{place}"
