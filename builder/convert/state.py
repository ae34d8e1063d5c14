"""What is known while a stage is converted: configuration, environment, the last step, history so far.

Invariants: a stage's state is built once, in order of its instructions, and then only read (by stages that start from
it); steps are numbered in order of creation, and a step that was asked for before is the same step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

from builder.convert import paths
from builder.dockerfile import shell
from builder.dockerfile.source import SourceRange
from builder.errors import ExpansionError
from builder.graph import HistoryEntry, Operation, Origin, Setting, Step, StepId
from layers.config import ImageConfig
from layers.platform import Platform
from unionfs.namedtuple import NamedTuple

BUILT = " # buildkit"
"""What ends the history line of an instruction that made a layer by running or copying."""

_ONBUILD = "ONBUILD "


class StepTable:
    """All steps so far; equal operations on the same base are one step."""

    __slots__ = ("_known", "steps")

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._known: dict[tuple[type[Operation], Operation, StepId | None], StepId] = {}

    def add(
        self,
        operation: Operation,
        base: StepId | None,
        inputs: tuple[StepId, ...],
        source: SourceRange,
        title: str,
        created_by: str,
        setting: Setting | None = None,
    ) -> StepId:
        """Return the id of the step, which is new unless an equal one was added before."""
        # the type is part of it: named tuples of different types with equal fields compare equal
        key = (type(operation), operation, base)
        known = self._known.get(key)
        if known is not None:
            return known
        step = StepId(len(self.steps))
        self.steps.append(Step(step, operation, base, inputs, source, title, created_by, setting))
        self._known[key] = step
        return step


class Surroundings(NamedTuple):
    """What is the same for all stages of a build."""

    build_args: Mapping[str, str]
    global_scope: Mapping[str, str]
    proxy_env: tuple[str, ...]
    rules: shell.Rules
    steps: StepTable
    origin_of: Callable[[str, int, SourceRange], Origin]
    """Where files come from that ``from=…`` means in a stage."""


class StageState:
    """One stage while its instructions are converted."""

    __slots__ = (
        "around",
        "cmd_set",
        "config",
        "declared",
        "environment",
        "final",
        "history",
        "index",
        "label",
        "number",
        "platform",
        "total",
        "triggered",
    )

    def __init__(self, around: Surroundings, number: int, config: ImageConfig, platform: Platform) -> None:
        self.around = around
        self.number = number
        self.config = config
        self.platform = platform
        self.environment: dict[str, str] = {}
        self.declared: dict[str, str | None] = {}
        self.history: list[HistoryEntry] = []
        self.final: StepId | None = None
        self.cmd_set = False
        self.label = ""
        self.index = 0
        self.total = 0
        self.triggered = False

    @property
    def cwd(self) -> str:
        """The working directory, cleaned."""
        return paths.clean(self.config.working_dir)

    def expand(self, text: str) -> str:
        """Return ``text`` with the variables of the stage replaced.

        Raises:
            ExpansionError: as ``shell.expand``.
        """
        return shell.expand(text, self.environment, self.around.rules).text

    def set_variable(self, name: str, value: str) -> None:
        """Set a variable for the instructions that follow and for the image: ENV."""
        self.environment[name] = value
        entry = f"{name}={value}"
        env = list(self.config.env)
        for at, existing in enumerate(env):
            if existing.partition("=")[0] == name:
                env[at] = entry
                break
        else:
            env.append(entry)
        self.config = self.config._replace(env=tuple(env))

    def note(self, created_by: str) -> None:
        """Add a history line for a change of the configuration alone."""
        self.history.append(HistoryEntry(printable(created_by), None, empty_layer=True))

    def add_step(
        self, operation: Operation, inputs: tuple[StepId, ...], source: SourceRange, title: str, created_by: str
    ) -> None:
        """Put ``operation`` on top of the stage, with its history line."""
        created_by = printable(created_by)
        env = tuple([f"{name}={value}" for name, value in self.environment.items()])
        setting = Setting(env, self.cwd, self.config.user, self.shell_words())
        self.final = self.around.steps.add(operation, self.final, inputs, source, title, created_by, setting)
        self.history.append(HistoryEntry(created_by, self.final, empty_layer=False))

    def title(self, text: str, rules: shell.Rules, variables: Mapping[str, str] | None = None) -> str:
        """Return the next numbered title, ``[build 2/4] RUN make``, variables of ``text`` replaced where possible."""
        # a title is for people: what cannot be expanded is shown as written
        with contextlib.suppress(ExpansionError):
            text = shell.expand(text, self.environment if variables is None else variables, rules).text
        keyword, blank, rest = text.partition(" ")
        return self.numbered(keyword.upper() + blank + rest)

    def numbered(self, text: str) -> str:
        """Return ``text`` behind the stage's name and the next number."""
        self.index += 1
        if not self.total:
            return text
        width = len(str(self.total))
        name = f"{self.label} " if self.label else ""
        return f"[{name}{self.index:{width}}/{self.total}] {_ONBUILD if self.triggered else ''}{text}"

    def shell_words(self) -> tuple[str, ...]:
        """Return the program and arguments that run a command in shell form."""
        return self.config.shell or ("/bin/sh", "-c")


def printable(text: str) -> str:
    """Return ``text`` with bytes that are not UTF-8 replaced, as JSON needs it."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
