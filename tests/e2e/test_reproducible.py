"""``--verify-reproducible``: what differs between two builds is named, and nothing is given out then."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.pybuild import Pybuild

FIXED = ("--build-arg", "SOURCE_DATE_EPOCH=1700000000")
SAME = "FROM busybox\nRUN for i in $(seq 9); do echo $i > /f$i; done\nCOPY Dockerfile /d/\n"
CASES = {
    "content": ("RUN cat /proc/sys/kernel/random/uuid > /id", ["RUN cat /proc", "/id: content differs from byte "]),
    "host name": ("RUN hostname > /name", ["/name: size ", ", content differs from byte 0 on"]),
    "names": (
        "RUN touch /f$(cat /proc/sys/kernel/random/uuid)",
        [": only in the first build", ": only in the second build"],
    ),
    "mode": (
        "RUN touch /x && [ $(hostname) = other ] && chmod 600 /x || chmod 640 /x",
        ["/x: mode 0640, then 0600"],
    ),
    "owner and link": (
        "RUN touch /x; ln -s $(hostname) /l; [ $(hostname) != other ] || chown 3:4 /x",
        ["/x: uid 0, then 3, gid 0, then 4", "/l: linkname ", ", then other"],
    ),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.ids("gives a file away")] if "owner" in name else []) for name in CASES],
)
def test_what_differs_is_named(small: Pybuild, tmp_path: Path, name: str) -> None:
    instruction, told = CASES[name]
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(SAME + instruction + "\n")
    out = tmp_path / "out.tar"
    done = small.attempt("build", "--verify-reproducible", "-t", "made", "-o", f"type=oci,dest={out}", *FIXED, context)
    assert done.returncode == 1
    assert "error: the result is not reproducible" in done.stderr
    for text in told:
        assert text in done.stderr
    # what is the same in both builds is not told
    assert "/f9" not in done.stderr.partition("exporting to image")[2].rpartition("DONE")[2]
    assert not out.exists()
    assert "made" not in small.run("images").stdout


def test_what_is_the_same_is_built_as_ever(small: Pybuild, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(SAME)
    out = tmp_path / "out.tar"
    small.run("build", "--verify-reproducible", "-t", "made", "-o", f"type=oci,dest={out}", *FIXED, context)
    assert out.exists()
    assert "made" in small.run("images").stdout


def test_without_an_epoch_the_times_of_the_image_differ(small: Pybuild, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(SAME)
    done = small.attempt("build", "--verify-reproducible", context)
    assert done.returncode == 1
    assert "image configuration: created differs" in done.stderr
    assert "hint: SOURCE_DATE_EPOCH" in done.stderr
