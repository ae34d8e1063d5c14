"""Images for several platforms: built with an emulator, described by an index, with what is said of each beside it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from harness.emulator import arm64_programs
from harness.inside import validate
from harness.pybuild import Pybuild, step_outcomes

__all__ = ["arm64_programs"]

DOCKERFILE = """ARG TARGETARCH
FROM --platform=$BUILDPLATFORM busybox:amd64 AS tool
RUN uname -m > /note
FROM busybox:$TARGETARCH
ARG TARGETPLATFORM
COPY --from=tool /note /note
RUN uname -m > /machine && echo $TARGETPLATFORM >> /machine
CMD ["cat", "/machine"]
"""
BOTH = ("--platform", "linux/amd64,linux/arm64")
pytestmark = pytest.mark.usefixtures("arm64_programs")


class Built:
    """One multi-platform image with attestations, in the store and in an archive, and what was told of it."""

    def __init__(self, directory: Path) -> None:
        self.context = directory / "context"
        self.context.mkdir()
        (self.context / "Dockerfile").write_text(DOCKERFILE)
        self.pybuild = Pybuild(directory / "store")
        self.pybuild.load_base("busybox")
        self.pybuild.run("tag", "busybox", "busybox:amd64")
        self.pybuild.load_base("busybox-arm64")
        self.archive = directory / "multi.tar"
        self.files = directory / "files"
        self.metadata = directory / "metadata.json"
        self.first = self.pybuild.run("build", *self.words()).stderr

    def words(self) -> list[str]:
        return [
            "--progress", "plain", "-t", "multi", *BOTH, "--sbom", "--provenance=mode=max",
            "--annotation", "index:org.example.of=index", "--annotation", "manifest[linux/arm64]:org.example.of=arm",
            "--annotation", "manifest-descriptor:org.example.of=entry", "--metadata-file", str(self.metadata),
            "-o", f"type=oci,dest={self.archive}", "-o", str(self.files), str(self.context),
        ]  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, arm64_programs: None) -> Built:
    return Built(tmp_path_factory.mktemp("platforms"))


class Archive:
    """The JSON of an OCI archive by digest."""

    def __init__(self, path: Path) -> None:
        with tarfile.open(path) as tar:
            self.members = {info.name: tar.extractfile(info).read() for info in tar if info.isfile()}  # type: ignore[union-attr]

    def blob(self, descriptor: dict[str, Any]) -> Any:
        return json.loads(self.members[f"blobs/sha256/{descriptor['digest'].removeprefix('sha256:')}"])

    def root(self) -> Any:
        [entry] = json.loads(self.members["index.json"])["manifests"]
        return self.blob(entry)


def test_each_platform_runs_its_own_programs_and_shares_what_is_the_builder_s(built: Built) -> None:
    assert (built.files / "linux_amd64/machine").read_text() == "x86_64\nlinux/amd64\n"
    assert (built.files / "linux_arm64/machine").read_text() == "aarch64\nlinux/arm64\n"
    assert (built.files / "linux_arm64/note").read_text() == "x86_64\n"
    tool = [title for title in step_outcomes(built.first) if "tool" in title and "RUN" in title]
    assert tool == ["[linux/amd64 tool 2/2] RUN uname -m > /note"]


def test_building_again_runs_nothing(built: Built) -> None:
    again = built.pybuild.run("build", *built.words()).stderr
    assert set(step_outcomes(again).values()) == {"CACHED"}


def test_the_index_has_the_images_and_after_them_what_is_said_of_each(built: Built) -> None:
    archive = Archive(built.archive)
    root = archive.root()
    assert root["annotations"] == {"org.example.of": "index"}
    amd, arm, *said = root["manifests"]
    assert [one["platform"] for one in (amd, arm)] == [
        {"architecture": "amd64", "os": "linux"}, {"architecture": "arm64", "os": "linux"},
    ]  # fmt: skip
    assert amd["annotations"] == {"org.example.of": "entry"}
    assert archive.blob(arm)["annotations"]["org.example.of"] == "arm"
    assert "org.example.of" not in archive.blob(amd)["annotations"]
    for image, attestation in zip((amd, arm), said, strict=True):
        assert attestation["platform"] == {"architecture": "unknown", "os": "unknown"}
        assert attestation["annotations"] == {
            "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image["digest"],
        }  # fmt: skip
        manifest = archive.blob(attestation)
        assert manifest["subject"]["digest"] == image["digest"]
        kinds = [layer["annotations"]["in-toto.io/predicate-type"] for layer in manifest["layers"]]
        assert kinds == ["https://spdx.dev/Document", "https://slsa.dev/provenance/v1"]
        for layer in manifest["layers"]:
            statement = archive.blob(layer)
            assert statement["_type"] == "https://in-toto.io/Statement/v1"
            [subject] = statement["subject"]
            assert subject["digest"]["sha256"] == image["digest"].removeprefix("sha256:")
            platform = f"linux%2F{image['platform']['architecture']}"
            assert subject["name"] == f"pkg:docker/multi@latest?platform={platform}"


def test_the_provenance_names_what_the_image_was_made_of(built: Built) -> None:
    metadata = json.loads(built.metadata.read_text())
    predicate = metadata["buildx.build.provenance/linux/arm64"]
    uris = [one["uri"] for one in predicate["buildDefinition"]["resolvedDependencies"]]
    assert uris == [
        "pkg:docker/busybox@amd64?platform=linux%2Famd64",
        "pkg:docker/busybox@arm64?platform=linux%2Farm64",
    ]
    assert (
        predicate["buildDefinition"]["externalParameters"]["request"]["args"]["platform"] == "linux/amd64,linux/arm64"
    )
    names = [step["name"] for step in predicate["buildDefinition"]["internalParameters"]["buildConfig"]["steps"]]
    assert "[linux/arm64 stage-1 3/3] RUN uname -m > /machine && echo linux/arm64 >> /machine" in names
    assert metadata["containerimage.descriptor"]["mediaType"] == "application/vnd.oci.image.index.v1+json"


def test_every_claim_in_the_store_holds_and_the_image_runs(built: Built) -> None:
    validate(built.pybuild.root)
    assert built.pybuild.run("run", "multi").stdout == "x86_64\nlinux/amd64\n"


def test_peers_read_both_platforms(built: Built, tmp_path: Path) -> None:
    for machine in ("amd64", "arm64"):
        command = ["skopeo", f"--override-arch={machine}", "inspect", f"oci-archive:{built.archive}:multi:latest"]
        assert json.loads(subprocess.check_output(command))["Architecture"] == machine
    layout = tmp_path / "layout"
    subprocess.run(
        ["skopeo", "copy", "--all", f"oci-archive:{built.archive}:multi:latest", f"oci:{layout}:multi"],
        check=True, capture_output=True,
    )  # fmt: skip
    [entry] = json.loads((layout / "index.json").read_text())["manifests"]
    with tarfile.open(built.archive) as tar:
        index = tar.extractfile("index.json")
        assert index is not None
        assert entry["digest"] == json.loads(index.read())["manifests"][0]["digest"]


def test_archives_come_back_as_they_went(built: Built, tmp_path: Path) -> None:
    other = Pybuild(tmp_path / "other")
    other.run("load", "-i", built.archive)
    again = tmp_path / "again.tar"
    other.run("save", "--format", "oci", "-o", again, "multi")
    assert again.read_bytes() == built.archive.read_bytes()


def test_without_an_emulator_the_error_says_what_is_missing(built: Built, tmp_path: Path) -> None:
    # a file of a type that no emulator is registered for, whichever there are
    context = tmp_path / "context"
    context.mkdir()
    program = bytearray((built.files / "linux_arm64/bin/busybox").read_bytes()[:4096])
    program[16:20] = (1).to_bytes(2, "little") + (258).to_bytes(2, "little")
    (context / "sh").write_bytes(program)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY --chmod=755 sh /bin/sh\nRUN true\n")
    done = built.pybuild.attempt("build", "--platform", "linux/loong64", context)
    assert done.returncode == 126
    assert "exec format error: it is for loong64, this machine is amd64 and has no emulator for it" in done.stderr
    assert "hint: qemu-user-static" in done.stderr


def test_an_index_is_pushed_as_a_whole_and_comes_back(built: Built, docker_registry: str, tmp_path: Path) -> None:
    name = f"{docker_registry}/multi:1"
    metadata = tmp_path / "metadata.json"
    words = [
        "-t",
        name,
        *BOTH,
        "--sbom",
        "--provenance",
        "--push",
        "--metadata-file",
        str(metadata),
        str(built.context),
    ]
    built.pybuild.run("build", *words)
    told = json.loads(metadata.read_text())["containerimage.digest"]
    raw = subprocess.check_output(["skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{name}"])
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == told
    root = json.loads(raw)
    assert [one["platform"]["architecture"] for one in root["manifests"]] == ["amd64", "arm64", "unknown", "unknown"]
    copied = tmp_path / "copied"
    subprocess.run(
        ["skopeo", "copy", "--all", "--src-tls-verify=false", f"docker://{name}", f"oci:{copied}:x"],
        check=True, capture_output=True,
    )  # fmt: skip
    [entry] = json.loads((copied / "index.json").read_text())["manifests"]
    assert entry["digest"] == told
    other = Pybuild(tmp_path / "other")
    other.run("pull", "--platform", "linux/arm64", name)
    assert json.loads(other.run("inspect", name).stdout)[0]["architecture"] == "arm64"
