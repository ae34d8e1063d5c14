"""``pybuild cache export|import``: results of steps to and from other places."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

from builder.cli.arguments import parse_cache_source, parse_cache_target
from builder.cli.images import create_parser
from builder.cli.parser import ArgumentParser
from builder.errors import UsageError
from builder.rootless import become_root
from builder.session import Session, warn_on_stderr


def parser_cache_export() -> ArgumentParser:
    """The options of ``pybuild cache export``."""
    parser = create_parser(
        "cache export", "Write the results of steps elsewhere.", "pybuild cache export type=local,dest=results"
    )
    parser.add_argument("target", type=parse_cache_target, metavar="type=TYPE,…", help="as --cache-to of build")
    return parser


def command_cache_export(words: Sequence[str]) -> int:
    """All results whose layers are in the store are elsewhere; with ``mounts=true`` all cache mounts as well."""
    arguments = parser_cache_export().read(words)
    if arguments.target["type"] == "inline":
        raise UsageError("only a build can write results into its image")
    from builder import cachemounts, exchange
    from builder.cleaning import discard_archives

    with_mounts = arguments.target.get("mounts") == "true"
    if with_mounts:
        # steps leave files there that only their owner reads
        become_root()
    cancel = threading.Event()
    with Session(arguments.root) as session:
        wanted = cachemounts.kept_in(session.root) if with_mounts else {}
        mounts = cachemounts.pack_all(session, wanted, warn_on_stderr, cancel)
        records = exchange.exportable(session, session.cache.records())
        place = exchange.place_of(arguments.target, session)
        try:
            written = exchange.write_cache(records, mounts, place, session, cancel)
        finally:
            discard_archives(session, [mount.blob.digest for mount in mounts])
    sys.stdout.write(f"{written} written\n")
    return 0


def parser_cache_import() -> ArgumentParser:
    """The options of ``pybuild cache import``."""
    parser = create_parser(
        "cache import", "Take results of steps from elsewhere.", "pybuild cache import type=local,src=results"
    )
    parser.add_argument("source", type=parse_cache_source, metavar="type=TYPE,…", help="as --cache-from of build")
    return parser


def command_cache_import(words: Sequence[str]) -> int:
    """All results from elsewhere whose bases are in the store are here, and the cache mounts that came with them."""
    arguments = parser_cache_import().read(words)
    become_root()
    from builder import cachemounts, elsewhere, exchange
    from layers.platform import host

    cancel = threading.Event()
    with Session(arguments.root) as session:
        place = exchange.place_of(arguments.source, session)
        cache = exchange.read_cache(exchange.name_of(arguments.source), place, host(), cancel)
        taken, left = elsewhere.take_all(cache, session, cancel)
        mounts = cachemounts.take_all(cache, session, warn_on_stderr, cancel)
    text = f", {left} left out: their bases are not here" if left else ""
    sys.stdout.write(f"{exchange.describe(taken, mounts)} taken{text}\n")
    return 0
