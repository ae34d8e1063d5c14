"""A Dockerfile and the configurations of its base images become a graph of steps.

``plan_bases`` says which images must be known, ``convert`` makes the graph.  Triggers (ONBUILD) of a base may need
further images: they are known only with the base's configuration, so the caller asks again with what it has got, until
nothing new is asked for.

Invariants: both are pure: equal arguments give equal values; no file, image or clock is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, cast

from builder.convert import arguments, copying, execution, metadata
from builder.convert.named import NamedContext
from builder.convert.stages import ContextName, StageTable
from builder.convert.state import StageState, StepTable, Surroundings, printable
from builder.dockerfile import instructions, shell
from builder.dockerfile.instructions import Dockerfile, Instruction, Onbuild, Stage
from builder.dockerfile.parser import parse_trigger
from builder.dockerfile.source import SourceRange
from builder.errors import BaseImageError, BuildError
from builder.graph import BaseImage, BaseRef, Copy, Graph, Origin, Pull, Scratch, StepId
from layers.config import DEFAULT_PATH, ImageConfig
from layers.platform import Platform, host

__all__ = ["convert", "plan_bases"]

_NOTHING_KNOWN: Mapping[str, BaseImage] = {}
_NO_CONTEXTS: Mapping[str, NamedContext] = {}
_COUNTED = (instructions.Run, instructions.Copy, instructions.Add, instructions.Workdir)


def plan_bases(
    dockerfile: Dockerfile,
    *,
    build_args: Mapping[str, str],
    target: str | None,
    platform: Platform,
    known: Mapping[str, BaseImage] = _NOTHING_KNOWN,
    contexts: Mapping[str, NamedContext] = _NO_CONTEXTS,
) -> tuple[BaseRef, ...]:
    """Return the images that the target needs, in the order they are written, each once.

    ``known`` holds by key what was got already; the triggers of those are looked at, so that the answer is complete
    when every image of it is known. ``contexts`` stand for stages and images of their names.

    Raises:
        BuildError: a stage, name or variable is wrong; placed at its line.
    """
    build = _Build(dockerfile, build_args, target, platform, known, None, contexts)
    return tuple(build.images)


def convert(
    dockerfile: Dockerfile,
    bases: Mapping[str, BaseImage],
    *,
    build_args: Mapping[str, str],
    target: str | None,
    platform: Platform,
    source_date_epoch: int | None = None,
    contexts: Mapping[str, NamedContext] = _NO_CONTEXTS,
    anew: tuple[str, ...] = (),
) -> Graph:
    """Return the graph that builds ``target`` (a stage's name or number, None for the last).

    ``bases`` holds what ``plan_bases`` asked for, by ``BaseRef.key``. A ``SOURCE_DATE_EPOCH`` among the arguments wins
    over ``source_date_epoch``. The steps of the stages ``anew``, by name or number, are not to come from the cache.

    Raises:
        BuildError: the Dockerfile cannot be built; placed at its line.
    """
    return _Build(dockerfile, build_args, target, platform, bases, source_date_epoch, contexts).graph(anew)


class _Build:
    """One conversion: the scope of arguments, the stages, and the state of those converted so far."""

    def __init__(
        self,
        dockerfile: Dockerfile,
        build_args: Mapping[str, str],
        target: str | None,
        platform: Platform,
        bases: Mapping[str, BaseImage],
        epoch: int | None,
        contexts: Mapping[str, NamedContext],
    ) -> None:
        self._dockerfile = dockerfile
        self._bases = bases
        self._build_args = dict(build_args)
        if epoch is not None:
            self._build_args.setdefault(arguments.EPOCH, str(epoch))
        rules = shell.Rules(escape=dockerfile.directives.escape)
        last = dockerfile.stages[-1].start.name
        self._automatic = arguments.automatic_arguments(self._build_args, host(), platform, target or last)
        scope = arguments.add_global_arguments(self._automatic, dockerfile.global_args, self._build_args, rules)
        self._given_epoch = epoch
        self._table = StageTable(dockerfile, scope, rules, platform, contexts)
        self._single = len(dockerfile.stages) == 1 and not self._table.uses_images_beside_stages()
        self._steps = StepTable()
        proxy_env = arguments.proxy_environment(self._build_args)
        self._around = Surroundings(self._build_args, scope, proxy_env, rules, self._steps, self._origin_of)
        self._states: dict[int, StageState] = {}
        self._triggers: dict[int, tuple[Instruction, ...]] = {}
        self._target = self._table.target(target)
        self._reachable, self.images = self._table.reachable(self._target, self._instructions)
        self._table.check_others(self._reachable)

    def graph(self, anew: tuple[str, ...]) -> Graph:
        wanted = {self._table.target(name, "--no-cache-filter: stage") for name in anew}
        for number in self._reachable:
            self._states[number] = self._convert_stage(self._dockerfile.stages[number])
        state = self._states[self._target]
        epoch = arguments.source_date_epoch({**self._around.global_scope, **self._build_args}, self._given_epoch)
        warnings = (
            *self._dockerfile.warnings,
            *arguments.special_findings(self._build_args),
            *arguments.unused_arguments(self._dockerfile, self._build_args, self._automatic),
        )
        return Graph(
            tuple(self._steps.steps),
            state.final,
            _as_text(state.config),
            tuple(state.history),
            warnings,
            epoch,
            frozenset[StepId]().union(*(self._own_steps(number) for number in wanted & self._states.keys())),
            tuple(self._reachable),
        )

    def _own_steps(self, number: int) -> set[StepId]:
        """Return the steps of a stage, without those it inherits and without its image."""
        parent = self._table.bases[number].stage
        end = None if parent is None else self._states[parent].final
        found: set[StepId] = set()
        at = self._states[number].final
        while at is not None and at != end:
            step = self._steps.steps[at]
            if not isinstance(step.operation, Pull):
                found.add(at)
            at = step.base
        return found

    def _instructions(self, number: int) -> tuple[Instruction, ...]:
        """Return the instructions of a stage, those that its base triggers first; none when a context replaces it."""
        if number in self._table.replaced:
            return ()
        if number not in self._triggers:
            self._triggers[number] = self._find_triggers(number)
        return self._triggers[number] + self._dockerfile.stages[number].instructions

    def _find_triggers(self, number: int) -> tuple[Instruction, ...]:
        base = self._table.bases[number]
        while base.stage in self._table.replaced:
            base = self._table.bases[base.stage]
        if base.stage is not None:
            before = self._instructions(base.stage)
            expressions = tuple(one.expression for one in before if isinstance(one, Onbuild))
        elif base.image is not None and base.image.key in self._bases:
            expressions = self._bases[base.image.key].config.on_build
        else:
            expressions = ()
        place = self._dockerfile.stages[number].start.origin.source
        return tuple(parse_trigger(expression, place) for expression in expressions)

    def _convert_stage(self, stage: Stage) -> StageState:
        base = self._table.bases[stage.number]
        state = self._start(stage)
        todo = self._instructions(stage.number)
        triggers = len(self._triggers.get(stage.number, ()))
        state.label = "" if self._single else stage.name
        state.total = sum(isinstance(one, _COUNTED) for one in todo[triggers:]) + triggers
        if base.image is not None:
            state.total += 1
            title = state.numbered(f"FROM {_pinned(base.image, self._base(base.image))}")
            state.final = self._pull(base.image, title, stage.start.origin.source)
        elif base.context:
            # all of its files, as a layer of their own
            state.total += 1
            created_by = f"FROM {base.context}"
            state.add_step(
                Copy(("/",), "/", None, context=base.context),
                (),
                stage.start.origin.source,
                state.numbered(created_by),
                created_by,
            )
        for at, instruction in enumerate(todo):
            state.triggered = at < triggers
            try:
                _CONVERSIONS[type(instruction)](state, instruction)
            except BuildError as error:
                raise error.at(instruction.origin.source) from error.__cause__
        return state

    def _start(self, stage: Stage) -> StageState:
        """Return the state before the first instruction: what the stage inherits."""
        base = self._table.bases[stage.number]
        if base.stage is not None:
            parent = self._states[base.stage]
            state = StageState(self._around, stage.number, parent.config._replace(on_build=()), parent.platform)
            state.environment.update(parent.environment)
            state.declared.update(parent.declared)
            state.history.extend(parent.history)
            state.final = parent.final
        else:
            config = _empty_config(base.platform)
            if base.image is not None:
                config = self._base(base.image).config._replace(created=None, on_build=())
            state = StageState(self._around, stage.number, config, base.platform)
        # what ENV set wins over an inherited argument of the name, even one that was declared after it
        for entry in state.config.env:
            name, _, value = entry.partition("=")
            state.environment[name] = value
        if "PATH" not in state.environment:
            state.set_variable("PATH", DEFAULT_PATH)
        return state

    def _base(self, image: BaseRef) -> BaseImage:
        base = self._bases.get(image.key)
        if base is None:
            message = f"the configuration of the base image {image.key} is not known"
            raise BaseImageError(message, source=image.source, hints=image.hints)
        return base

    def _pull(self, image: BaseRef, title: str, place: SourceRange) -> StepId:
        operation = Pull(image.canonical, self._base(image).manifest_digest, image.platform)
        return self._steps.add(operation, None, (), place, title, f"FROM {image.reference}")

    def _origin_of(self, reference: str, stage: int, place: SourceRange) -> Origin:
        """Return where files come from that ``from=reference`` means."""
        source = self._table.source(reference, stage, place)
        if isinstance(source, ContextName):
            return Origin(None, source)
        if isinstance(source, BaseRef):
            return Origin(self._pull(source, f"FROM {_pinned(source, self._base(source))}", place))
        final = None if source is None else self._states[source].final
        if final is None:
            final = self._steps.add(Scratch(), None, (), place, "FROM scratch", "FROM scratch")
        return Origin(final)


_Conversion: TypeAlias = Callable[[StageState, Instruction], None]

_CONVERSIONS = cast(
    "dict[type[Instruction], _Conversion]",
    {
        instructions.Arg: metadata.convert_arg,
        instructions.Run: execution.convert_run,
        instructions.Copy: copying.convert_copy,
        instructions.Add: copying.convert_add,
        instructions.Env: metadata.convert_env,
        instructions.Label: metadata.convert_label,
        instructions.Maintainer: metadata.convert_maintainer,
        instructions.Expose: metadata.convert_expose,
        instructions.Volume: metadata.convert_volume,
        instructions.User: metadata.convert_user,
        instructions.Workdir: copying.convert_workdir,
        instructions.StopSignal: metadata.convert_stop_signal,
        instructions.Cmd: metadata.convert_cmd,
        instructions.Entrypoint: metadata.convert_entrypoint,
        instructions.Shell: metadata.convert_shell,
        instructions.Healthcheck: metadata.convert_healthcheck,
        instructions.Onbuild: metadata.convert_onbuild,
    },
)
"""How each instruction is converted; every kind of instruction has its entry (a test compares)."""


def _pinned(image: BaseRef, base: BaseImage) -> str:
    digest = f"@{base.manifest_digest}"
    return image.canonical if image.canonical.endswith(digest) else image.canonical + digest


def _empty_config(platform: Platform) -> ImageConfig:
    """Return the configuration of an image made from nothing."""
    return ImageConfig(
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant,
        env=(f"PATH={DEFAULT_PATH}",),
        working_dir="/",
    )


def _as_text(config: ImageConfig) -> ImageConfig:
    """Return the configuration with bytes that are not UTF-8 replaced: it is to become JSON."""
    return config._replace(
        author=printable(config.author),
        user=printable(config.user),
        env=tuple(map(printable, config.env)),
        entrypoint=tuple(map(printable, config.entrypoint)),
        cmd=tuple(map(printable, config.cmd)),
        volumes=tuple(map(printable, config.volumes)),
        working_dir=printable(config.working_dir),
        labels={printable(name): printable(value) for name, value in config.labels.items()},
        on_build=tuple(map(printable, config.on_build)),
        shell=tuple(map(printable, config.shell)),
        healthcheck=config.healthcheck
        and config.healthcheck._replace(test=tuple(map(printable, config.healthcheck.test))),
    )
