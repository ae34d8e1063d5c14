"""Operations that instructions become: commands, mounts, copies, fetched sources."""

import re
from typing import Any

import pytest

from builder.convert import convert, plan_bases
from builder.convert.ports import parse_ports
from builder.convert.quoting import quote
from builder.convert.remote import GitFlags, find_repository, parse_remote
from builder.convert.sizes import parse_size
from builder.convert.stages import StageTable
from builder.dockerfile import instructions, shell
from builder.dockerfile.parser import parse
from builder.errors import BaseImageError, BuildError, DockerfileError
from builder.graph import (
    BaseImage,
    BindMount,
    CacheMount,
    Copy,
    GitSource,
    HttpSource,
    InlineFile,
    MakeDirectory,
    Mount,
    Run,
    SecretMount,
    SshMount,
    Step,
    TmpfsMount,
)
from layers.config import ImageConfig
from layers.platform import Platform, host

AMD64 = Platform("linux", "amd64")
DIGEST = "sha256:" + "0" * 64


def steps(text: str, **options: Any) -> tuple[Step, ...]:
    dockerfile = parse(text, "Dockerfile")
    arguments: dict[str, Any] = {"build_args": {}, "target": None, "platform": AMD64, **options}
    bases = {base.key: BaseImage(ImageConfig(), DIGEST) for base in plan_bases(dockerfile, **arguments)}
    return convert(dockerfile, bases, **arguments).steps


def last_run(text: str, **options: Any) -> Run:
    operation = steps(f"FROM a\n{text}\n", **options)[-1].operation
    assert isinstance(operation, Run)
    return operation


def last_copy(text: str) -> Copy:
    operation = steps(f"FROM a\n{text}\n")[-1].operation
    assert isinstance(operation, Copy)
    return operation


def test_run_in_shell_form() -> None:
    run = last_run("ENV E=1\nARG A=$E\nUSER u\nWORKDIR /w/\nRUN echo $E  'x'")
    assert run.argv == ("/bin/sh", "-c", "echo $E  'x'")
    assert run.env[-2:] == ("E=1", "A=1")
    assert (run.cwd, run.user, run.network, run.security) == ("/w", "u", "default", "sandbox")
    assert run.shell_text == "/bin/sh -c echo $E  'x'"


def test_run_in_json_form() -> None:
    run = last_run('RUN --network=none --security=insecure ["echo", "$E", "a b"]')
    assert run.argv == ("echo", "$E", "a b")
    assert (run.network, run.security) == ("none", "insecure")


def test_run_with_proxies_and_hostname() -> None:
    run = last_run("RUN x", build_args={"https_proxy": "p", "BUILDKIT_SANDBOX_HOSTNAME": "box"})
    assert run.proxy_env == ("HTTPS_PROXY=p", "https_proxy=p")
    assert run.hostname == "box"
    assert not any("proxy" in entry.lower() for entry in run.env)


def test_run_with_a_script_of_its_own() -> None:
    run = last_run("RUN <<-'E'\n\t#!/usr/bin/env python\n\tprint()\nE")
    assert run.argv == ("/bin/sh", "-c", "/dev/pipes/E")
    assert run.script == InlineFile("E", "#!/usr/bin/env python\nprint()\n")


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("target=/x", BindMount("/x", "/", None, read_only=True)),
        ("type=bind,dst=x,src=../a/,rw", BindMount("/w/x", "/a", None, read_only=False)),
        ("type=bind,destination=/x,ro=false", BindMount("/x", "/", None, read_only=False)),
        ("type=bind,target=/x,rw,ro", BindMount("/x", "/", None, read_only=True)),
        ("TYPE=bind,Target=/x", BindMount("/x", "/", None, read_only=True)),
        ("'\"target=/x,y\",source=b'", BindMount("/x,y", "/b", None, read_only=True)),
        ("target=/$E", BindMount("/1", "/", None, read_only=True)),
        ("target=/x,target=/y", BindMount("/y", "/", None, read_only=True)),
        ("type=cache,target=/x/../y", CacheMount("/y", "/y", "shared", False, "/", None, 0o755, 0, 0)),
        (
            "type=cache,target=c,id=i,sharing=LOCKED,mode=0700,uid=5,gid=6,readonly,source=s",
            CacheMount("/w/c", "i 700 5:6", "locked", True, "/s", None, 0o700, 5, 6),
        ),
        ("type=cache,target=c", CacheMount("/w/c", "c", "shared", False, "/", None, 0o755, 0, 0)),
        ("type=tmpfs,target=/t", TmpfsMount("/t", 0)),
        ("type=tmpfs,target=/t,size=1.5k", TmpfsMount("/t", 1536)),
        ("type=secret,id=s", SecretMount("s", "/run/secrets/s", None, False, 0o400, 0, 0)),
        ("type=secret,target=/a/b", SecretMount("b", "/a/b", None, False, 0o400, 0, 0)),
        ("type=secret,id=s,env=V,required", SecretMount("s", None, "V", True, 0o400, 0, 0)),
        ("type=secret,id=s,env=V,target=t", SecretMount("s", "/w/t", "V", False, 0o400, 0, 0)),
        ("type=secret,src=d/s,mode=0444,uid=1", SecretMount("d/s", "/run/secrets/s", None, False, 0o444, 1, 0)),
        ("type=ssh", SshMount("default", "/run/buildkit/ssh_agent.0", False, 0o600, 0, 0)),
        ("type=ssh,id=k,target=/s,required=true", SshMount("k", "/s", True, 0o600, 0, 0)),
    ],
)
def test_mounts(text: str, mount: Mount) -> None:
    run = last_run(f"ENV E=1\nWORKDIR /w\nRUN --mount={text} x")
    assert [(type(one), one) for one in run.mounts] == [(type(mount), mount)]


def test_caches_of_a_namespace_are_its_own() -> None:
    for text, identity in ("id=c,target=/x", "ns/c"), ("target=/x/../y", "ns//y"):
        run = last_run(f"RUN --mount=type=cache,{text} x", build_args={"BUILDKIT_CACHE_MOUNT_NS": "ns"})
        (mount,) = run.mounts
        assert isinstance(mount, CacheMount)
        assert mount.id == identity


def test_arguments_that_mean_nothing_here_are_told() -> None:
    dockerfile = parse("FROM scratch\n", "Dockerfile")
    given = {"BUILDKIT_SYNTAX": "other/frontend:1", "BUILDKIT_MULTI_PLATFORM": "1"}
    told = convert(dockerfile, {}, build_args=given, target=None, platform=AMD64).warnings
    assert [finding.rule for finding in told] == ["ForeignSyntax", "NoEffect"]
    given = {"BUILDKIT_SYNTAX": "docker/dockerfile:1.7", "BUILDKIT_INLINE_CACHE": "1", "BUILDKIT_BUILD_NAME": "x"}
    assert convert(dockerfile, {}, build_args=given, target=None, platform=AMD64).warnings == ()


def test_mounts_of_stages_and_images_are_inputs() -> None:
    found = steps(
        "FROM a AS b\nRUN x\nFROM c\n"
        "RUN --mount=from=b,target=/1 --mount=type=cache,from=d,target=/2 --mount=from=b,source=s,target=/3 y\n"
    )
    run = found[-1]
    assert isinstance(run.operation, Run)
    assert [step.title.partition("@")[0] for step in found] == [
        "[b 1/2] FROM docker.io/library/a:latest",
        "[b 2/2] RUN x",
        "[stage-1 1/2] FROM docker.io/library/c:latest",
        "FROM docker.io/library/d:latest",
        "[stage-1 2/2] RUN --mount=from=b,target=/1 --mount=type=cache,from=d,target=/2 --mount=from=b,source=s,target=/3 y",
    ]
    assert run.inputs == (1, 3)
    assert run.base == 2
    assert [mount.from_step for mount in run.operation.mounts if isinstance(mount, BindMount | CacheMount)] == [1, 3, 1]


def test_second_agent_has_its_own_socket() -> None:
    run = last_run("RUN --mount=type=ssh --mount=type=ssh,id=b x")
    assert [mount.target for mount in run.mounts] == ["/run/buildkit/ssh_agent.0", "/run/buildkit/ssh_agent.1"]


@pytest.mark.parametrize(
    ("arguments", "sources", "destination"),
    [
        ("a b", ("/a",), "/w/b"),
        ("a b/", ("/a",), "/w/b/"),
        ("a .", ("/a",), "/w/"),
        ("a ./", ("/a",), "/w/"),
        ("a /", ("/a",), "/"),
        ("a /x/.", ("/a",), "/x/"),
        ("a /x/../../y", ("/a",), "/y"),
        ("../../a ./b/../*.c x/", ("/a", "/*.c"), "/w/x/"),
        (". /x", ("/",), "/x"),
        ('["a b", "c"]', ("/a b",), "/w/c"),
        ("$E ${E}x", ("/1",), "/w/1x"),
        ('"q r" s', ('/"q', '/r"'), None),
    ],
)
def test_copy_paths(arguments: str, sources: tuple[str, ...], destination: str | None) -> None:
    if destination is None:
        # quotes do not keep words together here: each half has a quote that is not closed
        with pytest.raises(BuildError, match="quote is not closed"):
            last_copy(f"COPY {arguments}")
        return
    copy = last_copy(f"ENV E=1\nWORKDIR /w\nCOPY {arguments}")
    assert (copy.sources, copy.destination) == (sources, destination)


def test_copy_flags() -> None:
    copy = last_copy("ENV E=1\nCOPY --link --chown=$E:x --chmod=u=rw --exclude=a --exclude=**/b c /d")
    assert (copy.link, copy.chown, copy.chmod, copy.excludes) == (False, "1:x", "u=rw", ("a", "**/b"))
    assert not copy.unpack


def test_copy_parents_keeps_the_pivot() -> None:
    copy = last_copy("COPY --parents a/./b/**/c x/../y /d/")
    assert copy.parents
    assert copy.sources == ("/a/./b/**/c", "/y")


def test_copy_of_documents() -> None:
    copy = last_copy("ENV E=1\nCOPY <<one <<-'two' f /x/\n\"$E\" \\$E\none\n\t$E\ntwo")
    assert copy.inline == (InlineFile("one", '"1" $E\n'), InlineFile("two", "$E\n"))
    assert copy.sources == ("/f",)


def test_add_unpacks_unless_told() -> None:
    assert (last_copy("ADD a.tar /").unpack, last_copy("ADD a.tar /").unpack_remote) == (True, False)
    assert not last_copy("ADD --unpack=false a.tar /").unpack
    assert last_copy("ADD --unpack a.tar /").unpack_remote


def test_add_tells_sources_apart() -> None:
    copy = last_copy("ADD a https://h/d/f.tgz?x=1 git@h:r.git#v1:sub github.com/x/y /d/")
    assert copy.sources == ("/a", "/github.com/x/y")
    assert copy.http == (HttpSource("https://h/d/f.tgz?x=1", "f.tgz", ""),)
    assert copy.git == (GitSource("git@h:r.git", "v1", "sub", keep_git_dir=False, checksum=""),)


@pytest.mark.parametrize(
    ("flags", "linked"),
    [
        ("--link", True),
        ("--link=false", False),
        ("--link --chmod=755", False),
        ("--link --chmod=$m", True),
        ("", False),
    ],
)
def test_link_is_for_layers_without_a_mode(flags: str, linked: bool) -> None:
    for line in (f"COPY {flags} a /", f"ADD {flags} a /"):
        assert last_copy(line).link is linked


SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("http://h/", HttpSource("http://h/", "__unnamed__", "")),
        ("https://h", HttpSource("https://h", "__unnamed__", "")),
        ("https://h/a%20b", HttpSource("https://h/a%20b", "a b", "")),
        ("https://h/r.git", GitSource("https://h/r.git", "", "", False, "")),
        ("https://h/r.git#main", GitSource("https://h/r.git", "main", "", False, "")),
        ("https://h/r.git#:d/e", GitSource("https://h/r.git", "", "d/e", False, "")),
        ("git://h/r#a/b:c", GitSource("git://h/r", "a/b", "c", False, "")),
        ("ssh://u@h:22/r", GitSource("ssh://u@h:22/r", "", "", False, "")),
        ("https://h/r.git?tag=v1&subdir=d", GitSource("https://h/r.git", "refs/tags/v1", "d", False, "")),
        ("https://h/r.git?branch=b&keep-git-dir", GitSource("https://h/r.git", "refs/heads/b", "", True, "")),
        (f"https://h/r.git?commit={SHA}#v1", GitSource("https://h/r.git", "v1", "", False, SHA)),
        ("https://h/r.git?submodules=false", GitSource("https://h/r.git", "", "", False, "", False)),
        ("https://h/r.git?mtime=checkout", GitSource("https://h/r.git", "", "", False, "", True, "checkout")),
        (
            f"https://h/r.git?fetch-by-commit&checksum={SHA}#refs/heads/b",
            GitSource("https://h/r.git", "refs/heads/b", "", False, SHA, fetch_by_commit=True),
        ),
        ("git@h:r.git?subdir=/s#v1", GitSource("git@h:r.git", "v1", "/s", False, "")),
        ("https://u:p@h/r.git", GitSource("https://u:p@h/r.git", "", "", False, "")),
        ("https://h/r.git.txt", HttpSource("https://h/r.git.txt", "r.git.txt", "")),
        ("https://h/r.git/", HttpSource("https://h/r.git/", "r.git", "")),
    ],
)
def test_remote_sources(source: str, expected: HttpSource | GitSource) -> None:
    got = parse_remote(source, GitFlags(None, ""))
    assert (type(got), got) == (type(expected), expected)


@pytest.mark.parametrize(
    ("source", "flags", "message"),
    [
        ("https://h/r.git?what=1", GitFlags(None, ""), "unknown query 'what'"),
        ("https://h/r.git?ref=a&ref=a", GitFlags(None, ""), "given twice"),
        ("https://h/r.git?ref=", GitFlags(None, ""), "needs a value"),
        ("https://h/r.git?ref=a#b", GitFlags(None, ""), "ref is both 'b' and 'a'"),
        ("https://h/r.git?tag=a&branch=b", GitFlags(None, ""), "contradict"),
        ("https://h/r.git?keep-git-dir=x", GitFlags(None, ""), "must be true or false"),
        ("https://h/r.git?keep-git-dir=false", GitFlags(True, ""), "contradicts --keep-git-dir"),
        (f"https://h/r.git?checksum={SHA}", GitFlags(None, "f" * 40), "checksum is both"),
        ("https://h/r.git", GitFlags(None, "sha256:00"), "is no commit"),
        ("https://h/r.git?ref=v1&tag=v2", GitFlags(None, ""), "ref is both 'v1' and 'refs/tags/v2'"),
        ("https://h/r.git?subdir=a#:b", GitFlags(None, ""), "subdir is both 'b' and 'a'"),
        ("https://h/r.git?mtime=now", GitFlags(None, ""), "mtime must be commit or checkout, got 'now'"),
        ("https://h/r.git?fetch-by-commit=x", GitFlags(None, ""), "fetch-by-commit must be true or false"),
        ("https://h/r.git?submodules=2", GitFlags(None, ""), "submodules must be true or false"),
    ],
)
def test_remote_sources_that_are_wrong(source: str, flags: GitFlags, message: str) -> None:
    with pytest.raises(DockerfileError, match=re.escape(message)):
        parse_remote(source, flags)


@pytest.mark.parametrize(
    ("context", "remote"),
    [
        ("github.com/a/b#v1", "https://github.com/a/b"),
        ("file:///srv/r", "file:///srv/r"),
        ("git@h:r", "git@h:r"),
        ("git://h/r", "git://h/r"),
        ("https://h/r.git", "https://h/r.git"),
        ("https://h/r", None),
        ("h/r.git", None),
        ("./.git", None),
        (".git", None),
    ],
)
def test_repositories_as_contexts(context: str, remote: str | None) -> None:
    found = find_repository(context)
    assert (found and found.remote) == remote


def test_working_directory_is_made_for_the_user() -> None:
    assert steps("FROM a\nUSER u:g\nWORKDIR x/../y//z/\n")[-1].operation == MakeDirectory("/y/z", "u:g")


def test_bases_by_platform() -> None:
    dockerfile = parse("FROM --platform=arm64 a AS b\nFROM a\nCOPY --from=b x y\n", "Dockerfile")
    plan = plan_bases(dockerfile, build_args={}, target=None, platform=AMD64)
    assert [(base.key, str(base.platform)) for base in plan] == [
        ("a (linux/arm64)", "linux/arm64"),
        ("a", "linux/amd64"),
    ]


def test_build_platform_is_the_machine() -> None:
    dockerfile = parse("FROM --platform=$BUILDPLATFORM a\n", "Dockerfile")
    plan = plan_bases(dockerfile, build_args={}, target=None, platform=Platform("linux", "s390x"))
    assert plan[0].platform == host()


def test_an_unknown_base_is_an_error_with_a_suggestion() -> None:
    dockerfile = parse("FROM a AS builder\nFROM b\nCOPY --from=biulder x y\n", "Dockerfile")
    with pytest.raises(BaseImageError) as raised:
        convert(dockerfile, {"b": BaseImage(ImageConfig(), DIGEST)}, build_args={}, target=None, platform=AMD64)
    assert raised.value.hints == ("did you mean the stage builder?",)


def test_bytes_that_are_not_utf8_reach_the_command_but_not_the_image() -> None:
    dockerfile = parse(b"FROM a\nENV x=\xff\nRUN echo \xff\n", "Dockerfile")
    graph = convert(dockerfile, {"a": BaseImage(ImageConfig(), DIGEST)}, build_args={}, target=None, platform=AMD64)
    run = graph.steps[-1].operation
    assert isinstance(run, Run)
    assert run.argv[-1].encode("utf-8", "surrogateescape") == b"echo \xff"
    assert graph.history[-1].created_by == "RUN /bin/sh -c echo \ufffd # buildkit"
    graph.config.to_bytes()


def test_source_date_epoch_comes_from_the_argument_first() -> None:
    dockerfile = parse("FROM scratch\nARG SOURCE_DATE_EPOCH\nLABEL t=$SOURCE_DATE_EPOCH\n", "Dockerfile")
    for given, wanted in ({}, 7), ({"SOURCE_DATE_EPOCH": "5"}, 5):
        graph = convert(dockerfile, {}, build_args=given, target=None, platform=AMD64, source_date_epoch=7)
        assert graph.source_date_epoch == wanted
        assert graph.config.labels == {"t": str(wanted)}


@pytest.mark.parametrize("text", ["context", "-1", "1.5", "yesterday", "x y"])
def test_source_date_epoch_that_is_no_number(text: str) -> None:
    with pytest.raises(BuildError, match="SOURCE_DATE_EPOCH"):
        steps("FROM scratch\n", build_args={"SOURCE_DATE_EPOCH": text})


def test_every_instruction_is_converted() -> None:
    from builder.convert import _CONVERSIONS

    kinds = {kind for kind in vars(instructions).values() if isinstance(kind, type) and "origin" in dir(kind)}
    assert set(_CONVERSIONS) == kinds - {instructions.From}


@pytest.mark.parametrize(
    ("ports", "result"),
    [
        (["80"], ("80/tcp",)),
        (["80/UDP"], ("80/udp",)),
        (["8000-8002/sctp"], ("8000/sctp", "8001/sctp", "8002/sctp")),
        (["9:80", "127.0.0.1::81", "[::1]:5:82"], ("80/tcp", "81/tcp", "82/tcp")),
        (["0"], ("0/tcp",)),
    ],
)
def test_ports(ports: list[str], result: tuple[str, ...]) -> None:
    assert parse_ports(ports) == result


@pytest.mark.parametrize("port", ["", "/tcp", "65536", "-1", "1-", "x:80", "1-2:3-9", "300.1.1.1::80", "80/tcp/udp"])
def test_no_ports(port: str) -> None:
    with pytest.raises(ValueError, match="port"):
        parse_ports([port])


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("5", 5), ("1k", 1024), ("2MB", 2 << 20), ("1.5GiB", 3 << 29)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_quoting_as_go_does() -> None:
    assert quote('a"b\\\n\t\x00é\u200b\U0001f6aa\U000e0001') == '"a\\"b\\\\\\n\\t\\x00é\\u200b🚪\\U000e0001"'


def test_stages_of_the_same_name() -> None:
    dockerfile = parse("FROM a AS x\nFROM b AS x\nFROM x\nCOPY --from=x 1 2\nFROM c AS x\n", "Dockerfile")
    table = StageTable(dockerfile, {}, shell.Rules(), AMD64, {})
    assert [base.stage for base in table.bases] == [None, None, 1, None]
    assert table.target("x") == 3
