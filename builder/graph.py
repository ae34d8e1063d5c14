"""The graph of steps a Dockerfile becomes: operations on file systems, and the image made of the last one.

Invariants: a graph is an immutable value; ``steps`` is in topological order and a StepId is the index of its step, so
that a step refers to earlier ones only; no two steps have the same operation and the same base; every step is needed
for the result. Paths are absolute inside the image's root and cleaned; variables are expanded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NewType, TypeAlias

from builder.dockerfile.source import Finding, SourceRange
from builder.identities import names_identity
from layers.platform import Platform
from unionfs.namedtuple import NamedTuple

if TYPE_CHECKING:
    from layers.config import ImageConfig

StepId = NewType("StepId", int)
"""Number of a step: its index in ``Graph.steps``."""

HISTORY_COMMENT = "buildkit.dockerfile.v0"
"""The comment of every history entry a Dockerfile causes, the one by which tools know where an entry comes from."""


class Pull(NamedTuple):
    """The file system of a base image, by content: ``manifest_digest`` decides, ``reference`` is for people."""

    reference: str
    manifest_digest: str
    platform: Platform


class Scratch(NamedTuple):
    """The empty file system; a step only where something reads from an empty stage (``COPY --from``, mounts)."""


class InlineFile(NamedTuple):
    """A file that was written in the Dockerfile as a heredoc."""

    name: str
    content: str


class HttpSource(NamedTuple):
    """A file to be fetched by ADD; ``filename`` is the name it gets in a directory, from the URL's path."""

    url: str
    filename: str
    checksum: str


class GitSource(NamedTuple):
    """A repository to be fetched by ADD; ``ref`` is empty for the default branch, ``checksum`` a commit prefix.

    ``mtime``: which time files get, ``commit`` (also when it is empty) or ``checkout``. With ``fetch_by_commit`` the
    commit ``checksum`` is taken whatever ``ref`` leads to by now.
    """

    remote: str
    ref: str
    subdirectory: str
    keep_git_dir: bool
    checksum: str
    submodules: bool = True
    mtime: str = ""
    fetch_by_commit: bool = False


class Origin(NamedTuple):
    """Where files come from: another step, the context called ``context``, or, with neither, the build context."""

    step: StepId | None = None
    context: str = ""


MAIN_CONTEXT = Origin()


class BindMount(NamedTuple):
    """Files of another step (``from_step``) or, when it is None, of a context; writes are discarded.

    ``context`` is the name of the context, empty for the build context.
    """

    target: str
    source: str
    from_step: StepId | None
    read_only: bool
    context: str = ""


class CacheMount(NamedTuple):
    """A directory that outlives the build, by ``id``, which tells of its mode and owner where they are not the usual.

    ``from_step``, or the named ``context``, and ``source`` say what it holds at first; without either it is empty.
    """

    target: str
    id: str
    sharing: str
    read_only: bool
    source: str
    from_step: StepId | None
    mode: int
    uid: int
    gid: int
    context: str = ""


class TmpfsMount(NamedTuple):
    """An empty file system in memory; ``size_bytes`` 0 is without limit of its own."""

    target: str
    size_bytes: int


class SecretMount(NamedTuple):
    """A secret given to the build by ``id``: as the file ``target``, as the variable ``env``, or both; None is not."""

    id: str
    target: str | None
    env: str | None
    required: bool
    mode: int
    uid: int
    gid: int


class SshMount(NamedTuple):
    """The agent socket given to the build by ``id``."""

    id: str
    target: str
    required: bool
    mode: int
    uid: int
    gid: int


Mount: TypeAlias = BindMount | CacheMount | TmpfsMount | SecretMount | SshMount


class Run(NamedTuple):
    """A command on top of the base; what it writes is the step's layer.

    ``env`` holds ``NAME=value`` in order of definition, build arguments included. ``proxy_env`` is given to the command
    as well, but decides nothing: it is no part of the step's identity. ``network`` is ``default``, ``none`` or
    ``host``; ``security`` is ``sandbox`` or ``insecure``. ``script``, when set, is to be the executable file
    ``/dev/pipes/<name>`` while the command runs. ``hostname`` is None for the default. ``shell_text`` is the command
    for messages: the arguments joined by blanks. ``user`` is as USER gave it, empty for root.
    """

    argv: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str
    network: str
    security: str
    mounts: tuple[Mount, ...]
    hostname: str | None
    shell_text: str
    proxy_env: tuple[str, ...] = ()
    script: InlineFile | None = None
    devices: tuple[str, ...] = ()


class Copy(NamedTuple):
    """Files copied on top of the base: COPY and ADD.

    ``sources`` are absolute in the root of ``from_step`` (None: the context called ``context``, the build context when
    that is empty), may hold the wildcards of Go's
    filepath.Match, and with ``parents`` keep their pivot ``/./`` and may hold ``**``. A trailing ``/`` of
    ``destination`` says that it is a directory. ``chmod`` is empty, octal digits or symbolic
    (``builder.dockerfile.mode``). ``unpack``: local archives are extracted. ``inline``, ``http`` and ``git`` are
    further sources, in this order after ``sources``. ``link``: the layer does not depend on the base.
    """

    sources: tuple[str, ...]
    destination: str
    from_step: StepId | None
    chown: str = ""
    chmod: str = ""
    parents: bool = False
    excludes: tuple[str, ...] = ()
    link: bool = False
    unpack: bool = False
    unpack_remote: bool = False
    inline: tuple[InlineFile, ...] = ()
    http: tuple[HttpSource, ...] = ()
    git: tuple[GitSource, ...] = ()
    context: str = ""

    @property
    def is_remote(self) -> bool:
        """Whether something must be fetched."""
        return bool(self.http or self.git)

    @property
    def looks_below(self) -> bool:
        """Whether files of the base decide anything: without ``link`` they do, with it only who an owner is."""
        return not self.link or (bool(self.chown) and names_identity(self.chown))


class MakeDirectory(NamedTuple):
    """A directory and its missing parents, mode 0755, owned by ``user`` (as USER gave it, empty for root): WORKDIR."""

    path: str
    user: str


Operation: TypeAlias = Pull | Scratch | Run | Copy | MakeDirectory


class Setting(NamedTuple):
    """What a command has at a place of the Dockerfile: variables as ``NAME=value``, directory, user, words of SHELL."""

    env: tuple[str, ...]
    cwd: str
    user: str
    shell: tuple[str, ...]


class Step(NamedTuple):
    """One operation on top of ``base`` (None: the empty file system).

    ``inputs`` are the further steps it reads from, without the base, each once. ``title`` is for progress:
    ``[build 2/4] RUN make``. ``created_by`` is what the image's history says of it. ``setting`` is what a command has
    after it, None where the stage has only begun; it decides nothing.
    """

    id: StepId
    operation: Operation
    base: StepId | None
    inputs: tuple[StepId, ...]
    source: SourceRange
    title: str
    created_by: str
    setting: Setting | None = None


class HistoryEntry(NamedTuple):
    """One line of the image's history: made by ``step``, or by no step when only the configuration changed."""

    created_by: str
    step: StepId | None
    empty_layer: bool
    comment: str = HISTORY_COMMENT


class BaseRef(NamedTuple):
    """An image that the build needs: ``reference`` as written with variables expanded, and for which platform.

    ``key`` is what ``convert`` finds it by in ``bases``: the reference, and the platform as well when that is not the
    one the build is for. ``canonical`` leaves nothing to defaults. ``hints`` help when there is no such image.
    """

    reference: str
    platform: Platform
    source: SourceRange
    key: str
    canonical: str
    hints: tuple[str, ...] = ()


class BaseImage(NamedTuple):
    """What must be known of a base before the graph can be made."""

    config: ImageConfig
    manifest_digest: str


class Graph(NamedTuple):
    """The whole build as a value.

    ``final`` is the step whose file system the image gets, None when that is empty. ``config`` is complete but for
    what only running tells: its history and diff IDs are those of the base image, ``history`` holds what comes after
    them. ``final_chain`` is the order of layers: the steps from the base to ``final``. ``source_date_epoch`` is the
    time, in seconds, that the image and its history are to bear; None is the time of the build. ``anew`` are steps
    whose results are not to be taken from the cache. ``stages`` are the numbers of the stages that are needed.
    """

    steps: tuple[Step, ...]
    final: StepId | None
    config: ImageConfig
    history: tuple[HistoryEntry, ...]
    warnings: tuple[Finding, ...] = ()
    source_date_epoch: int | None = None
    anew: frozenset[StepId] = frozenset()
    stages: tuple[int, ...] = ()

    @property
    def leaves(self) -> frozenset[StepId]:
        """The steps whose files no other step looks at."""
        read: set[StepId | None] = {step_id for step in self.steps for step_id in step.inputs}
        read |= {step.base for step in self.steps if not isinstance(step.operation, Copy) or step.operation.looks_below}
        return frozenset(step.id for step in self.steps if step.id not in read)

    @property
    def final_chain(self) -> tuple[Step, ...]:
        """The steps whose layers, bottom first, make the image."""
        chain: list[Step] = []
        at = self.final
        while at is not None:
            step = self.steps[at]
            chain.append(step)
            at = step.base
        return tuple(reversed(chain))
