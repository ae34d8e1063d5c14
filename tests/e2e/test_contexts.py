"""Contexts that are no directories, and contexts with names."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.pybuild import Pybuild, step_outcomes
from harness.web import Page, Repository, Web, serving

DATE = "Thu, 02 Jan 2020 03:04:05 GMT"
FILES = {
    "Dockerfile": "FROM scratch\nCOPY . /all/\n",
    "sub/Other": "FROM scratch\nCOPY a /other\n",
    ".dockerignore": "*.log\nsub\n",
    "a": "A\n",
    "b.log": "noise\n",
}


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    with serving() as web:
        web.repositories = tmp_path
        yield web


def write(directory: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)
    return directory


def archive(mode: str, files: dict[str, str]) -> bytes:
    """A tar whose members belong to somebody."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.uid, member.gid = len(content), 1234, 1234
            tar.addfile(member, io.BytesIO(content.encode()))
    return raw.getvalue()


def build(
    pybuild: Pybuild, *arguments: str | Path, stdin: bytes = b"", status: int = 0
) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        pybuild.command("build", "--progress", "plain", "-t", "image", *arguments),
        env=pybuild.environment(),
        input=stdin,
        capture_output=True,
        check=False,
    )
    assert done.returncode == status, done.stderr.decode()[-3000:]
    assert not list((pybuild.root / "layers" / "active").glob("*"))
    return done


def members(pybuild: Pybuild) -> dict[str, tuple[int, str]]:
    """Owner and content of all files of the image."""
    path = pybuild.root.parent / "image.tar"
    pybuild.run("save", "-o", path, "image")
    found: dict[str, tuple[int, str]] = {}
    with tarfile.open(path) as image:
        manifest = image.extractfile("manifest.json")
        assert manifest is not None
        for name in json.load(manifest)[0]["Layers"]:
            layer = image.extractfile(name)
            assert layer is not None
            with tarfile.open(fileobj=layer) as tar:
                for one in tar:
                    content = tar.extractfile(one)
                    if content is not None:
                        found[one.name] = (one.uid, content.read().decode("utf-8", "replace"))
    return found


def names(pybuild: Pybuild) -> list[str]:
    return sorted(members(pybuild))


def outcomes(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    return list(step_outcomes(done.stderr.decode()).values())


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:xz", "w:bz2"])
def test_archive_on_stdin(pybuild: Pybuild, mode: str) -> None:
    build(pybuild, "-", stdin=archive(mode, FILES))
    assert members(pybuild) == {
        "all/a": (0, "A\n"),
        "all/Dockerfile": (0, FILES["Dockerfile"]),
        "all/.dockerignore": (0, FILES[".dockerignore"]),
    }


def test_archives_of_one_content_are_one_context(pybuild: Pybuild, tmp_path: Path) -> None:
    directory = write(tmp_path / "context", FILES)
    assert outcomes(build(pybuild, directory)) == ["DONE"]
    assert outcomes(build(pybuild, "-", stdin=archive("w:gz", FILES))) == ["CACHED"]
    (tmp_path / "context.tar").write_bytes(archive("w:", FILES))
    assert outcomes(build(pybuild, tmp_path / "context.tar")) == ["CACHED"]
    assert outcomes(build(pybuild, "-", stdin=archive("w:", {**FILES, "a": "other\n"}))) == ["DONE"]


def test_zstd_and_a_dockerfile_elsewhere_in_the_archive(pybuild: Pybuild, tmp_path: Path) -> None:
    write(tmp_path / "context", FILES)
    packed = subprocess.run(
        ["tar", "-C", str(tmp_path / "context"), "--zstd", "-cf", "-", "."], capture_output=True, check=True
    )
    build(pybuild, "-f", "sub/Other", "-", stdin=packed.stdout)
    assert members(pybuild) == {"other": (0, "A\n")}


def test_archive_leads_nowhere_else(pybuild: Pybuild, tmp_path: Path) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        link = tarfile.TarInfo("Dockerfile")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        evil = tarfile.TarInfo("evil")
        evil.type, evil.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(evil)
        tar.addfile(tarfile.TarInfo("evil/planted"))
    shown = build(pybuild, "-f", "Dockerfile", "-", stdin=raw.getvalue(), status=1).stderr.decode()
    assert "root:" not in shown
    assert not (tmp_path / "planted").exists()
    shown = build(pybuild, "-", stdin=raw.getvalue(), status=1).stderr.decode()
    assert "root:" not in shown


def test_ignore_file_that_leads_out_is_not_read(pybuild: Pybuild, tmp_path: Path) -> None:
    (tmp_path / "private").write_text("a\n")
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        link = tarfile.TarInfo(".dockerignore")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "private")
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("a"))
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY --from=other a /\n")
    (tmp_path / "other.tar").write_bytes(raw.getvalue())
    build(pybuild, "--build-context", f"other={tmp_path / 'other.tar'}", tmp_path)
    content = tarfile.TarInfo("Dockerfile")
    content.size = len(b"FROM scratch\nCOPY a /\n")
    raw.seek(0)
    with tarfile.open(fileobj=raw, mode="a") as tar:
        tar.addfile(content, io.BytesIO(b"FROM scratch\nCOPY a /\n"))
    build(pybuild, "-", stdin=raw.getvalue())


def test_dockerfile_on_stdin_without_files(pybuild: Pybuild) -> None:
    build(pybuild, "-", stdin=b"FROM scratch\nCOPY <<E /x\nhi\nE\n")
    assert members(pybuild) == {"x": (0, "hi\n")}
    shown = build(pybuild, "-", stdin=b"FROM scratch\nCOPY a /\n", status=1).stderr.decode()
    assert "source 'a' does not exist in the build context" in shown
    assert ">>> COPY a /" in shown


@pytest.mark.parametrize(
    ("stdin", "arguments", "status", "message"),
    [
        (b"", ("-",), 1, "context - is empty"),
        (b"\x00\x01", ("-",), 1, "neither an archive nor a Dockerfile"),
        (archive("w:gz", FILES)[:-30], ("-",), 1, "cannot be unpacked"),
        (archive("w:", {"a": "A"}), ("-",), 1, "no Dockerfile in '-'"),
        (archive("w:", FILES), ("-f", "none", "-"), 1, "Dockerfile 'none': no such file"),
        (b"FROM scratch", ("-f", "-", "-"), 2, "stdin is to be both"),
        (b"FROM scratch", ("-f", "x", "-"), 2, "there is -f x as well"),
        (b"", ("ftp://example.com/x.tar",), 2, "a URL of an unknown kind"),
        (b"", ("--build-context", "x=/no/such/place", "."), 1, "context '/no/such/place' does not exist"),
        (b"", ("--build-context", "x=-", "."), 2, "'x' cannot be stdin"),
        (b"", ("--build-context", "x", "."), 2, "expected NAME=CONTEXT"),
        (b"", ("--build-context", "x=target:", "."), 2, "nothing follows target:"),
    ],
)
def test_contexts_that_are_none(
    pybuild: Pybuild, stdin: bytes, arguments: tuple[str, ...], status: int, message: str
) -> None:
    done = subprocess.run(
        pybuild.command("build", *arguments), env=pybuild.environment(), input=stdin, capture_output=True, check=False
    )
    assert done.returncode == status
    assert message in done.stderr.decode()


def test_url_of_an_archive_and_of_a_dockerfile(pybuild: Pybuild, web: Web) -> None:
    web.pages["/context.tgz"] = Page(archive("w:gz", FILES), DATE)
    web.pages["/Dockerfile"] = Page(b"FROM scratch\nCOPY <<E /x\nhi\nE\n", DATE)
    assert outcomes(build(pybuild, f"{web.url}/context.tgz")) == ["DONE"]
    assert names(pybuild) == ["all/.dockerignore", "all/Dockerfile", "all/a"]
    assert outcomes(build(pybuild, f"{web.url}/context.tgz")) == ["CACHED"]
    assert web.statuses() == [200, 304]
    build(pybuild, f"{web.url}/Dockerfile")
    assert names(pybuild) == ["x"]
    assert "answers 404" in build(pybuild, f"{web.url}/none", status=1).stderr.decode()


def test_repository_as_context(pybuild: Pybuild, web: Web, tmp_path: Path) -> None:
    repository = Repository(tmp_path, "project")
    repository.commit({**FILES, "deep/Dockerfile": "FROM scratch\nCOPY . /deep\n", "deep/x": "X\n"})
    repository.git("tag", "v1")
    repository.publish("v1")
    expected = ["all/.dockerignore", "all/Dockerfile", "all/a", "all/deep/Dockerfile", "all/deep/x"]
    for url in (f"{web.url}/project.git", f"file://{repository.work}", f"{web.url}/project.git#v1"):
        build(pybuild, url)
        assert names(pybuild) == expected, url
    build(pybuild, f"{web.url}/project.git#main:deep")
    assert names(pybuild) == ["deep/Dockerfile", "deep/x"]
    build(pybuild, "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", f"file://{repository.work}")
    assert "all/.git/HEAD" in names(pybuild)
    shown = build(pybuild, f"{web.url}/project.git#none", status=1).stderr.decode()
    assert "has no branch or tag 'none'" in shown


def test_explain_knows_a_repository_again(pybuild: Pybuild, web: Web, tmp_path: Path) -> None:
    repository = Repository(tmp_path, "project")
    repository.commit(FILES)
    build(pybuild, f"{web.url}/project.git")
    repository.commit({"a": "changed\n"})
    shown = build(pybuild, "--explain", f"{web.url}/project.git").stderr.decode()
    assert "cache miss: sources was" in shown


class TestNamed:
    @pytest.fixture
    def context(self, tmp_path: Path) -> Path:
        return write(tmp_path / "context", {"own": "O\n"})

    @pytest.fixture
    def other(self, tmp_path: Path) -> Path:
        return write(tmp_path / "other", {"x": "X\n", "y.log": "noise\n", "d/z": "Z\n", ".dockerignore": "*.log\n"})

    def write(self, context: Path, *lines: str) -> Path:
        return write(context, {"Dockerfile": "\n".join([*lines, ""])})

    def test_directory_is_a_source_with_its_own_rules(self, pybuild: Pybuild, context: Path, other: Path) -> None:
        self.write(context, "FROM scratch", "COPY --from=files . /f/", "COPY own /")
        arguments = ("--build-context", f"files={other}", context)
        assert outcomes(build(pybuild, *arguments)) == ["DONE", "DONE"]
        assert names(pybuild) == ["f/.dockerignore", "f/d/z", "f/x", "own"]
        (other / "y.log").write_text("more noise\n")
        assert outcomes(build(pybuild, *arguments)) == ["CACHED", "CACHED"]
        (other / "x").write_text("changed\n")
        assert outcomes(build(pybuild, *arguments)) == ["DONE", "DONE"]
        assert members(pybuild)["f/x"] == (0, "changed\n")

    def test_directory_as_a_base(self, pybuild: Pybuild, context: Path, other: Path) -> None:
        self.write(context, "FROM files AS one", "FROM one", "COPY own /d/")
        build(pybuild, "--build-context", f"FILES={other}", context)
        assert names(pybuild) == [".dockerignore", "d/own", "d/z", "x"]
        history = json.loads(pybuild.run("inspect", "image").stdout)
        assert history

    def test_missing_file_names_the_context(self, pybuild: Pybuild, context: Path, other: Path) -> None:
        self.write(context, "FROM scratch", "COPY --from=files none /")
        shown = build(pybuild, "--build-context", f"files={other}", context, status=1).stderr.decode()
        assert "source 'none' does not exist in the context 'files'" in shown
        assert ">>> COPY --from=files none /" in shown

    def test_archive_url_and_repository(self, pybuild: Pybuild, context: Path, web: Web, tmp_path: Path) -> None:
        web.pages["/f.tgz"] = Page(archive("w:gz", {"t": "T\n"}), DATE)
        Repository(tmp_path, "project").commit({"g": "G\n"})
        (tmp_path / "local.tar").write_bytes(archive("w:", {"l": "L\n"}))
        self.write(context, "FROM scratch", *(f"COPY --from={name} . /" for name in ("url", "repo", "local")))
        build(
            pybuild,
            *("--build-context", f"url={web.url}/f.tgz"),
            *("--build-context", f"repo={web.url}/project.git#main"),
            *("--build-context", f"local={tmp_path / 'local.tar'}"),
            context,
        )
        assert members(pybuild) == {"t": (0, "T\n"), "g": (0, "G\n"), "l": (0, "L\n")}

    def test_stage(self, pybuild: Pybuild, context: Path) -> None:
        self.write(context, "FROM scratch AS mine", "COPY own /from-stage", "FROM scratch", "COPY --from=alpine / /")
        build(pybuild, "--build-context", "alpine=target:mine", context)
        assert names(pybuild) == ["from-stage"]

    def test_image_of_the_store_and_of_a_layout(self, pybuild: Pybuild, context: Path, tmp_path: Path) -> None:
        self.write(context, "FROM scratch", "COPY own /in-base", "ENV MARK=1")
        build(pybuild, "-t", "base:9", context)
        pybuild.run("save", "-o", tmp_path / "layout.tar", "--format", "oci", "base:9")
        layout = tmp_path / "layout"
        layout.mkdir()
        subprocess.run(["tar", "-xf", tmp_path / "layout.tar", "-C", layout], check=True)
        self.write(context, "FROM nowhere.invalid/absent:1", "COPY own /own")
        build(pybuild, "--build-context", "nowhere.invalid/absent:1=docker-image://base:9", context)
        assert names(pybuild) == ["in-base", "own"]
        fresh = Pybuild(tmp_path / "fresh")
        for place in (layout, f"{layout}:9", f"{layout}@{_digest(layout)}"):
            build(fresh, "--build-context", f"nowhere.invalid/absent:1=oci-layout://{place}", context)
            assert names(fresh) == ["in-base", "own"]
            assert "MARK=1" in fresh.run("inspect", "image").stdout
        for place, message in ((f"{layout}:8", "it has no image '8'"), (tmp_path / "none", "none/index.json")):
            arguments = ("--build-context", f"nowhere.invalid/absent:1=oci-layout://{place}", context)
            shown = build(fresh, *arguments, status=1).stderr.decode()
            assert message in shown
            assert ">>> FROM nowhere.invalid/absent:1" in shown
        blob = max((layout / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
        blob.write_bytes(b"x" * blob.stat().st_size)
        damaged = Pybuild(tmp_path / "damaged")
        build(damaged, "--build-context", f"nowhere.invalid/absent:1=oci-layout://{layout}", context, status=1)
        shutil.rmtree(layout)

    def test_target_that_has_the_name(self, pybuild: Pybuild, context: Path, other: Path) -> None:
        self.write(context, "FROM scratch AS files", "RUN never", "CMD [never]", "FROM files", "COPY own /")
        build(pybuild, "--build-context", f"files={other}", "--target", "files", context)
        assert names(pybuild) == [".dockerignore", "d/z", "x"]
        build(pybuild, "--build-context", f"files={other}", context)
        assert names(pybuild) == [".dockerignore", "d/z", "own", "x"]

    def test_mounted(self, pybuild: Pybuild, context: Path, other: Path) -> None:
        pybuild.load_base("busybox")
        self.write(
            context,
            "FROM busybox",
            "RUN --mount=from=files,target=/m cat /m/x > /seen && ! test -e /m/y.log",
            "RUN --mount=type=cache,from=files,source=/d,target=/c,id=seeded cat /c/z >> /seen",
        )
        arguments = ("--build-context", f"files={other}", context)
        build(pybuild, *arguments)
        assert pybuild.run("run", "image", "cat", "/seen").stdout == "X\nZ\n"
        assert "DONE" not in outcomes(build(pybuild, *arguments))
        (other / "x").write_text("changed\n")
        assert "DONE" in outcomes(build(pybuild, *arguments))


def _digest(layout: Path) -> str:
    return json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
