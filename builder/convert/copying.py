"""COPY, ADD and WORKDIR: steps that put files and directories in place without running anything.

Invariants: destinations are absolute; sources are absolute in the root they are taken from; a flag that contradicts
the kind of source is an error. With ``--chmod``, ``--link`` has no effect, as in the reference frontend.
"""

from __future__ import annotations

from builder.convert import paths
from builder.convert.remote import GitFlags, is_remote, parse_remote
from builder.convert.state import BUILT, StageState
from builder.dockerfile import instructions, shell
from builder.dockerfile.instructions import Heredoc
from builder.errors import DockerfileError
from builder.graph import MAIN_CONTEXT, Copy, GitSource, HttpSource, InlineFile, MakeDirectory
from unionfs.namedtuple import NamedTuple

_PIVOT = "/./"
_IN_DOCUMENTS = shell.Rules(plain_quotes=True)


class _Common(NamedTuple):
    """What COPY and ADD have in common, expanded."""

    sources: tuple[str, ...]
    destination: str
    chown: str
    chmod: str
    inline: tuple[InlineFile, ...]


def convert_copy(state: StageState, instruction: instructions.Copy) -> None:
    """COPY: from the context, a stage or an image."""
    common = _expand(state, instruction)
    place = instruction.origin.source
    origin = MAIN_CONTEXT
    if instruction.from_:
        origin = state.around.origin_of(instruction.from_, state.number, place)
    for source in common.sources:
        if is_remote(source):
            message = f"COPY: the source {source!r} is remote"
            raise DockerfileError(message, hints=("ADD fetches URLs and git repositories",))
    operation = Copy(
        sources=tuple(_local(source, parents=instruction.parents) for source in common.sources),
        destination=paths.join_destination(state.cwd, common.destination),
        from_step=origin.step,
        context=origin.context,
        chown=common.chown,
        chmod=common.chmod,
        parents=instruction.parents,
        excludes=instruction.excludes,
        link=instruction.link and not common.chmod,
        inline=common.inline,
    )
    title = state.title(instruction.origin.text, state.around.rules)
    created_by = _history("COPY", common, parents=instruction.parents)
    inputs = () if origin.step is None else (origin.step,)
    state.add_step(operation, inputs, place, title, created_by)


def convert_add(state: StageState, instruction: instructions.Add) -> None:
    """ADD: as COPY from the context, and archives are unpacked, URLs and repositories fetched."""
    common = _expand(state, instruction)
    checksum = state.expand(instruction.checksum)
    remote = [source for source in common.sources if is_remote(source)]
    if checksum:
        if len(common.sources) != 1 or common.inline:
            raise DockerfileError("ADD: --checksum needs exactly one source")
        if not remote:
            raise DockerfileError(f"ADD: --checksum needs a URL or a git repository, got {common.sources[0]!r}")
    fetched = [parse_remote(source, GitFlags(instruction.keep_git_dir, checksum)) for source in remote]
    operation = Copy(
        sources=tuple(_local(source, parents=False) for source in common.sources if source not in remote),
        destination=paths.join_destination(state.cwd, common.destination),
        from_step=None,
        chown=common.chown,
        chmod=common.chmod,
        excludes=instruction.excludes,
        link=instruction.link and not common.chmod,
        unpack=instruction.unpack is not False,
        unpack_remote=bool(instruction.unpack),
        inline=common.inline,
        http=tuple(source for source in fetched if isinstance(source, HttpSource)),
        git=tuple(source for source in fetched if isinstance(source, GitSource)),
    )
    title = state.title(instruction.origin.text, state.around.rules)
    state.add_step(operation, (), instruction.origin.source, title, _history("ADD", common, parents=False))


def convert_workdir(state: StageState, instruction: instructions.Workdir) -> None:
    """WORKDIR: the directory is made, whether it exists or not, unless it is the root."""
    path = state.expand(instruction.path)
    # an empty path means the directory so far; an absolute one is recorded as written, as other builders do, and
    # what is done with it is cleaned
    working_dir = path if path.startswith("/") else paths.join(state.config.working_dir, path)
    state.config = state.config._replace(working_dir=working_dir)
    created_by = f"WORKDIR {working_dir}"
    if state.cwd == "/":
        state.note(created_by)
        return
    title = state.title(instruction.origin.text, state.around.rules)
    operation = MakeDirectory(state.cwd, state.config.user)
    state.add_step(operation, (), instruction.origin.source, title, created_by)


def _expand(state: StageState, instruction: instructions.Copy | instructions.Add) -> _Common:
    chmod = state.expand(instruction.chmod)
    if chmod:
        from builder.modes import parse_mode

        try:
            parse_mode(chmod)
        except ValueError as error:
            raise DockerfileError(f"--chmod: {error}") from None
    return _Common(
        tuple(state.expand(source) for source in instruction.sources),
        state.expand(instruction.destination),
        state.expand(instruction.chown),
        chmod,
        tuple(_document(state, document) for document in instruction.heredocs),
    )


def _document(state: StageState, document: Heredoc) -> InlineFile:
    content = document.content
    if document.expand:
        content = shell.expand(content, state.environment, _IN_DOCUMENTS).text
    return InlineFile(document.name, content)


def _local(source: str, *, parents: bool) -> str:
    """Return the source as an absolute path; with ``--parents`` the pivot between base and kept path stays."""
    if parents and _PIVOT in source:
        base, _, kept = source.partition(_PIVOT)
        return paths.clean(base).rstrip("/") + "/." + paths.clean(kept)
    return paths.clean(source)


def _history(keyword: str, common: _Common, *, parents: bool) -> str:
    flags = [keyword]
    if parents:
        flags.append("--parents")
    if common.chown:
        flags.append(f"--chown={common.chown}")
    if common.chmod:
        flags.append(f"--chmod={common.chmod}")
    documents = [f"<<{document.name}" for document in common.inline]
    return " ".join([*flags, *common.sources, *documents, common.destination]) + BUILT
