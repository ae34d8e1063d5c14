"""Checks of a Dockerfile before a build and instead of one: the rules of `builder.lint` on what the options name.

Invariants: nothing is written and no registry is asked; what a base image has to say is known when the store has it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from builder.bases import Base
from builder.context import open_context
from builder.contexts import are_local, open_contexts
from builder.dockerfile.parser import parse
from builder.dockerfile.source import Finding, Source
from builder.errors import BuildError, DockerfileError
from builder.graph import Graph
from builder.lint import RULES, Settings, check, parse_settings, settings_of
from builder.options import BuildOptions
from builder.planning import Plan, read_plan
from layers.store import Store

if TYPE_CHECKING:
    from pathlib import Path

_ARGUMENT = "BUILDKIT_DOCKERFILE_CHECK"


def check_dockerfile(
    options: BuildOptions, *, root: str, sources: dict[str, Source]
) -> tuple[Plan, tuple[Finding, ...]]:
    """The Dockerfile of ``options`` and what the rules find in it, in order of lines; nothing is built.

    ``root`` is where images live; ``sources`` gets the text that places refer to.

    Raises:
        BuildError: there is no Dockerfile, it is none, or a stage cannot be built (`builder.rehearsal`).
    """
    with ExitStack() as stack:

        def make() -> Path:
            import tempfile
            from pathlib import Path

            return Path(stack.enter_context(tempfile.TemporaryDirectory()))

        if are_local(options):
            contexts = open_contexts(options, "", make)
        else:
            import trio

            from builder import fetching, stopping

            place = str(make())
            contexts = trio.run(stopping.until_signal, lambda: fetching.fetch_contexts(options, place, make))
        return _check(read_plan(options, contexts, sources), options, root)


def _check(plan: Plan, options: BuildOptions, root: str) -> tuple[Plan, tuple[Finding, ...]]:
    from builder.rehearsal import rehearse

    if os.path.isdir(root):
        with Store(root) as store:
            bases = rehearse(plan, options, store)
    else:
        bases = rehearse(plan, options, None)
    return plan, find_warnings(plan, options, bases)


def find_warnings(
    plan: Plan, options: BuildOptions, bases: Mapping[str, Base], stages: Collection[int] | None = None
) -> tuple[Finding, ...]:
    """What the rules find in ``plan``; ``bases`` are those that are known, ``stages`` those that are built."""
    return check(
        plan.dockerfile,
        bases={base.ref.reference: base.image for base in bases.values()},
        build_args=options.build_args,
        platform=plan.platform,
        settings=find_settings(plan, options),
        stages=stages,
        ignore=open_context(plan.contexts.main, plan.path, confined=bool(plan.contexts.origin)).matcher,
    )


def find_all(plan: Plan, options: BuildOptions, bases: Mapping[str, Base], graph: Graph) -> tuple[Finding, ...]:
    """As `find_warnings` of the stages in ``graph``, and what reading and converting the file brought up beside rules.

    Raises:
        DockerfileError: something was found, and the Dockerfile says that findings are errors.
    """
    found = find_warnings(plan, options, bases, graph.stages)
    if found and find_settings(plan, options).error:
        rules = ", ".join(sorted({finding.rule for finding in found}))
        message = f"check=error=true, and the Dockerfile breaks {rules}: {found[0].message}"
        raise DockerfileError(message, source=found[0].source, hints=("pybuild check lists every place",))
    return (*found, *(finding for finding in graph.warnings if finding.rule not in RULES))


def find_settings(plan: Plan, options: BuildOptions) -> Settings:
    """Which rules count: the build argument ``BUILDKIT_DOCKERFILE_CHECK`` replaces what the file says of itself.

    Raises DockerfileError: either is malformed.
    """
    given = options.build_args.get(_ARGUMENT)
    return settings_of(plan.dockerfile) if given is None else parse_settings(given)


def findings_before(error: BuildError, source: Source) -> tuple[Finding, ...]:
    """What the rules find in ``source`` above the line that ``error`` is about, as far as that can be read."""
    if error.source is None or error.source.file != source.name:
        return ()
    text = "\n".join(source.text.split("\n")[: error.source.start - 1])
    try:
        return check(parse(text, source.name))
    except BuildError:
        return ()


def describe_rule(rule: str) -> str:
    """What ``rule`` asks for, empty when it is none of the rules."""
    return RULES.get(rule, "")
