"""``pybuild check`` and ``pybuild build --check``: what the rules find in a Dockerfile, on stdout.

Exit status: 0 also when something was found, unless the Dockerfile says ``# check=error=true``; then 1.
Source: ``docker build --check``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence

from builder.checking import check_dockerfile, describe_rule, find_settings, findings_before
from builder.cli.arguments import parse_assignments
from builder.cli.parser import ArgumentParser
from builder.dockerfile.source import Finding, Source
from builder.errors import BuildError, render
from builder.options import BuildOptions


def parser_check() -> ArgumentParser:
    """The options of ``pybuild check``."""
    parser = ArgumentParser(
        "pybuild check", "Check a Dockerfile without building it.", "pybuild check -f docker/Dockerfile ."
    )
    parser.add_argument("context", nargs="?", default=".", metavar="CONTEXT", help="directory, else the current one")
    parser.add_argument("-f", "--file", metavar="PATH", help="the Dockerfile; - reads it from stdin")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="value of an ARG")
    parser.add_argument("--target", metavar="STAGE", help="stage to be built instead of the last")
    parser.add_argument("--platform", metavar="OS/ARCH", help="platform to be built for")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="for people, or for programs")
    parser.add_root()
    return parser


def command_check(words: Sequence[str]) -> int:
    """Exit status of the check; the findings are on stdout."""
    arguments = parser_check().read(words)
    options = BuildOptions(
        context=arguments.context,
        dockerfile=arguments.file,
        build_args=parse_assignments(arguments.build_arg, dict(os.environ)),
        target=arguments.target,
        platforms=() if arguments.platform is None else (arguments.platform,),
    )
    return check_and_print(options, root=arguments.root, form=arguments.format)


def check_and_print(options: BuildOptions, *, root: str, form: str = "text") -> int:
    """Exit status of checking the Dockerfile of ``options``; the findings are on stdout."""
    sources: dict[str, Source] = {}
    try:
        plan, findings = check_dockerfile(options, root=root, sources=sources)
        failed = bool(findings) and find_settings(plan, options).error
    except BuildError as error:
        findings = tuple(one for source in sources.values() for one in findings_before(error, source))
        _print_findings(findings, sources, form)
        sys.stderr.write(render(error, sources) + "\n")
        return error.exit_status
    _print_findings(findings, sources, form)
    if form != "json":
        count = len(findings)
        end = "no warnings found." if not count else f"{count} warning{'s have' if count > 1 else ' has'} been found!"
        sys.stdout.write(f"Check complete, {end}\n")
    if failed:
        sys.stderr.write("error: findings are errors: check=error=true\n")
    return int(failed)


def _print_findings(findings: Sequence[Finding], sources: Mapping[str, Source], form: str) -> None:
    if form == "json":
        sys.stdout.write(json.dumps([_as_json(finding) for finding in findings], indent=2) + "\n")
        return
    for finding in findings:
        sys.stdout.write(_as_text(finding, sources) + "\n\n")


def _as_text(finding: Finding, sources: Mapping[str, Source]) -> str:
    lines = [f"WARNING: {finding.rule} - {describe_rule(finding.rule)}", finding.message]
    if finding.source is not None and finding.source.file in sources:
        lines.append(sources[finding.source.file].excerpt(finding.source))
    return "\n".join(lines)


def _as_json(finding: Finding) -> dict[str, object]:
    place = finding.source
    return {
        "rule": finding.rule,
        "description": describe_rule(finding.rule),
        "message": finding.message,
        "file": None if place is None else place.file,
        "start": None if place is None else place.start,
        "end": None if place is None else place.end,
    }
