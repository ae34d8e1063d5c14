"""How an image was made, as a SLSA provenance v1: parameters, bases and downloads, times (docs/provenance.md).

``mode=min`` leaves out values of build arguments and labels, ids of secrets, and the steps; ``mode=max`` has them, and
the Dockerfile itself.

Invariants: pure but for the questions to git about the context; values of secrets are not known here, credentials in
URLs are left out. With an epoch the times of the build are the epoch, and the build has no number of its own.

Source: slsa.dev/spec/v1.1/provenance; the extensions are named as BuildKit names them (docs/attestations).
"""

from __future__ import annotations

import base64
import os
import subprocess
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from builder.assemble import format_time
from builder.convert.arguments import EPOCH
from builder.finished import Material, Work
from builder.graph import Copy, MakeDirectory, Pull, Run, SecretMount, SshMount, Step
from builder.remote.gitprogram import without_credentials
from layers.attestation import Predicate, package_url
from layers.image import Image
from layers.platform import Platform, host
from layers.reference import Reference

if TYPE_CHECKING:
    from builder.api import Preparation

TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:pybuild:dockerfile:v1"
_GIT_SECONDS = 10
_PROXIES = frozenset({"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"})

Fields = dict[str, Any]


def make_provenance(
    preparation: Preparation, image: Image, work: Work, started_ns: int, settings: Mapping[str, str]
) -> Predicate:
    """The provenance of the image of one platform. ``settings`` are those of ``--provenance``."""
    everything = settings.get("mode", "min") == "max"
    epoch = preparation.graph.source_date_epoch
    materials = [*_base_materials(preparation), *work.materials]
    definition: Fields = {
        "buildType": BUILD_TYPE,
        "externalParameters": {
            "configSource": _config_source(preparation),
            "request": _request(preparation, everything=everything),
        },
        "internalParameters": {"builderPlatform": str(host())},
        "resolvedDependencies": [
            {"uri": one.uri, "digest": {one.algorithm: one.digest}} for one in dict.fromkeys(materials)
        ],
    }
    if everything:
        definition["internalParameters"]["buildConfig"] = {"steps": [_step(one) for one in preparation.graph.steps]}
    metadata: Fields = {} if epoch is not None else {"invocationId": uuid.uuid4().hex}
    metadata["startedOn"] = format_time(started_ns if epoch is None else epoch * 1_000_000_000)
    metadata["finishedOn"] = format_time(time.time_ns() if epoch is None else epoch * 1_000_000_000)
    metadata |= {
        "buildkit_metadata": _further(preparation, image, everything=everything),
        "buildkit_completeness": {"request": everything, "resolvedDependencies": not _is_local(preparation)},
    }
    if _is_hermetic(preparation):
        metadata["buildkit_hermetic"] = True
    if settings.get("reproducible", "").lower() in {"true", "1", "t"}:
        metadata["buildkit_reproducible"] = True
    details: Fields = {"builder": {"id": settings.get("builder-id", "")}, "metadata": metadata}
    content = {"buildDefinition": definition, "runDetails": details}
    return Predicate(TYPE, content, settings.get("filename") or "provenance.json")


def _config_source(preparation: Preparation) -> Fields:
    """Where the Dockerfile is from."""
    contexts, plan = preparation.plan.contexts, preparation.plan
    path = plan.dockerfile.source.name
    return {"uri": contexts.origin, "path": path} if contexts.origin else {"path": path}


def _request(preparation: Preparation, *, everything: bool) -> Fields:
    """What was asked for: names of arguments as BuildKit gives them to its frontends."""
    options = preparation.options
    args: Fields = {}
    if everything:
        given = {name: value for name, value in options.build_args.items() if name.lower() not in _PROXIES}
        args |= {f"build-arg:{name}": value for name, value in sorted(given.items())}
        args |= {f"label:{name}": value for name, value in sorted(options.labels.items())}
    elif EPOCH in options.build_args:
        args[f"build-arg:{EPOCH}"] = options.build_args[EPOCH]
    if options.target is not None:
        args["target"] = options.target
    if options.platforms:
        args["platform"] = ",".join(options.platforms)
    if options.network != "default":
        args["force-network-mode"] = options.network
    request: Fields = {"frontend": "dockerfile.v0", "args": args}
    if everything:
        request["secrets"] = _used(preparation, SecretMount)
        request["ssh"] = _used(preparation, SshMount)
    if _is_local(preparation):
        request["locals"] = [{"name": "context"}, {"name": "dockerfile"}]
    return request


def _used(preparation: Preparation, kind: type[SecretMount | SshMount]) -> list[Fields]:
    """The secrets or agents that steps mount, by id."""
    found: dict[str, bool] = {}
    for step in preparation.graph.steps:
        for mount in step.operation.mounts if isinstance(step.operation, Run) else ():
            if isinstance(mount, kind):
                found[mount.id] = found.get(mount.id, False) or mount.required
    return [{"id": name} if required else {"id": name, "optional": True} for name, required in sorted(found.items())]


def _base_materials(preparation: Preparation) -> list[Material]:
    """The images that the steps take files from."""
    pulls = (step.operation for step in preparation.graph.steps if isinstance(step.operation, Pull))
    return [_image_material(pull.reference, pull.manifest_digest, pull.platform) for pull in pulls]


def _image_material(reference: str, digest: str, platform: Platform) -> Material:
    algorithm, _, digits = digest.partition(":")
    if "://" in reference:
        return Material(reference, algorithm, digits)
    name = Reference.parse(reference)
    uri = package_url(name._replace(digest=None) if name.tag is not None else name, platform)
    return Material(uri, algorithm, digits)


def _is_local(preparation: Preparation) -> bool:
    return not preparation.plan.contexts.origin


def _is_hermetic(preparation: Preparation) -> bool:
    """Whether no step could reach the network."""
    runs = [step.operation for step in preparation.graph.steps if isinstance(step.operation, Run)]
    network = preparation.options.network
    return all((network if run.network == "default" else run.network) == "none" for run in runs)


def _further(preparation: Preparation, image: Image, *, everything: bool) -> Fields:
    """The repository that the context is in, and what only ``mode=max`` tells."""
    fields: Fields = {}
    vcs = _describe_repository(preparation)
    if vcs:
        fields["vcs"] = vcs
    if everything:
        source = preparation.plan.dockerfile.source
        data = base64.b64encode(source.text.encode("utf-8", "surrogateescape")).decode()
        fields["source"] = {
            "locations": {_name(step): _lines(step) for step in preparation.graph.steps},
            "infos": [{"filename": source.name, "language": "Dockerfile", "data": data}],
        }
        layers = [layer.to_json() for layer in image.manifest.layers]
        fields["layers"] = {} if preparation.graph.final is None else {f"step{preparation.graph.final}:0": [layers]}
    return fields


def _describe_repository(preparation: Preparation) -> dict[str, str]:
    """Remote and commit of the repository that a local context lies in; nothing where there is none or no git."""
    if not _is_local(preparation):
        return {}
    directory = preparation.plan.contexts.main
    revision = _ask_git(directory, "rev-parse", "HEAD")
    if not revision:
        return {}
    dirty = "-dirty" if _ask_git(directory, "status", "--porcelain", "--ignored=no", "--", ".") else ""
    vcs = {"revision": revision + dirty}
    remote = _ask_git(directory, "remote", "get-url", "origin")
    if remote:
        vcs["source"] = without_credentials(remote)
    return vcs


def _ask_git(directory: str, *words: str) -> str:
    """What git answers, without a newline; empty when it fails."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        answer = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", "-C", directory, *words],
            capture_output=True, text=True, timeout=_GIT_SECONDS, env=environment, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def _name(step: Step) -> str:
    return f"step{step.id}"


def _lines(step: Step) -> Fields:
    ranges = [{"start": {"line": step.source.start}, "end": {"line": step.source.end}}]
    return {"locations": [{"ranges": ranges}]}


def _step(step: Step) -> Fields:
    """One step; values of secrets are not part of it."""
    operation = step.operation
    fields: Fields = {"id": _name(step), "name": step.title}
    match operation:
        case Pull():
            fields["source"] = {"image": f"{operation.reference.partition('@')[0]}@{operation.manifest_digest}"}
        case Run():
            fields["exec"] = {
                "args": list(operation.argv),
                "env": list(operation.env),
                "cwd": operation.cwd,
                "user": operation.user,
                "network": operation.network,
                "security": operation.security,
                "mounts": [_mount(mount) for mount in operation.mounts],
            }
        case Copy():
            sources = [*operation.sources, *(one.name for one in operation.inline)]
            sources += [without_credentials(one.url) for one in operation.http]
            sources += [without_credentials(one.remote) for one in operation.git]
            fields["copy"] = {"sources": sources, "destination": operation.destination}
        case MakeDirectory():
            fields["mkdir"] = {"path": operation.path}
        case _:
            pass
    inputs = (step.base, *step.inputs)
    fields["inputs"] = [f"step{each}:0" for each in dict.fromkeys(inputs) if each is not None]
    return fields


def _mount(mount: Any) -> Fields:
    kind = type(mount).__name__.removesuffix("Mount").lower()
    return {"type": kind, "target": mount.target or ""}
