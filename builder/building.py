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
from typing import NamedTuple

import trio

from builder import api
from builder.absent import AbsentLayers
from builder.assemble import AssembledImage
from builder.bases import Base, find_in_layout, hints_about
from builder.convert.epoch import plan_epoch
from builder.dockerfile.source import Source
from builder.elsewhere import RemoteCaches
from builder.errors import BuildError, LostLayerError
from builder.events import Emit, Journal, Outcome
from builder.exchange import RemoteCache
from builder.exchanging import export_caches, open_caches
from builder.executor import Executor
from builder.exporting import Exports, plan_exports
from builder.graph import BaseRef, Pull, Run, StepId
from builder.options import BuildOptions
from builder.owners import has_one_owner
from builder.planning import Plan, find_local_bases, needed_bases, read_plan
from builder.pushing import push_all
from builder.results import StepResult
from builder.runtimes import find_runtime
from builder.sandbox.client import SandboxError
from builder.sandbox.isolation import AUTO
from builder.schedule import required_steps, run_graph
from builder.session import Session
from builder.steps import pull
from builder.steps.pull import call_blocking
from builder.steps.run import Environment, make_scaffold
from builder.stopping import until_signal

_LEAST_JOBS = 4
"""Steps mostly wait for programs and disks, so a few run at a time on a small machine as well."""


class Job(NamedTuple):
    """A build as far as it came without an event loop; ``preparation`` is there when no registry was needed for it."""

    options: BuildOptions
    plan: Plan
    exports: Exports
    session: Session
    journal: Journal
    preparation: api.Preparation | None = None


async def build(options: BuildOptions, *, root: str, emit: Emit, sources: dict[str, Source]) -> api.BuildResult:
    """The image of ``options``; as `builder.api.build_or_reuse`, inside an event loop of trio."""
    journal = Journal(emit, time.monotonic_ns)
    with Session(root, journal.notice, options.isolation) as session:
        exports = plan_exports(options)
        directories = api.fetched_directories(session)
        make = directories.__enter__()
        try:
            contexts = await api.fetch_contexts(options, session, journal, make)
            plan = read_plan(options, contexts, sources)
            asked = plan_epoch(plan.dockerfile, options.build_args, plan.platform, plan.contexts.named)
            if asked is not None:
                options = await api.date_options(asked, plan, options, session, journal)
            return await build_job(Job(options, plan, exports, session, journal))
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(directories.__exit__, None, None, None)


async def build_with_signals(job: Job, tick: Callable[[], None]) -> api.BuildResult:
    """As `build_job`, for a program: ``tick`` is called ten times a second, and signals end the build.

    Raises:
        Interrupted: SIGINT or SIGTERM came.
    """
    return await until_signal(lambda: build_job(job), tick)


async def build_job(job: Job) -> api.BuildResult:
    """The image of ``job``, in the store, exported and pushed.

    Raises:
        BuildError: the build failed.
    """
    options, session, journal = job.options, job.session, job.journal
    await trio.to_thread.run_sync(_sweep, session)
    preparation = job.preparation or await _prepare(job)
    api.tell_findings(preparation, journal)
    if options.ignore_chown_errors and has_one_owner():
        journal.notice("all files are root's, whoever they are given to: nobody else exists here")
    caches = await open_caches(options, job.plan.platform, session, journal)
    while True:
        try:
            return await _build(job, preparation, caches)
        except LostLayerError as error:
            journal.notice(f"cache {error.place!r} is not used any more: {error.reason}")
            caches = tuple(cache for cache in caches if cache.name != error.place)
            await trio.to_thread.run_sync(session.servers.close)
            preparation = await _prepare_with(job, preparation.bases)


async def _build(job: Job, preparation: api.Preparation, caches: Sequence[RemoteCache]) -> api.BuildResult:
    """As `build_job`. Raises LostLayerError: one of ``caches`` does not hold what it promised."""
    session, journal, graph = job.session, job.journal, preparation.graph
    session.absent = AbsentLayers(session.store, lambda records: session.cache.add(*records))
    elsewhere = RemoteCaches(caches, session, session.absent, journal)
    preparation.lookup.elsewhere = elsewhere.has if caches else None
    executor = Executor(
        session,
        preparation.lookup,
        journal,
        _environment(job),
        job.options,
        graph.anew,
        elsewhere,
        frozenset() if job.exports.need_root else graph.leaves,
    )
    known = await trio.to_thread.run_sync(_ready, preparation, session)
    for step_id in known:
        executor.tell_cached(graph.steps[step_id])
    if any(isinstance(step.operation, Run) and step.id not in known for step in graph.steps):
        await _tell_isolation(session, job.options, journal)
    jobs = job.options.jobs or max(_LEAST_JOBS, os.cpu_count() or 1)
    results = await run_graph(graph, known, executor.execute, jobs=jobs)
    session.end_servers()
    image = await trio.to_thread.run_sync(api.assembled, preparation, results)
    keep = await _bring(job, image, session.absent)
    result = api.finish(preparation, image, session, journal, keep=keep)
    pushed = await push_all(session, image.stored, job.exports.pushes, journal)
    await export_caches(preparation, results, session, journal)
    return result._replace(pushed=pushed, steps=tuple(executor.reports))


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
    return Environment(
        servers=session.servers,
        scaffold=make_scaffold(Path(session.root) / "scaffold"),
        limits=options.limits,
        network=options.network,
        extra_hosts=options.extra_hosts,
        dns=options.dns,
        notice=job.journal.notice,
        noticed=set(),
        allowed=options.allowed,
        runtime=None if options.runtime is None else find_runtime(options.runtime),
        ignores_owners=options.ignore_chown_errors and has_one_owner(),
    )


async def _bring(job: Job, image: AssembledImage, absent: AbsentLayers) -> bool:
    """Whether the image can be kept in the store: its layers are here, fetched as far as that was needed.

    An image that is only pushed is not kept where that would take fetching layers.
    """
    layers = absent.missing(image.manifest.layers)
    if layers and job.exports.pushes and not job.exports.outputs and not job.options.load:
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
    except SandboxError:
        if options.isolation != AUTO:
            raise
    else:
        journal.start(f"[internal] isolation of steps: {level}").finish(Outcome.DONE)


def _sweep(session: Session) -> None:
    """What killed builds left in the store is gone."""
    session.snapshotter.sweep()
    session.store.sweep()


async def _prepare(job: Job) -> api.Preparation:
    return await _prepare_with(job, await _find_bases(job.plan, job.options, job.session, job.journal))


async def _prepare_with(job: Job, bases: Mapping[str, Base]) -> api.Preparation:
    def prepare() -> api.Preparation:
        with job.session.pins.looking():
            preparation = api.prepare(job.options, job.plan, job.exports, bases, job.session)
            api.pin_all(preparation, job.session)
        return preparation

    return await trio.to_thread.run_sync(prepare)


async def _find_bases(plan: Plan, options: BuildOptions, session: Session, journal: Journal) -> dict[str, Base]:
    """All bases by key, from the store or, for what it lacks, from registries."""
    known: dict[str, Base] = {}
    if not options.pull:
        known, _ = await trio.to_thread.run_sync(find_local_bases, plan, options, session.store)
    while refs := needed_bases(plan, known, options):
        for ref in refs:
            known[ref.key] = await _resolve(ref, session, journal)
    return known


async def _resolve(ref: BaseRef, session: Session, journal: Journal) -> Base:
    step = journal.start(f"[internal] load metadata for {ref.canonical}")
    try:
        base = await trio.to_thread.run_sync(find_in_layout, ref, session.store)
        if base is None:
            base = await pull.resolve(ref, session.registries)
    except BuildError as error:
        error.hints = (*hints_about(ref, session.store), *error.hints)
        step.finish(Outcome.FAILED, error.message)
        raise
    except trio.Cancelled:
        step.finish(Outcome.CANCELLED)
        raise
    step.finish(Outcome.DONE)
    return base
