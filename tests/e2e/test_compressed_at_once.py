"""Layers that are known to leave compressed are compressed while they are packed, and read no second time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.pybuild import Pybuild

LARGE = "FROM scratch AS other\nCOPY data /unused\nFROM scratch\nCOPY data Dockerfile /d/\n"
SMALL = "FROM scratch\nCOPY Dockerfile /d/\n"


@pytest.mark.parametrize(("dockerfile", "later"), [(LARGE, False), (SMALL, True)], ids=["large", "small"])
def test_large_layers_are_compressed_at_once(small: Pybuild, tmp_path: Path, dockerfile: str, *, later: bool) -> None:
    context = tmp_path / "context"
    context.mkdir()
    with open(context / "data", "wb") as data:
        # not in the memory of this process, which those that it starts are taken to have had
        data.writelines(b"%d\n" % number for number in range(2_000_000))
    (context / "Dockerfile").write_text(dockerfile)
    out = tmp_path / "out.tar"
    done = small.run("build", "-t", "made", "--progress", "rawjson", "-o", f"type=oci,dest={out}", context)
    assert ("compressing" in done.stderr + done.stdout) is later
    # of the stage that is no part of the image nothing is compressed
    entries = json.loads((small.root / "compressed.json").read_text())
    assert len(entries) == 1
