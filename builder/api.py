"""A build as a Python call: ``await build(options, …)``, or `build_or_reuse` where no event loop runs.

A build whose steps are all in the cache is finished synchronously, by `build_or_reuse`, without trio being imported;
anything else is taken up by `build`.

Invariants: events come in the order of `builder.events`; when a call returns or raises, its servers have ended; a name
is given to an image only when the image is whole in the store (`builder.building` says which need not be).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from builder.assemble import assemble, manifest_annotations
from builder.bases import Base
from builder.context import BuildContext, open_context
from builder.contexts import Contexts
from builder.convert.named import DIRECTORY
from builder.dockerfile.source import Source
from builder.events import Emit, Journal, Outcome, StepJournal
from builder.exporting import Exports, plan_exports
from builder.finished import NO_WORK, BuildResult, Work
from builder.graph import Graph, Run, StepId
from builder.lookup import Lookup
from builder.merging import label, merge, root_platforms
from builder.opening import date_options, find_time, opened_contexts, run_until_signal
from builder.options import BuildOptions
from builder.planning import Plan, find_local_bases, make_graph, read_plans
from builder.results import StepResult
from builder.rootless import become_root
from builder.session import Session
from builder.shipping import Built, Check, export_local, export_nowhere
from builder.steps.keys import KeyInputs
from layers.image import Image
from unionfs.namedtuple import NamedTuple

if TYPE_CHECKING:
    from layers.attestation import Predicate

__all__ = ["EXPORTING", "BuildResult", "Preparation", "build_or_reuse", "finish", "prepare"]


class Preparation(NamedTuple):
    """A build for one platform up to where something must be run: ``known`` are the results that are there."""

    options: BuildOptions
    plan: Plan
    exports: Exports
    bases: Mapping[str, Base]
    graph: Graph
    lookup: Lookup
    known: Mapping[StepId, StepResult]

    @property
    def is_complete(self) -> bool:
        """Whether every step has its result."""
        return len(self.known) == len(self.graph.steps)


def build_or_reuse(
    options: BuildOptions,
    *,
    root: str,
    emit: Emit,
    sources: dict[str, Source],
    tick: Callable[[], None] = lambda: None,
) -> BuildResult:
    """The image of ``options``, built as far as it is not in the cache of ``root``.

    ``sources`` gets the texts that an error's place refers to; ``tick`` is called ten times a second while steps run.
    Not to be called where an event loop runs.

    Raises:
        BuildError: the build failed; nothing was given a name.
    """
    become_root(options.isolation)
    journal = Journal(emit, time.monotonic_ns)
    with Session(root, journal.notice, options.isolation) as session, ExitStack() as stack:
        session.use_registries(options.registries)
        exports = plan_exports(options)
        plans = read_plans(options, stack.enter_context(opened_contexts(options, session, journal)), sources)
        plan = plans[0]
        asked = find_time(plan, options)
        if asked is not None:
            options = run_until_signal(lambda: date_options(asked, plan, options, session, journal))
        journal.start(f"[internal] load build definition from {plan.dockerfile.source.name}").finish(Outcome.DONE)
        preparations: tuple[Preparation, ...] = ()
        found = [find_local_bases(plan, options, session.store) for plan in plans]
        if not any(missing for _, missing in found) and options.pull in {"missing", "never"}:
            with session.pins.looking():
                preparations = prepare_all(options, plans, exports, [known for known, _ in found], session)
                if all(one.is_complete for one in preparations) and not exports.need_network and not options.cache_to:
                    tell_findings(preparations, journal)
                    whole = merge([one.graph for one in preparations])
                    for step in whole.graph.steps:
                        journal.start(step.title).finish(Outcome.CACHED)
                    return _finish_cached(preparations, session, journal)
                pin_all(preparations, session)
            _start_servers(preparations, session)
        from builder.eventloop import import_trio

        import_trio()
        import trio

        from builder import building

        job = building.Job(options, plans, exports, session, journal, preparations)
        return trio.run(building.build_with_signals, job, tick)


def pin_all(preparations: Sequence[Preparation], session: Session) -> None:
    """What was found stays while the build runs. To be called where it was looked for (``Pins.looking``)."""
    results = (result for one in preparations for result in one.known.values())
    session.pins.pin(result.chain_id for result in results if result.chain_id is not None)


def prepare_all(
    options: BuildOptions,
    plans: Sequence[Plan],
    exports: Exports,
    bases: Sequence[Mapping[str, Base]],
    session: Session,
) -> tuple[Preparation, ...]:
    """The graphs of all platforms, whose steps say theirs when there are several."""
    labelled = len(plans) > 1
    return tuple(
        prepare(options, plan, exports, known, session, labelled=labelled)
        for plan, known in zip(plans, bases, strict=True)
    )


def prepare(
    options: BuildOptions,
    plan: Plan,
    exports: Exports,
    bases: Mapping[str, Base],
    session: Session,
    *,
    labelled: bool = False,
) -> Preparation:
    """The graph for one platform, and what of it is in the cache."""
    graph = make_graph(plan, bases, options)
    ignores_owners = False
    if options.ignore_chown_errors:
        from builder.owners import give_all_to_root, has_one_owner

        ignores_owners = has_one_owner()
        graph = give_all_to_root(graph) if ignores_owners else graph
    platforms = root_platforms(graph, plan.platform)
    if labelled:
        graph = label(graph, platforms)
    inputs = KeyInputs(
        platform=plan.platform,
        network=options.network,
        extra_hosts=options.extra_hosts,
        ulimits=tuple(map(str, options.limits.ulimits)),
        capabilities=(*_signed("+", options.cap_add), *_signed("-", options.cap_drop)),
        epoch=graph.source_date_epoch,
        context=open_context(plan.contexts.main, plan.path, confined=bool(plan.contexts.origin)),
        session=session,
        named=_open_named(plan.contexts),
        ignores_owners=ignores_owners,
    )
    lookup = Lookup(session, plan, inputs, bases, platforms)
    known = {} if options.no_cache else lookup.find_all(graph)
    return Preparation(options, plan, exports, bases, graph, lookup, known)


def _signed(sign: str, names: Iterable[str]) -> list[str]:
    return [sign + name for name in sorted(set(names))]


def _start_servers(preparations: Sequence[Preparation], session: Session) -> None:
    """Where a RUN step is to be done, its servers get ready while the event loop is still being imported."""
    options = preparations[0].options
    networks = [
        step.operation.network
        for one in preparations
        for step in one.graph.steps
        if isinstance(step.operation, Run) and step.id not in one.known
    ]
    if networks:
        from builder.steps.demands import sandbox_network

        session.servers.start(sandbox_network(networks[0], options.network), options.limits, len(networks))


def _open_named(contexts: Contexts) -> dict[str, BuildContext]:
    """The contexts that are directories, each with its own ignore file."""
    return {
        name: open_context(context.value, title=f"the context {name!r}", confined=context.fetched)
        for name, context in contexts.named.items()
        if context.kind == DIRECTORY
    }


def tell_findings(preparations: Sequence[Preparation], journal: Journal) -> None:
    """What the rules find in the Dockerfile is on its way to the user, each finding once.

    Raises:
        DockerfileError: something was found, and the Dockerfile says that findings are errors.
    """
    from builder.checking import find_all

    found = (find_all(one.plan, one.options, one.bases, one.graph) for one in preparations)
    for finding in dict.fromkeys(finding for findings in found for finding in findings):
        journal.find(finding)


def _finish_cached(preparations: Sequence[Preparation], session: Session, journal: Journal) -> BuildResult:
    """As `finish`, of a build whose steps are all in the cache."""
    step = journal.start(EXPORTING)
    try:
        images = assemble_all(preparations, [one.known for one in preparations])
        result = finish(preparations, images, session, step)
        record(preparations, images, [one.known for one in preparations], session)
    except BaseException as error:
        step.finish(Outcome.FAILED, str(error))
        raise
    step.finish(Outcome.DONE)
    return result


EXPORTING = "exporting to image"


def assemble_all(
    preparations: Sequence[Preparation], results: Sequence[Mapping[StepId, StepResult]]
) -> tuple[Image, ...]:
    """The images that the results of each graph make."""
    return tuple(_assemble(preparation, own) for preparation, own in zip(preparations, results, strict=True))


def finish(
    preparations: Sequence[Preparation],
    images: Sequence[Image],
    session: Session,
    step: StepJournal,
    *,
    work: Work = NO_WORK,
    check: Check = None,
    keep: bool = True,
) -> BuildResult:
    """The image is in the store, has its names, and lies where ``-o`` says; what is to be pushed is ready for that.

    ``check`` may raise to stop; without ``keep`` the image is not kept. Blocks where layers are to be compressed.
    """
    exports = preparations[0].exports
    said: list[tuple[Predicate, ...]] = [() for _ in images]
    if exports.attestations:
        from builder.attesting import make_predicates

        pairs = zip(preparations, images, strict=True)
        said = [make_predicates(one, image, work, session, step) for one, image in pairs]
    platforms = tuple(one.plan.platform for one in preparations)
    built = Built(platforms, tuple(images), tuple(said))
    exported = (
        export_local(session, built, exports, step, check) if keep else export_nowhere(session, built, exports, step)
    )
    predicates = {str(platform): each for platform, each in zip(platforms, said, strict=True)}
    return BuildResult(exported, {}, work, predicates)


def record(
    preparations: Sequence[Preparation],
    images: Sequence[Image],
    results: Sequence[Mapping[StepId, StepResult]],
    session: Session,
) -> None:
    """Somebody can walk into the steps of the images later; one that was recorded before is left alone."""
    for one, image, own in zip(preparations, images, results, strict=True):
        last = one.graph.final
        if last is None or os.path.exists(f"{session.root}/builds/{image.id.hex}.json"):
            continue
        from builder.buildrecord import begin_of, make_record, path_of, write_record

        made = make_record(one.plan.dockerfile.source.name, one.graph, own, last, begin_of(one.graph.config))
        write_record(path_of(session.root, image.id), made.to_json())


def _assemble(preparation: Preparation, results: Mapping[StepId, StepResult]) -> Image:
    """The image of one platform, as a value."""
    options = preparation.options
    own = manifest_annotations(options.annotations, preparation.plan.platform)
    image = assemble(preparation.graph, results, options.labels, own)
    if options.inline_cache:
        from builder.exchange import inline

        records = preparation.lookup.records(preparation.graph.final_chain, results)
        image = image._replace(manifest=inline(image.manifest, image.config.rootfs.diff_ids, records))
    return image
