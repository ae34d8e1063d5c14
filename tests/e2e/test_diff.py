"""``pybuild diff`` of images and steps that were really built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.pybuild import Pybuild

DOCKERFILE = """\
FROM busybox
RUN echo a >/a; mkdir -p /d/e; echo 1 >/d/f
RUN echo bb >/a; rm /d/f; chmod 700 /d; chown 3:4 /d/e
"""


@pytest.mark.ids("gives a file away")
def test_images_and_steps(pybuild: Pybuild, tmp_path: Path) -> None:
    pybuild.load_base("busybox")
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    pybuild.run("build", "-t", "it", tmp_path)
    done = pybuild.run("diff", "it@3")
    assert done.stdout.splitlines() == [
        "M /a (size 2B → 3B)",
        "M /d (mode 0755 → 0700)",
        "M /d/e (owner 0:0 → 3:4)",
        "D /d/f (2B)",
    ]
    assert done.stderr == "4B in layers are wasted: layers above replace or remove these files\n"
    assert pybuild.run("diff", "it@2", "it").stdout == done.stdout
    assert pybuild.run("diff", "busybox", "it").stdout.splitlines() == ["A /a (3B)", "A /d", "A /d/e"]
    assert pybuild.run("diff", "it", "it").stdout == ""
    lines = [json.loads(line) for line in pybuild.run("diff", "--format", "json", "it", "it@2").stdout.splitlines()]
    assert lines[0] == {"change": "M", "path": "/a", "details": {"size": {"was": "3", "is": "2"}}}
    assert lines[-1] == {"wasted_bytes": 0}
    assert 'image "nothing" is not in the store' in pybuild.attempt("diff", "it", "nothing").stderr
    assert "@2  RUN echo a" in pybuild.attempt("diff", "it@9").stderr


def test_a_step_that_failed(pybuild: Pybuild, tmp_path: Path) -> None:
    pybuild.load_base("busybox")
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo x >/left; false\n")
    pybuild.attempt("build", tmp_path)
    assert pybuild.run("diff", "@").stdout == "A /left (2B)\n"
