"""From the options of a build to its graph, as far as that goes without a registry.

On the cached-build path. Invariants: files are read, nothing is written; what was read is kept in ``sources`` before
it is parsed, so that an error can show its excerpt.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

from builder.bases import Base, find_in_store
from builder.convert import convert, plan_bases
from builder.dockerfile.instructions import Dockerfile
from builder.dockerfile.lexer import decode
from builder.dockerfile.parser import parse
from builder.dockerfile.source import Source
from builder.errors import ContextError, UsageError
from builder.graph import BaseRef, Graph
from builder.options import BuildOptions
from layers.errors import FormatError
from layers.platform import Platform, host
from layers.platform import parse as parse_platform
from layers.store import Store

_NAMES = ("Dockerfile", "dockerfile")
_LARGEST_DOCKERFILE_BYTES = 16 << 20


class Plan(NamedTuple):
    """A parsed Dockerfile. ``path`` is where it was read, None for stdin."""

    dockerfile: Dockerfile
    path: str | None
    platform: Platform


def read_plan(options: BuildOptions, sources: dict[str, Source]) -> Plan:
    """What ``options`` ask for; the Dockerfile's text is in ``sources`` under its name.

    Raises:
        UsageError: the platform makes no sense.
        ContextError: there is no context directory or no Dockerfile.
        DockerfileError: the text is none.
    """
    platform = _platform(options)
    path, raw = _read(options)
    name = "-" if path is None else os.path.relpath(path, options.context) if _inside(path, options.context) else path
    text = decode(raw)
    sources[name] = Source(name, text)
    return Plan(parse(text, name), path, platform)


def _platform(options: BuildOptions) -> Platform:
    if options.platform is None:
        return host()
    try:
        return parse_platform(options.platform)
    except FormatError as error:
        raise UsageError(str(error)) from error


def _inside(path: str, directory: str) -> bool:
    return os.path.abspath(path).startswith(os.path.join(os.path.abspath(directory), ""))


def _read(options: BuildOptions) -> tuple[str | None, bytes]:
    """Path and bytes of the Dockerfile."""
    if not os.path.isdir(options.context):
        if not os.path.lexists(options.context):
            raise ContextError(f"context {options.context!r} does not exist")
        hints = ("the context is the directory with the files to copy; -f PATH names the Dockerfile",)
        raise ContextError(f"context {options.context!r} is no directory", hints=hints)
    if options.dockerfile == "-":
        return None, sys.stdin.buffer.read(_LARGEST_DOCKERFILE_BYTES)
    if options.dockerfile is not None:
        return options.dockerfile, _read_file(options.dockerfile)
    for name in _NAMES:
        path = os.path.join(options.context, name)
        if os.path.lexists(path):
            return path, _read_file(path)
    raise ContextError(
        f"no Dockerfile in {options.context!r}", hints=("-f PATH names one that lies elsewhere or is called otherwise",)
    )


def _read_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_LARGEST_DOCKERFILE_BYTES)
    except OSError as error:
        raise ContextError(f"Dockerfile {path!r}: {os.strerror(error.errno or 0).lower()}") from error


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
    return convert(
        plan.dockerfile,
        {key: base.image for key, base in bases.items()},
        build_args=options.build_args,
        target=options.target,
        platform=plan.platform,
        source_date_epoch=options.source_date_epoch,
    )
