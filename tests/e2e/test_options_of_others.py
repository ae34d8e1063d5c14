"""Options that people know from docker, buildx, buildah and podman do what they do there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.abilities import missing_for_limits
from harness.pybuild import Pybuild, step_outcomes

UNREACHABLE = "127.0.0.1:1/base"


@pytest.fixture
def based(pybuild: Pybuild, tmp_path: Path) -> Pybuild:
    """With a base whose registry does not answer."""
    pybuild.load_base("busybox")
    pybuild.run("tag", "busybox", UNREACHABLE)
    return pybuild


def config_of(pybuild: Pybuild, name: str) -> dict[str, object]:
    found: list[dict[str, dict[str, object]]] = json.loads(pybuild.run("inspect", name).stdout)
    return found[0]["config"] | {"created": found[0]["created"]}


def test_when_a_registry_is_asked(based: Pybuild, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {UNREACHABLE}\nENV A=1\n")
    based.run("build", "--pull=false", tmp_path)
    based.run("build", "--pull=never", tmp_path)
    assert f"WARN: {UNREACHABLE} is taken from the store: " in based.run("build", "--pull=newer", tmp_path).stderr
    for option in ("--pull", "--pull=true", "--pull=always"):
        done = based.attempt("build", option, tmp_path)
        assert done.returncode == 1
        assert f"error: base image '{UNREACHABLE}': " in done.stderr
    (tmp_path / "Dockerfile").write_text("FROM 127.0.0.1:1/other\n")
    done = based.attempt("build", "--pull=never", tmp_path)
    assert done.returncode == 1
    assert "   1 | >>> FROM 127.0.0.1:1/other" in done.stderr
    assert "error: base image '127.0.0.1:1/other' is not in the store\nhint: --pull=never asks" in done.stderr


def test_what_the_command_line_puts_into_the_dockerfile(based: Pybuild, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM nowhere\nARG V\nARG W\nRUN test $A-$V-$W = a-v-w\n")
    (tmp_path / "values").write_text("# of ARGs\nV=v\nW=other\n")
    based.run(
        "build", "-t", "it", "--from", "busybox", "--env", "A=a", "--env", "B", "--unsetenv", "PATH",
        "--build-arg-file", tmp_path / "values", "--build-arg", "W=w", "--timestamp", "86400", tmp_path,
        env={"B": "b c"},
    )  # fmt: skip
    config = config_of(based, "it")
    assert config["Env"] == ["A=a", "B=b c"]
    assert config["created"] == "1970-01-02T00:00:00Z"


def test_progress_goes_to_a_file(based: Pybuild, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN true\n")
    log = tmp_path / "log"
    limit = () if missing_for_limits() else ("--resource", "memory=64m")
    done = based.run("build", "--logfile", log, *limit, "--report", tmp_path)
    assert done.stderr == ""
    head, _, row, _ = log.read_text().splitlines()[-4:]
    assert head.split() == ["STEP", "RESULT", "TIME", "CPU", "MEMORY", "PROCESSES", "READ", "WRITTEN"]
    assert row.split()[:4] == ["[2/2]", "RUN", "true", "done"]
    assert len(head) < 120
    assert step_outcomes(log.read_text())["[2/2] RUN true"] == "DONE"
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN exit 3\n")
    done = based.attempt("build", "--logfile", log, tmp_path)
    assert done.returncode == 3
    assert "#" not in done.stderr.splitlines()[0]
    assert "error: process '/bin/sh -c exit 3'" in done.stderr
    assert step_outcomes(log.read_text())["[2/2] RUN exit 3"] == "ERROR"
    assert "--logfile '/nowhere/x'" in based.attempt("build", "--logfile", "/nowhere/x", tmp_path).stderr
