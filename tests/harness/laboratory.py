"""Two builders at work on one Dockerfile: pybuild and docker, and what their images may differ in.

Docker is Debian's, with a BuildKit of 2021: what that does otherwise than the present one is named here, where it holds
for every Dockerfile, or in the corpus.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.contexts import MTIME, make_context
from harness.corpus import Case
from harness.dockerd import Dockerd
from harness.images import NOW, Image, Layer, comparable, read_docker_archive, read_layout, root_of, said
from harness.pybuild import Pybuild
from harness.trees import Difference, Ignored, compare, general_rules

IGNORED = general_rules()


class Laboratory(NamedTuple):
    """Both builders, and what is remembered of docker's layers. ``since``: files with later times are made by a RUN."""

    pybuild: Pybuild
    dockerd: Dockerd
    helper: ThreadPoolExecutor
    known: dict[str, Layer]
    since: float


@pytest.fixture(scope="session")
def laboratory(dockerd: Dockerd, workshop: Pybuild, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    directory = tmp_path_factory.mktemp("laboratory")
    since = directory.stat().st_mtime // 1
    add_base(workshop, dockerd, directory)
    with ThreadPoolExecutor(1) as helper:
        helper.submit(int).result()  # the thread is there before a test looks at what it left behind
        yield Laboratory(workshop, dockerd, helper, {}, since)


def add_base(pybuild: Pybuild, dockerd: Dockerd, directory: Path) -> None:
    """Both know ``base``: busybox with the mount points that bases have, so that no builder has to make them."""
    names = ("etc/hosts", "etc/hostname", "etc/resolv.conf", "proc/", "sys/", "dev/")
    made = {name.rstrip("/"): {"directory": True} if name.endswith("/") else "" for name in names}
    context = make_context(directory / "context", {**made, ".dockerignore": "Dockerfile\n.dockerignore\n"})
    (context / "Dockerfile").write_text("FROM busybox\nCOPY . /\n")
    pybuild.run("build", "-t", "base", "-o", f"type=docker,dest={directory / 'base.tar'}", context)
    dockerd.run("load", "--input", directory / "base.tar")


class Prepared(NamedTuple):
    """A case on disk."""

    context: Path
    dockerfile: Path
    reference: Path
    args: tuple[str, ...]


def prepare(case: Case, directory: Path) -> Prepared:
    context = make_context(directory / "context", case.context)
    dockerfile = reference = context / "Dockerfile"
    if not dockerfile.exists():
        dockerfile.write_text(case.dockerfile)
        os.utime(dockerfile, (MTIME, MTIME))
        os.utime(context, (MTIME, MTIME))
    if case.reference is not None:
        reference = directory / "reference"
        reference.write_text(case.reference)
    args = tuple(word.replace("{context}", str(context)) for word in case.args)
    return Prepared(context, dockerfile, reference, args)


def file_arguments(args: tuple[str, ...], dockerfile: Path) -> tuple[str, ...]:
    return args if "-f" in args else ("-f", str(dockerfile), *args)


def docker_image(laboratory: Laboratory, case: Case, prepared: Prepared) -> Image:
    args = file_arguments(prepared.args, prepared.reference)
    laboratory.dockerd.build(prepared.context, case.name, *args)
    archive = prepared.context.parent / "theirs.tar"
    laboratory.dockerd.run("save", "--output", archive, case.name)
    image = read_docker_archive(archive, laboratory.since, laboratory.known)
    archive.unlink()
    return image


def build(
    laboratory: Laboratory, case: Case, prepared: Prepared, *more: str, env: Mapping[str, str] | None = None
) -> str:
    """The progress of a build of ours, which succeeds."""
    args = file_arguments(prepared.args, prepared.dockerfile)
    words = ("--progress", "plain", "-t", case.name, *args, *more, prepared.context)
    return laboratory.pybuild.run("build", *words, env=env).stderr


def our_image(laboratory: Laboratory, case: Case) -> Image:
    return read_layout(laboratory.pybuild.root, f"{case.name}:latest", laboratory.since)


def unequal(case: Case, ours: Image, theirs: Image, rules: tuple[Ignored, ...] = ()) -> list[str]:
    """One line for each difference of two images that nothing explains, and for each explanation that explains none."""
    found = list(compare(root_of(ours), root_of(theirs)))
    if case.reference is None:
        found += unequal_layers(ours, theirs)
    lines = unexplained(found, case, (*IGNORED, *rules))
    fields = {field for field, left, right in unequal_fields(case, ours, theirs) if left != right}
    lines += [
        f"{field} is {left!r}, the other has {right!r}"
        for field, left, right in unequal_fields(case, ours, theirs)
        if field not in case.skipped
    ]
    return lines + [f"skip_field of {field} is not needed" for field in sorted(case.skipped - fields)]


def unexplained(found: Sequence[Difference], case: Case, general: tuple[Ignored, ...]) -> list[str]:
    """The differences that no rule covers, and the case's rules that cover none."""
    used: set[Ignored] = set()
    lines = []
    for difference in found:
        rules = [rule for rule in (*general, *case.ignored) if rule.covers(difference.path, difference.field)]
        used.update(rules)
        if not rules and not old_context_time(difference):
            lines.append(str(difference))
    idle = [rule for rule in case.ignored if rule not in used]
    return lines + [f"skip_field of {rule.pattern} {' '.join(rule.fields)} is not needed" for rule in idle]


def old_context_time(difference: Difference) -> bool:
    """BuildKit of 2021 loses the time of a directory of the context when it writes what is in it."""
    return difference.text == f"mtime is {MTIME!r}, the other has {NOW!r}" and difference.field == "mtime"


def unequal_fields(case: Case, ours: Image, theirs: Image) -> Iterator[tuple[str, object, object]]:
    """The parts of the configuration that differ; those of ``config`` one by one."""
    mine, other = comparable(ours.config), comparable(theirs.config)
    for image in (mine, other):
        image["history"] = [(in_both_years(line), *rest) for line, *rest in image["history"]]
    for key in mine.keys() - {"config"}:
        if mine[key] != other[key] and (key != "history" or case.reference is None):
            yield key, mine[key], other[key]
    for key in sorted(mine["config"].keys() | other["config"].keys()):
        left, right = mine["config"].get(key), other["config"].get(key)
        if left != right:
            yield f"config.{key}", left, right


def in_both_years(line: str) -> str:
    """A line of history without what BuildKit of 2021 leaves out or says otherwise: flags of COPY, values of ARG."""
    line = re.sub(r"^(COPY|ADD) (--\S+ )+", r"\1 ", line)
    return re.sub(r"^ARG (\w+)=?.*", r"ARG \1", line)


def unequal_layers(ours: Image, theirs: Image) -> list[Difference]:
    mine, other = said(ours), said(theirs)
    if len(mine) != len(other):
        return [Difference("", "layers", f"{len(mine)} layers, the other has {len(other)}")]
    return [
        Difference(mark[1:], "layers", f"{mark} only in {'ours' if mark in left else 'the other'}, layer {number}")
        for number, (left, right) in enumerate(zip(mine, other, strict=True))
        for mark in sorted(left ^ right)
    ]
