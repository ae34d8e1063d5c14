"""The asynchronous part of a build: bases from registries, steps in sandboxes, pushes.

What a cache elsewhere promised and does not hold comes to light when a layer is needed, which may be after the last
step: the build then begins again without that cache, and finds what it has done.  Invariants: a build that is cancelled
has undone what it began; only an image that is pushed may be finished without its layers being here.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import trio

from builder import api, opening
from builder.absent import AbsentLayers
from builder.ahead import Ahead
from builder.bases import Base, find_in_layout, find_in_store, hints_about
from builder.blocking import call_blocking
from builder.dockerfile.source import Source
from builder.errors import BaseImageError, BuildError, Interrupted, LostLayerError, StepFailed
from builder.events import Emit, Event, Journal, Outcome
from builder.executor import Executor, Failure
from builder.exporting import Exports, plan_exports
from builder.finished import BuildResult, Work
from builder.graph import BaseRef, Graph, Pull, Run, Step, StepId
from builder.merging import merge
from builder.options import BuildOptions
from builder.owners import has_one_owner
from builder.planning import Plan, find_local_bases, needed_bases, read_plans
from builder.results import StepResult
from builder.sandbox.client import SandboxError
from builder.sandbox.isolation import AUTO, NO_NAMESPACES
from builder.sandbox.spec import HOSTNAME
from builder.schedule import Finished, required_steps, run_graph
from builder.session import Session
from builder.steps.roots import KnownUsers
from builder.steps.run import Environment, make_scaffold
from builder.stopping import until_signal
from layers.image import Image
from unionfs.namedtuple import NamedTuple

if TYPE_CHECKING:
    from builder.exchange import RemoteCache
    from layers.registry.compress import Compressor

_LEAST_JOBS = 4
"""Steps mostly wait for programs and disks, so a few run at a time on a small machine as well."""


class Job(NamedTuple):
    """A build as far as it came without an event loop; ``preparations`` are there when no registry was needed for them.

    ``plans`` are those of each platform.
    """

    options: BuildOptions
    plans: tuple[Plan, ...]
    exports: Exports
    session: Session
    journal: Journal
    preparations: tuple[api.Preparation, ...] = ()


Caches: TypeAlias = "Sequence[Sequence[RemoteCache]]"
"""The caches elsewhere of each platform."""


async def build(options: BuildOptions, *, root: str, emit: Emit, sources: dict[str, Source]) -> BuildResult:
    """The image of ``options``; as `builder.api.build_or_reuse`, inside an event loop of trio."""
    journal = Journal(emit, time.monotonic_ns)
    with Session(root, journal.notice, options.isolation) as session:
        session.use_registries(options.registries)
        exports = plan_exports(options)
        directories = opening.fetched_directories(session)
        make = directories.__enter__()
        try:
            contexts = await opening.fetch_contexts(options, session, journal, make)
            plans = read_plans(options, contexts, sources)
            plan = plans[0]
            asked = opening.find_time(plan, options)
            if asked is not None:
                options = await opening.date_options(asked, plan, options, session, journal)
            return await build_job(Job(options, plans, exports, session, journal))
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(directories.__exit__, None, None, None)


async def build_with_signals(job: Job, tick: Callable[[], None]) -> BuildResult:
    """As `build_job`, for a program: ``tick`` is called ten times a second, and signals end the build.

    Raises:
        Interrupted: SIGINT or SIGTERM came.
    """
    return await until_signal(lambda: build_job(job), tick)


async def build_job(job: Job) -> BuildResult:
    """The image of ``job``, in the store, exported and pushed.

    Raises:
        BuildError: the build failed.
    """
    options, session, journal = job.options, job.session, job.journal
    await trio.to_thread.run_sync(_sweep, session)
    preparations = job.preparations or await _prepare(job)
    api.tell_findings(preparations, journal)
    if options.ignore_chown_errors and has_one_owner():
        journal.notice("all files are root's, whoever they are given to: nobody else exists here")
    caches: Caches = [() for _ in preparations]
    if options.cache_from:
        from builder.exchanging import open_caches

        caches = [await open_caches(options, one.plan.platform, session, journal) for one in preparations]
    while True:
        try:
            return await _build(job, preparations, caches)
        except LostLayerError as error:
            journal.notice(f"cache {error.place!r} is not used any more: {error.reason}")
            caches = [[cache for cache in own if cache.name != error.place] for own in caches]
            await trio.to_thread.run_sync(session.servers.close)
            preparations = await _prepare_with(job, [one.bases for one in preparations])


async def _build(job: Job, preparations: Sequence[api.Preparation], caches: Caches) -> BuildResult:
    """As `build_job`. Raises LostLayerError: one of ``caches`` does not hold what it promised."""
    session, journal = job.session, job.journal
    absent = session.absent = AbsentLayers(session.store, lambda records: session.cache.add(*records))
    results, work = await _run(job, preparations, caches, absent)
    session.end_servers()
    images = await trio.to_thread.run_sync(api.assemble_all, preparations, results)
    keep = await _bring(job, images, absent)
    result = await _finish(job, preparations, images, work, keep=keep)
    if keep:
        await trio.to_thread.run_sync(api.record, preparations, images, results, session)
    if result.exported.pushes:
        from builder.pushing import push_all

        result = result._replace(pushed=await push_all(session, result.exported.pushes, journal))
    if job.options.cache_to:
        from builder.exchanging import export_caches

        await export_caches(preparations, results, session, journal)
    return result


async def _run(
    job: Job, preparations: Sequence[api.Preparation], caches: Caches, absent: AbsentLayers
) -> tuple[list[dict[StepId, StepResult]], Work]:
    """The results of all steps, by the numbers of each graph, and what running them told."""
    whole = merge([one.graph for one in preparations])
    environment = _environment(job)
    executors = [_executor(job, one, own, absent, environment) for one, own in zip(preparations, caches, strict=True)]

    def place_of(step: Step) -> tuple[Executor, Step, int]:
        graph, number = whole.places[step.id]
        return executors[graph], preparations[graph].graph.steps[number], graph

    async def execute(step: Step, results: Mapping[StepId, StepResult]) -> Finished:
        executor, own, graph = place_of(step)
        finished = await executor.execute(own, whole.own(graph, results))
        to_run.discard(step.id)
        if not to_run:
            # their end, and that of the network, takes longer than what the build has still to do
            job.session.end_servers()
        return finished

    known = whole.gather([await trio.to_thread.run_sync(_ready, one, job.session) for one in preparations])
    for step_id in known:
        executor, step, _ = place_of(whole.graph.steps[step_id])
        executor.tell_cached(step)
    to_run = {step.id for step in whole.graph.steps if isinstance(step.operation, Run) and step.id not in known}
    if to_run:
        await _tell_isolation(job.session, job.options, job.journal)
    jobs = job.options.jobs or max(_LEAST_JOBS, os.cpu_count() or 1)
    try:
        results = await run_graph(whole.graph, known, execute, jobs=jobs)
    except BaseException as error:
        with trio.CancelScope(shield=True):
            for executor, one in zip(executors, preparations, strict=True):
                await trio.to_thread.run_sync(executor.give_up)
                await trio.to_thread.run_sync(_note_failure, one, executor.failure, error)
        raise
    work = Work(
        tuple(report for one in executors for report in one.reports),
        tuple(material for one in executors for material in one.materials),
    )
    return [whole.own(graph, results) for graph in range(len(preparations))], work


def _executor(
    job: Job, one: api.Preparation, caches: Sequence[RemoteCache], absent: AbsentLayers, environment: Environment
) -> Executor:
    """What executes the steps of ``one``, which may be had from ``caches``."""
    graph, options = one.graph, job.options
    elsewhere = None
    if caches:
        from builder.elsewhere import RemoteCaches

        elsewhere = RemoteCaches(caches, job.session, absent, job.journal)
    one.lookup.elsewhere = elsewhere.has if elsewhere is not None else None
    # one at a time means one; what may be had elsewhere is not begun
    may_begin = graph.steps if options.jobs != 1 and not caches else ()
    anew = frozenset(step.id for step in graph.steps) if options.no_cache else graph.anew
    return Executor(
        job.session,
        one.lookup,
        job.journal,
        environment,
        options,
        graph.anew,
        elsewhere,
        frozenset() if job.exports.need_root else graph.leaves,
        _compressors(job.exports, graph),
        ahead=Ahead(job.session, one.lookup, environment, may_begin, anew),
    )


def _compressors(exports: Exports, graph: Graph) -> dict[StepId, Compressor]:
    """For each step whose layer is known to leave compressed, how: it is then read once (docs/adr/0034)."""
    form = exports.leaving
    if form is None:
        return {}
    # most images stay here
    from layers.registry.compress import choose

    compressor = choose(form.compression, form.level)
    return {} if compressor is None else {step.id: compressor for step in graph.final_chain}


async def _finish(
    job: Job, preparations: Sequence[api.Preparation], images: Sequence[Image], work: Work, *, keep: bool
) -> BuildResult:
    """As `api.finish`, in a thread: layers may have to be compressed."""
    token = trio.lowlevel.current_trio_token()
    step = job.journal.start(api.EXPORTING)

    def relay(emit: Emit, event: Event) -> None:
        token.run_sync_soon(emit, event)

    relayed = step.relayed(relay)

    def finish(cancel: threading.Event) -> BuildResult:
        def check() -> None:
            if cancel.is_set():
                raise Interrupted

        return api.finish(preparations, images, job.session, relayed, work=work, check=check, keep=keep)

    try:
        result = await call_blocking(finish, threading.Event())
        # what the thread has told is shown before the step ends
        await trio.lowlevel.checkpoint()
    except trio.Cancelled:
        step.finish(Outcome.CANCELLED)
        raise
    except BaseException as error:
        step.finish(Outcome.FAILED, str(error))
        raise
    step.finish(Outcome.DONE)
    return result


def _note_failure(preparation: api.Preparation, failure: Failure | None, error: BaseException) -> None:
    """The step that ended the build can be walked into, and the error says how; what ended otherwise keeps nothing."""
    if failure is None:
        return
    from builder import failedsteps
    from builder.buildrecord import begin_of, make_record

    if not isinstance(error, StepFailed) or error.kept:
        failedsteps.drop(failure.kept)
        return
    name, graph = preparation.plan.dockerfile.source.name, preparation.graph
    record = make_record(name, graph, failure.results, failure.step, begin_of(graph.config))
    failedsteps.finish(failure.kept, record)
    error.kept = str(failure.kept.path)


def _ready(preparation: api.Preparation, session: Session) -> dict[StepId, StepResult]:
    """The known results that leave nothing to do: a base that a step will run on is unpacked as a step of its own."""
    known, steps = preparation.known, preparation.graph.steps
    read = {needed for step in steps if step.id not in known for needed in required_steps(step)}
    return {
        step_id: result
        for step_id, result in known.items()
        if step_id not in read or not isinstance(steps[step_id].operation, Pull) or session.is_unpacked(result.layers)
    }


def _environment(job: Job) -> Environment:
    options, session = job.options, job.session
    runtime = None
    if options.runtime is not None:
        from builder.runtimes import find_runtime

        runtime = find_runtime(options.runtime)
    return Environment(
        servers=session.servers,
        scaffold=make_scaffold(Path(session.root) / "scaffold"),
        limits=options.limits,
        network=options.network,
        extra_hosts=options.extra_hosts,
        dns=options.dns,
        notice=job.journal.notice,
        noticed=set(),
        users=KnownUsers(),
        allowed=options.allowed,
        cap_add=options.cap_add,
        cap_drop=options.cap_drop,
        cgroup_parent=options.cgroup_parent,
        hostname=options.hostname or HOSTNAME,
        runtime=runtime,
        ignores_owners=options.ignore_chown_errors and has_one_owner(),
    )


async def _bring(job: Job, images: Sequence[Image], absent: AbsentLayers) -> bool:
    """Whether the images can be kept in the store: their layers are here, fetched as far as that was needed.

    What is only pushed is not kept where that would take fetching layers.
    """
    layers = absent.missing(layer for image in images for layer in image.manifest.layers)
    if layers and len(images) == 1 and job.exports.are_on_the_way and not job.options.load:
        return False
    await call_blocking(lambda cancel: absent.fetch(layers, cancel), threading.Event())
    return True


async def _tell_isolation(session: Session, options: BuildOptions, journal: Journal) -> None:
    """How strongly steps are shut in is told before the first one begins.

    Raises:
        SandboxError: the level that was asked for can't be had. Without one asked for, the steps may all be found in
            a cache elsewhere; one that is not tells why it can't be run.
    """
    try:
        level = await trio.to_thread.run_sync(lambda: session.servers.sandbox.level)
        lack = await trio.to_thread.run_sync(session.servers.lacks_fuse)
    except SandboxError:
        if options.isolation != AUTO:
            raise
    else:
        journal.start(f"[internal] isolation of steps: {level}").finish(Outcome.DONE)
        if level == NO_NAMESPACES:
            journal.notice(
                f"isolation {level} is the weakest: steps have a root of their own and no /proc, and share the "
                "processes and the network of this container (docs/sandbox.md, Levels)"
            )
        if lack:
            journal.notice(f"{lack}: each RUN works on a copy of its files, which takes longer")


def _sweep(session: Session) -> None:
    """What killed builds left in the store is gone."""
    session.snapshotter.sweep()
    session.store.sweep()


async def _prepare(job: Job) -> tuple[api.Preparation, ...]:
    bases = [await _find_bases(plan, job.options, job.session, job.journal) for plan in job.plans]
    return await _prepare_with(job, bases)


async def _prepare_with(job: Job, bases: Sequence[Mapping[str, Base]]) -> tuple[api.Preparation, ...]:
    def prepare() -> tuple[api.Preparation, ...]:
        with job.session.pins.looking():
            preparations = api.prepare_all(job.options, job.plans, job.exports, bases, job.session)
            api.pin_all(preparations, job.session)
        return preparations

    return await trio.to_thread.run_sync(prepare)


async def _find_bases(plan: Plan, options: BuildOptions, session: Session, journal: Journal) -> dict[str, Base]:
    """All bases by key, from the store or, for what it lacks, from registries.

    Raises:
        BaseImageError: one is not to be had.
    """
    known: dict[str, Base] = {}
    if options.pull in {"missing", "never"}:
        known, missing = await trio.to_thread.run_sync(find_local_bases, plan, options, session.store)
        if missing and options.pull == "never":
            ref = missing[0]
            hints = (*hints_about(ref, session.store), *_NEVER)
            raise BaseImageError(f"base image {ref.reference!r} is not in the store", source=ref.source, hints=hints)
    while refs := needed_bases(plan, known, options):
        for ref in refs:
            known[ref.key] = await _resolve(ref, session, journal, or_stored=options.pull == "newer")
    return known


_NEVER = ("--pull=never asks no registry",)


async def _resolve(ref: BaseRef, session: Session, journal: Journal, *, or_stored: bool) -> Base:
    """The base as its registry has it now, or with ``or_stored`` the one in the store where that cannot be had."""
    step = journal.start(f"[internal] load metadata for {ref.canonical}")
    try:
        base = await trio.to_thread.run_sync(find_in_layout, ref, session.store)
        if base is None:
            from builder.steps import pull

            base = await pull.resolve(ref, session.registries)
    except BuildError as error:
        stored = find_in_store(ref, session.store) if or_stored else None
        if stored is not None:
            journal.notice(f"{ref.reference} is taken from the store: {error.message}")
            step.finish(Outcome.DONE)
            return stored
        error.hints = (*hints_about(ref, session.store), *error.hints)
        step.finish(Outcome.FAILED, error.message)
        raise
    except trio.Cancelled:
        step.finish(Outcome.CANCELLED)
        raise
    step.finish(Outcome.DONE)
    return base
