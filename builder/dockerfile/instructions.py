"""The instructions of a Dockerfile as values: what was written, before any variable is expanded.

Invariants: every value is immutable and carries its place; flags and forms are validated, words are not yet expanded;
an absent flag is the empty string (or None where the empty string means something).
The language is that of the Dockerfile frontend, versions 1.0 to 1.26.
"""

from __future__ import annotations

from typing import TypeAlias

from builder.dockerfile.source import Finding, Source, SourceRange
from unionfs.namedtuple import NamedTuple


class Origin(NamedTuple):
    """Where an instruction stands.

    ``text`` is the logical line: continuations joined, comments removed, heredoc bodies left out. ``keyword`` keeps
    the case it was written in. ``comments`` are the lines directly above, without ``#``.
    """

    source: SourceRange
    text: str
    keyword: str
    comments: tuple[str, ...] = ()


class Heredoc(NamedTuple):
    """A document given in the Dockerfile itself: ``<<name`` up to a line that holds ``name`` alone.

    ``body`` is as written, newline included. ``expand`` is false when a part of the word was quoted. ``chomp`` is the
    ``<<-`` form, which removes leading tabs.
    """

    name: str
    body: str
    expand: bool
    chomp: bool
    descriptor: int = 0

    @property
    def content(self) -> str:
        """The document: the body, without the tabs that lead its lines in the ``<<-`` form."""
        if not self.chomp:
            return self.body
        return "".join(line.lstrip("\t") for line in self.body.splitlines(keepends=True))


class Pair(NamedTuple):
    """One ``key=value``; ``delimited`` is false in the old form ``ENV key value``."""

    key: str
    value: str
    delimited: bool = True

    def __str__(self) -> str:
        """Return ``key=value``."""
        return f"{self.key}={self.value}"


class Declaration(NamedTuple):
    """One name of an ARG instruction; ``default`` is None when none is written."""

    name: str
    default: str | None


class CommandLine(NamedTuple):
    """The command of RUN, CMD, ENTRYPOINT and HEALTHCHECK.

    In the shell form ``words`` is one string for the shell; in the JSON form it is the argument list.
    """

    words: tuple[str, ...]
    shell_form: bool
    heredocs: tuple[Heredoc, ...] = ()


class From(NamedTuple):
    """``FROM [--platform=P] base [AS name]``; ``name`` is lower-cased, empty when there is none."""

    origin: Origin
    base: str
    name: str
    platform: str


class Arg(NamedTuple):
    """``ARG name[=default] …``."""

    origin: Origin
    declarations: tuple[Declaration, ...]


class Run(NamedTuple):
    """``RUN [--mount=… …] [--network=…] [--security=…] [--device=… …] command``; mounts and devices are unparsed."""

    origin: Origin
    command: CommandLine
    mounts: tuple[str, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    devices: tuple[str, ...] = ()


class Copy(NamedTuple):
    """``COPY [flags] source … destination``; ``from_`` is a stage name, a stage number or an image reference."""

    origin: Origin
    sources: tuple[str, ...]
    heredocs: tuple[Heredoc, ...]
    destination: str
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    excludes: tuple[str, ...] = ()


class Add(NamedTuple):
    """``ADD [flags] source … destination``; ``keep_git_dir`` and ``unpack`` are None when the flag is absent."""

    origin: Origin
    sources: tuple[str, ...]
    heredocs: tuple[Heredoc, ...]
    destination: str
    chown: str = ""
    chmod: str = ""
    link: bool = False
    excludes: tuple[str, ...] = ()
    keep_git_dir: bool | None = None
    checksum: str = ""
    unpack: bool | None = None


class Env(NamedTuple):
    """``ENV key=value …``."""

    origin: Origin
    pairs: tuple[Pair, ...]


class Label(NamedTuple):
    """``LABEL key=value …``."""

    origin: Origin
    pairs: tuple[Pair, ...]


class Maintainer(NamedTuple):
    """``MAINTAINER name``, deprecated."""

    origin: Origin
    name: str


class Expose(NamedTuple):
    """``EXPOSE port …``; the words may expand to several ports each."""

    origin: Origin
    ports: tuple[str, ...]


class Volume(NamedTuple):
    """``VOLUME path …``."""

    origin: Origin
    paths: tuple[str, ...]


class User(NamedTuple):
    """``USER user[:group]``."""

    origin: Origin
    user: str


class Workdir(NamedTuple):
    """``WORKDIR path``."""

    origin: Origin
    path: str


class StopSignal(NamedTuple):
    """``STOPSIGNAL signal``."""

    origin: Origin
    signal: str


class Cmd(NamedTuple):
    """``CMD command``."""

    origin: Origin
    command: CommandLine


class Entrypoint(NamedTuple):
    """``ENTRYPOINT command``."""

    origin: Origin
    command: CommandLine


class Shell(NamedTuple):
    """``SHELL ["program", "argument", …]``."""

    origin: Origin
    words: tuple[str, ...]


class Healthcheck(NamedTuple):
    """``HEALTHCHECK NONE`` (``command`` is None) or ``HEALTHCHECK [flags] CMD command``; 0 inherits the default."""

    origin: Origin
    command: CommandLine | None
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


class Onbuild(NamedTuple):
    """``ONBUILD instruction``; ``expression`` is the instruction's text, which was checked to be one."""

    origin: Origin
    expression: str


Instruction: TypeAlias = (
    Arg
    | Run
    | Copy
    | Add
    | Env
    | Label
    | Maintainer
    | Expose
    | Volume
    | User
    | Workdir
    | StopSignal
    | Cmd
    | Entrypoint
    | Shell
    | Healthcheck
    | Onbuild
)
"""What may stand in a stage after its FROM."""


class Stage(NamedTuple):
    """One FROM and what follows it; stages are numbered from 0."""

    number: int
    start: From
    instructions: tuple[Instruction, ...]

    @property
    def name(self) -> str:
        """The name given with AS, or ``stage-N``."""
        return self.start.name or f"stage-{self.number}"


class Directives(NamedTuple):
    """The parser directives at the head of the file; empty when absent."""

    syntax: str = ""
    escape: str = "\\"
    check: str = ""


class Dockerfile(NamedTuple):
    """A whole file: ``global_args`` stand before the first FROM; there is at least one stage."""

    source: Source
    directives: Directives
    global_args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    warnings: tuple[Finding, ...] = ()
