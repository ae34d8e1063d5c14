"""Contexts with a name in place of stages and images."""

from __future__ import annotations

import pytest

from builder.convert import convert, plan_bases
from builder.convert.named import DIRECTORY, IMAGE, LAYOUT, STAGE, NamedContext, NameTable, plain_name
from builder.dockerfile.parser import parse
from builder.errors import UnknownStageError, UsageError
from builder.graph import BaseImage, BindMount, CacheMount, Copy, Graph, Pull, Run, Scratch, StepId
from layers.config import ImageConfig
from layers.platform import Platform

AMD64 = Platform("linux", "amd64")
DIGEST = "sha256:" + "1" * 64
FILES = NamedContext(DIRECTORY, "/host/files")


def graph(text: str, target: str | None = None, on_build: tuple[str, ...] = (), **contexts: NamedContext) -> Graph:
    dockerfile = parse(text, "Dockerfile")
    arguments = {"build_args": {}, "target": target, "platform": AMD64, "contexts": contexts}
    config = ImageConfig(env=("FROM=base",), cmd=("/run",), on_build=on_build)
    bases = {ref.key: BaseImage(config, DIGEST) for ref in plan_bases(dockerfile, **arguments)}
    return convert(dockerfile, bases, **arguments)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Debian", "debian"),
        ("debian:latest", "debian"),
        ("docker.io/library/debian", "debian"),
        ("debian:12", "debian:12"),
        ("ghcr.io/a/b:latest", "ghcr.io/a/b"),
        ("not a name", "not a name"),
    ],
)
def test_names_are_equal_as_names_of_images_are(name: str, plain: str) -> None:
    assert plain_name(name) == plain
    found = NameTable({name: FILES}).find(plain.upper(), AMD64)
    assert found == (name, FILES)
    assert NameTable({}).find(name, AMD64) is None


def test_one_for_a_platform_goes_before_one_for_all() -> None:
    arm = NamedContext(DIRECTORY, "/host/arm")
    table = NameTable({"files": FILES, "files:latest::linux/arm64": arm, "only::linux/arm/v7": arm})
    assert table.find("files", AMD64) == ("files", FILES)
    assert table.find("docker.io/library/files", Platform("linux", "aarch64")) == ("files:latest::linux/arm64", arm)
    assert table.find("only", AMD64) is None
    assert table.find("only", Platform("linux", "arm")) == ("only::linux/arm/v7", arm)
    with pytest.raises(UsageError, match=r"build context 'files::a/b/c/d': platform \"a/b/c/d\" is not of the form"):
        NameTable({"files::a/b/c/d": FILES})


def test_a_stage_gets_the_context_of_its_platform() -> None:
    contexts = {"base": NamedContext(IMAGE, "other:1"), "base::linux/arm64": NamedContext(IMAGE, "other:2")}
    text = "FROM --platform=linux/arm64 base AS one\nFROM base\nCOPY --from=one /a /\n"
    dockerfile = parse(text, "Dockerfile")
    refs = plan_bases(dockerfile, build_args={}, target=None, platform=AMD64, contexts=contexts)
    assert {(ref.reference, str(ref.platform)) for ref in refs} == {
        ("other:2", "linux/arm64"),
        ("other:1", "linux/amd64"),
    }


def test_directory_is_copied_from_where_it_lies() -> None:
    steps = graph("FROM scratch\nCOPY --from=files /a /b\nCOPY c /d\n", files=FILES).steps
    operations = [step.operation for step in steps]
    assert operations == [Copy(("/a",), "/b", None, context="files"), Copy(("/c",), "/d", None)]
    assert all(step.inputs == () for step in steps)


def test_directory_is_mounted() -> None:
    text = (
        "FROM base\nRUN --mount=from=files,source=/x,target=/m --mount=type=cache,from=files,target=/c true\n"
        "RUN --mount=target=/m true\n"
    )
    runs = [step.operation for step in graph(text, files=FILES).steps if isinstance(step.operation, Run)]
    bind, cache = runs[0].mounts
    assert isinstance(bind, BindMount)
    assert isinstance(cache, CacheMount)
    assert (bind.context, bind.from_step, cache.context) == ("files", None, "files")
    assert [getattr(mount, "context", None) for mount in runs[1].mounts] == [""]


def test_directory_as_base_is_one_layer_with_its_history() -> None:
    result = graph("FROM files\nCOPY a /\n", files=FILES)
    assert [step.operation for step in result.steps] == [
        Copy(("/",), "/", None, context="files"),
        Copy(("/a",), "/", None),
    ]
    assert [entry.created_by for entry in result.history] == ["FROM files", "COPY a / # buildkit"]
    assert [step.title for step in result.steps] == ["[1/2] FROM files", "[2/2] COPY a /"]
    assert "FROM=base" not in result.config.env


def test_image_takes_the_place_of_images_and_stages() -> None:
    other = NamedContext(IMAGE, "other:2")
    for name in ("alpine", "docker.io/library/alpine", "alpine:latest"):
        [pull] = graph(f"FROM {name}\n", alpine=other).steps
        assert isinstance(pull.operation, Pull)
        assert pull.operation.reference == "docker.io/library/other:2"
    steps = graph("FROM a AS build\nRUN make\nFROM scratch\nCOPY --from=build /x /\n", build=other).steps
    assert [type(step.operation) for step in steps] == [Pull, Copy], "the stage is not built"


def test_other_tags_are_not_meant() -> None:
    [pull] = graph("FROM alpine:3\n", alpine=NamedContext(IMAGE, "other:2")).steps
    assert isinstance(pull.operation, Pull)
    assert pull.operation.reference == "docker.io/library/alpine:3"


def test_stage_takes_the_place_of_an_image() -> None:
    steps = graph("FROM base AS own\nRUN make\nFROM alpine\nCOPY a /\n", alpine=NamedContext(STAGE, "own")).steps
    assert [type(step.operation) for step in steps] == [Pull, Run, Copy]
    with pytest.raises(UnknownStageError, match="need each other"):
        graph("FROM alpine\nFROM base AS own\nCOPY --from=0 a b\n", alpine=NamedContext(STAGE, "own"))


STAGES = "FROM a AS one\nRUN make\nCMD two\nFROM one\nCOPY --from=0 x y\n"


@pytest.mark.parametrize(
    ("context", "kinds"),
    [
        (NamedContext(IMAGE, "other:2"), [Pull]),
        (NamedContext(LAYOUT, "/layouts/x:1"), [Pull]),
        (FILES, [Copy]),
        (NamedContext(IMAGE, "scratch"), []),
    ],
)
def test_target_that_has_the_name_of_a_context_is_the_context(context: NamedContext, kinds: list[type]) -> None:
    result = graph(STAGES, "one", one=context)
    assert [type(step.operation) for step in result.steps] == kinds
    assert result.config.cmd == (("/run",) if kinds == [Pull] else ())
    assert result.final == (len(kinds) - 1 if kinds else None)


def test_replaced_stage_is_the_context_by_number_and_as_base() -> None:
    steps = graph(STAGES, one=FILES).steps
    assert [step.operation for step in steps] == [
        Copy(("/",), "/", None, context="one"),
        Copy(("/x",), "/y", StepId(0)),
    ]
    triggered = graph(STAGES, None, ("RUN hooked",), one=NamedContext(IMAGE, "other:2")).steps
    assert [type(step.operation) for step in triggered] == [Pull, Run, Copy]


def test_nothing_stands_for_the_empty_image() -> None:
    steps = graph("FROM alpine\nCOPY a /\nCOPY --from=alpine b /\n", alpine=NamedContext(IMAGE, "scratch")).steps
    assert [type(step.operation) for step in steps] == [Copy, Scratch, Copy]


def test_layout_is_a_base_that_no_registry_is_asked_for() -> None:
    dockerfile = parse("FROM base\nCOPY --from=base a b\n", "Dockerfile")
    layout = {"base": NamedContext(LAYOUT, "/layouts/x:1")}
    [ref] = plan_bases(dockerfile, build_args={}, target=None, platform=AMD64, contexts=layout)
    assert (ref.reference, ref.key) == ("oci-layout:///layouts/x:1", "oci-layout:///layouts/x:1")
