"""Runs one step: its key, a result that is there already, or the work and the layer it leaves.

Invariants: a step is run by one build at a time (the lock of its key), and who waited takes the other's result; a
record is added only after the layer is stored, durable, and the lock is held until then; what a failed or cancelled
step wrote is removed. Steps that stand on a layer need not wait for the disk: that is what `Finished.settle` is for.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import trio

from builder.ahead import Ahead
from builder.blocking import call_blocking
from builder.errors import BuildError, ContextError, LostLayerError, StepFailed, describe_os_error
from builder.events import Journal, Outcome, StepJournal, Usage
from builder.finished import Material, StepReport
from builder.graph import CacheMount, Copy, MakeDirectory, Pull, Run, Scratch, Step, StepId
from builder.lookup import Lookup, explain_miss
from builder.options import BuildOptions
from builder.placing import placed_at
from builder.remote.cancellation import Cancellation
from builder.results import EMPTY, LayerResult, StepResult
from builder.sandbox.spec import SandboxSpec
from builder.schedule import Finished
from builder.selection import SourceTree
from builder.session import Session
from builder.steps import run
from builder.steps.fetch import RemoteSources
from builder.steps.keys import StepKeys, branches_of
from builder.steps.mountsources import MountSources
from builder.steps.records import record_of
from builder.steps.roots import Root
from cache.records import CacheRecord
from layers.digest import ChainId, Digest
from layers.snapshotter import Active
from unionfs.namedtuple import NamedTuple

if TYPE_CHECKING:
    from builder.elsewhere import RemoteCaches
    from builder.failedsteps import Kept
    from layers.packing import PackedLayer
    from layers.registry.compress import Compressor


class _Obtained(NamedTuple):
    """``settle`` makes durable what was made; it blocks its thread."""

    result: StepResult
    cached: bool
    usage: Usage | None = None
    settle: Callable[[], None] | None = None


class _Turn(NamedTuple):
    """A step whose turn it is; ``active`` is its branch, and ``begun`` its command, where they are there already."""

    step: Step
    results: Mapping[StepId, StepResult]
    keys: StepKeys
    active: Active | None = None
    begun: run.Begun | None = None

    @property
    def parent(self) -> StepResult:
        """What the step stands on."""
        return EMPTY if self.step.base is None else self.results[self.step.base]


class Failure(NamedTuple):
    """The first step that failed, as it was left, and what was there when it began."""

    kept: Kept
    step: StepId
    results: Mapping[StepId, StepResult]


class Executor:
    """Executes the steps of one build; its tasks run on one trio thread.

    ``anew`` are not taken from the cache; of ``leaves`` nobody needs a directory. ``compressors`` are those of steps
    whose layers are known to leave compressed.
    """

    def __init__(
        self,
        session: Session,
        lookup: Lookup,
        journal: Journal,
        environment: run.Environment,
        options: BuildOptions,
        anew: frozenset[StepId] = frozenset(),
        elsewhere: RemoteCaches | None = None,
        leaves: frozenset[StepId] = frozenset(),
        compressors: Mapping[StepId, Compressor] = MappingProxyType({}),
        *,
        ahead: Ahead,
    ) -> None:
        self._session = session
        self._lookup = lookup
        self._journal = journal
        self._environment = environment
        self._ignored = environment.ignores_owners
        self._options = options
        self._anew = anew
        self._elsewhere = elsewhere
        self._leaves = leaves
        self._compressors = compressors
        self._ahead = ahead
        self._remote = RemoteSources(session, options)
        self.reports: list[StepReport] = []
        self.failure: Failure | None = None
        self._keeping = threading.Lock()

    @property
    def materials(self) -> tuple[Material, ...]:
        """What the steps took from elsewhere."""
        return tuple(self._remote.materials)

    def give_up(self) -> None:
        """What has begun and will not be followed is dead and gone; blocks."""
        self._ahead.give_up()

    def tell_cached(self, step: Step) -> None:
        """``step`` has been told and noted as one whose result was there."""
        self._journal.start(step.title).finish(Outcome.CACHED)
        self.reports.append(StepReport(step.title, cached=True, duration_ns=0))

    async def execute(self, step: Step, results: Mapping[StepId, StepResult]) -> Finished:
        """The result of ``step``, whose base and inputs are in ``results``; a new one is still to be settled.

        Raises:
            BuildError: the step cannot be done; the error knows its lines.
        """
        if isinstance(step.operation, Pull) and self._elsewhere:
            return Finished(await self._defer(step, step.operation))
        started_ns = self._ahead.started_ns(step) or time.monotonic_ns()
        journal = self._journal.start(step.title, started_ns)
        try:
            with placed_at(step, ignored=self._ignored):
                obtained = await self._obtain(step, results, journal)
        except trio.Cancelled:
            journal.finish(Outcome.CANCELLED)
            raise
        except LostLayerError:
            # it will be done in another way
            journal.finish(Outcome.CANCELLED)
            raise
        except BuildError as error:
            journal.finish(Outcome.FAILED, error.message, error.used if isinstance(error, StepFailed) else None)
            raise
        except BaseException as error:
            journal.finish(Outcome.FAILED, str(error))
            raise
        finally:
            self._remote.close(step)
        journal.finish(Outcome.CACHED if obtained.cached else Outcome.DONE, None, obtained.usage)
        duration_ns = time.monotonic_ns() - started_ns
        self.reports.append(StepReport(step.title, obtained.cached, duration_ns, obtained.usage))
        return Finished(obtained.result, lambda: self._settle(step, obtained))

    async def _settle(self, step: Step, obtained: _Obtained) -> None:
        if obtained.settle is None:
            return
        with placed_at(step, ignored=self._ignored), trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(obtained.settle)
        # where that failed the build ends, and with it whoever waits
        settled = self._session.unsettled.pop(obtained.result.layers[-1].chain_id, None)
        if settled is not None:
            settled.set()

    async def _obtain(self, step: Step, results: Mapping[StepId, StepResult], journal: StepJournal) -> _Obtained:
        operation = step.operation
        if isinstance(operation, Pull | Scratch):
            return await self._obtain_base(step, operation, journal)
        if isinstance(operation, Copy) and operation.is_remote:
            self._lookup.tell_remote(step, await self._remote.resolve(step, operation, journal))
        with ExitStack() as held:
            turn, found = await trio.to_thread.run_sync(self._look, step, results, None if self._elsewhere else held)
            if found is None and self._elsewhere:
                found = await self._find_elsewhere(turn) or await trio.to_thread.run_sync(self._lock, turn, held)
            if found is not None:
                return _Obtained(found, cached=True)
            if self._options.explain:
                await self._tell_miss(turn, journal)
            obtained = await self._work(turn, journal)
            return obtained._replace(settle=_closing(held.pop_all(), obtained.settle))

    async def _defer(self, step: Step, operation: Pull) -> StepResult:
        """The base, which is fetched when a step needs it: all that stands on it may be had elsewhere."""
        base = self._lookup.base(operation)
        found = await trio.to_thread.run_sync(self._find_base, step)
        if found is None and self._session.absent is not None:
            from builder.steps import pull

            origin = pull.BaseOrigin(self._session, base, self._journal)
            for layer in base.manifest.layers:
                self._session.absent.note(layer, origin)
            self._pin(base.result)
        self.tell_cached(step)
        return base.result

    async def _obtain_base(self, step: Step, operation: Pull | Scratch, journal: StepJournal) -> _Obtained:
        if isinstance(operation, Scratch):
            return _Obtained(EMPTY, cached=True)
        found = await trio.to_thread.run_sync(self._find_base, step)
        is_leaf = step.id in self._leaves
        if found is not None and (is_leaf or self._session.is_unpacked(found.layers)):
            return _Obtained(found, cached=True)
        from builder.steps import pull

        base = self._lookup.base(operation)
        await pull.pull(self._session, base, journal, unpack=not is_leaf)
        self._pin(base.result)
        return _Obtained(base.result, cached=False)

    def _find_base(self, step: Step) -> StepResult | None:
        """The base when it is here; then it stays while the build runs."""
        with self._session.pins.looking():
            found = self._lookup.find_trivial(step)
            self._pin(found)
        return found

    def _look(
        self, step: Step, results: Mapping[StepId, StepResult], held: ExitStack | None
    ) -> tuple[_Turn, StepResult | None]:
        """The keys of the step, and the result that is here; where there is none, ``held`` has locked it (`_lock`).

        With ``held`` a RUN that must be run has its branch too, which goes with it unless it became a layer: each way
        to a thread and back takes a fourth of a millisecond. Blocks its thread.
        """
        turn = _Turn(step, results, self._lookup.keys(step, results))
        found = self._find(turn)
        if found is None and held is not None:
            found = self._lock(turn, held)
        begun = self._ahead.take(step)
        if begun is not None and (found is not None or held is None):
            begun.give_up()
        elif begun is not None and held is not None:
            turn = turn._replace(active=begun.hand_over(_chain(turn.parent), held), begun=begun.command)
            self._prepare_next(turn)
        elif found is None and held is not None and self._is_runnable(turn):
            active = self._session.snapshotter.prepare(turn.keys.definition.digest, _chain(turn.parent))
            held.callback(self._ahead.remove, active)
            turn = turn._replace(active=active)
        return turn, found

    def _is_runnable(self, turn: _Turn) -> bool:
        return isinstance(turn.step.operation, Run) and self._session.is_unpacked(turn.parent.layers)

    def _prepare_next(self, turn: _Turn) -> None:
        """What stands on the step, whose command runs, can begin sooner."""
        if turn.active is not None:
            root = Root(turn.active.path, self._view(turn.parent))
            self._ahead.prepare(turn.step, turn.keys, root, turn.results)

    def _find(self, turn: _Turn) -> StepResult | None:
        """The result that is here and stays while the build runs."""
        if not self._may_reuse(turn.step):
            return None
        with self._session.pins.looking():
            found = self._lookup.find(turn.step, turn.results, turn.keys)
            self._pin(found)
        return found

    def _pin(self, result: StepResult | None) -> None:
        if result is not None and result.chain_id is not None:
            self._session.pins.pin((result.chain_id,))

    def _lock(self, turn: _Turn, held: ExitStack) -> StepResult | None:
        """No other build works on the step until ``held`` is closed; the result of one that did before, if any."""
        waited = held.enter_context(self._session.cache.lock(turn.keys.definition, cancelled=_is_cancelled))
        return self._find(turn) if waited else None

    def _may_reuse(self, step: Step) -> bool:
        return not self._options.no_cache and step.id not in self._anew

    async def _find_elsewhere(self, turn: _Turn) -> StepResult | None:
        elsewhere, step = self._elsewhere, turn.step
        if not elsewhere or not self._may_reuse(step):
            return None
        found = await trio.to_thread.run_sync(elsewhere.find, turn.keys, turn.parent, self._lookup.identity(step))
        if found is None:
            return None
        self._lookup.tell_found(step, found.records)
        self._pin(found.result)
        return found.result

    async def _tell_miss(self, turn: _Turn, journal: StepJournal) -> None:
        """Why the step must be run is part of its output."""
        if self._options.no_cache:
            text = "cache not asked: --no-cache"
        elif turn.step.id in self._anew:
            text = "cache not asked: --no-cache-filter"
        else:
            difference = await trio.to_thread.run_sync(self._lookup.explain, turn.step, turn.keys)
            text = "cache miss: " + explain_miss(difference)
        journal.output(2, text.encode("utf-8", "surrogateescape") + b"\n")

    async def _work(self, turn: _Turn, journal: StepJournal) -> _Obtained:
        step, parent, keys = turn.step, turn.parent, turn.keys
        started_ns = time.time_ns()
        packed, usage = await self._make_layer(turn, journal)
        layer = packed.layer
        for note in layer.notes:
            self._journal.notice(f"{step.title}: {note}")
        record = record_of(step, keys, layer, parent, started_ns, self._lookup.identity(step))

        def settle() -> None:
            packed.settle()
            self._remember(record, keys)

        made = LayerResult(layer.diff_id, layer.chain_id, layer.descriptor, record.created)
        result = StepResult(keys.definition.digest, (*parent.layers, made))
        self._pin(result)
        self._session.unsettled.setdefault(made.chain_id, trio.Event())
        return _Obtained(result, cached=False, usage=usage, settle=settle)

    def _remember(self, record: CacheRecord, keys: StepKeys) -> None:
        """Later builds find the result under each of its keys."""
        records = [record]
        if keys.content is not None:
            content = keys.content()
            records.append(record._replace(key=content.digest, kind=content.domain, parts=content.parts))
        self._session.cache.add(*records)

    async def _make_layer(self, turn: _Turn, journal: StepJournal) -> tuple[PackedLayer, Usage | None]:
        """The layer that the step adds to what it stands on, and what the work used."""
        step, active = turn.step, turn.active
        operation = step.operation
        if isinstance(operation, Copy) and step.id in self._leaves:
            packed = await self._draft(turn, operation)
            if packed is not None:
                return packed, None
        lower = await self._lower(turn.parent)
        if active is None:
            key, chain = turn.keys.definition.digest, _chain(turn.parent)
            active = await trio.to_thread.run_sync(self._session.snapshotter.prepare, key, chain)
            turn = turn._replace(active=active)
        try:
            usage = await self._perform(turn, Root(active.path, lower), journal)
            return await trio.to_thread.run_sync(self._pack, turn, active, lower), usage
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._ahead.remove, active)
            raise

    async def _lower(self, parent: StepResult) -> tuple[Path, ...]:
        """The directories of the files that a step runs on, top first.

        A layer that was packed without one is unpacked from its archive, which may still be on its way to the store.
        """
        if not self._session.is_unpacked(parent.layers):
            for layer in parent.layers:
                settled = self._session.unsettled.get(layer.chain_id)
                if settled is not None:
                    await settled.wait()
            await trio.to_thread.run_sync(self._session.ensure_unpacked, parent.layers)
        return self._view(parent)

    def _view(self, parent: StepResult) -> tuple[Path, ...]:
        chain = _chain(parent)
        return () if chain is None else self._session.snapshotter.view(chain)

    async def _draft(self, turn: _Turn, operation: Copy) -> PackedLayer | None:
        """The layer without a directory of its own, packed from where its files lie; None where that can't be done."""
        from builder.steps import packing

        if not packing.is_packable(operation):
            return None
        lower = await self._lower(turn.parent) if operation.looks_below else ()
        verify = functools.partial(self._check_context, turn)
        drafted = packing.Drafted(operation, _chain(turn.parent), lower, verify, self._compressors.get(turn.step.id))
        arguments = self._session, self._lookup, turn.results, trio.from_thread.check_cancelled
        return await trio.to_thread.run_sync(packing.pack, drafted, *arguments)

    async def _perform(self, turn: _Turn, root: Root, journal: StepJournal) -> Usage | None:
        operation = turn.step.operation
        if isinstance(operation, Run):
            return await run.run(
                turn.step,
                operation,
                root,
                self._environment,
                self._mount_sources(turn),
                journal.output,
                functools.partial(self._keep, turn, operation, root),
                begun=turn.begun,
                started=functools.partial(self._prepare_next, turn),
            )
        if isinstance(operation, Copy):
            await call_blocking(lambda cancel: self._copy(turn, operation, root, cancel), Cancellation())
        elif isinstance(operation, MakeDirectory):
            from builder.steps import directory

            await trio.to_thread.run_sync(directory.apply, operation, root.lower, root.upper)
        return None

    def _keep(self, turn: _Turn, operation: Run, root: Root, spec: SandboxSpec) -> None:
        """The step that failed can be walked into, if it is the first; called in a thread."""
        with self._keeping:
            if self.failure is not None or self._options.on_failure == "remove":
                return
            from builder import failedsteps

            try:
                kept = failedsteps.keep(self._session.root, root.upper, spec, operation, self._options.secrets)
            except OSError as error:
                self._journal.notice(f"{turn.step.title} can't be walked into: {describe_os_error(error)}")
                return
            self.failure = Failure(kept, turn.step.id, dict(turn.results))

    def _mount_sources(self, turn: _Turn) -> MountSources:
        def open_source(operation: Copy) -> AbstractContextManager[SourceTree]:
            return self._lookup.open_source(operation, turn.results)

        def branches(other: StepId) -> tuple[Path, ...]:
            return branches_of(turn.results[other], self._session)

        return MountSources(
            session=self._session,
            open_source=open_source,
            secrets=self._options.secrets,
            agents=self._options.agents,
            check=trio.from_thread.check_cancelled,
            verify=functools.partial(self._check_unchanged, turn),
            branches=branches,
            take_cache=self._take_cache,
        )

    def _take_cache(self, mount: CacheMount, place: Path) -> bool:
        """See `MountSources`; called in the thread of a step, and ends with the step."""
        elsewhere = self._elsewhere
        if not elsewhere or not elsewhere.has_mount(mount.id):
            return False

        def take(cancel: threading.Event) -> bool:
            return elsewhere.take_mount(mount.id, place, cancel)

        return trio.from_thread.run(call_blocking, take, threading.Event())

    def _copy(self, turn: _Turn, operation: Copy, root: Root, cancel: Cancellation) -> None:
        from builder.steps import copy

        check = trio.from_thread.check_cancelled
        with self._lookup.open_source(operation, turn.results) as tree, self._remote.open(turn.step, cancel) as remote:
            copy.apply(operation, tree, root.lower, root.upper, remote=remote, check=check)

    def _check_context(self, turn: _Turn) -> None:
        """What COPY took from a context is what its key says, see `_check_unchanged`."""
        if isinstance(turn.step.operation, Copy) and turn.step.operation.from_step is None:
            self._check_unchanged(turn)

    def _check_unchanged(self, turn: _Turn) -> None:
        """Raises ContextError when files changed since they were hashed: the key would name what was not copied."""
        if self._lookup.fresh_keys(turn.step, turn.results).definition != turn.keys.definition:
            raise ContextError("the build context changed while it was copied")

    def _pack(self, turn: _Turn, active: Active, lower: tuple[Path, ...]) -> PackedLayer:
        """The layer of ``active``; a step that stands on it begins before it is made."""
        self._check_context(turn)
        self._ahead.begin(turn.step, turn.keys, Root(active.path, lower), turn.results)
        # while that one runs
        from layers.packing import pack_layer

        compressor, in_use = self._compressors.get(turn.step.id), self._ahead.is_stood_on(active)
        snapshotter, epoch = self._session.snapshotter, self._lookup.epoch
        packed = pack_layer(snapshotter, active, active.parent, epoch, compressor, in_use=in_use)
        if in_use:  # and left where it is, if there was such a layer before
            self._ahead.remove(active)
        return packed


def _chain(result: StepResult) -> ChainId | None:
    return None if result.chain_id is None else ChainId(Digest(result.chain_id))


def _closing(held: ExitStack, settle: Callable[[], None] | None) -> Callable[[], None]:
    """``settle``, after which ``held`` is closed in any case."""

    def settle_and_close() -> None:
        with held:
            if settle is not None:
                settle()

    return settle_and_close


def _is_cancelled() -> bool:
    """False, in a thread of a task that goes on; raises trio.Cancelled in one of a task that was cancelled."""
    trio.from_thread.check_cancelled()
    return False
