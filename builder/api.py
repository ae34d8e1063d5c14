"""A build as a Python call: ``await build(options, …)``, or `build_or_reuse` where no event loop runs.

A build whose steps are all in the cache is finished synchronously, by `build_or_reuse`, without trio being imported;
anything else is taken up by `build`.

Invariants: events come in the order of `builder.events`; when a call returns or raises, its servers have ended; a name
is given to an image only when the image is whole in the store (`builder.building` says which need not be).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from builder.assemble import AssembledImage, assemble
from builder.bases import Base
from builder.context import BuildContext, open_context
from builder.contexts import Contexts, are_local, open_contexts
from builder.convert.arguments import EPOCH
from builder.convert.epoch import EpochSource, plan_epoch
from builder.convert.named import DIRECTORY
from builder.dockerfile.source import Source
from builder.events import Emit, Journal, Outcome
from builder.exporting import Exports, export_local, plan_exports
from builder.graph import Graph, Run, StepId
from builder.lookup import Lookup
from builder.options import BuildOptions
from builder.owners import give_all_to_root, has_one_owner
from builder.planning import Plan, find_local_bases, make_graph, read_plan
from builder.results import StepResult
from builder.rootless import become_root
from builder.session import Session
from builder.steps.keys import KeyInputs
from layers.digest import Digest

if TYPE_CHECKING:
    from pathlib import Path

    from builder.executor import StepReport


T = TypeVar("T")


class BuildResult(NamedTuple):
    """A finished build. ``names`` are the names given; ``pushed`` the digests of pushed manifests by name."""

    image_id: Digest
    manifest_digest: Digest
    names: tuple[str, ...]
    pushed: Mapping[str, str]
    steps: tuple[StepReport, ...]

    def metadata(self) -> dict[str, Any]:
        """What ``--metadata-file`` holds: buildx's keys, and what each step used.

        The digest is the one the registry has where the image was pushed, whose layers are compressed there.
        """
        steps = [
            {**step._asdict(), "usage": None if step.usage is None else step.usage._asdict()} for step in self.steps
        ]
        return {
            "containerimage.config.digest": str(self.image_id),
            "containerimage.digest": next(iter(self.pushed.values()), str(self.manifest_digest)),
            "image.name": ",".join(self.names),
            "pybuild.pushed": dict(self.pushed),
            "pybuild.steps": steps,
        }


class Preparation(NamedTuple):
    """A build up to the point where something must be run: ``known`` are the results that are there."""

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
        exports = plan_exports(options)
        plan = read_plan(options, stack.enter_context(opened_contexts(options, session, journal)), sources)
        asked = plan_epoch(plan.dockerfile, options.build_args, plan.platform, plan.contexts.named)
        if asked is not None:
            options = _run_until_signal(lambda: date_options(asked, plan, options, session, journal))
        journal.start(f"[internal] load build definition from {plan.dockerfile.source.name}").finish(Outcome.DONE)
        preparation = None
        known, missing = find_local_bases(plan, options, session.store)
        if not missing and not options.pull:
            with session.pins.looking():
                preparation = prepare(options, plan, exports, known, session)
                if preparation.is_complete and not exports.need_network and not options.cache_to:
                    tell_findings(preparation, journal)
                    _tell_cached(preparation, journal)
                    return finish(preparation, assembled(preparation, preparation.known), session, journal)
                pin_all(preparation, session)
            _start_servers(preparation, session)
        import trio

        from builder import building

        job = building.Job(options, plan, exports, session, journal, preparation)
        return trio.run(building.build_with_signals, job, tick)


@contextmanager
def opened_contexts(options: BuildOptions, session: Session, journal: Journal) -> Generator[Contexts]:
    """The contexts of ``options``, there until the block is left. On the main thread where they must be fetched.

    Raises:
        BuildError: one of them makes no sense, is not there, or cannot be had; Interrupted: a signal came meanwhile.
    """
    with fetched_directories(session) as make:
        if are_local(options):
            yield open_contexts(options, session.root, make)
            return
        become_root(options.isolation)
        yield _run_until_signal(lambda: fetch_contexts(options, session, journal, make))


@contextmanager
def fetched_directories(session: Session) -> Generator[Callable[[], Path]]:
    """A call that gives a new, empty directory each time; all of them are gone when the block is left."""
    with ExitStack() as stack:

        def make() -> Path:
            active = session.snapshotter.prepare("context", None)
            stack.callback(session.snapshotter.remove, active)
            return active.path

        yield make


async def fetch_contexts(
    options: BuildOptions, session: Session, journal: Journal, make: Callable[[], Path]
) -> Contexts:
    """The contexts of ``options``, those that must be fetched in directories of ``make``. Raises BuildError."""
    from builder import fetching

    if are_local(options):
        return open_contexts(options, session.root, make)
    return await _told(
        "[internal] load remote build context", journal, lambda: fetching.fetch_contexts(options, session.root, make)
    )


async def date_options(
    asked: EpochSource, plan: Plan, options: BuildOptions, session: Session, journal: Journal
) -> BuildOptions:
    """``options`` with the seconds of what SOURCE_DATE_EPOCH names. Raises FetchError."""
    from builder import fetching

    return await _told(
        f"[internal] resolve {EPOCH}",
        journal,
        lambda: fetching.date_options(asked, plan.contexts, options, session.root),
    )


async def _told(title: str, journal: Journal, work: Callable[[], Awaitable[T]]) -> T:
    """What ``work`` returns, told as a step."""
    step = journal.start(title)
    try:
        result = await work()
    except Exception as error:
        step.finish(Outcome.FAILED, str(error))
        raise
    except BaseException:
        step.finish(Outcome.CANCELLED)
        raise
    step.finish(Outcome.DONE)
    return result


def _run_until_signal(work: Callable[[], Awaitable[T]]) -> T:
    """What ``work`` returns, in an event loop of its own. Raises Interrupted."""
    import trio

    from builder.stopping import until_signal

    return trio.run(until_signal, work)


def pin_all(preparation: Preparation, session: Session) -> None:
    """What was found stays while the build runs. To be called where it was looked for (``Pins.looking``)."""
    session.pins.pin(result.chain_id for result in preparation.known.values() if result.chain_id is not None)


def prepare(
    options: BuildOptions, plan: Plan, exports: Exports, bases: Mapping[str, Base], session: Session
) -> Preparation:
    """The graph, and what of it is in the cache."""
    graph = make_graph(plan, bases, options)
    ignores_owners = options.ignore_chown_errors and has_one_owner()
    if ignores_owners:
        graph = give_all_to_root(graph)
    inputs = KeyInputs(
        platform=plan.platform,
        network=options.network,
        extra_hosts=options.extra_hosts,
        ulimits=tuple(map(str, options.limits.ulimits)),
        epoch=graph.source_date_epoch,
        context=open_context(plan.contexts.main, plan.path, confined=bool(plan.contexts.origin)),
        session=session,
        named=_open_named(plan.contexts),
        ignores_owners=ignores_owners,
    )
    lookup = Lookup(session, plan, inputs, bases)
    known = {} if options.no_cache else lookup.find_all(graph)
    return Preparation(options, plan, exports, bases, graph, lookup, known)


def _start_servers(preparation: Preparation, session: Session) -> None:
    """Where a RUN step is to be done, its servers get ready while the event loop is still being imported."""
    options = preparation.options
    for step in preparation.graph.steps:
        if isinstance(step.operation, Run) and step.id not in preparation.known:
            from builder.steps.demands import sandbox_network

            network = sandbox_network(step.operation.network, options.network)
            session.servers.start(network, options.limits)
            return


def _open_named(contexts: Contexts) -> dict[str, BuildContext]:
    """The contexts that are directories, each with its own ignore file."""
    return {
        name: open_context(context.value, title=f"the context {name!r}", confined=context.fetched)
        for name, context in contexts.named.items()
        if context.kind == DIRECTORY
    }


def tell_findings(preparation: Preparation, journal: Journal) -> None:
    """What the rules find in the Dockerfile is on its way to the user.

    Raises:
        DockerfileError: something was found, and the Dockerfile says that findings are errors.
    """
    from builder.checking import find_all

    plan, options = preparation.plan, preparation.options
    for finding in find_all(plan, options, preparation.bases, preparation.graph):
        journal.find(finding)


def _tell_cached(preparation: Preparation, journal: Journal) -> None:
    for step in preparation.graph.steps:
        journal.start(step.title).finish(Outcome.CACHED)


def assembled(preparation: Preparation, results: Mapping[StepId, StepResult]) -> AssembledImage:
    """The image that the results of all steps make."""
    image = assemble(preparation.graph, results, preparation.options.labels)
    if preparation.options.inline_cache:
        from builder.exchange import inline

        records = preparation.lookup.records(preparation.graph.final_chain, results)
        image = image._replace(manifest=inline(image.manifest, image.config.rootfs.diff_ids, records))
    return image


def finish(
    preparation: Preparation, image: AssembledImage, session: Session, journal: Journal, *, keep: bool = True
) -> BuildResult:
    """The image is in the store, has its names, and lies where ``-o`` says; without ``keep`` it is not kept."""
    step = journal.start("exporting to image")
    try:
        export_local(session, image, preparation.exports, step, keep=keep)
    except BaseException as error:
        step.finish(Outcome.FAILED, str(error))
        raise
    step.finish(Outcome.DONE)
    names = tuple(name.name for name in preparation.exports.names)
    return BuildResult(image.image_id, image.manifest.digest, names, {}, ())
