"""A RUN begins while the layer it stands on is still being packed: neither needs to wait for the other.

::

    step      ── command ──┐
                           ├─ its branch lies still ─── packed, named ──┐
    the next               └─ mounted below a fresh one ─── command ────┴─ followed, now that it is its turn

Invariants: a step begins ahead only where no result of it can be there (no record has its operation, or the cache
isn't asked), so that nothing is run that would have been found; should one be found all the same when it is its turn,
what has begun is given up. A branch stays where a command that has begun has it open until that one has ended. A step
that can't be begun here is left for its turn, which tells why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from builder.errors import BuildError
from builder.graph import Run, Step, StepId
from builder.lookup import Lookup
from builder.results import EMPTY, StepResult
from builder.servers import Mounted
from builder.session import Session
from builder.steps import run
from builder.steps.keys import StepKeys
from builder.steps.roots import Root
from cache.keys import OF_PARENT, CacheKey
from layers.digest import ChainId
from layers.errors import LayersError
from layers.snapshotter import Active
from unionfs.errors import UnionError


class Begun:
    """A step that has begun; `give_up` it, unless it was handed over."""

    def __init__(self, active: Active, command: run.Begun, held: ExitStack) -> None:
        """``active`` is its branch, whose parent is not known yet; ``held`` ends the command and removes the branch."""
        self.command = command
        self._active = active
        self._held = held

    def hand_over(self, parent: ChainId | None, held: ExitStack) -> Active:
        """The branch, on ``parent``; from now on it, and a command that nobody follows, end with ``held``."""
        held.push(self._held.pop_all())
        return self._active._replace(parent=parent)

    def give_up(self) -> None:
        """The command is dead and its branch is gone. Idempotent; may wait."""
        self._held.close()


class _Ready:
    """A step that could begin: it has a branch, and a mount where nobody has looked at anything yet."""

    def __init__(self, active: Active, mount: Mounted, held: ExitStack) -> None:
        """``held`` removes the branch."""
        self.active = active
        self._mount = mount
        self._held = held

    def take(self, held: ExitStack) -> Mounted:
        """The mount, for the caller to end; the branch ends with ``held``."""
        held.push(self._held.pop_all())
        return self._mount

    def give_up(self) -> None:
        """The mount, which was not taken, and the branch are gone; waits."""
        run.drop(self._mount)
        self._held.close()


class Ahead:
    """What has begun of one graph; its methods may wait, and are called by one thread at a time for each step."""

    def __init__(
        self,
        session: Session,
        lookup: Lookup,
        environment: run.Environment,
        steps: Sequence[Step],
        anew: frozenset[StepId],
    ) -> None:
        """``steps`` may begin ahead, where they can; for those in ``anew`` the cache isn't asked."""
        self._session = session
        self._lookup = lookup
        self._environment = environment
        self._anew = anew
        self._ready: dict[StepId, _Ready] = {}
        self._begun: dict[StepId, Begun] = {}
        self._stood_on: set[Path] = set()
        self._left: set[Path] = set()
        """What is to be removed when nothing stands on it any more."""
        self._above = {step.base: step for step in reversed(steps) if _needs_its_base_alone(step)}

    def prepare(self, below: Step, keys: StepKeys, root: Root, results: Mapping[StepId, StepResult]) -> None:
        """The step that stands on ``below``, if it can begin ahead, will begin sooner.

        The command of ``below`` may run: it has the keys ``keys``, works on ``root``, and stands on ``results``.
        """
        step = self._above.get(below.id)
        if step is None or step.id in self._ready:
            return
        parent = EMPTY if below.base is None else results[below.base]
        provisional = StepResult(keys.definition.digest, parent.layers)
        with ExitStack() as held:
            try:
                key = self._lookup.fresh_keys(step, {**results, below.id: provisional}).definition
                if self._may_be_found(step, key) or not self._environment.servers.makes_unions():
                    return
                active = self._session.snapshotter.prepare_on(key.digest, root.upper)
                self._stood_on.add(root.upper)
                held.callback(self._let_go, root.upper)
                held.callback(self.remove, active)
                own = Root(active.path, (root.upper, *root.lower))
                mount = run.mount_root(self._environment.servers, own, self._environment.scaffold)
            except (BuildError, LayersError, UnionError, OSError):
                return
            self._ready[step.id] = _Ready(active, mount, held.pop_all())

    def begin(self, below: Step, keys: StepKeys, root: Root, results: Mapping[StepId, StepResult]) -> None:
        """The step that stands on ``below`` has begun, if it can; ``root.upper`` holds all that ``below`` leaves."""
        self.prepare(below, keys, root, results)
        step = self._above.get(below.id)
        ready = None if step is None else self._ready.pop(step.id, None)
        if step is None or ready is None or not isinstance(step.operation, Run):
            return
        try:
            # what has changed since it was made
            self._session.snapshotter.resemble(ready.active, root.upper)
        except LayersError:
            ready.give_up()
            return
        with ExitStack() as held:
            mount = ready.take(held)
            own = Root(ready.active.path, (root.upper, *root.lower))
            try:
                command = run.begin(step, step.operation, own, root, self._environment, mount)
            except (BuildError, LayersError, UnionError, OSError):
                return
            held.callback(command.give_up)
            self._begun[step.id] = Begun(ready.active, command, held.pop_all())

    def is_stood_on(self, active: Active) -> bool:
        """Whether a mount has the branch open."""
        return active.path in self._stood_on

    def remove(self, active: Active) -> None:
        """The branch is gone, unless it became a layer; later, where a mount has it open."""
        if self.is_stood_on(active):
            self._left.add(active.path)
        else:
            self._session.snapshotter.remove(active)

    def started_ns(self, step: Step) -> int | None:
        """When ``step``, whose turn it is, began (`builder.steps.run.Begun.began_ns`), None when it hasn't."""
        begun = self._begun.get(step.id)
        return None if begun is None else begun.command.began_ns()

    def take(self, step: Step) -> Begun | None:
        """What has begun of ``step``, for the caller to hand over or to give up."""
        return self._begun.pop(step.id, None)

    def give_up(self) -> None:
        """Nothing that has begun goes on, or is left."""
        for kept in (self._begun, self._ready):
            while kept:
                kept.popitem()[1].give_up()

    def _may_be_found(self, step: Step, key: CacheKey) -> bool:
        """Whether the cache may know a result, once it is known what the step stands on; ``key`` is made without."""
        if step.id in self._anew:
            return False
        return self._session.cache.has_similar(self._lookup.identity(step), key, without=OF_PARENT)

    def _let_go(self, branch: Path) -> None:
        """Nothing stands on ``branch`` any more."""
        self._stood_on.discard(branch)
        if branch in self._left:
            self._left.discard(branch)
            self._session.snapshotter.remove(Active("", branch, None))


def _needs_its_base_alone(step: Step) -> bool:
    """Whether the step is a command over what it stands on and nothing else."""
    operation = step.operation
    return isinstance(operation, Run) and not operation.mounts and operation.script is None and not step.inputs
