"""The configuration and history that a Dockerfile gives, beside what `docker build` writes for it.

Debian's docker holds a BuildKit of 2021. Where that is known to differ from today's, the cases keep away: several names
in one ARG, values given for one and flags of COPY in history, arguments a stage inherits, and the lines of EXPOSE and HEALTHCHECK, where it wrote
Go's inner form of the values.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from builder.convert import convert, plan_bases
from builder.dockerfile.parser import parse
from builder.graph import BaseImage
from harness.images import comparable
from layers.config import ImageConfig
from layers.platform import host

if TYPE_CHECKING:
    from harness.dockerd import Dockerd

pytestmark = pytest.mark.e2e
DIGEST = "sha256:" + "0" * 64
CASES = {
    "arguments": """
        ARG name=busybox
        FROM $name AS first
        ARG one=1
        ARG two="$one two"
        ENV one=e1
        RUN echo $one "$two"
        RUN ["true", "$one"]
        ENV e=0
        ARG e=1
        RUN true
        FROM first
        ARG three=default
        LABEL got=$one/$two/$three/$e
    """,
    "expansion": """
        FROM busybox
        ENV a=1 b='two words' c="x \\"y\\" $a" d=\\$a e=
        ENV a=2 f=$a g=${a:-x}${none:-y}${e:+z}${a:+w}
        ENV old style   $a 'q'
        LABEL "k 1"=v k2='$a' k3="$a
        LABEL k4=a\\ b
    """.replace('k3="$a\n', 'k3="$a"\n'),
    "paths": """
        FROM busybox
        WORKDIR rel
        WORKDIR ../up//x/
        WORKDIR /abs/
        WORKDIR $HOME
        WORKDIR sub
        COPY file ./a
        COPY file sub/ /d/
        ADD file .
        COPY ["file", "b c"]
        COPY --from=busybox /bin/busybox /copied
        USER 12:34
        WORKDIR /
    """.replace("WORKDIR $HOME\n", "ENV HOME=/h\n        WORKDIR $HOME\n"),
    "commands": """
        FROM busybox
        CMD one "two"  three
        ENTRYPOINT ["e", "\\"q\\" \\\\ é <>&"]
        SHELL ["/bin/sh", "-ec"]
        CMD ["a", "b"]
        ENTRYPOINT x $y
        RUN   true   &&  \\
          true
    """,
    "entrypoint drops what was inherited": """
        FROM busybox
        ENTRYPOINT ["e"]
    """,
    "the rest": """
        FROM busybox
        MAINTAINER some body <x@y>
        EXPOSE 80 53/UDP 8000-8002 22/tcp
        EXPOSE 80/tcp
        VOLUME /v "/w"
        VOLUME ["/x y", "/v"]
        STOPSIGNAL SIGQUIT
        STOPSIGNAL 9
        HEALTHCHECK --interval=1m30s --timeout=500ms --start-period=2s --retries=3 CMD true || false
        HEALTHCHECK CMD ["true", "x"]
        HEALTHCHECK NONE
        USER daemon
        ONBUILD RUN true
        ONBUILD copy file /x
    """,
    "triggers": """
        FROM busybox AS base
        ONBUILD ENV t=1
        ONBUILD RUN true
        ONBUILD WORKDIR /t
        FROM base AS middle
        ENV m=$t
        FROM middle
        RUN true
    """,
    "from nothing": """
        FROM scratch
        COPY file /
        LABEL a=b
    """,
    "only configuration": """
        FROM busybox
        LABEL a=b
    """,
}


def docker_result(dockerd: Dockerd, context: Path, work: Path) -> dict[str, Any]:
    dockerd.build(context, "config")
    return saved_config(dockerd, "config", work)


def saved_config(dockerd: Dockerd, image: str, work: Path) -> dict[str, Any]:
    """The configuration of an image, read from what `docker save` writes."""
    archive = work / "saved.tar"
    dockerd.run("save", "--output", archive, image)
    with tarfile.open(archive) as saved:
        manifest = json.load(_member(saved, "manifest.json"))
        return json.load(_member(saved, manifest[0]["Config"]))


def _member(archive: tarfile.TarFile, name: str) -> Any:
    member = archive.extractfile(name)
    assert member is not None
    return member


def own_result(text: str, base: dict[str, Any]) -> dict[str, Any]:
    dockerfile = parse(text, "Dockerfile")
    options: Any = {"build_args": {}, "target": None, "platform": host()}
    image = BaseImage(ImageConfig.from_bytes(json.dumps(base).encode()), DIGEST)
    bases = {one.key: image for one in plan_bases(dockerfile, **options)}
    graph = convert(dockerfile, bases, **options)
    result = json.loads(graph.config.to_bytes())
    result["history"] = [
        *result.get("history", ()),
        *(
            {"created_by": one.created_by, "comment": one.comment, "empty_layer": one.empty_layer}
            for one in graph.history
        ),
    ]
    return result


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_docker(dockerd: Dockerd, tmp_path: Path, name: str) -> None:
    text = "\n".join(line.removeprefix(" " * 8) for line in CASES[name].strip("\n").split("\n")) + "\n"
    context = tmp_path / "context"
    (context / "sub").mkdir(parents=True)
    (context / "file").write_text("content")
    (context / "sub" / "inner").write_text("inner")
    (context / "Dockerfile").write_text(text)
    theirs = comparable(docker_result(dockerd, context, tmp_path))
    ours = comparable(own_result(text, saved_config(dockerd, "busybox", tmp_path)))
    assert ours["history"] == theirs["history"]
    assert ours == theirs
