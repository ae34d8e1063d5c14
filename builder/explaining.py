"""What a build would find in the cache, and why it would not find the rest; nothing is run, fetched or remembered.

Invariants: only what is on this machine is looked at; of a step that stands on one that is to be run nothing is said,
since its key is not known before.
"""

from __future__ import annotations

from typing import NoReturn

from builder.api import Preparation, prepare
from builder.contexts import are_local, open_contexts
from builder.dockerfile.source import Source
from builder.errors import BuildError, UsageError
from builder.exporting import plan_exports
from builder.graph import Copy, Pull, Step
from builder.lookup import explain_miss
from builder.options import BuildOptions
from builder.planning import find_local_bases, read_plan
from builder.session import Session
from unionfs.namedtuple import NamedTuple

HIT, MISS, UNKNOWN = "hit", "miss", "unknown"


class Explanation(NamedTuple):
    """``state`` is HIT, MISS or UNKNOWN; ``reason`` says why it is not a hit."""

    step: str
    state: str
    reason: str = ""


def explain(options: BuildOptions, session: Session, sources: dict[str, Source]) -> list[Explanation]:
    """What the cache holds for each step of the build, in the order of the Dockerfile.

    Raises:
        UsageError: a context is not on this machine.
        BuildError: the Dockerfile or a source of COPY is wrong, a base is not in the store.
    """
    if not are_local(options):
        _refuse()
    plan = read_plan(options, open_contexts(options, session.root, _refuse), sources)
    bases, missing = find_local_bases(plan, options, session.store)
    if missing:
        names = ", ".join(ref.reference for ref in missing)
        raise BuildError(f"base image {names} is not in the store", hints=("pybuild pull fetches it",))
    with session.pins.looking():
        preparation = prepare(options, plan, plan_exports(options), bases, session)
        return [_explain(step, preparation) for step in preparation.graph.steps]


def _explain(step: Step, preparation: Preparation) -> Explanation:
    graph, lookup, known = preparation.graph, preparation.lookup, preparation.known
    if step.id in known:
        return Explanation(step.title, HIT)
    for needed in (step.base, *step.inputs):
        if needed is not None and needed not in known:
            return Explanation(step.title, UNKNOWN, f"it needs {graph.steps[needed].title}")
    if isinstance(step.operation, Pull):
        return Explanation(step.title, MISS, "layers of the base are not here")
    if step.id in graph.anew:
        return Explanation(step.title, MISS, "--no-cache-filter")
    if isinstance(step.operation, Copy) and step.operation.is_remote:
        return Explanation(step.title, UNKNOWN, "its source must be asked for")
    return Explanation(step.title, MISS, explain_miss(lookup.explain(step, lookup.keys(step, known))))


def _refuse() -> NoReturn:
    raise UsageError("only a build whose contexts are directories can be explained")
