"""Keys of steps, and results that are there already.

On the cached-build path; synchronous.  Invariants: a result is a hit only when its layer lies on the very root the
step would run on (the chain id is derived from the step's own parent, never taken from a record), and its blob is in
the store, of which ``Session.ensure_unpacked`` makes the directory that a later step may need (of a base as well); a
hit by content is remembered under the definition key as well.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from builder.bases import Base
from builder.errors import BuildError
from builder.graph import Copy, Graph, Pull, Scratch, Step, StepId
from builder.planning import Plan
from builder.results import EMPTY, LayerResult, StepResult
from builder.selection import SourceTree
from builder.session import Session
from builder.steps import keys as step_keys
from builder.steps.keys import StepKeys
from cache.framing import Value
from cache.keys import CacheKey
from cache.records import CacheRecord, Difference
from layers.descriptor import Descriptor
from layers.digest import ChainId, Digest, chain_id
from layers.platform import Platform

_TITLE = r"\[(?P<place>.*?\d*)/\d+\] (?P<instruction>\w+)"


class Lookup:
    """Finds the results of the steps of one graph; ``platforms`` are those of the steps' roots, by number."""

    def __init__(
        self,
        session: Session,
        plan: Plan,
        inputs: step_keys.KeyInputs,
        bases: Mapping[str, Base],
        platforms: Sequence[Platform],
    ) -> None:
        self._session = session
        self._inputs = inputs
        self._platforms = platforms
        self._bases = {str(base.descriptor.digest): base for base in bases.values()}
        self._keys: dict[StepId, StepKeys] = {}
        self._remote: dict[StepId, Sequence[tuple[str, Value]]] = {}
        self._dockerfile = _name(plan)
        self._found: dict[StepId, tuple[CacheRecord, ...]] = {}
        self.elsewhere: Callable[[CacheKey], bool] | None = None
        """Whether something else has a result, while steps are run."""

    @property
    def epoch(self) -> int | None:
        """SOURCE_DATE_EPOCH of the build in seconds, None when there is none."""
        return self._inputs.epoch

    def base(self, operation: Pull) -> Base:
        """The base that ``operation`` pulls."""
        return self._bases[operation.manifest_digest]

    def identity(self, step: Step) -> str:
        """What is the same for all versions of the step: Dockerfile, stage, position, instruction."""
        match = re.match(_TITLE, step.title)
        place = f"{match['place']} {match['instruction']}" if match else step.title
        return f"{self._dockerfile} [{place}]"

    def keys(self, step: Step, results: Mapping[StepId, StepResult]) -> StepKeys:
        """The keys of ``step``, made once in a build; raises BuildError where its sources are wrong."""
        if step.id not in self._keys:
            self._keys[step.id] = self._guess(step, results) or self.fresh_keys(step, results)
        return self._keys[step.id]

    def _guess(self, step: Step, results: Mapping[StepId, StepResult]) -> StepKeys | None:
        """The keys of a step that has a result, as far as they are known without unpacking what it stands on."""
        for keys in step_keys.guess_keys(step, results, self._inputs_of(step), self._remote.get(step.id, ())):
            if self._has_record(keys.definition) or (keys.content is not None and self._has_record(keys.content())):
                return keys
        return None

    def _has_record(self, key: CacheKey) -> bool:
        return self._session.cache.find(key) is not None or (self.elsewhere is not None and self.elsewhere(key))

    def fresh_keys(self, step: Step, results: Mapping[StepId, StepResult]) -> StepKeys:
        """The keys of ``step`` as the files it takes are now."""
        return step_keys.create_keys(step, results, self._inputs_of(step), self._remote.get(step.id, ()))

    def _inputs_of(self, step: Step) -> step_keys.KeyInputs:
        """What the key depends on besides steps: the platform is that of the step's own root."""
        return self._inputs._replace(platform=self._platforms[step.id])

    def tell_remote(self, step: Step, parts: Sequence[tuple[str, Value]]) -> None:
        """``parts`` of the key say what the remote sources of ``step`` are; to be told before its key is made."""
        self._remote[step.id] = parts

    def tell_found(self, step: Step, records: tuple[CacheRecord, ...]) -> None:
        """``records`` are those of the result that something else has of ``step``."""
        self._found[step.id] = records

    def open_source(self, operation: Copy, results: Mapping[StepId, StepResult]) -> AbstractContextManager[SourceTree]:
        """The tree that ``operation`` takes files from."""
        return step_keys.open_source(operation, results, self._inputs)

    def find_trivial(self, step: Step) -> StepResult | None:
        """The result of a step that has no record: an empty root, a base that is here. None for other steps."""
        if isinstance(step.operation, Scratch):
            return EMPTY
        if isinstance(step.operation, Pull):
            result = self.base(step.operation).result
            return result if all(map(self._has_layer, result.layers)) else None
        return None

    def find(self, step: Step, results: Mapping[StepId, StepResult], keys: StepKeys) -> StepResult | None:
        """The result that is there under one of ``keys``; by content only where nothing else has it by definition."""
        parent = EMPTY if step.base is None else results[step.base]
        record, result = self._find_key(keys.definition, keys.definition, parent)
        # what the content is may take fetching it
        is_elsewhere = self.elsewhere is not None and self.elsewhere(keys.definition)
        if result is None and keys.content is not None and not is_elsewhere:
            content = keys.content()
            record, result = self._find_key(content, keys.definition, parent)
            if record is not None and result is not None:
                self._session.cache.add(_under(record, keys.definition))
        if record is not None and result is not None:
            self._session.cache.touch((record,))
        return result

    def explain(self, step: Step, keys: StepKeys) -> Difference | None:
        """The first part of the key that differs from the nearest earlier record of the step."""
        key = keys.definition if keys.content is None else keys.content()
        return self._session.cache.explain(self.identity(step), key)

    def records(self, steps: Sequence[Step], results: Mapping[StepId, StepResult]) -> list[CacheRecord]:
        """The records of the results that ``steps`` have, under each of their keys."""
        found: list[CacheRecord] = []
        for step in steps:
            if isinstance(step.operation, Pull | Scratch):
                continue
            if step.id in self._found:
                found += self._found[step.id]
                continue
            keys = self.keys(step, results)
            for key in (keys.definition, *(() if keys.content is None else (keys.content(),))):
                record = self._session.cache.find(key)
                if record is not None and record.diff_id == results[step.id].layers[-1].diff_id:
                    found.append(record)
        return found

    def find_all(self, graph: Graph) -> dict[StepId, StepResult]:
        """The results of all steps that are there, as far as every step before them is."""
        results: dict[StepId, StepResult] = {}
        for step in graph.steps:
            needed = step.inputs if step.base is None else (step.base, *step.inputs)
            if any(one not in results for one in needed):
                continue
            if step.id in graph.anew or (isinstance(step.operation, Copy) and step.operation.is_remote):
                # what is remote now must be asked for, which is not done here
                continue
            result = self.find_trivial(step)
            if result is None and not isinstance(step.operation, Pull):
                try:
                    result = self.find(step, results, self.keys(step, results))
                except BuildError as error:
                    raise error.at(step.source) from error.__cause__
            if result is not None:
                results[step.id] = result
        return results

    def _find_key(
        self, key: CacheKey, definition: CacheKey, parent: StepResult
    ) -> tuple[CacheRecord | None, StepResult | None]:
        record = self._session.cache.find(key)
        if record is None:
            return None, None
        layer = LayerResult(
            diff_id=record.diff_id,
            chain_id=_chain(parent, record.diff_id),
            descriptor=Descriptor(record.media_type, Digest(record.digest), record.size_bytes),
            created=record.created,
        )
        result = StepResult(definition.digest, (*parent.layers, layer))
        return record, result if self._has_layer(layer) else None

    def _has_layer(self, layer: LayerResult) -> bool:
        return self._session.store.blobs.size(layer.descriptor.digest) == layer.descriptor.size


def _name(plan: Plan) -> str:
    """What is the same for all builds of one Dockerfile, wherever a fetched context lies this time."""
    if plan.contexts.origin:
        return f"{plan.contexts.origin} {plan.dockerfile.source.name}"
    return "-" if plan.path is None else os.path.abspath(plan.path)


def _chain(parent: StepResult, diff_id: str) -> str:
    below = None if parent.chain_id is None else ChainId(Digest(parent.chain_id))
    return chain_id(below, Digest(diff_id))


def _under(record: CacheRecord, key: CacheKey) -> CacheRecord:
    """``record`` once more, under ``key``."""
    return record._replace(key=key.digest, kind=key.domain, parts=key.parts)


def explain_miss(difference: Difference | None) -> str:
    """In words why a key missed: the first part that differs from the nearest earlier run of the step."""
    if difference is None:
        return "this step has not been run before, or its result is gone"
    old, new = difference.old, difference.new
    if old is None:
        return f"{difference.part} is new: {new}"
    if new is None:
        return f"{difference.part} is gone, it was {old}"
    return f"{difference.part} was {old}, now {new}"
