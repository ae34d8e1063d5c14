"""``pybuild build``: reads the command line, builds, prints the image's id.

On the cached-build path: a build whose steps all hit imports no event loop, and the help no builder.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from builder.cli.arguments import (
    add_capabilities,
    parse_agent,
    parse_assignments,
    parse_cache_source,
    parse_cache_target,
    parse_context,
    parse_count,
    parse_labels,
    parse_seconds,
    parse_secret,
    parse_switch,
)
from builder.cli.beforehand import check_beforehand
from builder.cli.docker import REFUSED, add_accepted
from builder.cli.limits import add_limits, add_resources, read_limits
from builder.cli.networks import add_network, read_dns
from builder.cli.outputs import (
    complete_short_forms,
    list_attestations,
    parse_annotation,
    parse_attestation,
    parse_output,
    parse_platforms,
    parse_provenance,
    parse_sbom,
)
from builder.cli.parser import ArgumentParser
from builder.errors import BuildError, StepFailed, UsageError, describe_os_error, render
from builder.options import BuildOptions

if TYPE_CHECKING:
    from builder.api import BuildResult
    from builder.dockerfile.source import Source
    from layers.registry.settings import RegistrySettings


_CONTEXT_HELP = (
    "where the files are that COPY and ADD may take: a directory, an archive, a URL, a repository, or - for an archive "
    "or a Dockerfile on stdin"
)


_PULL = {
    "true": "always", "false": "missing", "always": "always", "missing": "missing", "ifmissing": "missing",
    "newer": "newer", "ifnewer": "newer", "never": "never",
}  # fmt: skip


def command_build(words: Sequence[str]) -> int:
    """Exit status of one build; the image's id is on stdout with ``-q``."""
    arguments = parser_build().read(complete_short_forms(words))
    check_beforehand(arguments)
    options = _options(arguments)
    if arguments.check or arguments.call == "check":
        from builder.cli.check import check_and_print

        return check_and_print(options, root=arguments.root)
    from builder.progress import Progress, create_progress

    if arguments.verify_reproducible:
        from builder.reproducing import build_reproducibly as build_or_reuse
    else:
        from builder.api import build_or_reuse

    mode = "quiet" if arguments.quiet else arguments.progress
    out = sys.stderr if arguments.logfile is None else _open_log(arguments.logfile)
    progress: Progress = create_progress(mode, out, time.monotonic_ns)
    if arguments.report:
        from builder.progress.report import ReportingProgress

        progress = ReportingProgress(progress, out)
    for note in arguments.notes:
        sys.stderr.write(f"WARN: {note}\n")
    sources: dict[str, Source] = {}
    try:
        result = build_or_reuse(options, root=arguments.root, emit=progress, sources=sources, tick=progress.tick)
    except BuildError as error:
        progress.close()
        sys.stderr.write(render(error, sources) + "\n")
        if isinstance(error, StepFailed) and error.kept:
            from builder.cli.shell import after_failure

            after_failure(error.kept, list(words), arguments)
        return error.exit_status
    except BaseException:
        progress.close()
        raise
    progress.close()
    _write_results(arguments, result)
    return 0


def _open_log(path: str) -> TextIO:
    """The file, open for as long as the process lives, what is written being there line by line."""
    try:
        return open(path, "w", buffering=1, encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"--logfile {describe_os_error(error)}") from error


def _write_results(arguments: argparse.Namespace, result: BuildResult) -> None:
    if arguments.quiet and not any(output.get("dest") == "-" for output in arguments.output):
        sys.stdout.write(f"{result.image_id}\n")
    if arguments.iidfile is not None:
        _write_file("--iidfile", arguments.iidfile, str(result.image_id))
    if arguments.metadata_file is not None:
        _write_file("--metadata-file", arguments.metadata_file, json.dumps(result.metadata(), indent=2) + "\n")


def _write_file(option: str, path: str, text: str) -> None:
    from builder.destination import destination

    with destination(path, option) as file:
        file.write(text.encode())


def _options(arguments: argparse.Namespace) -> BuildOptions:
    from builder.convert.arguments import EPOCH, is_seconds

    environment = dict(os.environ)
    build_args = parse_assignments(arguments.build_arg, environment)
    if arguments.build_arg_file:
        from builder.cli.environment import read_env_file

        for path in reversed(arguments.build_arg_file):
            build_args = {**read_env_file(path, environment, "--build-arg-file"), **build_args}
    epoch = build_args.get(EPOCH, environment.get(EPOCH, ""))
    if epoch and not is_seconds(epoch):
        # the name of a context or stage, which the Dockerfile's reader knows
        build_args[EPOCH] = epoch
    if arguments.epoch is not None:
        epoch = str(arguments.epoch)
        build_args.pop(EPOCH, None)
    return BuildOptions(
        context=arguments.context,
        dockerfile=arguments.file,
        tags=tuple(arguments.tag),
        build_args=build_args,
        labels=parse_labels(arguments.label),
        target=arguments.target,
        platforms=tuple(platform for platforms in arguments.platform for platform in platforms),
        no_cache=arguments.no_cache,
        pull=arguments.pull,
        push=arguments.push,
        load=arguments.load,
        outputs=tuple(arguments.output),
        network=arguments.network,
        limits=read_limits(arguments),
        cap_add=tuple(arguments.cap_add),
        cap_drop=tuple(arguments.cap_drop),
        cgroup_parent=arguments.cgroup_parent,
        extra_hosts=tuple(arguments.add_host),
        dns=read_dns(arguments),
        jobs=arguments.jobs,
        source_date_epoch=int(epoch) if is_seconds(epoch) else None,
        explain=arguments.explain,
        secrets=dict(arguments.secret),
        agents=dict(arguments.ssh),
        allowed=frozenset(arguments.allow),
        contexts=dict(arguments.build_context),
        cache_from=tuple(arguments.cache_from),
        cache_to=tuple(arguments.cache_to),
        isolation=arguments.isolation,
        runtime=arguments.runtime,
        ignore_chown_errors=arguments.ignore_chown_errors,
        attestations=list_attestations(arguments.attestations),
        annotations=tuple(annotation for annotations in arguments.annotation for annotation in annotations),
        on_failure=arguments.on_failure,
        base=arguments.base,
        environment=parse_assignments(arguments.env, environment),
        unset_environment=tuple(arguments.unsetenv),
        registries=_registries(arguments),
        no_cache_stages=tuple(name for names in arguments.no_cache_filter for name in names.split(",") if name),
    )


def _registries(arguments: argparse.Namespace) -> RegistrySettings | None:
    """How registries are spoken to; None where the command line says nothing of it."""
    if (arguments.authfile, arguments.cert_dir, arguments.tls_verify) == (None, None, None):
        return None
    from builder.cli.registry_options import registry_settings

    settings = registry_settings(arguments, "")
    return settings if arguments.tls_verify is None else settings._replace(verify=arguments.tls_verify)


def parser_build() -> ArgumentParser:
    """The options of ``pybuild build``."""
    parser = ArgumentParser(
        "pybuild build", "Build an image from a Dockerfile.", "pybuild -t hello --build-arg WHO=world .", REFUSED
    )
    _add_input(parser)
    _add_cache(parser)
    _add_results(parser)
    _add_registries(parser)
    _add_surroundings(parser)
    add_limits(parser, "a RUN step")
    add_resources(parser, "a RUN step")
    add_accepted(parser)
    parser.add_argument(
        "-j",
        "--jobs",
        type=parse_count,
        metavar="N",
        help="most steps at a time; the number of processors, at least 4, when left out",
    )
    parser.add_root()
    return parser


def _add_input(parser: ArgumentParser) -> None:
    """What is built."""
    parser.add_argument("context", metavar="CONTEXT", help=_CONTEXT_HELP)
    parser.add_argument("-t", "--tag", action="append", default=[], metavar="NAME", help="name of the result")
    parser.add_argument(
        "-f",
        "--file",
        metavar="PATH",
        help="the Dockerfile; - reads it from stdin; Dockerfile, dockerfile or Containerfile in CONTEXT when left out",
    )
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="value of an ARG")
    parser.add_argument(
        "--build-arg-file", action="append", default=[], metavar="FILE",
        help="values of ARGs, NAME=VALUE a line; --build-arg wins",
    )  # fmt: skip
    parser.add_argument(
        "--build-context", action="append", default=[], type=parse_context, metavar="NAME=CONTEXT",
        help="what FROM NAME and --from=NAME mean: a directory, an archive, a URL, a repository, docker-image://REF, "
        "oci-layout://DIR[:TAG] or target:STAGE; NAME::PLATFORM is meant for that platform alone",
    )  # fmt: skip
    parser.add_argument("--label", action="append", default=[], metavar="NAME=VALUE", help="label of the result")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME[=VALUE]", help="ENV that each stage begins with"
    )
    parser.add_argument(
        "--unsetenv", action="append", default=[], metavar="NAME", help="variable that the result does not have"
    )
    parser.add_argument("--from", dest="base", metavar="IMAGE", help="image in place of the one the first FROM names")
    parser.add_argument(
        "--source-date-epoch", "--timestamp", dest="epoch", type=parse_seconds, metavar="SECONDS",
        help="as the variable SOURCE_DATE_EPOCH, which it overrides",
    )  # fmt: skip
    parser.add_argument("--target", metavar="STAGE", help="stage to build instead of the last")
    parser.add_argument(
        "--platform", action="append", default=[], type=parse_platforms, metavar="OS/ARCH[,OS/ARCH]",
        help="platforms to build for, when not the machine's own alone; several make a multi-platform image",
    )  # fmt: skip


def _add_cache(parser: ArgumentParser) -> None:
    """What is taken from elsewhere, what is made anew."""
    parser.add_argument("--no-cache", action="store_true", help="run every step, and remember the results")
    parser.add_argument(
        "--cache-from", action="append", default=[], type=parse_cache_source, metavar="type=TYPE,…",
        help="use results of steps from elsewhere: type=registry,ref=NAME (or NAME alone), type=local,src=DIR",
    )  # fmt: skip
    parser.add_argument(
        "--cache-to", action="append", default=[], type=parse_cache_target, metavar="type=TYPE,…",
        help="keep results of steps elsewhere: type=registry,ref=NAME, type=local,dest=DIR, type=inline; mode=max for "
        "those of all stages, with mounts=true also for what their cache mounts hold",
    )  # fmt: skip
    parser.add_argument(
        "--no-cache-filter", action="append", default=[], metavar="STAGE[,STAGE]",
        help="run every step of these stages, and remember the results",
    )  # fmt: skip
    parser.add_argument(
        "--explain", action="store_true", help="say for each step that is run why the cache has no result"
    )
    parser.add_argument("--check", action="store_true", help="check the Dockerfile and build nothing")
    parser.add_argument(
        "--call", choices=("build", "check"), metavar="check", help="check is as --check, build is what is done anyway"
    )
    parser.add_argument(
        "--verify-reproducible", action="store_true",
        help="build twice without the cache first; where the results differ, tell in which files and give out nothing",
    )  # fmt: skip
    parser.add_policy(
        "--pull", "missing", _PULL,
        "ask the registry for newer bases; =newer takes the store's where it can't be asked, =never asks no registry",
    )  # fmt: skip


def _add_results(parser: ArgumentParser) -> None:
    """Where results go and how progress is shown."""
    parser.add_argument("--push", action="store_true", help="send the result to the registries in its names")
    parser.add_argument(
        "--load", action="store_true",
        help="keep the result in the store, as without --push is always done, even where layers must be fetched for it",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", action="append", default=[], type=parse_output, metavar="type=TYPE,dest=PATH",
        help="write the result elsewhere too: oci, docker, image, registry, local (DIR alone), tar (- on stdout)",
    )  # fmt: skip
    parser.add_argument(
        "--annotation", action="append", default=[], type=parse_annotation, metavar="[LEVEL:]KEY=VALUE",
        help="annotation of the manifest, or of what LEVEL says: index, manifest-descriptor, index-descriptor, "
        "manifest[OS/ARCH]",
    )  # fmt: skip
    _add_attestations(parser)
    parser.add_argument(
        "--progress", choices=("auto", "plain", "tty", "rawjson", "quiet", "none"), default="auto",
        help="how progress is shown on stderr",
    )  # fmt: skip
    parser.add_argument("--report", action="store_true", help="show what each step used in a table at the end")
    parser.add_argument("--logfile", metavar="FILE", help="show progress in FILE instead, plain when left to auto")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but the image id")
    parser.add_argument("--iidfile", metavar="FILE", help="write the image id to FILE")
    parser.add_argument("--metadata-file", metavar="FILE", help="write digests and what each step used to FILE as JSON")


def _add_registries(parser: ArgumentParser) -> None:
    """How registries are spoken to, as `builder.cli.registry_options` reads it."""
    parser.add_argument("--authfile", metavar="FILE", help="credentials, in place of the usual files")
    parser.add_argument("--cert-dir", metavar="DIR", help="certificates: *.crt to trust, *.cert and *.key to show")
    parser.add_argument(
        "--tls-verify", metavar="BOOL", type=parse_switch,
        help="false: registries may show any certificate, or speak http",
    )  # fmt: skip


def _add_attestations(parser: ArgumentParser) -> None:
    """What is said of the result and attached to it; the last word about each kind counts."""
    for option, parse, metavar, text in (
        ("--attest", parse_attestation, "type=TYPE,…", "attach what is said of the result: provenance or sbom"),
        ("--provenance", parse_provenance, "mode=MODE", "attach how it was made: true, mode=min, mode=max (SLSA v1)"),
        ("--sbom", parse_sbom, "true", "attach which packages are in it (SPDX)"),
    ):
        parser.add_argument(
            option, action="append", dest="attestations", default=[], type=parse, metavar=metavar, help=text
        )


def _add_surroundings(parser: ArgumentParser) -> None:
    """What steps are given and may do."""
    add_capabilities(parser, "RUN steps")
    parser.add_argument("--cgroup-parent", metavar="PATH", help="control group in which those of RUN steps are made")
    parser.add_argument(
        "--secret", action="append", default=[], type=parse_secret, metavar="id=ID,src=FILE",
        help="secret for RUN --mount=type=secret; env=NAME takes it from the environment",
    )  # fmt: skip
    parser.add_argument(
        "--ssh", action="append", default=[], type=parse_agent, metavar="ID[=SOCKET]",
        help="agent for RUN --mount=type=ssh; $SSH_AUTH_SOCK when no socket is given",
    )  # fmt: skip
    parser.add_argument(
        "--allow", action="append", default=[], choices=("security.insecure", "network.host"), metavar="ENTITLEMENT",
        help="let steps have what they ask for: security.insecure is all privileges (RUN --security=insecure), "
        "network.host the network of this machine (RUN --network=host)",
    )  # fmt: skip
    add_network(parser, "a RUN step")
    parser.add_isolation()
    parser.add_runtime()
    parser.add_argument(
        "--ignore-chown-errors", action="store_true",
        help="give all files to root where nobody else exists: to a plain user without entries in /etc/subuid",
    )  # fmt: skip
    parser.add_argument(
        "--on-failure", choices=("keep", "shell", "ask", "remove"), default="keep",
        help="a RUN step that fails is kept for pybuild shell, walked into at once, or removed",
    )  # fmt: skip
