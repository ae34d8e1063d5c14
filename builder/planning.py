"""From the options of a build to its graph, as far as that goes without a registry.

On the cached-build path. Invariants: files are read, nothing is written; what was read is kept in ``sources`` before
it is parsed, so that an error can show its excerpt.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from builder.bases import Base, find_in_store
from builder.contexts import STDIN, Contexts
from builder.convert import convert, plan_bases
from builder.dockerfile.instructions import Dockerfile
from builder.dockerfile.lexer import decode
from builder.dockerfile.parser import parse
from builder.dockerfile.source import Source
from builder.errors import ContextError, UsageError
from builder.graph import BaseRef, Graph
from builder.options import BuildOptions
from builder.paths import host_path_inside
from layers.errors import FormatError
from layers.platform import Platform, host
from layers.platform import parse as parse_platform
from layers.store import Store
from unionfs.namedtuple import NamedTuple

_NAMES = ("Dockerfile", "dockerfile", "Containerfile")
"""The first that is there; the last is the name that podman and buildah know."""
_PREPROCESSED = ".in"
_LARGEST_DOCKERFILE_BYTES = 16 << 20


class Plan(NamedTuple):
    """A parsed Dockerfile. ``path`` is where it was read, None for one that lies in no directory."""

    dockerfile: Dockerfile
    path: str | None
    platform: Platform
    contexts: Contexts


def read_plan(options: BuildOptions, contexts: Contexts, sources: dict[str, Source]) -> Plan:
    """As `read_plans`, for the first platform."""
    return read_plans(options, contexts, sources)[0]


def read_plans(options: BuildOptions, contexts: Contexts, sources: dict[str, Source]) -> tuple[Plan, ...]:
    """What ``options`` ask for, one plan a platform; the Dockerfile's text is in ``sources`` under its name.

    Raises:
        UsageError: a platform makes no sense.
        ContextError: there is no context directory or no Dockerfile.
        DockerfileError: the text is none.
    """
    platforms = plan_platforms(options)
    name, path, raw = _read(contexts)
    text = decode(raw)
    sources[name] = Source(name, text)
    dockerfile = parse(text, name)
    if options.base is not None or options.environment:
        from builder.amend import amend

        dockerfile = amend(dockerfile, options.base, options.environment)
    return tuple(Plan(dockerfile, path, platform, contexts) for platform in platforms)


def plan_platforms(options: BuildOptions) -> tuple[Platform, ...]:
    """The platforms to be built for, each once; the machine's own when none is asked for. Raises UsageError."""
    try:
        wanted = tuple(dict.fromkeys(parse_platform(text) for text in options.platforms))
    except FormatError as error:
        raise UsageError(str(error)) from error
    return wanted or (host(),)


def _inside(path: str, directory: str) -> bool:
    return os.path.abspath(path).startswith(os.path.join(os.path.abspath(directory), ""))


def _read(contexts: Contexts) -> tuple[str, str | None, bytes]:
    """Name, path and bytes of the Dockerfile."""
    if contexts.dockerfile == STDIN:
        return STDIN, None, sys.stdin.buffer.read(_LARGEST_DOCKERFILE_BYTES)
    if contexts.text is not None:
        return contexts.text.name, None, contexts.text.content
    if contexts.dockerfile is not None:
        path = contexts.dockerfile
        content = _read_file(path, _shown(path, contexts), contexts.main)
        return _shown(path, contexts), path, _preprocess(content, path, contexts)
    for name in _NAMES:
        path = host_path_inside(contexts.main, name) if contexts.origin else os.path.join(contexts.main, name)
        if os.path.lexists(path):
            return _shown(path, contexts), path, _read_file(path, path if not contexts.origin else name, contexts.main)
    raise ContextError(
        f"no Dockerfile in {contexts.origin or contexts.main!r}",
        hints=("-f PATH names one that lies elsewhere or is called otherwise",),
    )


def _shown(path: str, contexts: Contexts) -> str:
    """``path`` for people: inside the context it is relative to that."""
    return os.path.relpath(path, contexts.main) if _inside(path, contexts.main) else path


def _read_file(path: str, shown: str, main: str) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST_DOCKERFILE_BYTES)
    except OSError as error:
        message = f"Dockerfile {shown!r}: {os.strerror(error.errno or 0).lower()}"
        inside = os.path.join(main, path)
        hints = (f"-f is looked for in the working directory: {inside} is there",) if os.path.isfile(inside) else ()
        raise ContextError(message, hints=hints) from error
    return content


def _preprocess(content: bytes, path: str, contexts: Contexts) -> bytes:
    """``content`` as it is, or what the preprocessor makes of it where the name at ``path`` asks for that."""
    if not path.endswith(_PREPROCESSED):
        return content
    if contexts.origin:
        # it could be made to include any file of this machine
        raise ContextError(f"Dockerfile {path!r} comes from elsewhere, and is not preprocessed")
    from builder.preprocessor import preprocess

    return preprocess(content, contexts.main, _shown(path, contexts))


def needed_bases(plan: Plan, known: Mapping[str, Base], options: BuildOptions) -> tuple[BaseRef, ...]:
    """The images that must be known besides ``known`` (by key) before the graph can be made.

    The triggers of a base may need further ones, so the question is asked again until the answer is empty.
    """
    wanted = plan_bases(
        plan.dockerfile,
        build_args=options.build_args,
        target=options.target,
        platform=plan.platform,
        known={key: base.image for key, base in known.items()},
        contexts=plan.contexts.named,
    )
    return tuple(ref for ref in wanted if ref.key not in known)


def find_local_bases(plan: Plan, options: BuildOptions, store: Store) -> tuple[dict[str, Base], tuple[BaseRef, ...]]:
    """The bases that ``store`` has, by key, and those it has not."""
    known: dict[str, Base] = {}
    missing: dict[str, BaseRef] = {}
    while refs := [ref for ref in needed_bases(plan, known, options) if ref.key not in missing]:
        for ref in refs:
            base = find_in_store(ref, store)
            if base is None:
                missing[ref.key] = ref
            else:
                known[ref.key] = base
    return known, tuple(missing.values())


def make_graph(plan: Plan, bases: Mapping[str, Base], options: BuildOptions) -> Graph:
    """The graph of ``plan``, whose bases are all known."""
    graph = convert(
        plan.dockerfile,
        {key: base.image for key, base in bases.items()},
        build_args=options.build_args,
        target=options.target,
        platform=plan.platform,
        source_date_epoch=options.source_date_epoch,
        contexts=plan.contexts.named,
        anew=options.no_cache_stages,
    )
    if options.unset_environment:
        unset = options.unset_environment
        kept = tuple(entry for entry in graph.config.env if entry.partition("=")[0] not in unset)
        graph = graph._replace(config=graph.config._replace(env=kept))
    return graph
