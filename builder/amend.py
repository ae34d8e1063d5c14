"""A Dockerfile with what the command line puts into it: another base, variables.

Invariants: pure; the text stays as it was written, so that places of errors are those of the file.
Source: ``buildah build --from``, ``--env``.
"""

from __future__ import annotations

from collections.abc import Mapping

from builder.dockerfile.instructions import Dockerfile, Env, Origin, Pair, Stage


def amend(dockerfile: Dockerfile, base: str | None, environment: Mapping[str, str]) -> Dockerfile:
    """``dockerfile`` with ``base`` in its first FROM, unless that is None, and ``environment`` where stages begin."""
    stages = [_with_variables(stage, environment) if environment else stage for stage in dockerfile.stages]
    if base is not None:
        stages[0] = stages[0]._replace(start=stages[0].start._replace(base=base))
    return dockerfile._replace(stages=tuple(stages))


def _with_variables(stage: Stage, environment: Mapping[str, str]) -> Stage:
    pairs = tuple(Pair(name, _quoted(value)) for name, value in environment.items())
    text = f"ENV {' '.join(map(str, pairs))}"
    instruction = Env(Origin(stage.start.origin.source, text, "ENV"), pairs)
    return stage._replace(instructions=(instruction, *stage.instructions))


def _quoted(value: str) -> str:
    """``value`` as a word that expands to itself."""
    return "'" + value.replace("'", "'\"'\"'") + "'"
