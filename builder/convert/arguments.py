"""Build arguments: where their values come from and who sees them.

A global ARG (before the first FROM) is seen by FROM alone until a stage declares the name again; the automatic
arguments (``TARGETARCH`` and its like) are global ones that nobody needs to declare before FROM.  The proxy arguments
need no declaration at all: they reach every command, but neither history nor identity of a step.

Invariants: pure; a ``--build-arg`` wins over a default written in the file and is not expanded.
"""

from __future__ import annotations

from collections.abc import Mapping

from builder.dockerfile import shell
from builder.dockerfile.instructions import Arg, Dockerfile
from builder.dockerfile.parser import is_dockerfile_syntax
from builder.dockerfile.source import Finding
from builder.dockerfile.suggest import nearest
from builder.errors import DockerfileError, ExpansionError
from layers.platform import Platform

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
_UNDECLARED = frozenset({*_PROXIES, *(name.lower() for name in _PROXIES), "SOURCE_DATE_EPOCH"})
_SPECIAL_PREFIX = "BUILDKIT_"
EPOCH = "SOURCE_DATE_EPOCH"


def automatic_arguments(
    build_args: Mapping[str, str], build_platform: Platform, platform: Platform, target_name: str
) -> dict[str, str]:
    """Return the arguments every Dockerfile has; a build argument of the same name wins."""
    values = {
        "BUILDPLATFORM": str(build_platform),
        "BUILDOS": build_platform.os,
        "BUILDOSVERSION": "",
        "BUILDARCH": build_platform.architecture,
        "BUILDVARIANT": build_platform.variant,
        "TARGETPLATFORM": str(platform),
        "TARGETOS": platform.os,
        "TARGETOSVERSION": "",
        "TARGETARCH": platform.architecture,
        "TARGETVARIANT": platform.variant,
        "TARGETSTAGE": target_name or "default",
    }
    return {name: build_args.get(name, value) for name, value in values.items()}


def add_global_arguments(
    values: dict[str, str], declared: tuple[Arg, ...], build_args: Mapping[str, str], rules: shell.Rules
) -> dict[str, str]:
    """Return ``values`` and what the global ARG instructions add, each expanded with those before it.

    Raises:
        ExpansionError: a default is malformed.
    """
    result = dict(values)
    for instruction in declared:
        for name, default in instruction.declarations:
            if name in build_args:
                result[name] = build_args[name]
            elif default is not None:
                try:
                    result[name] = shell.expand(default, result, rules).text
                except ExpansionError as error:
                    raise error.at(instruction.origin.source) from None
    return result


def proxy_environment(build_args: Mapping[str, str]) -> tuple[str, ...]:
    """Return ``NAME=value`` in both cases of the name for each proxy argument that was given."""
    given = {name.upper(): value for name, value in sorted(build_args.items()) if name.upper() in _PROXIES}
    return tuple(f"{spelled}={given[name]}" for name in _PROXIES if name in given for spelled in (name, name.lower()))


def source_date_epoch(values: Mapping[str, str], given: int | None) -> int | None:
    """Return the seconds that ``SOURCE_DATE_EPOCH`` has in ``values``, else ``given``.

    Raises:
        DockerfileError: it is no number; what it may name instead, ``epoch.plan_epoch`` knows.
    """
    text = values.get(EPOCH, "")
    if not text:
        return given
    if not is_seconds(text):
        raise DockerfileError(f"{EPOCH}={text!r} is not a number of seconds since 1970")
    return int(text)


def mentions_epoch(dockerfile: Dockerfile, build_args: Mapping[str, str]) -> bool:
    """Return whether ``SOURCE_DATE_EPOCH`` is given or declared for all stages."""
    return EPOCH in build_args or any(
        one.name == EPOCH for argument in dockerfile.global_args for one in argument.declarations
    )


def is_seconds(text: str) -> bool:
    """Return whether ``text`` is a number of seconds since 1970."""
    return text.isascii() and text.isdecimal()


def special_findings(build_args: Mapping[str, str]) -> list[Finding]:
    """Return one finding for each argument that means something to other builders and nothing to this one."""
    findings: list[Finding] = []
    syntax = build_args.get("BUILDKIT_SYNTAX", "")
    if syntax and not is_dockerfile_syntax(syntax):
        message = f"BUILDKIT_SYNTAX asks for the syntax {syntax!r}, the built-in Dockerfile syntax is used"
        findings.append(Finding("ForeignSyntax", message))
    if build_args.get("BUILDKIT_MULTI_PLATFORM"):
        findings.append(Finding("NoEffect", "BUILDKIT_MULTI_PLATFORM has no effect: an image is for one platform"))
    return findings


def unused_arguments(dockerfile: Dockerfile, build_args: Mapping[str, str], known: Mapping[str, str]) -> list[Finding]:
    """Return one finding for each build argument that no ARG instruction declares; ``known`` are the automatic ones."""
    instructions = [
        *dockerfile.global_args,
        *(one for stage in dockerfile.stages for one in stage.instructions if isinstance(one, Arg)),
    ]
    declared = {declaration.name for one in instructions for declaration in one.declarations}
    findings: list[Finding] = []
    for name in sorted(build_args):
        if name in declared or name in known or name in _UNDECLARED or name.startswith(_SPECIAL_PREFIX):
            continue
        near = nearest(name, declared)
        message = f"build argument {name} is not used: no ARG declares it"
        findings.append(Finding("UnusedBuildArg", message + (f", did you mean {near}?" if near else "")))
    return findings
