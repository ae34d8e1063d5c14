"""Which stage or image every FROM, ``COPY --from`` and mount refers to, and which stages a target needs.

A stage is found by name, whatever its case, or by number; only earlier stages are found, so that there are no cycles
among those that are.  What is no stage is an image.  A named context takes the place of a stage of its name, whoever
refers to it and however, the target included: what the stage says is not carried out.

Invariants: pure; names in FROM are expanded with the global arguments alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeAlias

from builder.convert.named import DIRECTORY, IMAGE, LAYOUT, LAYOUT_PREFIX, STAGE, NamedContext, NameTable
from builder.dockerfile import shell
from builder.dockerfile.instructions import Copy, Dockerfile, Instruction, Run, Stage
from builder.dockerfile.source import SourceRange
from builder.dockerfile.suggest import nearest
from builder.errors import BuildError, DockerfileError, UnknownStageError
from builder.graph import BaseRef
from layers import platform as platforms
from layers.errors import FormatError
from layers.platform import Platform
from layers.reference import Reference
from unionfs.namedtuple import NamedTuple

SCRATCH = "scratch"
Instructions: TypeAlias = Callable[[int], Iterable[Instruction]]


class ContextName(str):
    """The name of a context whose files are meant."""

    __slots__ = ()


Source: TypeAlias = int | BaseRef | ContextName | None
"""A stage, an image, the files of a context, or nothing at all."""


class StageBase(NamedTuple):
    """What a stage starts from: an earlier stage, an image, the files of a named context, or nothing."""

    stage: int | None
    image: BaseRef | None
    platform: Platform
    context: str = ""


class StageTable:
    """The stages of a file by name and number, with what each starts from."""

    def __init__(
        self,
        dockerfile: Dockerfile,
        variables: Mapping[str, str],
        rules: shell.Rules,
        platform: Platform,
        contexts: Mapping[str, NamedContext],
    ) -> None:
        self._names = NameTable(contexts)
        self._stages = dockerfile.stages
        self._platform = platform
        self.bases: list[StageBase] = []
        self.replaced: set[int] = set()
        for stage in dockerfile.stages:
            try:
                self.bases.append(self._base(stage, variables, rules))
            except BuildError as error:
                raise error.at(stage.start.origin.source) from None

    def target(self, name: str | None, called: str = "target stage") -> int:
        """Return the number of the stage to build: by name, by number, the last one for None.

        Raises:
            UnknownStageError: there is none of that name; ``called`` is what the message calls it.
        """
        if not name:
            return len(self._stages) - 1
        found = self._named(name, len(self._stages))
        if found is not None:
            return found
        if name.isdecimal() and int(name) < len(self._stages):
            return int(name)
        raise UnknownStageError(f"{called} {name!r} does not exist", hints=self._hints(name))

    def source(self, reference: str, stage: int, place: SourceRange) -> Source:
        """Return what ``from=reference`` in ``stage`` means: a context of the name wins over a stage and an image.

        Raises:
            UnknownStageError: the stage does not exist, is the stage itself or comes later.
        """
        named = self._names.find(reference, self._platform)
        if named is not None:
            return self._context(*named, stage, self._platform, place)
        return self._plain_source(reference, stage, place)

    def _plain_source(self, reference: str, stage: int, place: SourceRange) -> int | BaseRef | None:
        found = self._any_stage(reference, stage, place)
        if found is None:
            return None if reference.lower() == SCRATCH else self._image(reference, self._platform, place, stage)
        if found >= stage:
            raise self._too_late(found, stage, place)
        return found

    def _any_stage(self, reference: str, stage: int, place: SourceRange) -> int | None:
        """Return the stage that ``reference`` means in ``stage``, be it a later one; None when it means no stage."""
        found = self._named(reference, stage)
        if found is not None or not reference.isdecimal():
            return self._named(reference, len(self._stages)) if found is None else found
        number = int(reference)
        if number >= len(self._stages):
            message = f"stage {number} does not exist, the last one is {len(self._stages) - 1}"
            raise UnknownStageError(message, source=place)
        return number

    def check_others(self, needed: Collection[int]) -> None:
        """Return when the stages that are not ``needed`` refer to stages that there are, and not to themselves.

        They may refer to later stages, as they do where a target further up is built.
        """
        for stage in self._stages:
            if stage.number in needed or stage.number in self.replaced:
                continue
            for instruction in stage.instructions:
                place = instruction.origin.source
                try:
                    names = source_names(instruction)
                except BuildError as error:
                    raise error.at(place) from None
                for name in names:
                    found = (
                        None if self._names.find(name, self._platform) else self._any_stage(name, stage.number, place)
                    )
                    if found is not None and found >= stage.number and self._leads_to(found, stage.number):
                        raise self._too_late(found, stage.number, place)

    def reachable(self, target: int, instructions: Instructions) -> tuple[list[int], list[BaseRef]]:
        """Return the stages that ``target`` needs, in order, and the images that they need, each once.

        ``instructions`` gives the instructions of a stage, those of triggers included.
        """
        stages: set[int] = set()
        images: dict[str, BaseRef] = {}
        waiting = [target]
        while waiting:
            number = waiting.pop()
            if number in stages:
                continue
            stages.add(number)
            base = self.bases[number]
            sources = [base.image if base.stage is None else base.stage, *self._sources(number, instructions(number))]
            for source in sources:
                if isinstance(source, int):
                    waiting.append(source)
                elif isinstance(source, BaseRef):
                    images.setdefault(source.key, source)
        return sorted(stages), sorted(images.values(), key=lambda image: image.source)

    def uses_images_beside_stages(self) -> bool:
        """Return whether some instruction as written takes files from an image directly."""
        return any(
            isinstance(source, BaseRef)
            for stage in self._stages
            for source in self._sources(stage.number, stage.instructions)
        )

    def _context(self, name: str, context: NamedContext, stage: int, platform: Platform, place: SourceRange) -> Source:
        """Return what the context called ``name`` gives ``stage``."""
        if context.kind == DIRECTORY:
            return ContextName(name)
        if context.kind == STAGE:
            return self._plain_source(context.value, stage, place)
        if context.kind == IMAGE and context.value == SCRATCH:
            return None
        if context.kind == LAYOUT:
            address = f"{LAYOUT_PREFIX}{context.value}"
            key = address if platform == self._platform else f"{address} ({platform})"
            return BaseRef(address, platform, place, key, address)
        return self._image(context.value, platform, place, stage)

    def _sources(self, stage: int, instructions: Iterable[Instruction]) -> list[Source]:
        found: list[Source] = []
        for instruction in instructions:
            place = instruction.origin.source
            try:
                found += [self.source(name, stage, place) for name in source_names(instruction)]
            except BuildError as error:
                raise error.at(place) from None
        return found

    def _base(self, stage: Stage, variables: Mapping[str, str], rules: shell.Rules) -> StageBase:
        start = stage.start
        name = shell.expand(start.base, variables, rules).text
        if not name:
            message = f"the base name {start.base!r} is empty once expanded"
            hint = "give the build argument a default: ARG NAME=value before the first FROM"
            raise DockerfileError(message, hints=(hint,))
        platform = self._stage_platform(start.platform, variables, rules)
        named = self._names.find(start.name, platform) if start.name else None
        if named is not None:
            self.replaced.add(stage.number)
        else:
            named = self._names.find(name, platform)
        if named is not None:
            return self._context_base(self._context(*named, stage.number, platform, start.origin.source), platform)
        earlier = self._named(name, stage.number)
        if earlier is not None:
            return StageBase(earlier, None, self.bases[earlier].platform)
        if name == SCRATCH:
            return StageBase(None, None, platform)
        return StageBase(None, self._image(name, platform, start.origin.source, stage.number), platform)

    def _context_base(self, source: Source, platform: Platform) -> StageBase:
        if isinstance(source, int):
            return StageBase(source, None, self.bases[source].platform)
        if isinstance(source, ContextName):
            return StageBase(None, None, platform, source)
        return StageBase(None, source, platform)

    def _stage_platform(self, text: str, variables: Mapping[str, str], rules: shell.Rules) -> Platform:
        if not text:
            return self._platform
        expanded = shell.expand(text, variables, rules).text
        if not expanded:
            raise DockerfileError(f"the platform {text!r} is empty once expanded")
        try:
            return platforms.parse(expanded)
        except FormatError as error:
            raise DockerfileError(str(error)) from None

    def _image(self, name: str, platform: Platform, place: SourceRange, stage: int) -> BaseRef:
        near = nearest(name, [one.start.name for one in self._stages[:stage] if one.start.name])
        hints = (f"did you mean the stage {near}?",) if near else ()
        try:
            canonical = Reference.parse(name).canonical
        except FormatError as error:
            raise DockerfileError(str(error), source=place, hints=hints) from None
        key = name if platform == self._platform else f"{name} ({platform})"
        return BaseRef(name, platform, place, key, canonical, hints)

    def _named(self, name: str, before: int) -> int | None:
        wanted = name.lower()
        for stage in reversed(self._stages[:before]):
            if stage.start.name == wanted:
                return stage.number
        return None

    def _too_late(self, wanted: int, stage: int, place: SourceRange) -> UnknownStageError:
        name, own = self._stages[wanted].name, self._stages[stage].name
        if wanted == stage:
            return UnknownStageError(f"stage {own!r} refers to itself", source=place)
        if self._leads_to(wanted, stage):
            return UnknownStageError(f"stages {own!r} and {name!r} need each other", source=place)
        message = f"stage {name!r} is defined only after the stage {own!r} that needs it"
        return UnknownStageError(message, source=place, hints=(f"move the stage {name!r} before {own!r}",))

    def _leads_to(self, start: int, goal: int) -> bool:
        """Return whether stage ``start`` needs ``goal``, as far as names tell."""
        seen: set[int] = set()
        waiting = [start]
        while waiting:
            number = waiting.pop()
            if number == goal:
                return True
            if number in seen:
                continue
            seen.add(number)
            stage = self._stages[number]
            names = [stage.start.base, *(name for one in stage.instructions for name in source_names(one))]
            for name in names:
                found = int(name) if name.isdecimal() else self._named(name, len(self._stages))
                if found is not None and found < len(self._stages):
                    waiting.append(found)
        return False

    def _hints(self, name: str) -> tuple[str, ...]:
        names = [stage.start.name for stage in self._stages if stage.start.name]
        near = nearest(name, names)
        if near:
            return (f"did you mean {near}?",)
        if names:
            return ("the stages are " + ", ".join(names),)
        return ("no stage has a name: FROM image AS name gives one",)


def source_names(instruction: Instruction) -> list[str]:
    """Return the stages and images an instruction takes files from, as written.

    Raises:
        DockerfileError: a name holds a variable.
    """
    if isinstance(instruction, Copy) and instruction.from_:
        if shell.expand(instruction.from_, {}).text != instruction.from_:
            message = f"variables are not expanded in --from={instruction.from_}"
            raise DockerfileError(message, hints=("give the image a name with FROM … AS name and copy from that",))
        return [instruction.from_]
    if isinstance(instruction, Run) and instruction.mounts:
        from builder.convert.mounts import mount_source

        return [name for text in instruction.mounts if (name := mount_source(text))]
    return []
