"""``pybuild cache ls|du|prune``: what builds have stored."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from builder.cleaning import prune
from builder.cli.arguments import parse_bytes, parse_duration
from builder.cli.images import create_parser
from builder.cli.parser import ArgumentParser
from builder.cli.tables import format_duration, print_table
from builder.errors import UsageError
from builder.progress.plain import format_bytes
from builder.rootless import become_root
from builder.session import Session
from cache.prune import EVERY, Filter

_SECOND_NS = 1_000_000_000


def _add_filter(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--filter", action="append", default=[], type=_parse_filter, metavar="NAME=VALUE",
        help="none but results that fit: id=DIGITS, description=TEXT, until=TIME (unused for so long)",
    )  # fmt: skip


def _parse_filter(text: str) -> tuple[str, str | int]:
    name, equals, value = text.partition("=")
    if not equals or name not in {"id", "description", "until"}:
        raise argparse.ArgumentTypeError(f"expected id=, description= or until=, got {text!r}")
    return name, parse_duration(value) if name == "until" else value


def _filter(given: Sequence[tuple[str, str | int]]) -> Filter | None:
    """What all of ``given`` say together; None when nothing is."""
    if not given:
        return None
    fields = dict(given)
    until = fields.get("until")
    since_ns = time.time_ns() - until * _SECOND_NS if isinstance(until, int) else None
    return Filter(str(fields.get("id", "")), str(fields.get("description", "")), since_ns)


def parser_cache_ls() -> ArgumentParser:
    """The options of ``pybuild cache ls``."""
    parser = create_parser("cache ls", "List the results of steps.", "pybuild cache ls --format json")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="for people, or for programs")
    _add_filter(parser)
    return parser


def command_cache_ls(words: Sequence[str]) -> int:
    """The results of steps are on stdout, the last used first."""
    arguments = parser_cache_ls().read(words)
    with Session(arguments.root) as session:
        wanted = _filter(arguments.filter) or EVERY
        results = [result for result in session.cache.results() if wanted.fits(result)]
    if arguments.format == "json":
        sys.stdout.writelines(json.dumps(result._asdict()) + "\n" for result in results)
        return 0
    now_ns = time.time_ns()
    rows = [
        (
            result.chain_id.removeprefix("sha256:")[:12],
            format_bytes(result.size_bytes),
            format_duration((now_ns - result.last_used_ns) // _SECOND_NS) + " ago",
            result.description,
        )
        for result in sorted(results, key=lambda result: -result.last_used_ns)
    ]
    print_table(("RESULT", "SIZE", "LAST USED", "STEP"), rows)
    return 0


def parser_cache_du() -> ArgumentParser:
    """The options of ``pybuild cache du``."""
    return create_parser("cache du", "Show what the root directory takes on disk.", "pybuild cache du")


def command_cache_du(words: Sequence[str]) -> int:
    """What images, layers and cache take on disk is on stdout."""
    arguments = parser_cache_du().read(words)
    from builder.cleaning import disk_use

    # directories of other owners may be closed to a plain user
    become_root()
    with Session(arguments.root) as session:
        use = disk_use(session)
    print_table(
        ("WHAT", "SIZE"), [(name.replace("_", " "), format_bytes(size)) for name, size in use._asdict().items()]
    )
    return 0


def parser_cache_prune() -> ArgumentParser:
    """The options of ``pybuild cache prune``."""
    parser = create_parser("cache prune", "Remove results that were not used.", "pybuild cache prune --older 7d")
    parser.add_argument("-a", "--all", action="store_true", help="all results that no image needs")
    parser.add_argument("--older", type=parse_duration, metavar="TIME", help="results unused for so long: 12h, 7d")
    parser.add_argument("--keep-storage", type=parse_bytes, metavar="SIZE", help="the longest unused, down to SIZE")
    _add_filter(parser)
    parser.add_argument("-n", "--dry-run", action="store_true", help="only tell")
    return parser


def command_cache_prune(words: Sequence[str]) -> int:
    """The results that the options name are gone, with the layers nothing else needs."""
    arguments = parser_cache_prune().read(words)
    limited = arguments.older is not None or arguments.keep_storage is not None
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
            keep_bytes=arguments.keep_storage,
            dry_run=arguments.dry_run,
        )
    word = "would be freed" if arguments.dry_run else "freed"
    sys.stdout.write(f"{pruned.results} results, {pruned.layers} layers, {format_bytes(pruned.freed_bytes)} {word}\n")
    return 0
