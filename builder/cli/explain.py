"""``pybuild cache explain``: what a build would find in the cache, and why not the rest."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from builder.cli.arguments import parse_assignments
from builder.cli.parser import ArgumentParser
from builder.errors import BuildError, render
from builder.options import BuildOptions

if TYPE_CHECKING:
    from builder.dockerfile.source import Source


def parser_cache_explain() -> ArgumentParser:
    """The options of ``pybuild cache explain``."""
    parser = ArgumentParser(
        "pybuild cache explain", "Show which steps of a build are in the cache.", "pybuild cache explain ."
    )
    parser.add_argument("context", nargs="?", default=".", metavar="CONTEXT", help="directory, else the current one")
    parser.add_argument("-f", "--file", metavar="PATH", help="the Dockerfile; - reads it from stdin")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="value of an ARG")
    parser.add_argument("--target", metavar="STAGE", help="stage to be built instead of the last")
    parser.add_argument("--platform", metavar="OS/ARCH", help="platform to be built for")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="for people, or for programs")
    parser.add_root()
    return parser


def command_cache_explain(words: Sequence[str]) -> int:
    """Of each step it is on stdout whether its result is there, and if not, what differs from the nearest one."""
    arguments = parser_cache_explain().read(words)
    import os

    from builder.cli.tables import print_table
    from builder.explaining import explain
    from builder.rootless import become_root
    from builder.session import Session

    become_root()
    build_args = parse_assignments(arguments.build_arg, dict(os.environ))
    epoch = build_args.get("SOURCE_DATE_EPOCH", os.environ.get("SOURCE_DATE_EPOCH", ""))
    options = BuildOptions(
        context=arguments.context,
        dockerfile=arguments.file,
        build_args=build_args,
        target=arguments.target,
        platforms=() if arguments.platform is None else (arguments.platform,),
        source_date_epoch=int(epoch) if epoch.isdecimal() else None,
    )
    sources: dict[str, Source] = {}
    try:
        with Session(arguments.root) as session:
            found = explain(options, session, sources)
    except BuildError as error:
        sys.stderr.write(render(error, sources) + "\n")
        return error.exit_status
    if arguments.format == "json":
        sys.stdout.writelines(json.dumps(one._asdict()) + "\n" for one in found)
    else:
        print_table(("CACHE", "STEP", "WHY"), [(one.state, one.step, one.reason) for one in found])
    return 0
