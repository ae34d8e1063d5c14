"""``pybuild cache ls|du|verify|prune``: what builds have stored."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence

from builder.cleaning import prune
from builder.cli.arguments import parse_bytes, parse_duration
from builder.cli.images import create_parser
from builder.cli.parser import ArgumentParser
from builder.cli.tables import format_duration, print_table
from builder.errors import BuildError, UsageError, render
from builder.keptmounts import list_kept
from builder.progress.plain import format_bytes
from builder.rootless import become_root
from builder.session import Session
from cache.prune import CACHE_MOUNT, EVERY, REGULAR, Filter
from unionfs.namedtuple import NamedTuple

_SECOND_NS = 1_000_000_000


def _add_filter(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--filter", action="append", default=[], type=_parse_filter, metavar="NAME=VALUE",
        help="none but what fits: id=DIGITS, description=TEXT, until=TIME (unused for so long), type=TYPE (regular for "
        "results of steps, exec.cachemount for cache mounts)",
    )  # fmt: skip


def _parse_filter(text: str) -> tuple[str, str | int]:
    name, equals, value = text.partition("=")
    if not equals or name not in {"id", "description", "until", "type"}:
        raise argparse.ArgumentTypeError(f"expected id=, description=, until= or type=, got {text!r}")
    if name == "type" and value not in {REGULAR, CACHE_MOUNT}:
        raise argparse.ArgumentTypeError(f"expected type={REGULAR} or type={CACHE_MOUNT}, got {text!r}")
    return name, parse_duration(value) if name == "until" else value


def _filter(given: Sequence[tuple[str, str | int]]) -> Filter | None:
    """What all of ``given`` say together; None when nothing is."""
    if not given:
        return None
    fields = dict(given)
    until = fields.get("until")
    since_ns = time.time_ns() - until * _SECOND_NS if isinstance(until, int) else None
    return Filter(str(fields.get("id", "")), str(fields.get("description", "")), since_ns, str(fields.get("type", "")))


class _Row(NamedTuple):
    """One entry of the list; ``fields`` is all of it, for programs."""

    entry_id: str
    kind: str
    size_bytes: int
    last_used_ns: int
    description: str
    fields: Mapping[str, object]


def _rows(session: Session, wanted: Filter) -> list[_Row]:
    rows = [
        _Row(result.chain_id, REGULAR, result.size_bytes, result.last_used_ns, result.description, result._asdict())
        for result in session.cache.results()
        if wanted.fits(result)
    ]
    for kept in list_kept(session.root, wanted):
        fields = {**kept._asdict(), "description": kept.description}
        rows.append(_Row(kept.name, CACHE_MOUNT, kept.size_bytes, kept.last_used_ns, kept.description, fields))
    return rows


def parser_cache_ls() -> ArgumentParser:
    """The options of ``pybuild cache ls``."""
    parser = create_parser(
        "cache ls", "List the results of steps and the cache mounts.", "pybuild cache ls --format json"
    )
    parser.add_argument("--format", choices=("table", "json"), default="table", help="for people, or for programs")
    _add_filter(parser)
    return parser


def command_cache_ls(words: Sequence[str]) -> int:
    """The results of steps and the cache mounts are on stdout, the last used first."""
    arguments = parser_cache_ls().read(words)
    # directories of other owners may be closed to a plain user
    become_root()
    with Session(arguments.root) as session:
        found = _rows(session, _filter(arguments.filter) or EVERY)
    if arguments.format == "json":
        sys.stdout.writelines(json.dumps({"type": row.kind, **row.fields}) + "\n" for row in found)
        return 0
    now_ns = time.time_ns()
    rows = [
        (
            row.entry_id.removeprefix("sha256:")[:12],
            row.kind,
            format_bytes(row.size_bytes),
            format_duration((now_ns - row.last_used_ns) // _SECOND_NS) + " ago",
            row.description,
        )
        for row in sorted(found, key=lambda row: -row.last_used_ns)
    ]
    print_table(("ID", "TYPE", "SIZE", "LAST USED", "DESCRIPTION"), rows)
    return 0


def parser_cache_du() -> ArgumentParser:
    """The options of ``pybuild cache du``."""
    return create_parser("cache du", "Show what the root directory takes on disk.", "pybuild cache du")


def command_cache_du(words: Sequence[str]) -> int:
    """What images, layers and cache take on disk is on stdout."""
    arguments = parser_cache_du().read(words)
    from builder.diskuse import disk_use

    # directories of other owners may be closed to a plain user
    become_root()
    with Session(arguments.root) as session:
        use = disk_use(session.root)
    print_table(
        ("WHAT", "SIZE"), [(name.replace("_", " "), format_bytes(size)) for name, size in use._asdict().items()]
    )
    return 0


def parser_cache_verify() -> ArgumentParser:
    """The options of ``pybuild cache verify``."""
    return create_parser(
        "cache verify",
        "Read every blob of the root directory and compare it with its digest. What is damaged counts as missing from "
        "then on, so that the next pull, load or build brings it again.",
        "pybuild cache verify",
    )


def command_cache_verify(words: Sequence[str]) -> int:
    """What is damaged and which images that concerns are on stdout; 1 when there is any."""
    arguments = parser_cache_verify().read(words)
    from layers.checkup import check_up
    from layers.store import Store

    with Store(arguments.root) as store:
        found = check_up(store)
        for digest in found.damaged:
            sys.stdout.write(f"damaged: {store.blobs.path(digest)}\n")
    for name, problem in found.images.items():
        sys.stdout.write(f"not whole: {name}: {problem}\n")
    sys.stdout.write(f"{found.blobs} blobs read, {format_bytes(found.read_bytes)}\n")
    if found.is_sound:
        return 0
    damaged, images = len(found.damaged), len(found.images)
    problem = f"{damaged} {'blob is' if damaged == 1 else 'blobs are'} damaged, "
    problem += f"{images} {'image is' if images == 1 else 'images are'} not whole"
    hint = "pull, load or build them again: what comes takes the place of what is damaged"
    sys.stderr.write(render(BuildError(problem, hints=(hint,)), {}) + "\n")
    return 1


def parser_cache_prune() -> ArgumentParser:
    """The options of ``pybuild cache prune``."""
    parser = create_parser(
        "cache prune", "Remove results and cache mounts that were not used.", "pybuild cache prune --older 7d"
    )
    parser.add_argument("-a", "--all", action="store_true", help="all results, and the layers that no image needs")
    parser.add_argument("--older", type=parse_duration, metavar="TIME", help="results unused for so long: 12h, 7d")
    parser.add_argument(
        "--keep-storage", "--max-used-space", "--reserved-space", type=parse_bytes, metavar="SIZE",
        help="the longest unused, down to SIZE",
    )  # fmt: skip
    parser.add_argument(
        "--min-free-space", type=parse_bytes, metavar="SIZE", help="the longest unused, until SIZE is free on the disk"
    )
    _add_filter(parser)
    parser.add_argument("-f", "--force", action="store_true", help="accepted: nothing is asked")
    parser.add_argument("-n", "--dry-run", action="store_true", help="only tell")
    return parser


def _keep_bytes(session: Session, arguments: argparse.Namespace) -> int | None:
    """How much of the results may stay; None for all."""
    limits: list[int] = [] if arguments.keep_storage is None else [arguments.keep_storage]
    if arguments.min_free_space is not None:
        disk = os.statvfs(session.root)
        lacking = max(0, arguments.min_free_space - disk.f_bavail * disk.f_frsize)
        limits.append(max(0, sum(result.size_bytes for result in session.cache.results()) - lacking))
    return min(limits, default=None)


def command_cache_prune(words: Sequence[str]) -> int:
    """The results that the options name are gone, with the layers nothing else needs."""
    arguments = parser_cache_prune().read(words)
    limits = (arguments.older, arguments.keep_storage, arguments.min_free_space)
    limited = any(limit is not None for limit in limits)
    if not (arguments.all or limited or arguments.filter):
        hint = "--all, --older TIME, --keep-storage SIZE or --filter NAME=VALUE"
        raise UsageError("nothing was said to be pruned", hints=(hint,))
    become_root()
    with Session(arguments.root) as session:
        pruned = prune(
            session,
            everything=arguments.all or not limited,
            only=_filter(arguments.filter),
            unused_seconds=arguments.older,
            keep_bytes=_keep_bytes(session, arguments),
            dry_run=arguments.dry_run,
        )
    word = "would be freed" if arguments.dry_run else "freed"
    mounts = f"{pruned.cache_mounts} cache mounts, " if pruned.cache_mounts else ""
    freed = format_bytes(pruned.freed_bytes)
    sys.stdout.write(f"{pruned.results} results, {pruned.layers} layers, {mounts}{freed} {word}\n")
    return 0
